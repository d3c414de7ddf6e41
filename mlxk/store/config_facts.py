"""What a model's config.json says of it. Pure functions of parsed JSON, which may hold anything at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTH_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "n_positions",
    "seq_length",
    "n_ctx",
    "model_max_length",
)
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_LONGEST_CONTEXT = 1 << 26
"""Above this a "length" is a placeholder: transformers writes 10**30 for "not known"."""


def context_length(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int | None:
    """Tokens of the model's window, prompt and answer together; None if nothing says it."""
    sections = [config, *(_table(config, name) for name in _TEXT_SECTIONS)]
    for key in _LENGTH_KEYS:
        for section in sections:
            if length := _length(section.get(key)):
                return length
    for section in sections:
        if length := _scaled_length(_table(section, "rope_scaling")):
            return length
    return _length(tokenizer_config.get("model_max_length"))


def _scaled_length(rope_scaling: Mapping[str, Any]) -> int | None:
    original = _length(rope_scaling.get("original_max_position_embeddings"))
    factor = rope_scaling.get("factor")
    if original is None or isinstance(factor, bool) or not isinstance(factor, int | float):
        return original
    return _length(original * factor) or original


def _length(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= _LONGEST_CONTEXT else None  # also refuses NaN and infinity


def model_type(config: Mapping[str, Any]) -> str | None:
    return _text(config.get("model_type"))


def architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return _text(names[0]) if isinstance(names, list) and names else None


def quantization(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """MLX's own table (bits, group_size, mode), else the one of a foreign format (quant_method, ...).

    `layer_overrides` counts the layers that are quantized otherwise. None: plain weights.
    """
    table: Mapping[str, Any] = {}
    for section in (config, _table(config, "text_config")):
        table = table or _table(section, "quantization") or _table(section, "quantization_config")
    if not table:
        return None
    facts = {key: value for key, value in table.items() if isinstance(value, str | int | float)}
    overrides = sum(isinstance(value, dict) and "bits" in value for value in table.values())
    return facts | {"layer_overrides": overrides} if overrides else facts


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
