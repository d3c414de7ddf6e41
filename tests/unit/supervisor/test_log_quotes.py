"""What of a log may be told to a client."""

from __future__ import annotations

import pytest

from mlxk.supervisor.log_quotes import LINE_CHARS, quote_log


def test_only_the_last_lines_and_each_is_cut() -> None:
    text = quote_log([f"line {number} {'x' * 5000}" for number in range(30)])
    assert [line.split()[1] for line in text.splitlines()] == [str(number) for number in range(22, 30)]
    assert all(len(line) == LINE_CHARS + 1 for line in text.splitlines())


@pytest.mark.parametrize("secret", ["hf_" + "a" * 30, "sk-" + "b" * 30, "Bearer abcdef"])
def test_tokens_are_masked(secret: str) -> None:
    text = quote_log([f"failed with {secret} there"])
    assert secret.removeprefix("Bearer ") not in text
    assert text.endswith("*** there")


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXK_API_KEYS", "first-secret,second-secret")
    monkeypatch.setenv("SOME_PASSWORD", "first-secret-and-more")
    monkeypatch.setenv("MONKEY", "banana-banana")
    text = quote_log(["first-secret second-secret first-secret-and-more banana-banana"])
    assert text == "*** *** *** banana-banana"


def test_the_users_home_and_control_characters_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert quote_log(["\x1b[31m/home/somebody/x.py\t7"]) == "?[31m~/x.py 7"


def test_nothing_is_nothing() -> None:
    assert quote_log([]) == ""
