"""What a model's folder holds, and whether a worker could load it.

Reads headers and small files only. The answer is remembered for as long as no file of the folder changes its
size or time, so that asking again, as every request does, costs one directory listing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxk.store import config_facts
from mlxk.store.capabilities import capabilities
from mlxk.store.folder import FileEntry, Folder, open_regular, read_folder
from mlxk.store.json_file import LFS_MARK, read_object
from mlxk.store.safetensors_header import safetensors_fault

Framework = Literal["MLX", "GGUF", "PyTorch"]

_INDEX_FILE = "model.safetensors.index.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
_NUMBERED_SHARD = re.compile(r"(.*?)(\d{5})-of-(\d{5})(.*)")
_AGAIN = "pull the model again"
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What can be known of a model without loading it."""

    model_type: str | None
    architecture: str | None
    context_length: int | None
    """Tokens; None if no file says it."""
    quantization: dict[str, Any] | None
    """bits, group_size, mode as in config.json; None for plain weights."""
    framework: Framework
    """Format of the weights. "MLX": safetensors, which mlx_lm reads whoever wrote them."""
    capabilities: tuple[str, ...]
    healthy: bool
    reason: str | None
    """Why it is not healthy and what to do, to follow "cannot be used: ". None if it is."""


_known: dict[Path, tuple[Folder, ModelFacts]] = {}


def inspect_model(path: Path) -> ModelFacts:
    """The facts about the model in folder `path`. Never raises: what is broken is a reason."""
    return inspect_folder(read_folder(path))


def inspect_folder(folder: Folder) -> ModelFacts:
    """Like `inspect_model`, for a folder that was just read."""
    known = _known.get(folder.path)
    if known is not None and known[0] == folder:
        return known[1]
    facts = _inspect(folder)
    if len(_known) >= _REMEMBERED:  # only models that came and went can get us here
        _known.clear()
    _known[folder.path] = (folder, facts)
    return facts


def _inspect(folder: Folder) -> ModelFacts:
    config, config_fault = read_object(folder.path / "config.json")
    tokenizer_config, _ = read_object(folder.path / "tokenizer_config.json")
    framework = _framework(folder)
    reason = (
        _format_fault(folder, framework)
        or _config_fault(config, config_fault)
        or _weights_fault(folder)
        or _tokenizer_fault(folder)
    )
    return ModelFacts(
        model_type=config_facts.model_type(config),
        architecture=config_facts.architecture(config),
        context_length=config_facts.context_length(config, tokenizer_config),
        quantization=config_facts.quantization(config),
        framework=framework,
        capabilities=capabilities(folder.path, tokenizer_config),
        healthy=reason is None,
        reason=reason,
    )


def _framework(folder: Folder) -> Framework:
    if folder.ending(".safetensors", ".npz"):
        return "MLX"
    if folder.ending(".gguf"):
        return "GGUF"
    return "PyTorch" if folder.ending(".bin", ".pt", ".pth") else "MLX"


def _format_fault(folder: Folder, framework: Framework) -> str | None:
    if not folder.files:
        return f"there are no files in {folder.path}; {_AGAIN}, or remove it"
    if framework == "GGUF":
        return (
            "it holds GGUF weights only, which MLX cannot serve; pull a version in MLX format, or convert "
            "with `mlx_lm.convert` from the original safetensors"
        )
    if framework == "PyTorch":
        return (
            "it holds PyTorch weights only, which MLX cannot read; pull a version with safetensors, or "
            "convert with transformers (`save_pretrained` writes safetensors)"
        )
    if not folder.ending(".safetensors") and folder.ending(".npz"):
        return (
            "its weights.npz is a format of early MLX; convert with `mlx_lm.convert` from the original again"
        )
    return None


def _config_fault(config: dict[str, Any], fault: str | None) -> str | None:
    if fault is not None:
        return f"config.json {fault}; {_AGAIN}"
    if config_facts.model_type(config) is None:
        return "config.json names no model_type, so its architecture is not known; this is no language model"
    return None


def _weights_fault(folder: Folder) -> str | None:
    weights = folder.weights()
    if not weights:
        return f"it has no weights (model*.safetensors); {_AGAIN}"
    if not weights[0].name.startswith("model"):
        return f"mlx_lm reads only weights named model*.safetensors; rename {weights[0].name}"
    for entry in weights:
        if fault := _file_fault(folder, entry):
            return f"{entry.name} {fault}; {_AGAIN}"
    return _missing_shards(folder, weights)


def _file_fault(folder: Folder, entry: FileEntry) -> str | None:
    if entry.dangling:
        return "is not in the cache: its download did not finish"
    return safetensors_fault(folder.path / entry.name, entry.size_bytes)


def _missing_shards(folder: Folder, weights: tuple[FileEntry, ...]) -> str | None:
    present = {entry.name for entry in weights}
    expected = _numbered_shards(present)
    if folder.named(_INDEX_FILE):
        index, fault = read_object(folder.path / _INDEX_FILE)
        weight_map = index.get("weight_map")
        if fault is None and not isinstance(weight_map, dict):
            fault = "holds no weight_map"
        if fault is not None:
            return f"{_INDEX_FILE} {fault}; {_AGAIN}"
        assert isinstance(weight_map, dict)
        expected |= {name for name in weight_map.values() if isinstance(name, str)}
    if missing := sorted(expected - present):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{missing[0]}{more} of {len(expected)} weight files is missing; {_AGAIN}"
    return None


def _numbered_shards(present: set[str]) -> set[str]:
    """All that belong to "model-00002-of-00003.safetensors": a lost shard shows also without an index."""
    expected: set[str] = set()
    for name in present:
        if (match := _NUMBERED_SHARD.fullmatch(name)) and int(match[3]) <= 10_000:
            count = int(match[3])
            expected |= {f"{match[1]}{n:05d}-of-{match[3]}{match[4]}" for n in range(1, count + 1)}
    return expected


def _tokenizer_fault(folder: Folder) -> str | None:
    candidates = [folder.named(name) for name in _TOKENIZER_FILES]
    found = [entry for entry in candidates if entry] + list(folder.ending(".tiktoken"))
    if not found:
        return f"it has no tokenizer (tokenizer.json or tokenizer.model); {_AGAIN}"
    for entry in found:
        if entry.dangling:
            return f"{entry.name} is not in the cache: its download did not finish; {_AGAIN}"
        if fault := _cut_off(folder.path / entry.name):
            return f"{entry.name} {fault}; {_AGAIN}"
    if folder.named("tokenizer_config.json"):
        _, fault = read_object(folder.path / "tokenizer_config.json")
        return f"tokenizer_config.json {fault}; {_AGAIN}" if fault else None
    return None


def _cut_off(path: Path) -> str | None:
    """A look at both ends: parsing tokenizer.json (up to 30 MB) would hold up the first request."""
    try:
        with open_regular(path) as file:
            start = file.read(len(LFS_MARK))
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
            end = file.read(64)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if start == LFS_MARK:
        return "is a Git LFS pointer, not the file itself (run `git lfs pull` in its folder)"
    if not start:
        return "is empty: the download was cut off"
    if path.suffix == ".json" and not (start.lstrip()[:1] == b"{" and end.rstrip()[-1:] == b"}"):
        return "is not a whole JSON object: the download was cut off"
    return None
