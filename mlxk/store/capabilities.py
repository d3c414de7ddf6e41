"""What a model can do, as far as its chat template and tokenizer tell before it is loaded.

A loaded model's worker knows better; this is for lists of models that are not loaded. The literals are those
by which mlx_lm 0.32 chooses a tool parser and finds thinking markers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxk.store.folder import open_regular
from mlxk.store.json_file import read_object

_TOOL_LITERALS: tuple[tuple[str, ...], ...] = (
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
)
"""A template that holds all of one group renders tool calls in a form that can be read back."""

_THINKING_LITERALS = ("<think>", "<longcat_think>", "<|think:start|>", "<|channel|>", "<|channel>")
_LARGEST_BYTES = 256 * 1024
"""Larger than any template. In tokenizer.json the added tokens come first; the vocabulary that follows can be
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


def capabilities(path: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str, ...]:
    """Some of "chat", "tools" and "reasoning", in this order."""
    template = chat_template(path, tokenizer_config)
    if template is None:
        # mlx_lm brings some templates as code, named here.
        return ("chat",) if isinstance(tokenizer_config.get("chat_template_type"), str) else ()
    found = ["chat"]
    if "tool_parser_type" in tokenizer_config or _holds_any_group(template):
        found.append("tools")
    if any(literal in template or literal in _added_tokens(path) for literal in _THINKING_LITERALS):
        found.append("reasoning")
    return tuple(found)


def _holds_any_group(template: str) -> bool:
    return any(all(literal in template for literal in group) for group in _TOOL_LITERALS)


def _added_tokens(path: Path) -> str:
    """The part of tokenizer.json that names the added tokens, as it stands there."""
    return _text_of(path / "tokenizer.json").partition('"normalizer"')[0]


def _text_of(path: Path) -> str:
    """The start of the file; "" if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(_LARGEST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
