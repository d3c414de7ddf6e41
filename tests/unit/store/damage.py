"""Ways to damage a copy of the built-in model."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlxk.store.builtin import builtin_path
from mlxk.store.faults import Severity

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123456789\n"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def copy_tiny(target: Path) -> Path:
    """A whole model: the real one, copied."""
    shutil.copytree(builtin_path(), target)
    return target


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def change_header(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, data = read_safetensors(model / WEIGHTS)
    change(header)
    write_safetensors(model / WEIGHTS, header, data)


def change_json(path: Path, **changes: Any) -> None:
    """Keys to set; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: one for key, one in value.items() if one is not None}))


def shard(model: Path, n_shards: int = 2) -> list[Path]:
    """The same weights in several files, with an index."""
    header, data = read_safetensors(model / WEIGHTS)
    header.pop("__metadata__", None)
    (model / WEIGHTS).unlink()
    names = sorted(header)
    shards = [model / f"model-{n + 1:05d}-of-{n_shards:05d}.safetensors" for n in range(n_shards)]
    weight_map: dict[str, str] = {}
    for n, path in enumerate(shards):
        mine: dict[str, Any] = {}
        parts: list[bytes] = []
        at = 0
        for name in names[n::n_shards]:
            begin, end = header[name]["data_offsets"]
            mine[name] = header[name] | {"data_offsets": [at, at + end - begin]}
            parts.append(data[begin:end])
            at += end - begin
            weight_map[name] = path.name
        write_safetensors(path, mine, b"".join(parts))
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    (model / INDEX).write_text(json.dumps(index))
    return shards


def change_index(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    shard(model)
    index = json.loads((model / INDEX).read_text())
    change(index)
    (model / INDEX).write_text(json.dumps(index))


def foreign_index(model: Path) -> None:
    """The whole weights beside the index of a model in two shards."""
    map_ = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / INDEX).write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": map_}))


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../blobs/none")


def only(model: Path, name: str, content: bytes = b"weights") -> None:
    """Other weights in the place of the safetensors."""
    (model / WEIGHTS).unlink()
    (model / name).write_bytes(content)


def first(header: dict[str, Any]) -> dict[str, Any]:
    """The tensor whose data comes first."""
    tensors = [one for name, one in header.items() if name != "__metadata__"]
    return min(tensors, key=lambda one: one["data_offsets"])


def overlap(header: dict[str, Any]) -> None:
    tensors = sorted(
        (one for name, one in header.items() if name != "__metadata__"), key=lambda one: one["data_offsets"]
    )
    size = tensors[1]["data_offsets"][1] - tensors[1]["data_offsets"][0]
    tensors[1]["data_offsets"] = [tensors[0]["data_offsets"][0], tensors[0]["data_offsets"][0] + size]


def hole(model: Path) -> None:
    header, data = read_safetensors(model / WEIGHTS)
    for name, one in header.items():
        if name != "__metadata__":
            one["data_offsets"] = [at + 64 for at in one["data_offsets"]]
    write_safetensors(model / WEIGHTS, header, bytes(64) + data)


def move_tensor_in_index(index: dict[str, Any]) -> None:
    names = sorted(index["weight_map"])
    index["weight_map"][names[0]], index["weight_map"][names[1]] = (
        index["weight_map"][names[1]],
        index["weight_map"][names[0]],
    )


def replace_bytes(path: Path, content: bytes | str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda model: change_json(model / "config.json", **changes)


class Sickness(NamedTuple):
    kind: str
    severity: Severity
    damage: Callable[[Path], object]
    words: str
    advice: str


D, U, W = Severity.DAMAGED, Severity.UNSUPPORTED, Severity.WARNING
PULL, CONVERT, INDEX_REPAIR = "mlxk pull", "mlxk convert", "--repair"
