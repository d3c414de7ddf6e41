"""A model's table in config.toml, down to its worker: request, then table, then the model's files."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from tests.api.client import CHAT, TEXT, Client
from tests.e2e.conftest import TUNED
from tests.server import Server

THINK = [{"role": "user", "content": "Think: what is 2 + 3?"}]
COUNT = [{"role": "user", "content": "Count from 1 to 5, one number per line"}]
BRIEF = {"role": "system", "content": "You are brief."}


def chat(client: Client, model: str, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    reply = client.post(CHAT, {"model": model, "messages": messages, **fields})
    assert reply.status == 200, reply.body
    return dict(reply.json())


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_the_temperature_and_top_k_of_the_table_are_those_of_a_request_that_has_none(client: Client) -> None:
    body = {"prompt": "Say: hi there and hello world!", "seed": 11, "max_tokens": 30}

    def answer(model: str, **more: Any) -> str:
        return str(client.post(TEXT, {"model": model, **body, **more}).json()["choices"][0]["text"])

    tuned = answer("tuned")
    assert tuned == answer("tiny", temperature=1.5, top_k=40)
    assert tuned != answer("tiny", temperature=0)
    assert answer("tuned", temperature=0) == answer("tiny", temperature=0)  # the request's own word wins


def test_max_tokens_of_the_table_limits_what_asks_for_no_number(client: Client) -> None:
    cut = chat(client, "tuned", THINK, temperature=0, chat_template_kwargs={"enable_thinking": True})
    assert cut["usage"]["completion_tokens"] == 12
    assert cut["choices"][0]["finish_reason"] == "length"
    more = {"temperature": 0, "chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 14}
    assert chat(client, "tuned", THINK, **more)["usage"]["completion_tokens"] == 14


def test_template_arguments_of_the_table_and_of_the_request(client: Client) -> None:
    assert "reasoning_content" not in chat(client, "tuned", THINK, temperature=0)["choices"][0]["message"]
    asked = {"temperature": 0, "max_tokens": 60, "chat_template_kwargs": {"enable_thinking": True}}
    thoughtful = chat(client, "tuned", THINK, **asked)["choices"][0]["message"]
    assert "That makes 5" in thoughtful["reasoning_content"]


def test_the_system_message_of_the_table_is_rendered_and_counted(client: Client) -> None:
    as_sent = {"temperature": 0, "max_tokens": 4, "chat_template_kwargs": {"enable_thinking": False}}
    expected = chat(client, "tiny", [BRIEF, *COUNT], **as_sent)["usage"]["prompt_tokens"]
    assert chat(client, "tuned", COUNT, max_tokens=4)["usage"]["prompt_tokens"] == expected
    counted = client.post("/tokenize", {"model": "tuned", "messages": COUNT}).json()["count"]
    assert counted == expected
    without = chat(client, "tiny", COUNT, **as_sent)["usage"]["prompt_tokens"]
    assert without < expected


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_of_the_table_end_a_chat_and_are_not_shown(client: Client, stream: bool) -> None:
    body = {"model": "tuned", "messages": COUNT, "temperature": 0}
    if stream:
        with client.stream(CHAT, body) as events:
            text = events.collect().content
    else:
        text = text_of(chat(client, "tuned", COUNT, temperature=0))
    assert text.split() == ["1", "2", "3"]


def test_its_worker_has_its_variables_and_others_have_not(client: Client, real_server: Server) -> None:
    for model in ("tuned", "tiny"):
        chat(client, model, COUNT, max_tokens=1)
    pids = {name: one["pid"] for name, one in real_server.ps().items()}
    assert psutil.Process(pids["tuned"]).environ()["TUNED_WORKER"] == "yes"
    assert "TUNED_WORKER" not in psutil.Process(pids["tiny"]).environ()


def test_config_shows_the_table_with_its_lines_and_without_its_secrets(real_server: Server) -> None:
    assert 'environment = { TUNED_WORKER = "yes" }' in TUNED
    text = real_server.cli("config").stdout
    assert "model tuned" in text
    assert f"{real_server.home / 'config.toml'}:" in text
    assert 'TUNED_WORKER = "***"' in text
    assert "yes" not in text
