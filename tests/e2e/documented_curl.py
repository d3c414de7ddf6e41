"""The curl lines of our pages, and whether an answer is the one that a page shows.

In a page, a fenced block of shell holds curl commands; the next block of JSON or text is the answer of the
last of them. `…` stands for what is left out: of an object, a list, the lines of a text, the end of a string.
With `curl -i` the page shows the status line too; else the status must be 200. A line with `script/serve`
says which server the commands up to the next heading are for, with its settings.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "http://127.0.0.1:8000"
"""As the pages have it."""
LEFT_OUT = "…"
_FENCE = re.compile(r"```(\w*).*")
_SHELL = ("sh", "bash", "shell", "console")
_GENERATED_ID = re.compile(r"(chatcmpl-|cmpl-|call_)\w+")
_NUMBER_AT_END = re.compile(r" [0-9.e+-]+$")
_VARIES = ("created", "system_fingerprint", "cached_tokens", "pid", "uptime_s", "version")
"""Fields whose value is another one each time: the type must be right."""


@dataclass(frozen=True)
class Example:
    place: str
    """`api.md:12`"""
    server: str
    """The command that starts it."""
    command: str
    answer: str | None


def examples_of(page: Path) -> Iterator[Example]:
    """Raises AssertionError for a block that ends within a command."""
    server = "script/serve"
    pending: list[tuple[str, str]] = []
    for number, language, lines in _blocks(page.read_text(encoding="utf-8")):
        if language in _SHELL:
            yield from (Example(place, server, command, None) for place, command in pending)
            pending = []
            for offset, command in _commands(lines):
                if "script/serve" in command:
                    server = command
                elif command.startswith("curl "):
                    pending.append((f"{page.name}:{number + offset}", command))
            continue
        answer = "\n".join(lines) if language in ("json", "text") and pending else None
        yield from (Example(place, server, command, None) for place, command in pending[:-1])
        yield from (Example(place, server, command, answer) for place, command in pending[-1:])
        pending = []
        if language == "#":
            server = "script/serve"


def _blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Number of the first line, language and lines of each fenced block; "#" for a heading."""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if line.startswith("#"):
            yield number, "#", []
        elif opening := _FENCE.fullmatch(line):
            inside = [one for _, one in itertools.takewhile(lambda one: one[1] != "```", lines)]
            yield number + 1, opening[1], inside
    yield 0, "#", []


def _commands(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Each command of a shell block, with all its lines."""
    command, first = "", 0
    for offset, line in enumerate(lines):
        if not command:
            first, line = offset, line.removeprefix("$ ")
        command += line + "\n"
        if command.rstrip().endswith("\\"):
            continue
        try:
            shlex.split(command, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        yield first, command.strip()
        command = ""
    assert not command, f"this command does not end: {command}"


# ------------------------------------------------------------------------------ answers


def differs(shown: str, real: str) -> str | None:
    """Where the real answer is not what the page shows; None if it is."""
    if shown.lstrip().startswith(("{", "[")):
        return _json_differs(parse_abbreviated(shown), json.loads(real), "answer")
    if shown.startswith("HTTP/"):
        return _with_head_differs(shown, real)
    if shown.startswith("data: "):
        return _json_differs(_events(shown), _events(real), "stream")
    return _lines_differ(shown.splitlines(), real.splitlines())


def _with_head_differs(shown: str, real: str) -> str | None:
    """Status line, headers (those that the page shows), an empty line, body."""
    head, _, body = shown.partition("\n\n")
    real_head, _, real_body = real.replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.splitlines()
    real_status, *real_headers = (line.lower() for line in real_head.splitlines())
    if status.lower() != real_status:
        return f"status: {real_status}, not {status}"
    for header in headers:
        name, _, value = header.lower().partition(":")
        if header != LEFT_OUT and not any(
            line == header.lower() or (value.strip() == LEFT_OUT and line.startswith(f"{name}:"))
            for line in real_headers
        ):
            return f"no header {header} among {real_headers}"
    return differs(body, real_body) if body.strip() else None


def _lines_differ(shown: list[str], real: list[str]) -> str | None:
    """All lines of the page come, in their order; numbers at their ends vary."""
    rest = iter(real)
    for line in shown:
        words = _NUMBER_AT_END.sub("", line)
        if line != LEFT_OUT and not any(_NUMBER_AT_END.sub("", one) == words for one in rest):
            return f"no line {line!r} in its place"
    return None


def parse_abbreviated(text: str) -> Any:
    """JSON in which `…` stands for more fields or items."""
    out, inside, in_string, escaped = "", [], False, False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            inside.append(char)
        elif char in "}]":
            inside.pop()
        elif char == LEFT_OUT:
            char = f'"{LEFT_OUT}": null' if inside[-1] == "{" else f'"{LEFT_OUT}"'
        out += char
    return json.loads(out)


def _events(text: str) -> list[Any]:
    """The events of a stream. Neighbouring pieces of a text become one: how many come together is chance."""
    events: list[Any] = []
    for line in text.splitlines():
        if line == LEFT_OUT:
            events.append(LEFT_OUT)
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            event = data if data == "[DONE]" else parse_abbreviated(data)
            if not (events and _joined(events[-1], event)):
                events.append(event)
    return events


def _joined(before: Any, event: Any) -> bool:
    """Whether `event` only goes on with the text of the one before, which then has both."""
    pieces = [_piece(before), _piece(event)]
    if None in pieces or pieces[0][:2] != pieces[1][:2]:  # type: ignore[index]
        return False
    (_, name, holder), (_, _, more) = pieces  # type: ignore[misc]
    holder[name] += more[name]
    return True


def _piece(event: Any) -> tuple[int, str, dict[str, Any]] | None:
    """Choice, field and holder of an event that is a piece of text and nothing else."""
    choices = event.get("choices") if isinstance(event, dict) else None
    if not choices or choices[0].get("finish_reason") is not None or choices[0].get("logprobs"):
        return None
    holder = choices[0].get("delta", choices[0])
    for name in ("content", "reasoning_content", "text"):
        if isinstance(holder.get(name), str):
            return choices[0]["index"], name, holder
    return None


def _json_differs(shown: Any, real: Any, place: str) -> str | None:
    if isinstance(shown, dict) and isinstance(real, dict):
        missing = [key for key in shown if key != LEFT_OUT and key not in real]
        extra = [key for key in real if key not in shown and LEFT_OUT not in shown]
        if missing or extra:
            return f"{place}: {missing} are not there, {extra} are not shown"
        pairs = [(f"{place}.{key}", shown[key], real[key]) for key in shown if key != LEFT_OUT]
    elif isinstance(shown, list) and isinstance(real, list):
        kept = shown[: shown.index(LEFT_OUT)] if LEFT_OUT in shown else shown
        last = shown[len(kept) + 1 :]
        if len(real) < len(kept) + len(last) or (kept == shown and len(real) > len(kept)):
            return f"{place}: {len(real)} items, not {len(shown)}: {real}"
        both = [*zip(kept, real, strict=False), *zip(last, real[len(real) - len(last) :], strict=True)]
        pairs = [(f"{place}[{index}]", *pair) for index, pair in enumerate(both)]
    else:
        return None if _same(shown, real, place) else f"{place}: {real!r}, not {shown!r}"
    return next((found for name, one, other in pairs if (found := _json_differs(one, other, name))), None)


def _same(shown: Any, real: Any, place: str) -> bool:
    if place.endswith(tuple(f".{name}" for name in _VARIES)):
        return type(shown) is type(real)
    if isinstance(shown, float) and isinstance(real, float):
        return math.isclose(shown, real, rel_tol=0.05, abs_tol=0.05)
    if isinstance(shown, str) and isinstance(real, str):
        if (mine := _GENERATED_ID.fullmatch(shown)) and (other := _GENERATED_ID.fullmatch(real)):
            return mine[1] == other[1]
        if shown.endswith(LEFT_OUT):
            return real.startswith(shown[:-1])
    return type(shown) is type(real) and bool(shown == real)
