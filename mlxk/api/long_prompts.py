"""Prompts of token ids that no context can hold, refused from the bytes of the body.

A body of 32 MB holds up to 16 million ids. As Python objects they take 200 MB and more, and the schema looks
at them for two seconds in the event loop, where everybody else waits; counting commas takes 0.05 s.
"""

from __future__ import annotations

import msgspec

from mlxk.api.facade import Service
from mlxk.workers.protocol import FaultCode, fault

LONG_BODY_BYTES = 1024 * 1024
"""Below this a list of ids costs the event loop 0.1 s at most."""
_MOST_LISTS = 64
_HEAD = 64

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_lists = msgspec.json.Decoder(list[msgspec.Raw])


async def refuse_hopeless_ids(raw: bytes, service: Service) -> None:
    """Raises FaultError: CONTEXT_LENGTH_EXCEEDED, or like `resolve`. All else is for the schema."""
    if len(raw) < LONG_BODY_BYTES:
        return
    try:
        fields = _fields.decode(raw)
        prompt = memoryview(fields["prompt"])
        if not bytes(prompt[:_HEAD]).lstrip().startswith(b"["):
            return  # a text, of which no copy is made
        n_tokens = _longest_list(bytes(prompt).lstrip())
        model = msgspec.json.decode(fields["model"], type=str)
    except (msgspec.DecodeError, KeyError, RecursionError):
        return
    if not n_tokens:
        return
    context_length = (await service.describe_model(model))["context_length"]
    if context_length is not None and n_tokens >= context_length:
        raise fault(
            FaultCode.CONTEXT_LENGTH_EXCEEDED,
            f"This model's maximum context length is {context_length} tokens; the prompt has {n_tokens}, "
            "and a reply needs at least one more. Shorten the prompt.",
            param="prompt",
        )


def _longest_list(prompt: bytes) -> int:
    """Of a prompt's ids, or of several prompts'; 0 where it is text. Commas are counted, nothing is read."""
    if not prompt.startswith(b"["):
        return 0
    inner = prompt[1:64].lstrip()[:1]
    if inner.isdigit() or inner == b"-":
        return prompt.count(b",") + 1
    if inner == b"[" and prompt.count(b"[") <= _MOST_LISTS + 1:
        return max(part.count(b",") + 1 for part in map(bytes, _lists.decode(prompt)))
    return 0
