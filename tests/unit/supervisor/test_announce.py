"""The line that a new server prints to be pasted: a shell must make a valid request of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlxk.supervisor.announce import example


def header_of(line: str, environment: dict[str, str]) -> str | None:
    """The Authorization header that curl would get from the shell."""
    words = line.removeprefix("try: curl ")
    script = f"for word in {words}; do printf '%s\\n' \"$word\"; done"
    done = subprocess.run(
        ["sh", "-c", script],
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return next((one for one in done.stdout.splitlines() if one.startswith("Authorization")), None)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLXK_API_KEY", "MLXK_API_KEYS"):
        monkeypatch.delenv(name, raising=False)


def test_without_keys_there_is_no_header() -> None:
    line = example("http://0.0.0.0:8000", "tiny", None)
    assert line.startswith("try: curl http://127.0.0.1:8000/v1/chat/completions ")
    assert header_of(line, {}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLXK_API_KEY", "sk-1"), ("MLXK_API_KEYS", "sk-1,sk-2")],
    ids=["one", "several"],
)
def test_a_key_of_the_environment(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    line = example("http://127.0.0.1:8000", "tiny", None)
    assert "sk-1" not in line
    assert header_of(line, {name: value}) == "Authorization: Bearer sk-1"


def test_a_key_of_a_file_with_comments_and_a_blank_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "my keys"
    file.write_text("# for the laptop\n\nsk-1\nsk-2\n")
    line = example("http://127.0.0.1:8000", "tiny", str(file))
    assert "sk-1" not in line
    assert header_of(line, {}) == "Authorization: Bearer sk-1"
