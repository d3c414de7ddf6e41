"""Turn after turn: read a question, show the answer, and let no failure end the conversation."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click

from mlxk.cli.asked import Manner, Wishes
from mlxk.cli.conversation.commands import Commands, LeaveError, tidy
from mlxk.cli.conversation.lines import Editor, LineReader, terminal_stream
from mlxk.cli.conversation.state import Conversation
from mlxk.cli.errors import CliError
from mlxk.cli.model_server import ModelServer
from mlxk.cli.output import note, print_error, printable
from mlxk.cli.reply import Reply, ReplyWriter
from mlxk.cli.status_line import is_lively
from mlxk.config.paths import home

EXIT_TERMINATED = 128 + signal.SIGTERM


def hold_conversation(model: str, wishes: Wishes, manner: Manner) -> None:
    """Until Ctrl-D or /exit. Ctrl-C at the empty prompt, or while the model loads: KeyboardInterrupt."""
    talk = Conversation(model, wishes, _plain_stops() if manner.plain else None)
    # Reading prompt_toolkit in takes as long as a small model's load: both at once.
    reader = threading.Thread(target=_editor_class, daemon=True)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ModelServer(model))
        reader.start()
        server.load()
        talk.context_length = server.context_length()
        reader.join()
        length = "" if talk.context_length is None else f", {talk.context_length} tokens of context"
        note(f"{printable(model)}{length}. /help lists the commands, Ctrl-D leaves.")
        editor = _editor_class()(home() / "run_history")
        stack.enter_context(_ended_by_sigterm(editor))
        _talk(talk, server, manner, editor)


def _talk(talk: Conversation, server: ModelServer, manner: Manner, editor: Editor) -> None:
    commands = Commands(talk)
    while True:
        try:
            text = editor.read()
        except EOFError:
            return
        try:
            if text.strip():
                _take(text, talk, commands, server, manner)
        except LeaveError:
            return
        except KeyboardInterrupt:
            continue
        except CliError as error:
            print_error(error, "run", as_json=False)
        except BrokenPipeError:
            raise  # nobody reads the answers any more
        except OSError as error:
            print_error(CliError("os_error", str(error)), "run", as_json=False)


def _take(text: str, talk: Conversation, commands: Commands, server: ModelServer, manner: Manner) -> None:
    told = commands.handle(text)
    if told is not None:
        note(tidy(told))
        return
    # A blank in front of a slash says that it is no command; else it may be the indent of pasted code.
    question = text.strip() if text.lstrip().startswith("/") else text.strip("\n")
    reply = Reply()
    interrupted = False
    try:
        _ask(question, talk, server, manner, reply)
    except KeyboardInterrupt:
        interrupted = True
        if (reply.reasoning + reply.content)[-1:] in ("", "\n"):
            click.echo(err=True)  # the line that now says ^C
    except CliError as error:
        print_error(_with_advice(error, talk), "run", as_json=False)
        note("note: this question is taken back; the arrow up brings it again")
        return
    if interrupted and not reply.content.strip():
        note("note: stopped before an answer came; the question is taken back")
        return
    talk.add(question, reply, interrupted=interrupted)
    _tell_what_is_left(talk, reply)


def _ask(question: str, talk: Conversation, server: ModelServer, manner: Manner, reply: Reply) -> None:
    endpoint, body = talk.request(question)
    writer = ReplyWriter(sys.stdout, hide_reasoning=manner.hide_reasoning)
    if manner.stream:
        server.ask(endpoint, body, reply, writer)
        return
    server.ask(endpoint, body, reply, None)
    writer.write(reply.content, reply.reasoning)
    writer.end_line()


def _tell_what_is_left(talk: Conversation, reply: Reply) -> None:
    if reply.finish_reason == "length" and talk.wishes.max_tokens is None:
        if reply.fills(talk.context_length):
            note("note: the answer ends here because the model's context is full; /clear begins anew")
            return
        note("note: the answer ends here at its longest; /set max_tokens N changes that")
    if talk.is_scarce:
        left = f"{talk.left_tokens} of {talk.context_length} tokens of context are left"
        note(f"note: {left}; /clear begins anew")


def _with_advice(error: CliError, talk: Conversation) -> CliError:
    if error.type != "context_length_exceeded" or not talk.messages:
        return error
    advice = "To go on, begin anew with /clear (/save NAME before it keeps what was said)."
    return CliError(error.type, f"{error.message} {advice}", error.details)


def _plain_stops() -> tuple[str, ...]:
    from mlxk.cli.names import read_settings

    return tuple(read_settings().chat_stop_strings)


def _editor_class() -> Callable[[Path], Editor]:
    if not is_lively(terminal_stream()):
        return LineReader
    from mlxk.cli.conversation.editor import LineEditor

    return LineEditor


@contextlib.contextmanager
def _ended_by_sigterm(editor: Editor) -> Iterator[None]:
    """A SIGTERM at the prompt must not leave the terminal without echo."""

    def leave(number: int, frame: FrameType | None) -> None:
        end = SystemExit(EXIT_TERMINATED)
        if not editor.leave(end):
            raise end

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
