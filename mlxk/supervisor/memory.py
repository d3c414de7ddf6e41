"""How much memory the machine has, and how much a process holds. The platform branches live here."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

import psutil

DEFAULT_SHARE = 0.75
"""Part of the machine's memory that all models together may take by default."""


def default_limit_bytes() -> int:
    """What models may take together if nothing is configured."""
    return int(psutil.virtual_memory().total * DEFAULT_SHARE)


def process_bytes(pid: int) -> int:
    """Memory that a process holds, 0 if it is gone.

    macOS: the physical footprint, because resident size leaves out most of what Metal holds.
    """
    if sys.platform == "darwin":
        footprint = _darwin_footprint(pid)
        if footprint is not None:
            return footprint
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


class _RusageInfoV0(ctypes.Structure):
    """`struct rusage_info_v0` of <sys/resource.h>."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("user_time", ctypes.c_uint64),
        ("system_time", ctypes.c_uint64),
        ("pkg_idle_wkups", ctypes.c_uint64),
        ("interrupt_wkups", ctypes.c_uint64),
        ("pageins", ctypes.c_uint64),
        ("wired_size", ctypes.c_uint64),
        ("resident_size", ctypes.c_uint64),
        ("phys_footprint", ctypes.c_uint64),
        ("proc_start_abstime", ctypes.c_uint64),
        ("proc_exit_abstime", ctypes.c_uint64),
    )


def _darwin_footprint(pid: int) -> int | None:
    """`proc_pid_rusage(pid, RUSAGE_INFO_V0, …)` of libproc; None where it refuses."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("proc") or "/usr/lib/libproc.dylib")
        info = _RusageInfoV0()
        if library.proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(0), ctypes.byref(info)) != 0:
            return None
        return int(info.phys_footprint)
    except (OSError, AttributeError):
        return None
