"""What a loaded model's files say about it: context, vocabulary, sampling defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlxk.store import config_facts
from mlxk.store.json_file import read_object

UNKNOWN_CONTEXT = 32_768
"""Assumed where a model's config gives no length (state-space models have no hard one)."""


def vocab_size(config: dict[str, Any], tokenizer: Any) -> int:
    for source in (config, config.get("text_config") or {}):
        size = source.get("vocab_size")
        if isinstance(size, int) and size > 0:
            return size
    return len(tokenizer)


def context_length(folder: Path, config: dict[str, Any], limit: int | None) -> int:
    """What the store says of the same files, where it can say something."""
    tokenizer_config, _ = read_object(folder / "tokenizer_config.json")
    own = config_facts.context_length(config, tokenizer_config) or UNKNOWN_CONTEXT
    return min(own, limit) if limit else own


def generation_config(folder: Path) -> dict[str, Any]:
    return read_object(folder / "generation_config.json")[0]
