"""Writes a model's `model.safetensors.index.json` anew, from what its weight files say of themselves."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlxk.store.hub_errors import OperationError
from mlxk.store.json_file import read_object
from mlxk.store.safetensors_header import read_header
from mlxk.store.space import check_writable

INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Repair:
    path: Path
    was_right: bool
    """Nothing had to be done."""
    n_files: int
    n_tensors: int


def repair_index(folder: Path) -> Repair:
    """Raises OperationError `cannot_repair` if a weight file is missing or broken: an index does not help."""
    weight_map: dict[str, str] = {}
    total = 0
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise OperationError(
            "cannot_repair", f"there are no model*.safetensors in {folder}: pull the model again"
        )
    for file in files:
        try:
            header = read_header(file, file.stat().st_size)
        except OSError as error:
            raise _broken(file, f"cannot be read ({error.strerror})") from error
        if header.fault is not None:
            raise _broken(file, header.fault)
        for name, tensor in header.tensors.items():
            if name in weight_map:
                raise _broken(file, f"holds '{name}', as {weight_map[name]} does")
            weight_map[name] = file.name
            total += tensor.n_bytes
    _check_numbers([file.name for file in files])
    path = folder / INDEX_FILE
    old, _ = read_object(path)
    wanted = dict(sorted(weight_map.items()))
    is_needless = [file.name for file in files] == ["model.safetensors"] and not os.path.lexists(path)
    metadata = old.get("metadata")
    kept = metadata if isinstance(metadata, dict) else {}
    is_right = is_needless or (old.get("weight_map") == wanted and kept.get("total_size", total) == total)
    result = Repair(path, is_right, len(files), len(wanted))
    if not result.was_right:
        check_writable(folder)
        _write(path, {"metadata": {**kept, "total_size": total}, "weight_map": wanted})
    return result


def _write(path: Path, value: object) -> None:
    """In one step, and never through a link: in the hub's cache the name leads to a blob that others use."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=4)
    os.chmod(draft, 0o644)
    os.replace(draft, path)


def _check_numbers(names: list[str]) -> None:
    """ "model-00002-of-00003.safetensors" promises two others."""
    for name in names:
        parts = name.removesuffix(".safetensors").split("-")
        if len(parts) == 4 and parts[2] == "of" and parts[1].isdigit() and parts[3].isdigit():
            count = min(int(parts[3]), 10_000)
            expected = (f"{parts[0]}-{n:05d}-of-{parts[3]}.safetensors" for n in range(1, count + 1))
            if missing := next((one for one in expected if one not in names), None):
                raise OperationError(
                    "cannot_repair", f"{missing} is missing, which an index cannot mend: pull the model again"
                )


def _broken(file: Path, text: str | None) -> OperationError:
    return OperationError("cannot_repair", f"{file.name} {text}: pull the model again", file=file.name)
