"""Models come and go while others stream; clients come and go while models work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.client import CHAT, TEXT, Client, chat_body, text_body
from tests.api.scrape import scrape
from tests.e2e.prompts import COUNT_10, COUNTED_10, ENDLESS
from tests.server import Server, add_tiny_copy, standing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("swap")
    add_tiny_copy(home, "tiny-copy")
    with standing(Server(home, ["tiny"])) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


def test_a_model_is_loaded_while_another_streams(client: Client) -> None:
    client.wait_ready("tiny")
    with client.background_text("tiny", "One, two", **ENDLESS) as streaming:
        streaming.wait_more(3)
        assert "tiny-copy" not in client.pool()
        reply = client.chat("tiny-copy", COUNT_10)
        assert reply["choices"][0]["message"]["content"] == COUNTED_10
        assert not streaming.ended
        streaming.wait_more(3)
        assert client.request("DELETE", "/pool/tiny-copy").json()["stopped"] is True
        streaming.wait_more(3)
        assert streaming.longest_pause_s < 5


def test_many_requests_for_an_unloaded_model_load_it_once(client: Client) -> None:
    client.request("DELETE", "/pool/tiny-copy")
    streams = [client.background("tiny-copy", COUNT_10) for _ in range(6)]
    for stream in streams:
        with stream:
            assert stream.result().content == COUNTED_10
    assert client.pool()["tiny-copy"]["restarts"] <= 2


# ------------------------------------------------------------------------- clients leave


def generated_tokens(client: Client) -> float:
    return scrape(client).value("mlxk_generated_tokens_total", model="tiny")


def test_a_whole_reply_whose_client_leaves_is_aborted(client: Client) -> None:
    prompt = "Once upon a time"
    before = generated_tokens(client)
    with client.whole(TEXT, text_body("tiny", prompt, **ENDLESS)):
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 1)
        client.wait_pool(
            lambda _: generated_tokens(client) > before
        )  # who leaves before the prefill leaves nothing behind
    client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=3)
    usage = client.text("tiny", prompt, max_tokens=2)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_stream_whose_client_leaves_is_aborted(client: Client) -> None:
    prompt = "There was a robot"
    with client.stream(TEXT, text_body("tiny", prompt, **ENDLESS)) as stream:
        stream.first_content()
    client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=3)
    usage = client.text("tiny", prompt, max_tokens=2)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_client_that_leaves_in_a_long_prefill_leaves_what_was_computed(client: Client) -> None:
    tokens = [20 + n % 7 for n in range(1200)]
    # Endless: it must still be there when somebody looks.
    with client.whole(TEXT, text_body("tiny", tokens, **ENDLESS)):
        client.wait_pool(lambda models: models["tiny"]["in_flight"] == 1)
        # Something else is answered between its chunks.
        assert client.chat("tiny", "Hello", max_tokens=2)["choices"]
    client.wait_pool(lambda models: models["tiny"]["in_flight"] == 0, timeout_s=5)
    usage = client.text("tiny", tokens, max_tokens=1)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_client_that_leaves_while_its_model_loads(client: Client) -> None:
    client.request("DELETE", "/pool/tiny-copy")
    with client.whole(CHAT, chat_body("tiny-copy", "Hello")):
        client.wait_pool(lambda models: "tiny-copy" in models)
    client.wait_pool(lambda models: models.get("tiny-copy", {"in_flight": 0})["in_flight"] == 0, timeout_s=5)
    assert client.chat("tiny-copy", COUNT_10)["choices"][0]["message"]["content"] == COUNTED_10
