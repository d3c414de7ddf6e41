from __future__ import annotations

from typing import Any

import pytest

from mlxk.api.replies import Collector
from mlxk.api.translate import Plan
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    Finished,
    FinishReason,
    RequestEvent,
    Started,
    Usage,
)
from tests.unit.api.plans import WEATHER_CALL, chat, completion, end, text


def reply(plan: Plan, *events: RequestEvent) -> dict[str, Any]:
    collector = Collector(plan, "tiny", 1_700_000_000)
    for event in events:
        assert not collector.done
        collector.add([(0, [event])])
    assert collector.done
    return collector.reply()


def test_a_chat_reply() -> None:
    plan = chat()
    whole = reply(plan, Started("r1", 10, 4, 100), text(" 1"), text("\n🙂"), end(matched=20))
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " 1\n🙂"},
            "logprobs": None,
            "finish_reason": "stop",
            "matched_stop": 20,
        }
    ]
    assert whole["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert (whole["id"], whole["object"], whole["model"]) == (
        f"chatcmpl-{plan.id}",
        "chat.completion",
        "tiny",
    )


def test_a_natural_end_matches_no_stop() -> None:
    assert "matched_stop" not in reply(chat(), end())["choices"][0]


def test_content_is_null_only_beside_tool_calls() -> None:
    call = Delta("r1", tool_calls=[WEATHER_CALL])
    message = reply(chat(), call, end(FinishReason.TOOL_CALLS))["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Berlin"}'},
            }
        ],
    }
    assert reply(chat(), end())["choices"][0]["message"]["content"] == ""
    both = reply(chat(), text("So"), call, end())["choices"][0]["message"]
    assert both["content"] == "So"


def test_reasoning_is_apart() -> None:
    message = reply(chat(), Delta("r1", reasoning="hm"), text("4"), end())["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "4")


def test_a_text_reply() -> None:
    whole = reply(completion(), text("5"), text("\n"), end(matched="6"))
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [
        {"index": 0, "text": "5\n", "logprobs": None, "finish_reason": "stop", "matched_stop": "6"}
    ]


def test_choices_stand_in_their_order_whichever_ends_first() -> None:
    collector = Collector(completion(["a", "b"], n=2), "tiny", 1)
    usages = [Usage(10, 1, 0, 0), Usage(10, 2, 9, 0), Usage(20, 3, 5, 1), Usage(20, 4, 19, 2)]
    for index in (2, 0, 3, 1):
        ended = Finished("r1", FinishReason.LENGTH, usages[index])
        collector.add([(index, [text(str(index)), ended])])
    whole = collector.reply()
    assert [(one["index"], one["text"]) for one in whole["choices"]] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "3"),
    ]
    # Each prompt counts once; as cached counts what its first choice found.
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (30, 10, 40)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_one_failed_choice_fails_the_reply() -> None:
    collector = Collector(chat(n=2), "tiny", 1)
    collector.add([(0, [text("a"), end()])])
    with pytest.raises(FaultError):
        collector.add([(1, [Failed("r2", Fault(FaultCode.ENGINE_ERROR, "It broke."))])])
