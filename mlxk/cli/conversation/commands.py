"""What begins with a slash: commands to the conversation, not words to the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlxk.cli.asked import DEFAULT_LENGTH, RANGES, Wishes, checked_number
from mlxk.cli.conversation import saved
from mlxk.cli.conversation.state import Conversation
from mlxk.cli.errors import CliError
from mlxk.cli.output import printable

_LOOKS_LIKE_A_COMMAND = re.compile(r"/[A-Za-z?]*(\s|$)")
"""`/usr/bin/env is what?` does not."""
_LEAVING = ("exit", "quit")
"""As in mlx-knife, without a slash: nobody says only that to a model."""


class LeaveError(Exception):
    """The user wants to end the conversation."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str
    help: str
    run: Callable[[Commands, str], str]
    """Returns what to tell. Raises CliError, and then nothing has changed."""
    aliases: tuple[str, ...] = ()


class Commands:
    """The commands on one conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.file: str | None = None
        """What `/save` and `/load` were given last."""

    def handle(self, text: str) -> str | None:
        """What the command tells; None if `text` is none, but for the model. Raises CliError, LeaveError."""
        if text.strip() in _LEAVING:
            raise LeaveError
        word, _, argument = text.partition(" ") if " " in text.split("\n")[0] else text.partition("\n")
        command = _BY_NAME.get(word.strip())
        if command is not None:
            return command.run(self, unquoted(argument))
        if not _LOOKS_LIKE_A_COMMAND.match(text) or "\n" in text.strip():
            return None
        import difflib

        near = difflib.get_close_matches(word.strip().lower(), list(_BY_NAME), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "/help lists the commands."
        raise CliError(
            "unknown_command",
            f"there is no command {word.strip()}; {hint} (To say it to the model, put a blank in front.)",
        )


def unquoted(text: str) -> str:
    '''Without the `"""` around a text of several lines, or the quotes around one.'''
    text = text.strip()
    for quotes in ('"""', '"'):
        if len(text) >= 2 * len(quotes) and text.startswith(quotes) and text.endswith(quotes):
            return text[len(quotes) : -len(quotes)].strip("\n")
    return text


def _help(commands: Commands, argument: str) -> str:
    lines = []
    for one in COMMANDS:
        also = f" (also: {', '.join(one.aliases)})" if one.aliases else ""
        lines.append(f"  {f'{one.name} {one.argument}':<23}{one.help}{also}")
    return "\n".join([*lines, "", *_KEYS])


_KEYS = (
    "  Enter                  sends",
    '  Alt-Enter, or \\ Enter  begins a new line; so does Enter between """ and """',
    "  Up, Down, Ctrl-R       what you said before, in other conversations too",
    "  Ctrl-C                 stops the answer; at an empty prompt it leaves",
    "  Ctrl-D                 leaves",
)


def _clear(commands: Commands, argument: str) -> str:
    commands.conversation.clear()
    return "The conversation begins anew; the system prompt and the settings stay."


def _system(commands: Commands, argument: str) -> str:
    wishes = commands.conversation.wishes
    if argument == "":
        return f"System prompt: {wishes.system}" if wishes.system else "There is no system prompt."
    if argument == "none":
        wishes.system = None
        return "The system prompt is gone."
    wishes.system = argument
    return "The system prompt is set, from the next answer on."


def _set(commands: Commands, argument: str) -> str:
    words = argument.split(None, 1)
    if words and words[0] == "parameter":  # as ollama has it
        words = words[1].split(None, 1) if len(words) > 1 else []
    wishes = commands.conversation.wishes
    if not words:
        return _settings_text(wishes)
    name, value = words[0].replace("-", "_"), unquoted(words[1]) if len(words) > 1 else ""
    if name == "system":
        return _system(commands, value)
    if name not in RANGES and name != "stop":
        known = ", ".join([*RANGES, "stop", "system"])
        raise CliError("unknown_setting", f"there is no setting {name}; there are: {known}")
    if not value:
        return f"{name}: {_shown(wishes, name)}"
    if value == "default":
        setattr(wishes, name, getattr(Wishes(), name))
    elif name == "stop":
        wishes.stop = (*wishes.stop, value)
    else:
        try:
            setattr(wishes, name, checked_number(name, value))
        except ValueError as error:
            raise CliError("invalid_setting", str(error)) from error
    return f"{name}: {_shown(wishes, name)}"


def _shown(wishes: Wishes, name: str) -> str:
    value = getattr(wishes, name)
    if isinstance(value, tuple):
        return ", ".join(repr(one) for one in value) or "none"
    if value is None:
        return DEFAULT_LENGTH if name == "max_tokens" else "the model's default"
    return str(value)


def _settings_text(wishes: Wishes) -> str:
    return "\n".join(f"  {name:<12} {_shown(wishes, name)}" for name in [*RANGES, "stop"])


def _show(commands: Commands, argument: str) -> str:
    talk = commands.conversation
    questions = sum(message.role == "user" for message in talk.messages)
    used = "unknown" if talk.used_tokens is None else f"{talk.used_tokens} tokens"
    used = "0 tokens" if not talk.messages else used
    left = "" if talk.left_tokens is None else f", {talk.left_tokens} left"
    context = "unknown" if talk.context_length is None else f"{talk.context_length} tokens"
    lines = [
        f"  {'model':<12} {talk.model}",
        f"  {'context':<12} {context}; used: {used}{left}",
        f"  {'questions':<12} {questions}",
        _settings_text(talk.wishes),
        f"  {'system':<12} {talk.wishes.system or 'none'}",
    ]
    return "\n".join(lines)


def _save(commands: Commands, argument: str) -> str:
    name = argument or commands.file
    if name is None:
        raise CliError("usage", "/save wants a file or a name: /save holidays")
    path = saved.path_of(name)
    saved.save(commands.conversation, path)
    commands.file = name
    return f"Saved to {path}; /load {name} brings it back."


def _load(commands: Commands, argument: str) -> str:
    if not argument:
        names = saved.saved_names()
        return f"Saved: {', '.join(names)}" if names else "Nothing is saved yet; /save NAME does it."
    path = saved.path_of(argument)
    if not path.exists() and path.parent == saved.folder():
        import difflib

        near = difflib.get_close_matches(argument, saved.saved_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "/load lists the names."
        raise CliError("load_failed", f"nothing is loaded: there is no conversation {argument}; {hint}")
    found = saved.load(path)
    talk = commands.conversation
    talk.messages = found.messages
    talk.used_tokens = None
    if found.wishes is not None:
        talk.wishes = replace(found.wishes)
    commands.file = argument
    count = sum(message.role == "user" for message in found.messages)
    other = "" if found.model in (None, talk.model) else f" It was held with {found.model}."
    return f"Loaded {count} question{'' if count == 1 else 's'} and the answers.{other}"


def _exit(commands: Commands, argument: str) -> str:
    raise LeaveError


COMMANDS = (
    Command("/help", "", "this list", _help, ("/?",)),
    Command("/clear", "", "forget what was said", _clear),
    Command("/system", "[TEXT]", "show or set the system prompt; none removes it", _system),
    Command("/set", "[NAME VALUE]", "show or set max_tokens, temperature, ...", _set),
    Command("/show", "", "the model, the context that is left, the settings", _show),
    Command("/save", "FILE|NAME", "write the conversation to a file", _save),
    Command("/load", "[FILE|NAME]", "go on with a saved one", _load),
    Command("/exit", "", "leave", _exit, ("/bye", "/quit")),
)
_BY_NAME = {name: one for one in COMMANDS for name in (one.name, *one.aliases)}
NAMES = sorted(_BY_NAME)


def tidy(text: str) -> str:
    """What a command tells, fit for a terminal."""
    return printable(text, keep_lines=True)
