"""The slash commands on a conversation, without a terminal."""

from __future__ import annotations

import pytest

from mlxk.cli import run
from mlxk.cli.asked import DEFAULT_LENGTH, Wishes
from mlxk.cli.conversation.commands import COMMANDS, Commands, LeaveError
from mlxk.cli.conversation.lines import is_open_block, without_block_marks
from mlxk.cli.conversation.state import Conversation
from mlxk.cli.errors import CliError


@pytest.fixture
def commands() -> Commands:
    return Commands(Conversation("tiny", Wishes()))


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "/usr/bin/env is what?",
        " /help",
        "/etc",
        "//",
        "/help me\nto write this",
        "exit the house",
        "/1",
    ],
)
def test_what_is_no_command_goes_to_the_model(commands: Commands, text: str) -> None:
    if text == "/etc":
        with pytest.raises(CliError, match="there is no command /etc"):
            commands.handle(text)
    elif text.startswith("/help"):
        assert commands.handle(text)  # a known command stays one, whatever follows
    else:
        assert commands.handle(text) is None


@pytest.mark.parametrize("text", ["/exit", "/bye", "/quit", "exit", "quit", "/exit  "])
def test_leaving(commands: Commands, text: str) -> None:
    with pytest.raises(LeaveError):
        commands.handle(text)


def test_help_names_every_command_within_80_columns(commands: Commands) -> None:
    text = commands.handle("/help") or ""
    assert all(one.name in text for one in COMMANDS)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.isascii()


def test_what_nobody_set_is_said_as_the_options_of_run_say_it(commands: Commands) -> None:
    (option,) = (one for one in run.command.params if one.name == "max_tokens")
    assert f"[default: {DEFAULT_LENGTH}]" in option.help  # type: ignore[attr-defined]
    for asked in ("/set max_tokens", "/set max_tokens default"):
        assert commands.handle(asked) == f"max_tokens: {DEFAULT_LENGTH}"
    for page in ("/set", "/show"):
        assert f"  max_tokens   {DEFAULT_LENGTH}\n" in (commands.handle(page) or "")


@pytest.mark.parametrize(
    ("wrong", "near"), [("/hlep", "/help"), ("/claer", "/clear"), ("/quitt", "/quit"), ("/SAVE x", "/save")]
)
def test_the_nearest_command_is_named(commands: Commands, wrong: str, near: str) -> None:
    with pytest.raises(CliError, match=f"did you mean {near}?"):
        commands.handle(wrong)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("/set temperature 0.5", "temperature", 0.5),
        ("/set parameter max_tokens 7", "max_tokens", 7),
        ("/set max-tokens 7", "max_tokens", 7),
        ("/set seed -3", "seed", -3),
        ('/set stop "END"', "stop", ("END",)),
        ("/set system Be brief.", "system", "Be brief."),
        ("/system Be brief.\nAnd kind.", "system", "Be brief.\nAnd kind."),
        ('/system """Be brief.\nAnd kind."""', "system", "Be brief.\nAnd kind."),
        ("/system", "system", None),
    ],
)
def test_settings(commands: Commands, text: str, name: str, value: object) -> None:
    assert commands.handle(text)
    assert getattr(commands.conversation.wishes, name) == value


@pytest.mark.parametrize(
    "text",
    [
        "/set temperature -1",
        "/set temperature inf",
        "/set temperature nan",
        "/set max_tokens 0",
        "/set max_tokens 1.5",
        "/set max_tokens many",
        "/set top_p 2",
        "/set top_k 2",
        f"/set seed {2**63}",
    ],
)
def test_a_wrong_setting_changes_nothing(commands: Commands, text: str) -> None:
    with pytest.raises(CliError):
        commands.handle(text)
    assert commands.conversation.wishes == Wishes()


@pytest.mark.parametrize(
    ("text", "is_open", "meant"),
    [
        ('"""', True, None),
        ('"""Hello', True, None),
        ('"""Hello\nworld"""', False, "Hello\nworld"),
        ('"""\nHello\n"""', False, "Hello"),
        ('/system """Be', True, None),
        ('/system """Be"""', False, '/system """Be"""'),
        ('He said """', False, 'He said """'),
        ("plain", False, "plain"),
    ],
)
def test_blocks(text: str, is_open: bool, meant: str | None) -> None:
    assert is_open_block(text) == is_open
    if meant is not None:
        assert without_block_marks(text) == meant
