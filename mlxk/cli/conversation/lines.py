"""What both ways to read a question have in common; and the simple one, for terminals that can do nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol, TextIO

from mlxk.cli.prompt_input import readable

PROMPT = ">>> "
CONTINUATION = "... "
BLOCK = '"""'


class Editor(Protocol):
    def read(self) -> str:
        """Raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C, both at an empty prompt."""

    def leave(self, error: BaseException) -> bool:
        """If the prompt is open and has changed the terminal: let it put that in order, and then raise
        `error`. For a signal handler."""


class LineReader:
    """For TERM=dumb (a shell inside an editor, say): whole lines, as the terminal gives them."""

    def __init__(self, history_file: Path) -> None:
        pass

    def read(self) -> str:
        lines: list[str] = []
        while True:
            stream = terminal_stream()
            stream.write(CONTINUATION if lines else PROMPT)
            stream.flush()
            data = sys.stdin.buffer.readline()
            if not data:
                stream.write("\n")
                raise EOFError
            line = readable(data.decode(sys.stdin.encoding or "utf-8", "replace")).rstrip("\r\n")
            continued = line.endswith("\\")
            lines.append(line[:-1] if continued else line)
            text = "\n".join(lines)
            if not continued and not is_open_block(text):
                return without_block_marks(text)

    def leave(self, error: BaseException) -> bool:
        return False


def terminal_stream() -> TextIO:
    """Where the prompt goes: the answers may go into a pipe."""
    return sys.stdout if sys.stdout is not None and sys.stdout.isatty() else sys.stderr


def is_open_block(text: str) -> bool:
    '''Whether it begins with a `"""` (alone or after a command) that has no other to end it.'''
    start = text.lstrip()
    if start.startswith("/"):
        start = start.partition(" ")[2].lstrip()
    return start.startswith(BLOCK) and not _is_closed(start)


def without_block_marks(text: str) -> str:
    stripped = text.strip()
    return stripped[len(BLOCK) : -len(BLOCK)].strip("\n") if _is_closed(stripped) else text


def _is_closed(text: str) -> bool:
    text = text.strip()
    return len(text) >= 2 * len(BLOCK) and text.startswith(BLOCK) and text.endswith(BLOCK)
