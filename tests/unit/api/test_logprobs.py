"""Log probabilities in a reply and in a stream: OpenAI's shapes, and the same entries in both."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mlxk.api.replies import Collector
from mlxk.api.sse import StreamWriter
from mlxk.api.translate import Plan
from mlxk.workers.protocol import Delta, FaultCode, FaultError, RequestEvent, TokenLogprob, TopLogprob
from tests.unit.api.plans import WEATHER_CALL, chat, completion, end, events_of

HI = TokenLogprob(5, b"Hi", -0.1, [TopLogprob(5, b"Hi", -0.1), TopLogprob(6, b"Ho", -2.5)])
FIRST_HALF = TokenLogprob(7, b"\xf0\x9f", -0.2, [TopLogprob(7, b"\xf0\x9f", -0.2)])
SECOND_HALF = TokenLogprob(
    8, b"\x99\x82", -0.3, [TopLogprob(9, b"!", -0.25), TopLogprob(8, b"\x99\x82", -0.3)]
)
UNLIKELY = TokenLogprob(10, b" x", -9.0, [TopLogprob(11, b" y", -0.01)])
EVENTS: list[RequestEvent] = [
    Delta("r1", "Hi", logprobs=[HI]),
    Delta("r1", "🙂", logprobs=[FIRST_HALF, SECOND_HALF]),
    Delta("r1", " x", logprobs=[UNLIKELY]),
    end(),
]

CHAT = [
    {
        "token": "Hi",
        "logprob": -0.1,
        "bytes": [72, 105],
        "top_logprobs": [
            {"token": "Hi", "logprob": -0.1, "bytes": [72, 105]},
            {"token": "Ho", "logprob": -2.5, "bytes": [72, 111]},
        ],
    },
    {
        "token": "\\xf0\\x9f",
        "logprob": -0.2,
        "bytes": [0xF0, 0x9F],
        "top_logprobs": [{"token": "\\xf0\\x9f", "logprob": -0.2, "bytes": [0xF0, 0x9F]}],
    },
    {
        "token": "\\x99\\x82",
        "logprob": -0.3,
        "bytes": [0x99, 0x82],
        "top_logprobs": [
            {"token": "!", "logprob": -0.25, "bytes": [33]},
            {"token": "\\x99\\x82", "logprob": -0.3, "bytes": [0x99, 0x82]},
        ],
    },
    {
        "token": " x",
        "logprob": -9.0,
        "bytes": [32, 120],
        "top_logprobs": [{"token": " y", "logprob": -0.01, "bytes": [32, 121]}],
    },
]
TEXT = {
    "tokens": ["Hi", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82", " x"],
    "token_logprobs": [-0.1, -0.2, -0.3, -9.0],
    "top_logprobs": [
        {"Hi": -0.1, "Ho": -2.5},
        {"bytes:\\xf0\\x9f": -0.2},
        {"!": -0.25, "bytes:\\x99\\x82": -0.3},
        {" y": -0.01, " x": -9.0},
    ],
    "text_offset": [0, 2, 2, 3],
}


def reply(plan: Plan, events: list[RequestEvent]) -> dict[str, Any]:
    collector = Collector(plan, "tiny", int(time.time()))
    collector.add([(0, events)])
    choice: dict[str, Any] = collector.reply()["choices"][0]
    return choice


def chunks(plan: Plan, events: list[RequestEvent]) -> list[dict[str, Any]]:
    """Each event in a chunk of its own."""
    out = StreamWriter(plan, "tiny", int(time.time()))
    stream = b"".join(out.write([(0, [event])]) for event in events)
    return [choice for event in events_of(stream) for choice in event["choices"]]


def test_a_chat_reply_has_them_beside_its_message() -> None:
    choice = reply(chat(logprobs=True, top_logprobs=2), EVENTS)
    assert choice["logprobs"] == {"content": CHAT, "refusal": None}


def test_a_chat_stream_has_those_of_each_chunk_s_content_beside_its_delta() -> None:
    choices = chunks(chat(logprobs=True, top_logprobs=2), EVENTS)
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant"},
        {"content": "Hi"},
        {"content": "🙂"},
        {"content": " x"},
        {},
    ]
    assert [choice["logprobs"] for choice in choices] == [
        None,
        {"content": CHAT[:1], "refusal": None},
        {"content": CHAT[1:3], "refusal": None},
        {"content": CHAT[3:], "refusal": None},
        None,
    ]


def test_a_text_completion_has_lists_side_by_side() -> None:
    assert reply(completion(logprobs=2), EVENTS)["logprobs"] == TEXT


def test_the_offsets_of_a_streamed_completion_go_on_from_chunk_to_chunk() -> None:
    choices = chunks(completion(logprobs=2), EVENTS)
    assert [choice["logprobs"]["text_offset"] for choice in choices[:-1]] == [[0], [2, 2], [3]]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for choice in choices[:-1] for one in choice["logprobs"][field]] == TEXT[field]
    assert choices[-1]["logprobs"] is None


def test_none_is_asked_for_none_is_said() -> None:
    silent: list[RequestEvent] = [Delta("r1", "Hi"), end()]
    for plan in (chat(), chat(logprobs=False), completion()):
        assert reply(plan, silent)["logprobs"] is None
        assert all(choice["logprobs"] is None for choice in chunks(plan, silent))


def test_without_top_logprobs_there_are_the_sampled_tokens_alone() -> None:
    bare: list[RequestEvent] = [Delta("r1", "Hi", logprobs=[TokenLogprob(5, b"Hi", -0.1)]), end()]
    assert reply(chat(logprobs=True), bare)["logprobs"]["content"] == [{**CHAT[0], "top_logprobs": []}]
    assert reply(completion(logprobs=0), bare)["logprobs"] == {
        "tokens": ["Hi"],
        "token_logprobs": [-0.1],
        "top_logprobs": None,
        "text_offset": [0],
    }


def test_a_reply_of_a_call_alone_has_an_empty_list() -> None:
    called: list[RequestEvent] = [Delta("r1", tool_calls=[WEATHER_CALL]), end()]
    plan = chat(logprobs=True)
    assert reply(plan, called)["logprobs"] == {"content": [], "refusal": None}
    assert all(choice["logprobs"] is None for choice in chunks(plan, called))


def test_thoughts_between_contents_leave_the_entries_where_they_belong() -> None:
    together = [
        Delta("r1", "Hi", logprobs=[HI]),
        Delta("r1", "", "hm"),
        Delta("r1", " x", logprobs=[UNLIKELY]),
    ]
    out = StreamWriter(chat(logprobs=True, top_logprobs=2), "tiny", 1)
    choices = [event["choices"][0] for event in events_of(out.write([(0, [*together])]))]
    assert [(choice["delta"], choice["logprobs"]) for choice in choices[1:]] == [
        ({"content": "Hi"}, {"content": CHAT[:1], "refusal": None}),
        ({"reasoning_content": "hm"}, None),
        ({"content": " x"}, {"content": CHAT[3:], "refusal": None}),
    ]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"logprobs": None}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_what_a_chat_asks_the_worker_for(fields: dict[str, Any], wanted: int | None) -> None:
    assert [generate.logprobs for generate in chat(n=2, **fields).generates] == [wanted, wanted]


def test_what_a_completion_asks_the_worker_for() -> None:
    for wanted in (None, 0, 5, 20):
        assert [one.logprobs for one in completion(["a", "b"], logprobs=wanted).generates] == [wanted] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 1.5}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_what_a_chat_cannot_have(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(FaultError) as caught:
        chat(**fields)
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.INVALID_REQUEST, param)


@pytest.mark.parametrize("wanted", [True, -1, 21, "5"])
def test_what_a_completion_cannot_have(wanted: Any) -> None:
    with pytest.raises(FaultError) as caught:
        completion(logprobs=wanted)
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.INVALID_REQUEST, "logprobs")
