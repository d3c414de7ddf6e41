"""Tokenizers of the model families that mlx_lm has a tool parser for, made from tiny's by added tokens, and a
recorded sample of each family's calls (tests/data/tool_calls)."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mlxk.store.builtin import builtin_path
from mlxk.workers.markers import Markers
from mlxk.workers.pipeline import Piece, TextPipeline
from mlxk.workers.protocol import ToolCall

SAMPLES = Path(__file__).parents[2] / "data" / "tool_calls"
HARMONY_TOKENS = [
    f"<|{name}|>" for name in ("start", "end", "message", "channel", "constrain", "return", "call")
]
XTML_TOKENS = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"]
_ADDED = {"harmony": HARMONY_TOKENS, "kimi_k3": XTML_TOKENS}

_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": _STRING, "days": _INTEGER, "metric": {"type": "boolean"}},
            },
        },
    },
    {"type": "function", "function": {"name": "clock"}},
    {
        "type": "function",
        "function": {
            "name": "order",
            "parameters": {
                "type": "object",
                "properties": {
                    "items": {"type": "array", "items": {"type": "object"}},
                    "address": {"type": "object"},
                    "factor": {"type": "number"},
                    "note": _STRING,
                },
            },
        },
    },
]


def families() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.json"))


def sample(family: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{family}.json").read_text(encoding="utf-8"))
    assert found["family"] == family
    assert found["documented"]
    return found


@cache
def family_tokenizer(family: str, *, added: tuple[str, ...] = ()) -> TokenizerWrapper:
    own = [*_ADDED.get(family, ()), *added]
    text = (builtin_path() / "tokenizer.json").read_text(encoding="utf-8")
    if own:  # these families have thinking marks of their own
        text = text.replace('"<think>"', '"<unused>"').replace('"</think>"', '"</unused>"')
    inner = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), eos_token="<|im_end|>")
    inner.add_tokens(own, special_tokens=True)
    if family in ("harmony", "none"):
        return TokenizerWrapper(inner)
    parser = importlib.import_module(f"mlx_lm.tool_parsers.{family}")
    response_format = None
    if family == "muse_spark":
        response_format = importlib.import_module("mlx_lm.chat_templates.muse_spark").RESPONSE_FORMAT
    return TokenizerWrapper(
        inner,
        tool_call_start=parser.tool_call_start,
        tool_call_end=parser.tool_call_end,
        tool_parser=parser.parse_tool_call,
        response_format=response_format,
    )


@cache
def family_markers(family: str) -> Markers:
    return Markers(family_tokenizer(family))


def initial_state(family: str) -> str:
    return "header" if family in ("harmony", "muse_spark") else "normal"


class Texts:
    """A decoder whose token ids are places in a list of texts."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def push(self, token: int) -> str:
        return self._texts[token]

    def flush(self) -> str:
        return ""


class Said:
    """What a client gets of a text in pieces."""

    def __init__(
        self,
        family: str,
        texts: str | list[str],
        *,
        tools: list[dict[str, Any]] | None = TOOLS,
        stops: list[str] | None = None,
        hidden: list[str] | None = None,
        end_text: str | None = None,
        state: str | None = None,
    ) -> None:
        pieces = [texts] if isinstance(texts, str) else texts
        markers = family_markers(family)
        self.pipeline = TextPipeline(
            Texts(pieces),
            stops=stops or [],
            hidden_stops=hidden or [],
            splitter=markers.splitter(state or initial_state(family), with_tools=bool(tools)),
            tool_format=markers.tool_format,
            tools=tools,
        )
        total = Piece()
        for token in range(len(pieces)):
            total.extend(self.pipeline.push(token))
            if self.pipeline.stopped:
                break
        total.extend(self.pipeline.finish(end_text))
        self.content, self.reasoning = total.content, total.reasoning
        self.calls: list[ToolCall] = total.tool_calls
        self.matched = self.pipeline.matched_stop

    @property
    def named(self) -> list[list[Any]]:
        return [[call.name, json.loads(call.arguments)] for call in self.calls]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Said) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self.content)

    def _facts(self) -> tuple[Any, ...]:
        return (self.content, self.reasoning, self.named, self.matched, self.pipeline.stopped)

    def __repr__(self) -> str:
        return repr(self._facts())
