from __future__ import annotations

import json

import pytest

from mlxk.api.sse import DONE, StreamWriter
from mlxk.api.translate import Plan
from mlxk.workers.protocol import (
    Delta,
    Failed,
    Fault,
    FaultCode,
    FaultError,
    FinishReason,
    Progress,
    Started,
    ToolCall,
    Usage,
)
from tests.unit.api.plans import WEATHER_CALL, chat, completion, end, events_of, text

DIED = Failed("r1", Fault(FaultCode.WORKER_DIED, "The process died.", retryable=True))
STARTED = Started("r1", 10, 4, 100)
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def writer(plan: Plan) -> StreamWriter:
    return StreamWriter(plan, "tiny", 1_700_000_000)


def test_a_chat_stream_is_role_then_deltas_then_end_then_done() -> None:
    out = writer(chat())
    stream = out.write([(0, [STARTED])]) + out.write([(0, [text("1\n")])]) + out.write([(0, [text("2")])])
    assert not out.done
    stream += out.write([(0, [end(matched="6")])])
    assert out.done
    assert stream.endswith(DONE)
    choices = [event["choices"][0] for event in events_of(stream)]
    assert choices == [
        {"index": 0, "delta": {"role": "assistant"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "1\n"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "2"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "matched_stop": "6"},
    ]
    assert [event.get("usage") for event in events_of(stream)] == [None, None, None, USAGE]


def test_every_chunk_carries_the_same_head() -> None:
    out = writer(plan := chat())
    for event in events_of(out.write([(0, [text("a"), end()])])):
        assert event["id"] == f"chatcmpl-{plan.id}"
        assert (event["object"], event["model"]) == ("chat.completion.chunk", "tiny")
        assert event["created"] == 1_700_000_000
        assert event["system_fingerprint"].startswith("mlxk-")


def test_the_model_name_is_json_whatever_it_holds() -> None:
    out = StreamWriter(chat(), 'a "b" \\ ü', 1)
    assert events_of(out.write([(0, [text("x")])]))[0]["model"] == 'a "b" \\ ü'


def test_what_arrived_together_leaves_in_one_event() -> None:
    out = writer(chat())
    out.write([(0, [text("")])])
    assert len(events_of(out.write([(0, [text("a"), text(""), text("b"), text("🙂")])]))) == 1


def test_texts_pass_byte_for_byte() -> None:
    said = [' leading "quotes"', "\n\t\\", "你好", "🙂", "\u2028\u0000", "é"]
    out = writer(chat())
    stream = b"".join(out.write([(0, [text(one)])]) for one in said)
    contents = [event["choices"][0]["delta"].get("content", "") for event in events_of(stream)]
    assert "".join(contents) == "".join(said)


def test_nothing_is_sent_before_the_first_token() -> None:
    out = writer(chat())
    assert out.write([(0, [STARTED, Progress("r1", 5, 10)])]) == b""
    assert out.write([]) == b""
    assert not out.begun


def test_a_token_whose_text_is_held_back_begins_the_stream() -> None:
    (role,) = events_of(writer(chat()).write([(0, [text("")])]))
    assert role["choices"][0]["delta"] == {"role": "assistant"}


def test_reasoning_content_and_tool_calls_keep_their_order() -> None:
    out = writer(chat())
    deltas = [
        Delta("r1", reasoning="hm"),
        Delta("r1", reasoning="m", content="So: "),
        Delta("r1", content="this", tool_calls=[WEATHER_CALL, ToolCall("call_2", "clock", "{}")]),
        Delta("r1", content="!"),
    ]
    stream = out.write([(0, [*deltas, end(FinishReason.TOOL_CALLS)])])
    shown = [event["choices"][0]["delta"] for event in events_of(stream)]
    assert shown[:3] == [{"role": "assistant"}, {"reasoning_content": "hmm"}, {"content": "So: this"}]
    calls = [delta["tool_calls"] for delta in shown[3:7]]
    opening = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert calls[0] == [{"index": 0, **opening}]
    assert calls[1] == [{"index": 0, "function": {"arguments": '{"city": "Berlin"}'}}]
    assert [call[0]["index"] for call in calls] == [0, 0, 1, 1]
    assert shown[7:] == [{"content": "!"}, {}]
    assert events_of(stream)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tool_calls_are_numbered_across_steps() -> None:
    out = writer(chat())
    stream = b"".join(out.write([(0, [Delta("r1", tool_calls=[WEATHER_CALL])])]) for _ in range(2))
    calls = [
        call for event in events_of(stream) for call in event["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert [call["index"] for call in calls] == [0, 0, 1, 1]


def test_an_answer_without_a_token_still_has_its_role() -> None:
    stream = writer(chat()).write([(0, [end()])])
    assert [event["choices"][0]["delta"] for event in events_of(stream)] == [{"role": "assistant"}, {}]


def test_a_natural_end_matches_no_stop() -> None:
    stream = writer(chat()).write([(0, [end()])])
    assert "matched_stop" not in events_of(stream)[-1]["choices"][0]


@pytest.mark.parametrize("matched", ["6", 20, 0, '"\n'])
def test_what_stopped_it_is_on_the_final_chunk_of_both_endpoints(matched: str | int) -> None:
    for plan in (chat(), completion()):
        final = events_of(writer(plan).write([(0, [text("5"), end(matched=matched)])]))[-1]
        assert final["choices"][0]["matched_stop"] == matched


def test_include_usage_adds_a_chunk_without_choices() -> None:
    plan = chat(stream=True, stream_options={"include_usage": True})
    stream = writer(plan).write([(0, [text("x"), end()])])
    *_, final, extra = events_of(stream)
    assert final["usage"] == USAGE
    assert (extra["choices"], extra["usage"], extra["id"]) == ([], USAGE, final["id"])


def test_text_chunks() -> None:
    out = writer(plan := completion())
    stream = out.write([(0, [text("a"), text("b")])]) + out.write([(0, [text("")])])
    stream += out.write([(0, [text("c"), end(FinishReason.LENGTH)])])
    first, second, final = events_of(stream)
    assert first["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": None}]
    assert second["choices"][0]["text"] == "c"
    assert final["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]
    assert (final["id"], final["object"]) == (f"cmpl-{plan.id}", "text_completion")
    assert final["usage"] == USAGE


def test_usage_is_on_the_choice_that_ends_last() -> None:
    out = writer(chat(n=2))
    first = out.write([(1, [text("b"), end(usage=Usage(10, 7, 8))])])
    assert not out.done
    last = out.write([(0, [text("a"), end(usage=Usage(10, 5, 4))])])
    assert out.done
    assert all("usage" not in event for event in events_of(first))
    assert [event["choices"][0]["index"] for event in events_of(first + last)] == [1, 1, 1, 0, 0, 0]
    usage = events_of(last)[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 12)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}


def test_a_failure_before_the_first_token_is_raised() -> None:
    out = writer(chat(n=2))
    with pytest.raises(FaultError) as caught:
        out.write([(0, [STARTED, text("lost")]), (1, [DIED])])
    assert caught.value.fault.code is FaultCode.WORKER_DIED


@pytest.mark.parametrize("begin", ["token", "comment"])
def test_a_failure_after_something_was_sent_is_an_event_without_done(begin: str) -> None:
    out = writer(chat())
    _ = out.write([(0, [text("a")])]) if begin == "token" else out.comment()
    stream = out.write([(0, [text("last words"), DIED])])
    assert out.done
    assert DONE not in stream
    *_, said, error = events_of(stream)
    assert said["choices"][0]["delta"] == {"content": "last words"}
    assert error == {
        "error": {
            "message": "The process died.",
            "type": "server_error",
            "param": None,
            "code": "worker_died",
        }
    }


def test_comments_are_skipped_by_clients_and_tell_of_progress() -> None:
    out = writer(chat())
    assert out.comment() == b": waiting\n\n"
    out.write([(0, [Progress("r1", 512, 4096)])])
    assert out.comment() == b": prefill 512/4096\n\n"


def test_each_event_is_one_line_of_json() -> None:
    stream = writer(chat()).write([(0, [text("a\nb\r\n\n"), end()])])
    for line in stream.decode().split("\n\n")[:-2]:
        assert "\n" not in line
        assert json.loads(line.removeprefix("data: "))
