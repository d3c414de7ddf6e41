"""What a model can do, as far as its files tell before it is loaded.

A loaded model's worker says the same, by mlx_lm's rules: those by which mlx_lm 0.32 chooses a tool parser and
finds thinking marks, and ours for gpt-oss. `tests/unit/workers/test_capabilities.py` compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxk.store.folder import open_regular
from mlxk.store.json_file import read_object

_CALLS_IN_TEMPLATE: tuple[tuple[str, ...], ...] = (
    ("<tool_call>", "tool_call.name"),
    ("<tool_call>\n<function=",),
    ("<tool_call>\\n<function=",),
    ("<arg_key>",),
    ("[TOOL_CALLS]",),
    ("<minimax:tool_call>",),
    ("<|tool_call>", "<tool_call|>"),
    ("<start_function_call>",),
    ("<longcat_tool_call>",),
    ("<|tool_list_start|>",),
    ("<|tool_call_start|>",),
    ("<|tool_calls_section_begin|>",),
    ('<function name="', '<param name="'),
    ("<atem:function_calls>",),
)
"""A template that holds all of one group renders tool calls in a form that can be read back."""

_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|return|>")
_XTML = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
_CALL_TOKENS = (_HARMONY, _XTML, ("<|tool_call_start|>", "<|tool_call_end|>"))
_THINKING_TOKENS = (
    _HARMONY,
    _XTML,
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
)
"""A vocabulary that holds all of one group has a model that calls tools, or thinks."""

_SPEAKS_MUSE_SPARK = "muse_spark"
"""The model type for which mlx_lm's code, not the checkpoint, names the tool parser and the headers."""
_LARGEST_TEMPLATE_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024
_LARGEST_TOKEN_LIST_BYTES = 4 * 1024 * 1024
"""In tokenizer.json the added tokens come first (Gemma's take 1.1 MB); the vocabulary that follows can be
tens of megabytes."""


def chat_template(path: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The model's template (several: all of them, joined), or None. A file of its own wins, as in
    transformers."""
    if template_file := _text_of(path / "chat_template.jinja"):
        return template_file
    own_file, _ = read_object(path / "chat_template.json")
    for template in (own_file.get("chat_template"), tokenizer_config.get("chat_template")):
        if isinstance(template, str) and template:
            return template
        if isinstance(template, list):
            texts = [one.get("template") for one in template if isinstance(one, dict)]
            return "\n".join(text for text in texts if isinstance(text, str)) or None
    return None


def capabilities(
    path: Path, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[str, ...]:
    """Some of "chat", "tools" and "reasoning", in this order. `config`: of config.json."""
    template = chat_template(path, tokenizer_config)
    # mlx_lm brings some templates as code, named here.
    if template is None and not isinstance(tokenizer_config.get("chat_template_type"), str):
        return ()
    is_muse_spark = config.get("model_type") == _SPEAKS_MUSE_SPARK
    found, tokens = ["chat"], _added_tokens(path, tokenizer_config)
    has_parser = tokenizer_config.get("tool_parser_type") is not None
    if is_muse_spark or has_parser or _renders_calls(path, tokenizer_config) or _has(tokens, _CALL_TOKENS):
        found.append("tools")
    if is_muse_spark or _has(tokens, _THINKING_TOKENS):
        found.append("reasoning")
    return tuple(found)


def _renders_calls(path: Path, tokenizer_config: Mapping[str, Any]) -> bool:
    """mlx_lm looks into a template that is alone, not into several."""
    if not (path / "chat_template.jinja").is_file() and isinstance(
        tokenizer_config.get("chat_template"), list
    ):
        return False
    template = chat_template(path, tokenizer_config) or ""
    return any(all(literal in template for literal in group) for group in _CALLS_IN_TEMPLATE)


def _has(tokens: str, groups: tuple[tuple[str, ...], ...]) -> bool:
    return any(all(f'"{token}"' in tokens for token in group) for group in groups)


def _added_tokens(path: Path, tokenizer_config: Mapping[str, Any]) -> str:
    """The parts of the files that name the added tokens, as they stand there."""
    listed = _text_until(path / "tokenizer.json", b'"normalizer"', _LARGEST_TOKEN_LIST_BYTES)
    named = tokenizer_config.get("added_tokens_decoder")
    return listed + (json.dumps(named, ensure_ascii=False) if isinstance(named, dict) else "")


def _text_of(path: Path, largest_bytes: int = _LARGEST_TEMPLATE_BYTES) -> str:
    """The start of the file; "" if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(largest_bytes).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _text_until(path: Path, end: bytes, largest_bytes: int) -> str:
    """The file up to `end`; "" if it cannot be read. Read in pieces: the vocabulary that follows the added
    tokens is megabytes, and `mlxk list` looks at every model."""
    found = b""
    try:
        with open_regular(path) as file:
            while len(found) < largest_bytes and (piece := file.read(_PIECE_BYTES)):
                at = max(0, len(found) - len(end))
                found += piece
                if (place := found.find(end, at)) >= 0:
                    found = found[:place]
                    break
    except OSError:
        return ""
    return found.decode("utf-8", errors="replace")
