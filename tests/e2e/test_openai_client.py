"""The unmodified `openai` client: what its users write works here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.prompts import (
    BERLIN,
    COUNT_10,
    COUNTED_10,
    GO_ON,
    WEATHER,
    WENT_ON,
    called,
    tool_result,
    user,
)
from tests.server import Server

HELLO = "Hello! How can I help you?"


@pytest.fixture
def sdk(real_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_chat_whole_and_streamed_are_equal(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model="tiny", messages=[user(COUNT_10)], temperature=0)
    assert whole.choices[0].message.content == COUNTED_10
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens_details is not None
    stream = sdk.chat.completions.create(
        model="tiny",
        messages=[user(COUNT_10)],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices].count("assistant") == 1
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 1


def test_completion_whole_and_streamed_are_equal(sdk: openai.OpenAI) -> None:
    whole = sdk.completions.create(model="tiny", prompt=GO_ON, temperature=0, max_tokens=100)
    assert whole.choices[0].text == WENT_ON
    stream = sdk.completions.create(model="tiny", prompt=GO_ON, temperature=0, max_tokens=100, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == WENT_ON
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_tool_s_whole_round(sdk: openai.OpenAI) -> None:
    messages = [user("Call the weather tool for Berlin. Do not answer directly.")]
    first = sdk.chat.completions.create(
        model="tiny", messages=messages, tools=[WEATHER], temperature=0, max_tokens=48
    )
    assert first.choices[0].finish_reason == "tool_calls"
    assert first.choices[0].message.content is None
    assert first.choices[0].message.tool_calls is not None
    (call,) = first.choices[0].message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Berlin"}')
    # As the client's own objects are sent back.
    sent = call.model_dump()
    second = sdk.chat.completions.create(
        model="tiny",
        messages=[*messages, called(sent), tool_result(sent, BERLIN)],
        tools=[WEATHER],
        temperature=0,
    )
    assert second.choices[0].message.content == "It is 19 degrees and sunny."
    assert second.choices[0].message.tool_calls is None


def test_the_stream_helper_puts_tool_calls_together(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model="tiny",
        messages=[user("Call the weather tool for Paris. Do not answer directly.")],
        tools=[WEATHER],
        temperature=0,
    ) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.tool_calls is not None
    (call,) = completion.choices[0].message.tool_calls
    assert call.function.arguments == '{"city": "Paris"}'


def test_raw_responses_carry_the_request_id(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model="tiny",
        messages=[user("Hello")],
        temperature=0,
        extra_headers={"X-Request-ID": "from-the-sdk"},
    )
    assert raw.headers["X-Request-ID"] == "from-the-sdk"
    assert raw.parse().choices[0].message.content == HELLO
    made = sdk.chat.completions.create(model="tiny", messages=[user("Hello")], temperature=0)
    assert made._request_id


def test_models_are_listed_and_retrieved(sdk: openai.OpenAI) -> None:
    assert "tiny" in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve("tiny").owned_by == "mlxk"


def test_extras_go_in_the_extra_body(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model="tiny",
        messages=[user(COUNT_10)],
        temperature=0,
        extra_body={"stop_token_ids": [20], "keep_alive": "5m", "top_k": 5, "min_p": 0.0},
    )
    assert reply.choices[0].message.content == "1  \n2  \n3  \n4  \n"
    assert reply.choices[0].model_dump()["matched_stop"] == 20


# ------------------------------------------------------------------------------ errors


def test_an_unknown_model_is_a_not_found_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="tinny", messages=[user("Hi")])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("tinny")


def test_a_wrong_field_is_a_bad_request_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="tiny", messages=[user("Hi")], temperature=5)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "temperature")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="tiny", messages=[user("Hi")], stop=[""], stream=True)
    assert (caught.value.code, caught.value.param) == ("unsupported_stop_string", "stop")


def test_leaving_a_stream_early_is_fine(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.create(model="tiny", messages=[user(COUNT_10)], stream=True) as stream:
        next(iter(stream))
    assert sdk.chat.completions.create(model="tiny", messages=[user("Hello")], temperature=0).choices


# ------------------------------------------------------------------------------- async


def test_the_async_client(real_server: Server) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{real_server.url}/v1", api_key="unused", max_retries=0
        ) as client:
            whole, text, stream = await asyncio.gather(
                client.chat.completions.create(model="tiny", messages=[user(COUNT_10)], temperature=0),
                client.completions.create(model="tiny", prompt=GO_ON, temperature=0, max_tokens=100),
                client.chat.completions.create(
                    model="tiny", messages=[user(COUNT_10)], temperature=0, stream=True
                ),
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(pieces) == whole.choices[0].message.content == COUNTED_10
            assert text.choices[0].text == WENT_ON
            assert "tiny" in [model.id async for model in client.models.list()]
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="tinny", messages=[user("Hi")])

    asyncio.run(main())
