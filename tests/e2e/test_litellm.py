"""`litellm`, unmodified: a client that nobody here wrote. One process of its own for all of these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.prompts import (
    BERLIN,
    COUNT_10,
    COUNTED_10,
    GO_ON,
    SKY,
    WEATHER,
    WENT_ON,
    called,
    tool_result,
    user,
)
from tests.leaks import standing_servers
from tests.server import Server, standing

CALL_BERLIN = "Call the weather tool for Berlin. Do not answer directly."
BOTH = pytest.mark.parametrize("call", ["completion", "acompletion"], ids=["sync", "async"])


class LiteLLM:
    """Its functions, called in its process."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Else it fetches its list of prices at import, and may send telemetry.
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.litellm_process"],
            cwd=Path(__file__).parents[2],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, call: str, **fields: Any) -> dict[str, Any]:
        """What came of it: "reply", "chunks" or "error"."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        server = {"api_base": f"{self.url}/v1", "api_key": "unused", "max_retries": 0}
        fields = {"model": "openai/tiny", "temperature": 0, **server, **fields}
        self.process.stdin.write(json.dumps({"call": call, "fields": fields}) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def chat(self, call: str, messages: str | list[Any], **fields: Any) -> dict[str, Any]:
        """The answer's only choice."""
        answer = self.ask(
            call, messages=[user(messages)] if isinstance(messages, str) else messages, **fields
        )
        assert "reply" in answer, answer
        return dict(answer["reply"]["choices"][0])

    def chunks(self, call: str, messages: str, **fields: Any) -> list[dict[str, Any]]:
        answer = self.ask(call, messages=[user(messages)], stream=True, **fields)
        assert "chunks" in answer, answer
        return list(answer["chunks"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def litellm(real_server: Server) -> Iterator[LiteLLM]:
    process = LiteLLM(real_server.url)
    standing_servers.add(process.process.pid)
    yield process
    standing_servers.discard(process.process.pid)
    process.close()


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"MLXK_API_KEY": "the-key", "MLXK_ENGINE": "fake", "MLXK_SPARE": "0"}
    with standing(Server(tmp_path_factory.mktemp("keyed"), env=env)) as server:
        yield server


def joined(chunks: list[dict[str, Any]], field: str = "content") -> str:
    return "".join(chunk["choices"][0]["delta"].get(field) or "" for chunk in chunks if chunk["choices"])


@BOTH
def test_chat_whole_and_streamed_are_equal(litellm: LiteLLM, call: str) -> None:
    whole = litellm.chat(call, COUNT_10)
    assert (whole["message"]["content"], whole["finish_reason"]) == (COUNTED_10, "stop")
    chunks = litellm.chunks(call, COUNT_10, stream_options={"include_usage": True})
    assert joined(chunks) == COUNTED_10
    assert "stop" in [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@BOTH
def test_thoughts_are_apart_from_the_answer(litellm: LiteLLM, call: str) -> None:
    message = litellm.chat(call, "Think: what is 2 + 3?")["message"]
    assert message["content"] == "2 + 3 = 5"
    assert message["reasoning_content"] == "I add 3 to 2. That makes 5."
    chunks = litellm.chunks(call, "Think: what is 2 + 3?")
    assert joined(chunks) == message["content"]
    assert joined(chunks, "reasoning_content") == message["reasoning_content"]


@BOTH
def test_a_tool_s_whole_round(litellm: LiteLLM, call: str) -> None:
    first = litellm.chat(call, CALL_BERLIN, tools=[WEATHER])
    assert first["finish_reason"] == "tool_calls"
    (made,) = first["message"]["tool_calls"]
    assert made["function"]["name"] == "weather"
    assert json.loads(made["function"]["arguments"]) == {"city": "Berlin"}
    messages = [user(CALL_BERLIN), called(made), tool_result(made, BERLIN)]
    assert (
        litellm.chat(call, messages, tools=[WEATHER])["message"]["content"] == "It is 19 degrees and sunny."
    )
    # As it came from litellm, with all its empty fields.
    messages = [user(CALL_BERLIN), first["message"], tool_result(made, BERLIN)]
    assert (
        litellm.chat(call, messages, tools=[WEATHER])["message"]["content"] == "It is 19 degrees and sunny."
    )


@BOTH
def test_a_streamed_tool_call(litellm: LiteLLM, call: str) -> None:
    chunks = litellm.chunks(call, CALL_BERLIN, tools=[WEATHER])
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert {piece["index"] for piece in pieces} == {0}
    assert "".join(piece["function"].get("name") or "" for piece in pieces) == "weather"
    arguments = "".join(piece["function"]["arguments"] or "" for piece in pieces)
    assert json.loads(arguments) == {"city": "Berlin"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@BOTH
def test_structured_output(litellm: LiteLLM, call: str) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["Blue", "Green"]}, "sure": {"type": "boolean"}},
        "required": ["color", "sure"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "look", "schema": schema, "strict": True}}
    whole = json.loads(litellm.chat(call, SKY, response_format=wanted, max_tokens=60)["message"]["content"])
    assert set(whole) == {"color", "sure"}
    assert whole["color"] in ("Blue", "Green")
    assert json.loads(joined(litellm.chunks(call, SKY, response_format=wanted, max_tokens=60))) == whole
    an_object = {"type": "json_object"}
    reply = litellm.chat(call, "Reply with JSON.", response_format=an_object, max_tokens=100)
    assert isinstance(json.loads(reply["message"]["content"]), dict)


@pytest.mark.parametrize("call", ["text_completion", "atext_completion"], ids=["sync", "async"])
def test_text_completions(litellm: LiteLLM, call: str) -> None:
    fields: dict[str, Any] = {"model": "text-completion-openai/tiny", "prompt": GO_ON, "max_tokens": 100}
    assert litellm.ask(call, **fields)["reply"]["choices"][0]["text"] == WENT_ON
    chunks = litellm.ask(call, stream=True, **fields)["chunks"]
    assert "".join(chunk["choices"][0]["text"] or "" for chunk in chunks) == WENT_ON
    two = litellm.ask(call, **{**fields, "prompt": [GO_ON, GO_ON]})["reply"]["choices"]
    assert [choice["text"] for choice in two] == [WENT_ON, WENT_ON]


def test_our_extras_reach_us(litellm: LiteLLM) -> None:
    choice = litellm.chat("completion", COUNT_10, extra_body={"stop_token_ids": [20]}, stop=["9"], seed=1)
    assert choice["message"]["content"] == "1  \n2  \n3  \n4  \n"
    assert choice["provider_specific_fields"]["matched_stop"] == 20


@pytest.mark.parametrize(
    ("fields", "kind", "status", "words"),
    [
        ({"model": "openai/tinny"}, "NotFoundError", 404, "Did you mean tiny?"),
        ({"temperature": 7}, "BadRequestError", 400, "temperature"),
        ({"stop": [""]}, "BadRequestError", 400, "empty stop string"),
        (
            {"model": "openai/tiny-short", "messages": [user("word " * 200)]},
            "ContextWindowExceededError",
            400,
            "96",
        ),
        ({"extra_headers": {"Host": "evil.example"}}, "APIError", 403, "allowed_hosts"),
    ],
    ids=["unknown-model", "range", "empty-stop", "too-long", "host"],
)
@BOTH
def test_errors_are_of_litellm_s_classes(
    litellm: LiteLLM, call: str, fields: dict[str, Any], kind: str, status: int, words: str
) -> None:
    for stream in (False, True):
        error = litellm.ask(call, **{"messages": [user("Hi")], "stream": stream, **fields})["error"]
        assert kind in error["classes"], error
        assert error["status"] == status
        assert words in error["message"]


@BOTH
def test_a_wrong_key_is_an_authentication_error(litellm: LiteLLM, keyed_server: Server, call: str) -> None:
    """It goes by the error's type before the status."""
    base = f"{keyed_server.url}/v1"
    for stream in (False, True):
        error = litellm.ask(call, messages=[user("Hi")], stream=stream, api_base=base, api_key="wrong")[
            "error"
        ]
        assert "AuthenticationError" in error["classes"], error
        assert error["status"] == 401


def test_it_talked_to_this_machine_only(litellm: LiteLLM) -> None:
    assert litellm.chat("completion", "Hello")["message"]["content"]
    assert litellm.ask("foreign") == {"foreign": []}
