"""What a loaded model's files say about it: context, vocabulary, sampling defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

UNKNOWN_CONTEXT = 32_768
"""Assumed where a model's config gives no length (state-space models have no hard one)."""
CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length", "max_seq_len")


def vocab_size(config: dict[str, Any], tokenizer: Any) -> int:
    for source in (config, config.get("text_config") or {}):
        size = source.get("vocab_size")
        if isinstance(size, int) and size > 0:
            return size
    return len(tokenizer)


def context_length(config: dict[str, Any], limit: int | None) -> int:
    own = UNKNOWN_CONTEXT
    for source in (config, config.get("text_config") or {}):
        lengths = [
            source[key] for key in CONTEXT_KEYS if isinstance(source.get(key), int) and source[key] > 0
        ]
        if lengths:
            own = lengths[0]
            break
    return min(own, limit) if limit else own


def generation_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
