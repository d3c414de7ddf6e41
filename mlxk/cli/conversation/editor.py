"""Reading what the user types: line editing, several lines, and a history that survives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from mlxk.cli.conversation.commands import NAMES
from mlxk.cli.conversation.lines import (
    CONTINUATION,
    PROMPT,
    is_open_block,
    terminal_stream,
    without_block_marks,
)
from mlxk.cli.prompt_input import readable

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

MAX_HISTORY_BYTES = 1024 * 1024
"""Beyond this the older half of the history is dropped at the next start."""
MAX_ENTRY_CHARS = 20_000
"""A pasted book is not worth keeping for ever."""


class LineEditor:
    """`read()` gives what the user typed, as it is to be understood."""

    def __init__(self, history_file: Path) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=PROMPT,
            multiline=True,
            prompt_continuation=CONTINUATION,
            key_bindings=_bindings(),
            history=_History(history_file),
            completer=_CommandCompleter(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            output=_output(),
            color_depth=ColorDepth.DEPTH_1_BIT,  # there is nothing to color, with NO_COLOR or without
        )

    def read(self) -> str:
        """Raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C, both at an empty prompt."""
        return without_block_marks(readable(self._session.prompt()))

    def leave(self, error: BaseException) -> bool:
        """If the prompt is open: let it put the terminal in order, and then raise `error`."""
        app = self._session.app
        if not app.is_running or app.loop is None:
            return False
        with contextlib.suppress(Exception):  # it is ending already
            app.loop.call_soon_threadsafe(partial(app.exit, exception=error))
        return True


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\") and not buffer.document.text_after_cursor:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=typing)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:  # as a shell does: this line is not wanted, the conversation is
            event.app.exit(result="")
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


class _CommandCompleter(Completer):
    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.startswith("/"):
            yield from (Completion(name, -len(text)) for name in NAMES if name.startswith(text))


def _output() -> Vt100_Output:
    """Never asks the terminal where its cursor is: some do not answer, and an answer that comes late is taken
    for typed."""
    output = Vt100_Output.from_pty(terminal_stream(), term=os.environ.get("TERM"))
    output.enable_cpr = False
    return output


class _History(FileHistory):
    """Mode 0600: people tell models what they tell nobody else. A file that cannot be written, or read, is no
    reason not to talk."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._file = file
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if file.exists():
                file.chmod(0o600)
                _shorten(file)

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        if len(string) > MAX_ENTRY_CHARS:
            return
        lines = "".join(f"+{line}\n" for line in readable(string).split("\n"))
        with contextlib.suppress(OSError):
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, f"\n{lines}".encode("utf-8", "replace"))  # at once: others write too
            finally:
                os.close(descriptor)


def _shorten(file: Path) -> None:
    """Keeps the later half of a long history, from the first whole entry on."""
    if file.stat().st_size <= MAX_HISTORY_BYTES:
        return
    data = file.read_bytes()[-MAX_HISTORY_BYTES // 2 :]
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as kept:
        kept.write(b"\n" + data.partition(b"\n\n")[2])
    os.replace(draft, file)
