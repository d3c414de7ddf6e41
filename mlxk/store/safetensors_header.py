"""Is a .safetensors file whole, and what is in it? Reads its header, none of its tensors.

Layout: 8 bytes, little-endian: length N; N bytes of JSON (tensor -> dtype, shape, data_offsets); the data,
without holes. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxk.store.folder import open_regular
from mlxk.store.json_file import LFS_MARK, read_fault

if TYPE_CHECKING:
    from mlxk.store.tensor_table import Tensor

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Bits of one element of each of the format's types."""

_LARGEST_HEADER = 100_000_000
"""The format's own limit."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says that it holds, and what is wrong with it."""

    tensors: dict[str, Tensor]
    kind: str | None = None
    """Of the fault; None if the file is whole."""
    fault: str | None = None
    """The end of the sentence "NAME ..."."""
    data_bytes: int = 0
    """All tensors together; 0 if something is wrong."""


class _HeaderError(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_header(path: Path, size_bytes: int) -> Header:
    """Never raises. `size_bytes`: the file's length. The tensors are told also if the data is cut off."""
    tensors: dict[str, Tensor] = {}
    try:
        text = _read_text(path, size_bytes)
        tensors = _read_tensors(text)
        data_bytes = _check_tensors(tensors)
        _check_length(size_bytes, 8 + len(text) + data_bytes)
    except _HeaderError as error:
        return Header(tensors, error.kind, str(error))
    except OSError as error:
        return Header({}, *read_fault(error))
    return Header(tensors, data_bytes=data_bytes)


def _read_text(path: Path, size_bytes: int) -> bytes:
    if size_bytes == 0:
        raise _HeaderError("empty_file", "is empty (0 bytes): the download was cut off")
    with open_regular(path) as file:
        start = file.read(8)
        if LFS_MARK.startswith(start) and start + file.read(len(LFS_MARK) - 8) == LFS_MARK:
            raise _HeaderError("lfs_pointer", "is a Git LFS pointer, not the file itself")
        if len(start) < 8:
            raise _HeaderError("truncated", f"is only {size_bytes} bytes long: the download was cut off")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= _LARGEST_HEADER:
            raise _HeaderError(
                "bad_header", "is not a safetensors file (its header has an impossible length)"
            )
        if length > size_bytes - 8:
            raise _HeaderError("truncated", "ends inside its header: the download was cut off")
        return file.read(length)


def _read_tensors(text: bytes) -> dict[str, Tensor]:
    from mlxk.store.tensor_table import TableError, read_table

    try:
        return read_table(text)
    except TableError as error:
        raise _unreadable(error.name) from error


def _check_tensors(tensors: dict[str, Tensor]) -> int:
    """Bytes of all of them. One pass: there are a hundred thousand in a list of models."""
    reached, in_order = 0, True
    prod, known = math.prod, BITS.get
    for name, tensor in tensors.items():
        begin, end = tensor.data_offsets
        bits = known(tensor.dtype)
        if bits is None or (prod(tensor.shape) * bits + 7) // 8 != end - begin:
            _check_entry(name, tensor, bits)
        in_order = in_order and begin == reached
        reached = end
    if in_order:
        return reached
    return _check_ranges(sorted((*tensor.data_offsets, name) for name, tensor in tensors.items()))


def _check_entry(name: str, tensor: Tensor, bits: int | None) -> None:
    """Refuses it, unless only its type is not known."""
    if not tensor.is_complete:
        raise _unreadable(name)
    if bits is not None:
        said = f"{tensor.dtype} {list(tensor.shape)} takes {tensor.n_elements * bits // 8}"
        text = f"the tensor '{_shown(name)}' has {tensor.n_bytes} bytes, but {said}"
        raise _HeaderError("bad_offsets", f"contradicts itself: {text}")


def _unreadable(name: str | None) -> _HeaderError:
    where = "" if name is None else f" at '{_shown(name)}'"
    return _HeaderError("bad_header", f"is not a safetensors file (its header cannot be read{where})")


def _check_ranges(ranges: list[tuple[int, int, str]]) -> int:
    """`ranges`: begin, end and name, sorted. Returns the last one's end."""
    reached, last = 0, ""
    for begin, end, name in ranges:
        if begin < reached:
            both = f"'{_shown(last)}' and '{_shown(name)}'"
            raise _HeaderError("bad_offsets", f"contradicts itself: the tensors {both} overlap")
        if begin > reached:
            raise _HeaderError(
                "bad_offsets",
                f"contradicts itself: there is a hole of {begin - reached} bytes before '{_shown(name)}'",
            )
        reached, last = end, name
    return reached


def _check_length(size_bytes: int, expected: int) -> None:
    if size_bytes < expected:
        raise _HeaderError("truncated", f"is cut off: {size_bytes} bytes of {expected}")
    if size_bytes > expected:
        raise _HeaderError("too_long", f"is longer than its header says: {size_bytes} bytes, not {expected}")


def _shown(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}…"
