"""OpenAI's messages as chat templates want them: plain texts, parsed tool arguments, known roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mlxk.api.body import check_free_form, check_text
from mlxk.api.schemas import ContentPart, Message, MessageToolCall
from mlxk.api.unsupported import unsupported
from mlxk.workers.protocol import FaultCode, fault


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Raises FaultError that names the message's field."""
    return [_template_message(one, f"messages[{index}]") for index, one in enumerate(messages)]


def _template_message(message: Message, param: str) -> dict[str, Any]:
    # Templates know no developer role; OpenAI's newer clients send it where they used to send system.
    role = "system" if message.role == "developer" else message.role
    # "" for null: several templates would render None as a word.
    shown: dict[str, Any] = {"role": role, "content": _text(message.content, f"{param}.content")}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            shown[name] = check_text(value, f"{param}.{name}")
    if message.tool_calls:
        shown["tool_calls"] = [
            _tool_call(call, f"{param}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
        ]
    return shown


def _text(content: str | list[ContentPart] | None, param: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return check_text(content, param)
    return "".join(_part(part, f"{param}[{index}]") for index, part in enumerate(content))


def _part(part: ContentPart, param: str) -> str:
    if part.type not in ("text", "refusal"):
        message = f"Content of type '{part.type[:40]}' is not supported: this server takes text only."
        raise unsupported(param, message)
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        message = f"'{param}.{part.type}' is required."
        raise fault(FaultCode.INVALID_REQUEST, message, param=f"{param}.{part.type}")
    return check_text(text, param)


def _tool_call(call: MessageToolCall, param: str) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        arguments = _parsed_arguments(arguments)
    check_free_form(arguments, f"{param}.function.arguments")
    shown: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": check_text(call.function.name, f"{param}.function.name"),
            "arguments": arguments,
        },
    }
    if call.id is not None:
        shown["id"] = check_text(call.id, f"{param}.id")
    return shown


def _parsed_arguments(text: str) -> str | dict[str, Any]:
    """An object where the text is one: templates print it with `tojson`, and a string would come out quoted
    twice. A model's malformed call is passed on as it was written."""
    try:
        arguments = msgspec.json.decode(text)
        msgspec.msgpack.encode(arguments)  # the way to the worker holds no integer of more than 64 bits
    except (ValueError, RecursionError, OverflowError):  # UnicodeEncodeError is a ValueError
        return text
    return arguments if isinstance(arguments, dict) else text
