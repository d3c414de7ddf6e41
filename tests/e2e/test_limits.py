"""The window of a model and what a request may take of it, over HTTP with real models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body, text_body
from tests.server import Server, add_tiny_copy, standing

LARGE = 40_960
SHORT = 256


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """`tiny` with its window of 8192; `tiny-large`, whose config says another; `tiny-short`, limited here."""
    home: Path = tmp_path_factory.mktemp("home")
    config_file = add_tiny_copy(home, "tiny-large") / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps({**config, "max_position_embeddings": LARGE}), encoding="utf-8")
    add_tiny_copy(home, "tiny-short")
    (home / "config.toml").write_text(f"[models.tiny-short]\ncontext_length = {SHORT}\n", encoding="utf-8")
    with standing(Server(home, env={"MLXK_SPARE": "0"})) as server:
        yield Client(server.url)


def test_each_model_has_the_window_that_its_config_says(limited: Client) -> None:
    assert limited.get("/v1/models/tiny").json()["context_length"] == 8192
    assert limited.get("/v1/models/tiny-large").json()["context_length"] == LARGE


@pytest.mark.parametrize(("model", "window"), [("tiny", 8192), ("tiny-large", LARGE), ("tiny-short", SHORT)])
def test_a_prompt_over_the_window_is_refused_with_both_numbers(
    limited: Client, model: str, window: int
) -> None:
    refused = limited.post(TEXT, text_body(model, [11] * (window + 5), max_tokens=1))
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert str(window) in refused.error["message"]
    assert str(window + 5) in refused.error["message"]


def test_an_explicit_limit_is_respected_up_to_the_window(limited: Client) -> None:
    for asked, expected in ((7, 7), (100_000, SHORT - 100), (None, SHORT // 2)):
        answer = limited.text("tiny-short", [11] * 100, max_tokens=asked, ignore_eos=True)
        assert answer["usage"]["completion_tokens"] == expected
        assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("kind", ["chat", "text", "tokens"])
def test_a_prompt_far_over_the_window_is_refused_while_others_go_on(limited: Client, kind: str) -> None:
    """Its tokenizing takes a while: that must not be time out of the other streams."""
    text = "The quick brown fox jumps over the lazy dog. " * 6000
    path, body = {
        "chat": (CHAT, chat_body("tiny", text)),
        "text": (TEXT, text_body("tiny", text)),
        "tokens": (TEXT, text_body("tiny", [11] * 300_000)),
    }[kind]
    with limited.background_text("tiny", "Count", max_tokens=8000, ignore_eos=True) as stream:
        stream.wait_more()
        refused = limited.post(path, body)
        assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
        assert "8192" in refused.error["message"]
        stream.wait_more()
