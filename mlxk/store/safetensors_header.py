"""Is a .safetensors file whole? Reads its header, none of its tensors.

Layout: 8 bytes, little-endian: length N; N bytes of JSON (tensor -> dtype, shape, data_offsets); the data.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from mlxk.store.folder import open_regular
from mlxk.store.json_file import LFS_MARK

_LARGEST_HEADER = 100_000_000
"""The format's own limit."""


def safetensors_fault(path: Path, size_bytes: int) -> str | None:
    """What is wrong with the file, as the end of the sentence "NAME ..."; None if it is whole."""
    try:
        with open_regular(path) as file:
            start = file.read(8)
            if LFS_MARK.startswith(start) and start + file.read(len(LFS_MARK) - 8) == LFS_MARK:
                return "is a Git LFS pointer, not the file itself (run `git lfs pull` in its folder)"
            if len(start) < 8:
                return f"is only {size_bytes} bytes long: the download was cut off"
            (length,) = struct.unpack("<Q", start)
            if not 2 <= length <= _LARGEST_HEADER:
                return "is not a safetensors file (its header has an impossible length)"
            if length > size_bytes - 8:
                return "ends inside its header: the download was cut off"
            header = json.loads(file.read(length))
        expected = 8 + length + _data_bytes(header)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "is not a safetensors file (its header cannot be read)"
    if size_bytes < expected:
        return f"is cut off: {size_bytes} bytes of {expected}"
    if size_bytes > expected:
        return f"is longer than its header says: {size_bytes} bytes, not {expected}"
    return None


def _data_bytes(header: dict[str, dict[str, list[int]]]) -> int:
    ends = (int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__")
    return max(ends, default=0)
