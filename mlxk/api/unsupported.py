"""Known OpenAI fields that this server cannot honour: refused when they ask for something, never ignored.

Each stands with the values that ask for nothing; null and an absent field ask for nothing either.
Fields that only label a request (`user`, `metadata`, `safety_identifier`) or advise OpenAI's prompt cache
(`prompt_cache_key`, `prompt_cache_options`, `prompt_cache_retention`) change no answer and are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxk.workers.protocol import FaultCode, FaultError, fault

_Neutral = Mapping[str, tuple[Any, ...]]

_NOWHERE: _Neutral = {
    "service_tier": ("auto", "default"),
    "store": (False,),
    "audio": (),
    "moderation": (),
    "modalities": (["text"],),
    "prediction": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
    "verbosity": ("medium",),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}
"""Of either endpoint of OpenAI's, and of no use at both of ours."""

_CHAT_ONLY: _Neutral = {
    "messages": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "top_logprobs": (0,),
    "chat_template_kwargs": ({},),
    "reasoning_effort": (),
}
_COMPLETION_ONLY: _Neutral = {"prompt": ()}

CHAT: _Neutral = {**_NOWHERE, **_COMPLETION_ONLY}
COMPLETION: _Neutral = {**_NOWHERE, **_CHAT_ONLY}
_HOME = {
    **dict.fromkeys(_CHAT_ONLY, "/v1/chat/completions"),
    **dict.fromkeys(_COMPLETION_ONLY, "/v1/completions"),
}
"""Of fields that the other endpoint honours."""


def refuse_unsupported(body: Mapping[str, Any], neutral: _Neutral) -> None:
    """Raises FaultError(UNSUPPORTED_PARAMETER) that names the field."""
    for name, harmless in neutral.items():
        value = body.get(name)
        # The types count: in Python False == 0, but `logprobs: 0` asks for something.
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            raise unsupported(name, _misplaced(name) if name in _HOME else None)
    options = body.get("stream_options")
    if isinstance(options, Mapping) and options.get("include_obfuscation") not in (None, False):
        raise unsupported("stream_options.include_obfuscation")


def _misplaced(name: str) -> str:
    return f"'{name}' goes with {_HOME[name]} only. Leave it out here, or send the request there."


def unsupported(param: str, message: str | None = None) -> FaultError:
    """The refusal, to be raised."""
    if message is None:
        message = f"'{param}' is not supported by this server. Leave it out or at its default."
    return fault(FaultCode.UNSUPPORTED_PARAMETER, message, param=param)
