"""Conversations in files: nothing that is there is lost, and no file can do harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlxk.cli.asked import Wishes
from mlxk.cli.conversation.saved import folder, load, path_of, save, saved_names
from mlxk.cli.conversation.state import Conversation, Message
from mlxk.cli.errors import CliError

SAID = [Message("user", "Grüße 🙂"), Message("assistant", "Hi\n", "Hm.", interrupted=True)]


def talk(*messages: Message) -> Conversation:
    wishes = Wishes("Be brief.", 7, 0.5, 0.9, -3, ("END",))
    return Conversation("tiny", wishes, messages=list(messages))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(talk(*SAID), tmp_path / "talk.json")
    found = load(tmp_path / "talk.json")
    assert (found.model, found.wishes, found.messages) == ("tiny", talk().wishes, SAID)
    assert os.listdir(tmp_path) == ["talk.json"]  # no draft beside it


def test_a_name_is_in_our_folder_and_a_path_where_it_says(home: Path, tmp_path: Path) -> None:
    save(talk(*SAID), path_of("holidays"))
    assert (saved_names(), path_of("holidays").parent) == (["holidays"], folder())
    assert path_of("./x") == Path.cwd() / "x"
    assert path_of("x.json") == Path.cwd() / "x.json"
    assert path_of("~/x") == Path.home() / "x"


def test_an_earlier_state_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save(talk(SAID[0]), file)
    save(talk(*SAID), file)
    assert load(file).messages == SAID
    for other in (talk(), talk(Message("user", "Another"), *SAID)):
        with pytest.raises(CliError, match="would be lost"):
            save(other, file)
    assert load(file).messages == SAID
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(CliError, match="would be lost"):
        save(talk(*SAID), notes)
    assert notes.read_text() == "mine"


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="nothing is saved"):
        save(talk(*SAID), tmp_path / "nowhere" / "talk.json")
    assert os.listdir(tmp_path) == []


def test_messages_from_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text('[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]')
    found = load(file)
    assert (found.wishes, found.messages) == (Wishes("S"), [Message("user", "U")])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b'{"messages": 7}',
        b'[{"role": "tool", "content": "x"}]',
        b'[{"role": "user", "content": [1]}]',
        b'[{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]',
        b"[7]",
        b'{"messages": [], "settings": {"max_tokens": "7x"}}',
        b'{"messages": [], "settings": {"temperature": 1e999}}',
        b'{"messages": [], "settings": {"top_p": true}}',
        b'{"messages": [], "settings": {"stop": "x"}}',
    ],
    ids=lambda content: content[:40].decode("ascii", "replace"),
)
def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "talk.json"
    file.write_bytes(content)
    with pytest.raises(CliError, match="nothing is loaded"):
        load(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="nothing is loaded"):
        load(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    save(talk(*SAID), tmp_path / "talk.json")
    data: dict[str, Any] = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert list(data) == ["format", "version", "saved_at", "model", "settings", "messages"]
    assert data["messages"][0] == {"role": "system", "content": "Be brief."}
    assert data["saved_at"].endswith("Z")
