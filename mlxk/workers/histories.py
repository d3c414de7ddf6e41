"""A conversation as one model's chat template wants it.

OpenAI's messages are one shape; templates read several: thoughts under another name, ids of one form only,
one call in each message. What a template says about that is read from its text, once.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlxk.workers import written_json
from mlxk.workers.harmony import speaks_harmony

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TemplateStyle:
    """What a template asks of its messages."""

    thoughts: str = "reasoning_content"
    """The field in which it looks for an assistant's earlier thoughts."""
    short_ids: bool = False
    """Mistral's refuse call ids that are not nine letters and digits."""
    one_call_a_message: bool = False
    """gpt-oss' writes the first call of a message and forgets the others."""
    efforts: frozenset[str] = frozenset()
    """The values of `reasoning_effort` that it names."""


def style_of(tokenizer: Any) -> TemplateStyle:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = "\n".join(str(one) for one in template.values())
    text = template if isinstance(template, str) else ""
    names = ("reasoning_content", "thinking", "reasoning")
    reads = [
        name
        for name in names
        if any(form in text for form in (f"message.{name}", f"message['{name}']", f'message["{name}"]'))
        or f"message.get('{name}'" in text
    ]
    return TemplateStyle(
        thoughts=reads[0] if reads else "reasoning_content",
        short_ids="[TOOL_CALLS]" in text and "length 9" in text,
        one_call_a_message=speaks_harmony(tokenizer),
        efforts=_HARMONY_EFFORTS if speaks_harmony(tokenizer) else _efforts(text),
    )


_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_HARMONY_EFFORTS = frozenset(("low", "medium", "high"))
"""gpt-oss was trained with these; its template writes any word."""
_NEAREST = {"minimal": ("low",), "xhigh": ("high",), "max": ("xhigh", "high")}
"""OpenAI's other values, and what models of fewer have in their place."""


def _efforts(template: str) -> frozenset[str]:
    if "reasoning_effort" not in template:
        return frozenset()
    return frozenset(one for one in _EFFORTS if f"'{one}'" in template or f'"{one}"' in template)


def known_arguments(arguments: Mapping[str, Any], style: TemplateStyle) -> Mapping[str, Any]:
    """A template's arguments, with the nearest `reasoning_effort` for one that it does not name. A template
    that names none gets the client's value: what it makes of it cannot be seen from here."""
    effort = arguments.get("reasoning_effort")
    if not isinstance(effort, str) or effort in style.efforts:
        return arguments
    known = next((one for one in _NEAREST.get(effort, ()) if one in style.efforts), effort)
    return {**arguments, "reasoning_effort": known}


def template_messages(messages: Iterable[Message], style: TemplateStyle) -> list[Message]:
    """Text contents, call arguments as objects, an id for every call and a name for every tool result."""
    shown = [_plain(message, style) for message in messages]
    _link_results(shown)
    if style.short_ids:
        for message in shown:
            _shorten_ids(message)
    return _one_call_a_message(shown) if style.one_call_a_message else shown


def with_text_arguments(messages: list[Message]) -> list[Message] | None:
    """The same with call arguments as JSON text, which some templates (DeepSeek's) add to a text; None if no
    message has any."""
    if not any(message.get("tool_calls") for message in messages):
        return None
    changed = []
    for message in messages:
        calls = message.get("tool_calls")
        changed.append({**message, "tool_calls": [_text_call(call) for call in calls]} if calls else message)
    return changed


def _plain(message: Message, style: TemplateStyle) -> Message:
    """Templates expect text content and call arguments as objects; OpenAI sends null and JSON text."""
    result = dict(message)
    if result.get("content") is None:
        result["content"] = ""
    calls = result.get("tool_calls")
    if calls:
        result["tool_calls"] = [_object_call(call) for call in calls]
    else:
        result.pop("tool_calls", None)
    thoughts = result.get("reasoning_content")
    if thoughts and style.thoughts != "reasoning_content":
        result[style.thoughts] = result.pop("reasoning_content")
    return result


def _object_call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = written_json.readable(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            parsed = arguments
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {**call, "function": function}


def _text_call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _link_results(messages: list[Message]) -> None:
    """Templates name a result's function, or look up its id. A result without an id answers the oldest call
    without a result; one with an id that nobody gave stays as it is."""
    open_calls: OrderedDict[tuple[str, int], str] = OrderedDict()
    """The functions' names, by id and number. A dict would look for its first among all that are gone."""
    open_numbers: dict[str, deque[int]] = {}
    n_calls = 0
    for place, message in enumerate(messages):
        for number, call in enumerate(message.get("tool_calls") or ()):
            if not call.get("id"):
                call["id"] = f"call_{place}_{number}"
            n_calls += 1
            open_calls[call["id"], n_calls] = str(call["function"].get("name", ""))
            open_numbers.setdefault(call["id"], deque()).append(n_calls)
        if message.get("role") != "tool":
            continue
        answered = message.get("tool_call_id")
        if answered is None:
            answered = next(iter(open_calls), ("", 0))[0]
        waiting = open_numbers.get(answered)
        if waiting:
            name = open_calls.pop((answered, waiting.popleft()))
            message["tool_call_id"] = answered
            message.setdefault("name", name)


def _shorten_ids(message: Message) -> None:
    for call in message.get("tool_calls") or ():
        call["id"] = _short_id(call["id"])
    if message.get("tool_call_id"):
        message["tool_call_id"] = _short_id(message["tool_call_id"])


def _short_id(call_id: str) -> str:
    """The same nine characters for the same id, so that a call and its result still belong together."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _one_call_a_message(messages: list[Message]) -> list[Message]:
    """Each call in a message of its own, followed by its result."""
    shown: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls")
        if not calls:
            shown.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place].get("role") == "tool":
            results.append(messages[place])
            place += 1
        answers: dict[str | None, list[Message]] = {}
        for result in results:
            answers.setdefault(result.get("tool_call_id"), []).append(result)
        thoughts = "\n".join(text for text in (message.get("thinking"), message["content"]) if text)
        for number, call in enumerate(calls):
            alone = {**message, "content": "", "tool_calls": [call]}
            alone.pop("thinking", None)
            if thoughts and number == 0:  # its template takes one of the two
                alone["thinking"] = thoughts
            shown += [alone, *answers.pop(call["id"], ())]
        shown += [result for result in results if result.get("tool_call_id") in answers]
    return shown
