"""The history of what was typed: its own file, private, of a bounded length, and never a reason to fail."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlxk.cli.conversation import editor
from mlxk.cli.conversation.editor import _History


def entries(file: Path) -> list[str]:
    return list(_History(file).load_history_strings())


def test_it_survives_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "home" / "history"
    history = _History(file)
    for text in ("one", "two\nlines", "+plus\n# sharp", "half \udcff"):
        history.store_string(text)
    assert entries(file) == ["half \ufffd", "+plus\n# sharp", "two\nlines", "one"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_one_that_others_could_read_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("\n+one\n")
    file.chmod(0o644)
    assert entries(file) == ["one"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_pasted_book_is_not_kept(tmp_path: Path) -> None:
    _History(tmp_path / "history").store_string("x" * 100_000)
    assert entries(tmp_path / "history") == []


def test_the_older_half_goes_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "MAX_HISTORY_BYTES", 1000)
    history = _History(tmp_path / "history")
    for number in range(200):
        history.store_string(f"entry {number}")
    kept = entries(tmp_path / "history")
    assert kept[0] == "entry 199"
    assert 20 < len(kept) < 60
    assert all(text.startswith("entry ") for text in kept)


def test_a_file_that_cannot_be_used_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    history = _History(tmp_path / "history")
    history.store_string("one")
    assert list(history.load_history_strings()) == []
