"""How much memory the machine has, and how much a process holds. The platform branches live here."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

import psutil

DEFAULT_SHARE = 0.75
"""Part of the machine's memory that all models together may take by default."""


def default_limit_bytes() -> int:
    """What models may take together if nothing is configured, until a worker knows better: on macOS the first
    one reports what Metal recommends (`Hello.working_set_bytes`); the front itself never loads MLX."""
    share = int(psutil.virtual_memory().total * DEFAULT_SHARE)
    set_by_hand = _darwin_wired_limit() if sys.platform == "darwin" else None
    return set_by_hand or share


def process_bytes(pid: int) -> int:
    """Memory that a process holds, 0 if it is gone or cannot be asked (this process has too many open files).

    macOS: the physical footprint, because resident size leaves out most of what Metal holds.
    """
    if sys.platform == "darwin":
        footprint = _darwin_footprint(pid)
        if footprint is not None:
            return footprint
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def process_peak_bytes(pid: int) -> int:
    """The most that the process has held in its life; 0 if it is gone."""
    if sys.platform == "darwin":
        return _darwin_peak(pid) or process_bytes(pid)
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return process_bytes(pid)


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


class _RusageInfoV4(ctypes.Structure):
    """`struct rusage_info_v4`, up to and beyond the lifetime's largest footprint."""

    _fields_ = (
        *_RusageInfoV0._fields_,
        # v1: the children's times and counts; v2: disk reads and writes; v3: CPU time by class, billed and
        # serviced system time; all uint64.
        ("between", ctypes.c_uint64 * (6 + 2 + 9)),
        ("logical_writes", ctypes.c_uint64),
        ("lifetime_max_phys_footprint", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 16),
    )


def _darwin_footprint(pid: int) -> int | None:
    info = _RusageInfoV0()
    return int(info.phys_footprint) if _darwin_rusage(pid, 0, info) else None


def _darwin_peak(pid: int) -> int | None:
    info = _RusageInfoV4()
    return int(info.lifetime_max_phys_footprint) if _darwin_rusage(pid, 4, info) else None


def _darwin_rusage(pid: int, flavor: int, info: ctypes.Structure) -> bool:
    """`proc_pid_rusage(pid, RUSAGE_INFO_V<flavor>, …)` of libproc; False where it refuses."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("proc") or "/usr/lib/libproc.dylib")
        return bool(library.proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(flavor), ctypes.byref(info)) == 0)
    except (OSError, AttributeError):
        return False


def _darwin_wired_limit() -> int | None:
    """`sysctl iogpu.wired_limit_mb` in bytes, where somebody has set it (0 is Metal's own default)."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("c"))
        value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
        refused = library.sysctlbyname(
            b"iogpu.wired_limit_mb", ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
        return int(value.value) * 1024 * 1024 or None if refused == 0 else None
    except (OSError, AttributeError):
        return None
