"""The window of a model and what a request may take of it, over HTTP with real models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
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


def megabytes_of_ids(model: str, *, nested: bool) -> tuple[bytes, int]:
    """The longest list that `max_body_bytes` lets in."""
    n_tokens = 16_000_000
    ids = b"[" + b"1," * (n_tokens - 1) + b"1]"
    if nested:
        ids = b"[[1,2,3]," + ids + b"]"
    body = b'{"model": "%b", "prompt": %b, "max_tokens": 1}' % (model.encode(), ids)
    assert len(body) < 32 * 1024 * 1024
    return body, n_tokens


@pytest.mark.parametrize("nested", [False, True], ids=["one-prompt", "several"])
def test_megabytes_of_token_ids_are_refused_by_the_front_alone(limited: Client, nested: bool) -> None:
    """As Python objects they took 2.5 s of the event loop and 300 MB, and the same again in the worker."""
    body, n_tokens = megabytes_of_ids("tiny", nested=nested)
    pool = limited.get("/pool").json()
    front = psutil.Process(pool["server"]["pid"])
    with limited.background_text("tiny", "Count", max_tokens=8000, ignore_eos=True) as stream:
        stream.wait_more()
        held_bytes = front.memory_info().rss
        refused = limited.post(TEXT, body)
        peak_bytes = _peak_bytes(front.pid)
        stream.wait_more()
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert refused.error["param"] == "prompt"
    assert f"8192 tokens; the prompt has {n_tokens}" in refused.error["message"]
    if peak_bytes is not None:
        assert peak_bytes - held_bytes < 200 * 1024 * 1024
    assert limited.text("tiny", [11] * 5, max_tokens=1)["usage"]["prompt_tokens"] == 5


def _peak_bytes(pid: int) -> int | None:
    """Of a process's whole life; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_megabytes_of_ids_for_an_unknown_model_are_a_404(limited: Client) -> None:
    refused = limited.post(TEXT, megabytes_of_ids("nobody", nested=False)[0])
    assert (refused.status, refused.error["code"]) == (404, "model_not_found")
