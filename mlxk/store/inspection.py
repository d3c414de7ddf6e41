"""What a model's folder holds, and whether a worker could load it.

Reads headers and small files only. The answer is remembered for as long as no file of the folder changes in
any way, so that asking again, as every request does, costs one directory listing; and across processes in
`$MLXK_HOME` (`inspection_cache`), so that a list of 200 models is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxk.store import config_facts
from mlxk.store.capabilities import capabilities
from mlxk.store.faults import Fault, Severity
from mlxk.store.folder import Folder, read_folder
from mlxk.store.health import find_faults
from mlxk.store.json_file import read_object

Framework = Literal["MLX", "GGUF", "PyTorch"]

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
    faults: tuple[Fault, ...] = ()
    """All that is wrong, the worst first; warnings last."""

    @property
    def healthy(self) -> bool:
        """Its files are all there and whole. It may still be nothing for MLX."""
        return not any(fault.severity is Severity.DAMAGED for fault in self.faults)

    @property
    def usable(self) -> bool:
        """A worker can be tried with it: healthy, and the installed MLX and mlx_lm can run it."""
        return all(fault.severity is Severity.WARNING for fault in self.faults)

    @property
    def reason(self) -> str | None:
        """Why it is not usable and what to do, to follow "cannot be used: ". None if it is."""
        return None if self.usable else self.faults[0].sentence


_known: dict[tuple[Path, bool], tuple[Folder, ModelFacts]] = {}


def inspect_model(path: Path, *, trusted: bool = False) -> ModelFacts:
    """The facts about the model in folder `path`. Never raises: what is broken is a fault.

    `trusted`: the configuration lets this model run code of its own.
    """
    return inspect_folder(read_folder(path), trusted=trusted)


def inspect_folder(folder: Folder, *, trusted: bool = False) -> ModelFacts:
    """Like `inspect_model`, for a folder that was just read."""
    known = remembered(folder, trusted=trusted)
    if known is not None:
        return known
    facts = _inspect(folder, trusted=trusted)
    remember(folder, facts, trusted=trusted)
    return facts


def remembered(folder: Folder, *, trusted: bool) -> ModelFacts | None:
    known = _known.get((folder.path, trusted))
    return known[1] if known is not None and known[0] == folder else None


def remember(folder: Folder, facts: ModelFacts, *, trusted: bool) -> None:
    if len(_known) >= _REMEMBERED:  # only models that came and went can get us here
        _known.clear()
    _known[folder.path, trusted] = (folder, facts)


def _inspect(folder: Folder, *, trusted: bool) -> ModelFacts:
    config, _ = read_object(folder.path / "config.json")
    tokenizer_config, _ = read_object(folder.path / "tokenizer_config.json")
    can = capabilities(folder.path, tokenizer_config, config)
    return ModelFacts(
        model_type=config_facts.model_type(config),
        architecture=config_facts.architecture(config),
        context_length=config_facts.context_length(config, tokenizer_config),
        quantization=config_facts.quantization(config),
        framework=_framework(folder),
        capabilities=can,
        faults=find_faults(folder, has_template="chat" in can, trusted=trusted),
    )


def _framework(folder: Folder) -> Framework:
    if folder.ending(".safetensors", ".npz"):
        return "MLX"
    if folder.ending(".gguf"):
        return "GGUF"
    return "PyTorch" if folder.ending(".bin", ".pt", ".pth") else "MLX"
