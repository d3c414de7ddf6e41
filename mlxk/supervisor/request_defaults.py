"""What the configuration says of a model's requests, put into those that say nothing of it themselves. Pure.

In the front and not in the worker: a reload then changes the next request, and no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from mlxk.config.model_settings import ModelSettings
from mlxk.workers.protocol import Generate, Sampling, Tokenize, Work

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_THINKING = frozenset({"enable_thinking", "reasoning_effort"})
"""Two names for one wish: a request that has one of them overrules both."""
_SYSTEM_ROLES = frozenset({"system", "developer"})


def with_defaults(work: Work, own: ModelSettings | None) -> Work:
    """`own`: the model's table. The request's own words win, then the table, then the model's files."""
    if own is None or not isinstance(work, Generate | Tokenize):
        return work
    changes: dict[str, Any] = {}
    if work.messages is not None:
        changes = _of_a_chat(work, own)
    if isinstance(work, Generate):
        sampling = _sampling(work.sampling, own)
        if sampling is not work.sampling:
            changes["sampling"] = sampling
        if work.max_tokens is None and own.max_tokens is not None:
            changes["max_tokens"] = own.max_tokens
    return structs.replace(work, **changes) if changes else work


def _of_a_chat(work: Generate | Tokenize, own: ModelSettings) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if own.chat_template_kwargs:
        changes["template_kwargs"] = _template_kwargs(work.template_kwargs, own.chat_template_kwargs)
    if own.system is not None and not any(m.get("role") in _SYSTEM_ROLES for m in work.messages or ()):
        changes["messages"] = [{"role": "system", "content": own.system}, *(work.messages or ())]
    if isinstance(work, Generate) and own.chat_stop_strings is not None:
        changes["hidden_stop"] = list(own.chat_stop_strings)
    return changes


def _template_kwargs(asked: Mapping[str, Any], configured: Mapping[str, Any]) -> dict[str, Any]:
    overruled = _THINKING if _THINKING & asked.keys() else frozenset()
    return {**{name: value for name, value in configured.items() if name not in overruled}, **asked}


def _sampling(asked: Sampling, own: ModelSettings) -> Sampling:
    missing = {
        name: value
        for name in SAMPLING
        if getattr(asked, name) is None and (value := getattr(own, name)) is not None
    }
    return structs.replace(asked, **missing) if missing else asked
