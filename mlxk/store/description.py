"""All that can be said of one model without loading it: what `mlxk show` tells. Reads all headers anew."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk.store.capabilities import chat_template
from mlxk.store.catalog import ModelRef
from mlxk.store.folder import FileEntry, open_regular, read_folder
from mlxk.store.gguf_variants import GgufVariant, gguf_variants
from mlxk.store.hub_cache import read_repo
from mlxk.store.json_file import read_object
from mlxk.store.support import installed_mlx, is_older
from mlxk.store.weight_faults import read_weights
from mlxk.store.weight_formats import (
    FIXED_MODES,
    SINCE_MLX,
    Contents,
    Packing,
    contents,
    quantization_tables,
)

_CARD_BYTES = 64 * 1024
_LICENSE = re.compile(r"^license(?:_name)?:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
GENERATION_KEYS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "do_sample",
)


@dataclass(frozen=True, slots=True)
class Revision:
    hash: str
    modified_at: float
    current: bool


@dataclass(frozen=True, slots=True)
class Description:
    config: dict[str, Any]
    contents: Contents
    files: tuple[FileEntry, ...]
    gguf: tuple[GgufVariant, ...]
    template: str | None
    license: str | None
    generation_defaults: dict[str, Any]
    revisions: tuple[Revision, ...]
    """Of a hub model, the newest first."""

    def quantization(self) -> dict[str, Any]:
        """For JSON; also of plain weights, whose `label` is their precision."""
        main = self._main()
        table, foreign = quantization_tables(self.config)
        mode = main.mode if main and main.mode else None
        bits_per_weight = self.contents.bits_per_weight
        return {
            "label": self._label(),
            "quantized": bool(mode) or bool(self.gguf),
            "method": "gguf"
            if self.gguf and not self.contents.shares
            else str(foreign.get("quant_method") or "mlx")
            if mode
            else None,
            "mode": mode,
            "bits": main.bits if main and mode else None,
            "group_size": main.group_size if main and mode else None,
            "bits_per_weight": round(bits_per_weight, 3) if bits_per_weight else None,
            "mixed": self._is_mixed(),
            "layers": [
                {
                    "label": packing.label,
                    "mode": packing.mode or None,
                    "bits": packing.bits or None,
                    "group_size": packing.group_size or None,
                    "tensors": share.n_tensors,
                    "parameters": share.n_parameters,
                    "size_bytes": share.n_bytes,
                }
                for packing, share in sorted(
                    self.contents.shares.items(), key=lambda one: -one[1].n_parameters
                )
            ],
            "requires": self._requirement(table, foreign),
        }

    def _label(self) -> str | None:
        main = self._main()
        if main is None:
            return "gguf" if self.gguf else None
        return f"mixed, mostly {main.label}" if self._is_mixed() else main.label

    def _main(self) -> Packing | None:
        """Of the quantized tensors, if there are any; without weights what config.json says."""
        table, foreign = quantization_tables(self.config)
        if not self.contents.shares and (table or foreign):
            mode = table.get("mode", "affine") if table else foreign.get("quant_method")
            said = table or foreign
            bits, group_size = FIXED_MODES.get(str(mode), (said.get("bits"), said.get("group_size")))
            return Packing(
                str(mode),
                bits if isinstance(bits, int) else 0,
                group_size if isinstance(group_size, int) else 0,
            )
        return self.contents.main_packing()

    def _is_mixed(self) -> bool:
        """Quantized in more than one way. Norms and the like, which stay plain, do not make a mix."""
        return len({packing for packing in self.contents.shares if packing.mode}) > 1

    def _requirement(self, table: Any, foreign: Any) -> dict[str, Any] | None:
        """The newest MLX that any of the modes in use needs."""
        modes = {packing.mode for packing in self.contents.shares}
        modes |= {table.get("mode"), foreign.get("quant_method")}
        needed = [(SINCE_MLX[mode], mode) for mode in modes if isinstance(mode, str) and mode in SINCE_MLX]
        if not needed:
            return None
        version, mode = max(needed)
        installed = installed_mlx()
        satisfied = None if installed is None else not is_older(installed, version)
        return {
            "package": "mlx",
            "version": version,
            "mode": mode,
            "installed": installed,
            "satisfied": satisfied,
        }


def describe(ref: ModelRef) -> Description:
    """Never raises: of a broken model it says what can be said."""
    folder = read_folder(ref.path)
    config, _ = read_object(ref.path / "config.json")
    tokenizer_config, _ = read_object(ref.path / "tokenizer_config.json")
    generation, _ = read_object(ref.path / "generation_config.json")
    weights = read_weights(folder, config)
    return Description(
        config=config,
        contents=contents(weights.tensors, config),
        files=folder.files,
        gguf=tuple(gguf_variants(folder)),
        template=chat_template(ref.path, tokenizer_config),
        license=_license(ref.path),
        generation_defaults={key: generation[key] for key in GENERATION_KEYS if key in generation},
        revisions=_revisions(ref),
    )


def _license(path: Path) -> str | None:
    """Of the model card's front matter."""
    try:
        with open_regular(path / "README.md") as file:
            text = file.read(_CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    if not text.startswith("---"):
        return None
    front = text[3:].partition("\n---")[0]
    found = _LICENSE.findall(front)
    names = [one.strip("'\"") for one in found if one not in ("other", "|", ">")]
    return names[0] if names else (found[0] if found else None)


def _revisions(ref: ModelRef) -> tuple[Revision, ...]:
    if ref.revision is None:
        return ()
    repo = read_repo(ref.path.parent.parent)
    found = [
        Revision(one, read_folder(repo.snapshot_path(one)).modified_at(), one == repo.current)
        for one in repo.snapshots
    ]
    return tuple(sorted(found, key=lambda one: -one.modified_at))


def utc_time(unix_s: float) -> str:
    """As JSON has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
