"""The table in a .safetensors header, and the index of the shards: JSON that may be hostile, with up to a
hundred thousand entries, read by msgspec.

Imported when there is something to read, and not before: a `mlxk list` that remembers all does without.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import msgspec

_ABSENT = (-1,)
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """One entry. The defaults stand for what every entry must say; no type and shape fit them."""

    dtype: str = ""
    # The product of a million dimensions would take minutes.
    shape: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=64)] = _ABSENT
    data_offsets: tuple[_Count, _Count] = (0, -(2**63))
    """Begin and end, in bytes from the end of the header."""

    @property
    def is_complete(self) -> bool:
        begin, end = self.data_offsets
        return begin <= end and self.dtype != "" and self.shape != _ABSENT

    @property
    def n_bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


class TableError(Exception):
    """`name`: the entry that makes no sense; None: the whole is no table."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.name = name


_METADATA = "__metadata__"
_TABLE = msgspec.json.Decoder(dict[str, Tensor])
"""`__metadata__`, texts by name, looks to it like an entry that says nothing."""
_ENTRIES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(Tensor)


def read_table(text: bytes) -> dict[str, Tensor]:
    """Tensors by name; the caller looks whether each is complete. Raises TableError."""
    try:
        tensors = _TABLE.decode(text)
    except msgspec.ValidationError:
        tensors = _read_each(text)
    except (ValueError, RecursionError) as error:
        raise TableError from error
    tensors.pop(_METADATA, None)
    return tensors


def _read_each(text: bytes) -> dict[str, Tensor]:
    """The slow way, to say where it went wrong; or it was only the metadata, which nobody reads."""
    try:
        entries = _ENTRIES.decode(text)
    except (ValueError, RecursionError) as error:
        raise TableError from error
    entries.pop(_METADATA, None)
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        try:
            tensors[name] = _ENTRY.decode(entry)
        except (ValueError, RecursionError) as error:
            raise TableError(name) from error
    return tensors


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}


_INDEX = msgspec.json.Decoder(_Index)


def decode_index(text: bytes) -> Any:
    """As `json.loads`, in a third of the time if it is what it should be. Raises ValueError."""
    try:
        index = _INDEX.decode(text)
    except (ValueError, RecursionError):
        return json.loads(text)
    return {"weight_map": index.weight_map, "metadata": index.metadata}
