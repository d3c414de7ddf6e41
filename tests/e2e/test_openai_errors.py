"""The unmodified `openai` client, sync and async: its exceptions, retries, timeouts, and leaving early."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.openai_sdk import KINDS, Sdk, opened
from tests.e2e.prompts import COUNT_10, COUNTED_10, ENDLESS, GO_ON, SKY, WENT_ON, user
from tests.process.test_room import pad_weights
from tests.server import Server, add_tiny_copy, standing

KEY = "the-key"
MAX_BODY = 20_000


@pytest.fixture(scope="module")
def tight_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One place, one in the queue, a key, short bodies, and `big`, for which there is never room."""
    home = tmp_path_factory.mktemp("tight")
    pad_weights(add_tiny_copy(home, "big"), 3_000_000_000)
    env = {
        "MLXK_API_KEY": KEY,
        "MLXK_MAX_BATCH": "1",
        "MLXK_QUEUE_PER_MODEL": "1",
        "MLXK_MAX_BODY": str(MAX_BODY),
        "MLXK_MAX_MEMORY": "1GB",
        "MLXK_SPARE": "0",
    }
    with standing(Server(home, env=env)) as server:
        yield server


@pytest.fixture(params=KINDS)
def guest(tight_server: Server, request: pytest.FixtureRequest) -> Iterator[Sdk]:
    with opened(request.param, tight_server.url, api_key=KEY) as sdk:
        yield sdk


def is_idle(server: Server, model: str = "tiny") -> bool:
    """Waits until nothing runs or waits."""
    return bool(server.wait_for(lambda ps: ps[model]["in_flight"] == 0 and ps[model]["queued"] == 0))


# ----------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 5}, "temperature", "invalid_request"),
        ({"n": 0}, "n", "invalid_request"),
        ({"stop": [""]}, "stop", "unsupported_stop_string"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request"),
        ({"extra_body": {"keep_alive": "soon"}}, "keep_alive", "invalid_request"),
    ],
    ids=["range", "zero", "empty-stop", "audio", "logprobs", "keep-alive"],
)
def test_a_wrong_field_is_a_bad_request_error(
    sdk: Sdk, fields: dict[str, Any], param: str, code: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat("Hi", stream=stream, **fields)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.type == "invalid_request_error"


def test_an_image_is_a_bad_request_error(sdk: Sdk) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="takes text only"):
        sdk.chat([{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}])


def test_a_prompt_that_fills_the_context_is_a_bad_request_error(sdk: Sdk) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat("word " * 200, model="tiny-short")
    assert caught.value.code == "context_length_exceeded"
    assert "96" in caught.value.message


def test_an_unknown_model_is_a_not_found_error(sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean tiny") as caught:
        sdk.chat("Hi", model="tinny")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


def test_what_is_not_there_is_a_not_found_error(sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError, match="There is no POST /v1/embeddings"):
        sdk.do(sdk.client.embeddings.create(model="tiny", input="Hello"))
    with pytest.raises(openai.NotFoundError, match="There is no POST /v1/responses"):
        sdk.do(sdk.client.responses.create(model="tiny", input="Hello"))


def test_a_foreign_host_is_a_permission_denied_error(sdk: Sdk) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        sdk.chat("Hi", extra_headers={"Host": "evil.example"})
    assert caught.value.code == "host_not_allowed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key_is_an_authentication_error(tight_server: Server, kind: str) -> None:
    with opened(kind, tight_server.url, api_key="wrong") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            sdk.chat("Hello")
        assert caught.value.code == "invalid_api_key"
        assert KEY not in str(caught.value)
        with pytest.raises(openai.AuthenticationError):
            list(sdk.each(sdk.client.models.list()))


def test_too_long_a_body_is_an_api_status_error(guest: Sdk) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        guest.chat("word " * MAX_BODY)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_no_room_is_an_internal_server_error_with_its_reason(guest: Sdk) -> None:
    with pytest.raises(openai.InternalServerError, match="max-memory") as caught:
        guest.chat("Hello", model="big")
    assert (caught.value.status_code, caught.value.code) == (503, "insufficient_memory")
    assert int(caught.value.response.headers["Retry-After"]) >= 1


def test_a_worker_that_dies_in_a_stream_is_an_api_error(guest: Sdk, tight_server: Server) -> None:
    stream = guest.each(guest.chat("Hello", stream=True, **ENDLESS))
    next(stream)
    pid = tight_server.ps()["tiny"]["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError) as caught:
        for _ in stream:
            pass
    assert caught.value.code == "worker_died"
    assert not isinstance(caught.value, openai.APIStatusError)
    again = guest.client.with_options(max_retries=4).chat.completions.create
    reply = guest.do(again(model="tiny", messages=[user(COUNT_10)], temperature=0))
    assert reply.choices[0].message.content == COUNTED_10


# ----------------------------------------------------------------------------- retries


def test_a_full_queue_is_a_rate_limit_error_and_a_retry_gets_in(guest: Sdk, tight_server: Server) -> None:
    """The client's own retries: they wait as long as Retry-After says."""
    is_idle(tight_server)
    with (
        opened("sync", tight_server.url, api_key=KEY) as first,
        opened("sync", tight_server.url, api_key=KEY) as second,
    ):
        running = first.chat("Hello", stream=True, **ENDLESS)
        next(iter(running))
        waiting = threading.Thread(target=second.chat, args=("Hello",), name="waits in the queue")
        waiting.start()
        try:
            tight_server.wait_for(lambda ps: ps["tiny"]["queued"] == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                guest.chat("Hello")
            assert caught.value.code == "queue_full"
            retry_after_s = int(caught.value.response.headers["Retry-After"])
            sent: list[tuple[float, str]] = []

            def note(request: httpx.Request) -> None:
                sent.append((time.monotonic(), request.headers["X-Stainless-Retry-Count"]))
                if len(sent) == 2:
                    running.close()

            patient = retrying(tight_server, guest, note)
            try:
                reply = patient.chat(COUNT_10)
            finally:
                patient.close()
        finally:
            running.close()
            waiting.join(30)
    assert reply.choices[0].message.content == COUNTED_10
    assert [count for _, count in sent][:2] == ["0", "1"]
    assert sent[1][0] - sent[0][0] >= retry_after_s


def retrying(server: Server, like: Sdk, note: Any) -> Sdk:
    """A client with retries that says when it sends."""

    async def note_async(request: httpx.Request) -> None:
        note(request)

    hook = note_async if like.is_async else note
    make = httpx.AsyncClient if like.is_async else httpx.Client
    http_client = make(event_hooks={"request": [hook]})
    kind = "async" if like.is_async else "sync"
    return Sdk(kind, server.url, api_key=KEY, max_retries=6, http_client=http_client)


# ------------------------------------------------------------------ leaving, and timeouts


def test_a_timeout_frees_the_place(guest: Sdk, tight_server: Server) -> None:
    is_idle(tight_server)
    hasty = guest.client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        guest.do(
            hasty.chat.completions.create(model="tiny", messages=[user("Hello")], temperature=0, **ENDLESS)
        )
    assert is_idle(tight_server)
    assert guest.chat(COUNT_10).choices[0].message.content == COUNTED_10


def test_leaving_a_stream_frees_the_place(guest: Sdk, tight_server: Server) -> None:
    is_idle(tight_server)
    stream = guest.chat("Hello", stream=True, **ENDLESS)
    items = guest.each(stream)
    next(items)
    assert tight_server.ps()["tiny"]["in_flight"] == 1
    guest.do(stream.close())
    assert is_idle(tight_server)
    assert guest.chat(COUNT_10).choices[0].message.content == COUNTED_10


def test_a_cancelled_task_frees_the_place(tight_server: Server) -> None:
    is_idle(tight_server)
    with opened("async", tight_server.url, api_key=KEY) as sdk:

        async def main() -> None:
            ask = sdk.client.chat.completions.create
            task = asyncio.create_task(ask(model="tiny", messages=[user("Hello")], temperature=0, **ENDLESS))
            await asyncio.to_thread(tight_server.wait_for, lambda ps: ps["tiny"]["in_flight"] == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        sdk.runner.run(main())
        assert is_idle(tight_server)
        assert sdk.chat(COUNT_10).choices[0].message.content == COUNTED_10


# ------------------------------------------------------------------------- many at once


def test_many_at_once_get_each_their_own_answer(real_server: Server) -> None:
    with opened("async", real_server.url) as sdk:

        async def chat(prompt: str, **fields: Any) -> str:
            reply = await sdk.client.chat.completions.create(
                model="tiny", messages=[user(prompt)], temperature=0, **fields
            )
            return str(reply.choices[0].message.content)

        async def stream(prompt: str) -> str:
            chunks = await sdk.client.chat.completions.create(
                model="tiny", messages=[user(prompt)], temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        async def text(prompt: str) -> str:
            reply = await sdk.client.completions.create(
                model="tiny", prompt=prompt, temperature=0, max_tokens=100
            )
            return str(reply.choices[0].text)

        async def wrong(prompt: str) -> str:
            try:
                return await chat(prompt, top_p=2)
            except openai.BadRequestError as error:
                return str(error.param)

        async def main() -> list[list[str]]:
            kinds = ((chat, COUNT_10), (stream, COUNT_10), (text, GO_ON), (chat, SKY), (wrong, SKY))
            rounds = [asyncio.gather(*(ask(prompt) for ask, prompt in kinds)) for _ in range(12)]
            return list(await asyncio.gather(*rounds))

        expected = [COUNTED_10, COUNTED_10, WENT_ON, "Blue", "top_p"]
        assert sdk.runner.run(main()) == [expected] * 12
