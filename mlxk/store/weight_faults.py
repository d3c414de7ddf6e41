"""Are all weights there, whole, and what config.json and the index of the shards say they are?

Reads the headers of all weight files, none of their tensors. mlx_lm reads every `model*.safetensors` and
does not look into the index; other programs do, so what is wrong with it alone is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxk.store.faults import Fault, damaged, unsupported, warning
from mlxk.store.file_faults import hub_name, mend, mend_file, unfinished
from mlxk.store.folder import FileEntry, Folder
from mlxk.store.json_file import read_judged
from mlxk.store.safetensors_header import BITS, read_header
from mlxk.store.weight_formats import packed_tensors, quantization_tables

if TYPE_CHECKING:
    from mlxk.store.tensor_table import Tensor

INDEX_FILE = "model.safetensors.index.json"
READABLE = frozenset(BITS) - {"F8_E5M2", "F4", "F6_E2M3", "F6_E3M2", "F64"}
"""Types that `mlx.core.load` takes from a safetensors file (MLX 0.32)."""

_NUMBERED_SHARD = re.compile(r"(.*?)(\d{5})-of-(\d{5})(.*)")
_MOST_SHARDS = 10_000


@dataclass(slots=True)
class Weights:
    """What the weight files hold, as far as their headers could be read."""

    by_file: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    data_bytes: int = 0
    """All tensors together."""
    faults: list[Fault] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, Tensor]:
        if len(self.by_file) == 1:
            return next(iter(self.by_file.values()))
        merged: dict[str, Tensor] = {}
        for tensors in self.by_file.values():
            merged |= tensors
        return merged


def read_weights(folder: Folder, config: Mapping[str, Any]) -> Weights:
    """Headers and faults of all safetensors of the model. Never raises."""
    found = Weights()
    entries = tuple(entry for entry in folder.weights() if entry.name.endswith(".safetensors"))
    found.faults += _naming_faults(folder, entries)
    for entry in entries:
        found.faults += _read(folder, entry, found)
    found.faults += _shard_faults(folder, entries, found)
    if not found.faults:
        found.faults += _content_faults(folder, found.tensors, config)
    return found


def _naming_faults(folder: Folder, entries: tuple[FileEntry, ...]) -> Iterator[Fault]:
    if not entries:
        if not folder.weights():
            yield damaged("no_weights", "it has no weights (model*.safetensors)", mend(folder.path))
    elif not entries[0].name.startswith("model"):
        first = entries[0].name
        yield unsupported(
            "weight_names",
            f"mlx_lm reads only weights named model*.safetensors, not {first}",
            f"rename {first}" if hub_name(folder.path) is None else "convert it with `mlxk convert`",
        )


def _read(folder: Folder, entry: FileEntry, found: Weights) -> Iterator[Fault]:
    if entry.dangling:
        yield unfinished(folder, entry)
        return
    path = folder.path / entry.name
    header = read_header(path, entry.size_bytes)
    if header.fault is None:
        found.by_file[entry.name] = header.tensors
        found.data_bytes += header.data_bytes
        strange = sorted({tensor.dtype for tensor in header.tensors.values()} - READABLE)
        if strange:
            yield unsupported(
                "unreadable_type",
                f"{entry.name} holds numbers of type {', '.join(strange)[:80]}, which MLX cannot read",
                "pull a version in MLX format (mlx-community has many)",
            )
    else:
        kind = header.kind or "bad_header"
        yield damaged(kind, f"{entry.name} {header.fault}", mend_file(path, kind))


# ----------------------------------------------------------------- shards and index


def _shard_faults(folder: Folder, entries: tuple[FileEntry, ...], found: Weights) -> Iterator[Fault]:
    present = {entry.name for entry in entries}
    expected = _numbered_shards(present)
    repair = f"mend it with: mlxk convert {hub_name(folder.path) or folder.path.name} --repair"
    index: dict[str, Any] = {}
    if entry := folder.named(INDEX_FILE):
        if entry.dangling:
            yield unfinished(folder, entry)
        else:
            from mlxk.store.tensor_table import decode_index

            index, wrong = read_judged(folder.path / INDEX_FILE, decode_index)
            if wrong is not None:
                kind, text = wrong
                yield damaged(kind, f"{INDEX_FILE} {text}", mend_file(folder.path / INDEX_FILE, kind))
            elif not isinstance(index.get("weight_map"), dict):
                yield damaged("bad_index", f"{INDEX_FILE} holds no weight_map", repair)
                index = {}
    elif len(present) > 1:
        text = f"there is no {INDEX_FILE}, which other programs need for {len(present)} weight files"
        yield warning("missing_index", text, repair)
    weight_map: dict[str, str] = index.get("weight_map", {})
    if {type(shard) for shard in weight_map.values()} - {str}:
        weight_map = {name: shard for name, shard in weight_map.items() if isinstance(shard, str)}
    lost = bool(expected - present)
    expected |= set(weight_map.values())
    if missing := sorted(expected - present):
        more, are = (f" and {len(missing) - 1} more", "are") if len(missing) > 1 else ("", "is")
        text, advice = f"{missing[0]}{more} of {len(expected)} weight files {are} missing", mend(folder.path)
        if not lost and _are_whole(weight_map, found, present):
            text = f"{INDEX_FILE} is not of these weights: {text}"
            advice = f"{repair}; or {advice}"
        yield damaged("missing_shard", text, advice)
    if weight_map and len(found.by_file) == len(present):
        yield from _index_faults(weight_map, index, found, repair, mend(folder.path), missing)


def _are_whole(weight_map: Mapping[str, str], found: Weights, present: set[str]) -> bool:
    """Nothing but the index speaks of more files: all that are there can be read, and they hold every tensor
    that it names, or are the one file of a model that was never split."""
    if len(found.by_file) < len(present) or not found.by_file:
        return False
    return present == {"model.safetensors"} or weight_map.keys() <= found.tensors.keys()


def _numbered_shards(present: set[str]) -> set[str]:
    """All that belong to "model-00002-of-00003.safetensors": a lost shard shows also without an index."""
    expected: set[str] = set()
    for name in present:
        if (match := _NUMBERED_SHARD.fullmatch(name)) and int(match[3]) <= _MOST_SHARDS:
            count = int(match[3])
            expected |= {f"{match[1]}{n:05d}-of-{match[3]}{match[4]}" for n in range(1, count + 1)}
    return expected


def _index_faults(
    weight_map: Mapping[str, str],
    index: Mapping[str, Any],
    found: Weights,
    repair: str,
    again: str,
    missing: list[str],
) -> Iterator[Fault]:
    """The index against the headers. Tensors of shards that are missing have been told of already."""
    places: dict[str, str] = {}
    for file, held in found.by_file.items():
        places |= dict.fromkeys(held, file)
    is_all_there = True
    if weight_map != places:  # of the thousands of a model all agree, nearly always
        is_all_there = not missing and weight_map.keys() <= places.keys()
        yield from _disagreements(weight_map, found, repair, again, missing)
    metadata = index.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    if type(said) is int and said != found.data_bytes and is_all_there:
        text = f"{INDEX_FILE} says that the weights are {said} bytes in all; they are {found.data_bytes}"
        yield warning("wrong_total_size", text, repair)


def _disagreements(
    weight_map: Mapping[str, str],
    found: Weights,
    repair: str,
    again: str,
    missing: list[str],
) -> Iterator[Fault]:
    tensors = found.tensors
    lost = [name for name, shard in weight_map.items() if shard not in missing and name not in tensors]
    if lost:
        text = f"{_some(lost)} in {weight_map[lost[0]]}, as {INDEX_FILE} says"
        yield damaged("missing_tensor", text, again)
    moved = [
        name
        for name, shard in weight_map.items()
        if name in tensors and shard in found.by_file and name not in found.by_file[shard]
    ]
    if moved:
        text = f"{_some(moved)} in {weight_map[moved[0]]}, as {INDEX_FILE} says, but in another weight file"
        yield warning("misplaced_tensor", text, repair)
    unlisted = [name for name in tensors if name not in weight_map]
    if unlisted:
        count = f"{len(unlisted)} tensors are" if len(unlisted) > 1 else "the tensor"
        name = f"'{unlisted[0]}'"
        text = (
            f"{count} not in {INDEX_FILE} ({name})" if len(unlisted) > 1 else f"{count} {name} is not in it"
        )
        yield warning("unlisted_tensor", f"{INDEX_FILE} is not complete: {text}", repair)


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"the tensor '{names[0]}' is not"
    return f"'{names[0]}' and {len(names) - 1} more tensors are not"


# ------------------------------------------------------------------------ content


def _content_faults(
    folder: Folder, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Iterator[Fault]:
    """Quantized weights and what config.json says of them."""
    contradiction: str | None = None
    modes: set[str] = set()
    for name, _suffix, packing in packed_tensors(tensors, config):
        modes.add("affine" if packing is None else packing.mode)
        contradiction = contradiction or (name if packing is None else None)
    if contradiction is not None:
        yield damaged(
            "wrong_quantization",
            f"the quantization in config.json does not fit the weights ('{contradiction}')",
            mend(folder.path),
        )
    packed = not modes.isdisjoint(("affine", "mxfp4", "nvfp4", "mxfp8"))
    table, foreign = quantization_tables(config)
    if packed and not table and not foreign:
        yield damaged(
            "wrong_quantization",
            'its weights are quantized, and config.json does not say how (it has no "quantization")',
            mend(folder.path),
        )
    if foreign.get("quant_method") in ("awq", "gptq") and any(name.endswith(".g_idx") for name in tensors):
        yield unsupported(
            "unsupported_quantization",
            f"it is quantized by {foreign['quant_method']} with reordered groups (g_idx), which mlx_lm "
            "cannot read",
            "pull a version in MLX format (mlx-community has many)",
        )
