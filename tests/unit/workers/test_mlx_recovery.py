"""A step that raises: the request at fault fails, the others finish with the texts that they have alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.constraints import Constraint
from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.mlx_adapter import LogitsProcessor, Sampler
from mlxk.workers.pipeline import TextPipeline
from mlxk.workers.prompts import Prompt
from mlxk.workers.protocol import FaultCode, FinishReason, Generate, Sampling
from mlxk.workers.sampling import Samplers
from tests.unit.workers.engines import GREEDY, Conversation, RecordingEngine, run

VICTIM = Sampling(temperature=0, presence_penalty=1.5)
"""How a request of these tests says that the fault is its own."""

pytestmark = pytest.mark.filterwarnings("error")


class Saboteur:
    """Raises at its third call and from then on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arrays: mx.array) -> mx.array:
        self.calls += 1
        if self.calls >= 3:
            raise RuntimeError("sabotage")
        return arrays[-1]


class SabotagedSamplers:
    """The engine's samplers, but one request's are a fault that no request can ask for."""

    def __init__(self, real: Samplers, *, processor: Any = None, sampler: Any = None) -> None:
        self._real = real
        self._processor = processor
        self._sampler = sampler

    def sampler(self, sampling: Sampling, drawn: int = 0) -> Sampler:
        if self._sampler is not None and sampling == VICTIM:
            return self._sampler
        return self._real.sampler(sampling, drawn)

    def processors(self, sampling: Sampling, n_prompt: int) -> list[LogitsProcessor]:
        if self._processor is not None and sampling == VICTIM:
            return [self._processor]
        return self._real.processors(sampling, n_prompt)


def others(n_tokens: int = 14) -> list[Generate]:
    samplings = [GREEDY, Sampling(temperature=1.0, seed=5), GREEDY]
    return [
        Generate(
            f"other {i}",
            tokens=[7 + i] * (5 + 9 * i),
            max_tokens=n_tokens,
            ignore_eos=True,
            sampling=sampling,
        )
        for i, sampling in enumerate(samplings)
    ]


def victim(name: str = "victim", n_tokens: int = 14) -> Generate:
    return Generate(name, tokens=[3, 4, 5], max_tokens=n_tokens, ignore_eos=True, sampling=VICTIM)


def texts(engine: RecordingEngine, requests: list[Generate]) -> dict[str, tuple[str, str]]:
    return {request.id: run(engine, request)[request.id].text for request in requests}


@pytest.mark.parametrize("model", ["llama", "sliding_window", "state_space", "chunked"])
@pytest.mark.parametrize("part", ["processor", "sampler"])
def test_a_step_that_raises_for_one_request_fails_only_that_one(
    part: str, model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    engine = new_engine(model, prefill_chunk=16)
    alone = texts(engine, others())

    def argmax(logprobs: mx.array) -> mx.array:
        return mx.argmax(saboteur(logprobs), axis=-1)

    saboteur = Saboteur()
    faulty = {"processor": saboteur} if part == "processor" else {"sampler": argmax}
    engine._maker._samplers = SabotagedSamplers(engine._maker._samplers, **faulty)  # type: ignore[assignment]
    first, *rest = others()
    replies = run(engine, first, victim(), *rest)
    fault = replies.pop("victim").fault
    assert fault is not None
    assert fault.code == FaultCode.ENGINE_ERROR
    assert "sabotage" in fault.message
    assert {name: reply.text for name, reply in replies.items()} == alone
    for reply in replies.values():
        assert reply.finished is not None
        assert reply.finished.usage.completion_tokens == 14
        assert [p.done for p in reply.progress] == sorted(p.done for p in reply.progress)
    assert texts(engine, others()) == alone, "nothing wrong was kept"


class Sabotage:
    """In the model for one call, or in one request's sampler for good, from when it is `armed`."""

    def __init__(self, engine: RecordingEngine, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        kind = type(engine._model)
        compute = kind.__call__

        def once(*arrays: Any, **more: Any) -> mx.array:
            if self.armed:
                self.armed = False
                raise RuntimeError("sabotage")
            return compute(*arrays, **more)

        def argmax(logprobs: mx.array) -> mx.array:
            if self.armed:
                raise RuntimeError("sabotage")
            return mx.argmax(logprobs, axis=-1)

        if place == "model":
            monkeypatch.setattr(kind, "__call__", once)
        else:
            engine._maker._samplers = SabotagedSamplers(engine._maker._samplers, sampler=argmax)  # type: ignore[assignment]


@pytest.mark.parametrize("place", ["model", "sampler"])
def test_a_step_that_raises_after_a_first_token_was_handed_out_early(
    place: str,
    new_engine: Callable[..., RecordingEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Decision 0029, on a CPU: a joining prompt's first token leaves before the step of all, and that one
    fails. The token comes neither twice nor is it lost, and every request ends once (`Conversation`)."""
    monkeypatch.setattr(adapter, "computes_ahead", lambda: False)  # also where tests run on a GPU
    engine = new_engine("llama")
    first, *_ = others()
    alone = run(engine, first, victim())
    conversation = Conversation(engine)
    conversation.submit(first)
    conversation.run_until(lambda: len(engine.sampled["other 0"]) == 3)
    sabotage = Sabotage(engine, place, monkeypatch)
    conversation.submit(victim())
    conversation.run_until(lambda: bool(engine.sampled["victim"]))
    assert (len(engine.sampled["other 0"]), len(engine.sampled["victim"])) == (3, 1)
    sabotage.armed = True
    conversation.step()
    assert caplog.text.count("a step failed, trying each of 2 requests alone") == 1
    conversation.finish()
    victims = conversation.replies["victim"]
    if place == "model":
        assert victims.finished is not None
        assert victims.tokens == alone["victim"].tokens
    else:
        assert victims.fault is not None
        assert "sabotage" in victims.fault.message
        assert victims.tokens == alone["victim"].tokens[:1]
    assert victims.reported == len(victims.tokens)
    assert conversation.replies["other 0"].finished is not None
    assert conversation.replies["other 0"].tokens == alone["other 0"].tokens
    sabotage.armed = False
    again = run(engine, first, victim())
    assert {name: reply.tokens for name, reply in again.items()} == {
        name: reply.tokens for name, reply in alone.items()
    }


def test_two_faults_at_once_fail_both(new_engine: Callable[..., RecordingEngine]) -> None:
    engine = new_engine("llama")
    alone = texts(engine, others())
    engine._maker._samplers = SabotagedSamplers(engine._maker._samplers, processor=Saboteur())  # type: ignore[assignment]
    replies = run(engine, *others(), victim("v"), victim("w"))
    assert replies.pop("v").fault is not None
    assert replies.pop("w").fault is not None
    assert {name: reply.text for name, reply in replies.items()} == alone


def test_what_fails_only_in_company_is_given_up_and_not_tried_for_ever(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    """Each of them passes its trial alone; without a bound the engine would start them again and again."""
    engine = new_engine("llama")

    def not_in_company(logprobs: mx.array) -> mx.array:
        if logprobs.shape[0] > 1:
            raise RuntimeError("two is a crowd")
        return mx.argmax(logprobs, axis=-1)

    engine._maker._samplers = SabotagedSamplers(engine._maker._samplers, sampler=not_in_company)  # type: ignore[assignment]
    conversation = Conversation(engine)
    conversation.submit(victim("v"), victim("w"))
    for _ in range(100):
        if engine.idle:
            break
        conversation.step()
    assert engine.idle
    assert all(reply.fault is not None for reply in conversation.replies.values())
    assert "two is a crowd" in str(conversation.replies["v"].fault)
    alone = run(engine, victim("alone"))["alone"]
    assert alone.finished is not None
    assert alone.finished.reason == FinishReason.LENGTH


def test_a_text_that_cannot_be_made_fails_its_request_alone(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("llama")
    alone = texts(engine, others())
    make_pipeline = engine._maker._pipeline

    class Speechless(Detokenizer):
        calls = 0

        def push(self, token: int) -> str:
            self.calls += 1
            if self.calls == 3:
                raise ValueError("no words")
            return super().push(token)

    def pipeline(request: Generate, prompt: Prompt, constraint: Constraint | None) -> TextPipeline:
        made = make_pipeline(request, prompt, constraint)
        if request.sampling == VICTIM:
            made._decoder = Speechless(engine._tokenizer.backend_tokenizer)
        return made

    engine._maker._pipeline = pipeline  # type: ignore[method-assign]
    first, *rest = others()
    replies = run(engine, first, victim(), *rest)
    fault = replies.pop("victim").fault
    assert fault is not None
    assert "no words" in fault.message
    assert {name: reply.text for name, reply in replies.items()} == alone
    at_the_end = run(engine, victim("last", n_tokens=3))["last"]
    assert at_the_end.fault is not None


def test_a_prefix_that_cannot_be_kept_costs_no_answer(
    new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine("llama")
    wanted = texts(engine, others())
    engine.trim_cache(0)

    def refuse(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(engine._prefixes, "store", refuse)
    assert texts(engine, others()) == wanted


def stuck_in(batch: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on nothing can be taken out of this batch; returns who should have gone."""
    stuck: list[int] = []

    def refuse(uid: int) -> Any:
        stuck.append(uid)
        raise RuntimeError("it does not let go")

    monkeypatch.setattr(batch, "remove", refuse)
    monkeypatch.setattr(batch, "discard", refuse)
    return stuck


@pytest.mark.parametrize("model", ["llama", "chunked"])
@pytest.mark.parametrize("way", ["abort", "stop string", "failure"])
def test_a_row_that_cannot_be_taken_out_costs_the_others_nothing(
    way: str, model: str, new_engine: Callable[..., RecordingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens would come on and on, for nobody: the next step begins with a new batch."""
    engine = new_engine(model, prefill_chunk=16)
    alone = texts(engine, others())
    engine.trim_cache(0)
    conversation = Conversation(engine)
    conversation.submit(victim(n_tokens=200), *others())
    conversation.run_until(lambda: len(engine.sampled.get("victim", ())) > 2)
    first_batch = engine._running.batch
    stuck = stuck_in(first_batch, monkeypatch)
    sequence = engine._running.by_id["victim"]
    if way == "abort":
        conversation.take(engine.abort("victim"))
    elif way == "stop string":
        sequence.pipeline.stopped = True
    else:
        monkeypatch.setattr(sequence.pipeline, "push", lambda token: 1 / 0)
    conversation.finish()
    assert stuck == [sequence.uid, sequence.uid]
    assert engine._running.batch is not first_batch
    ended = conversation.replies.pop("victim")
    assert ended.fault is not None if way == "failure" else ended.finished is not None
    assert {name: reply.text for name, reply in conversation.replies.items()} == alone
    assert texts(engine, others()) == alone


def test_the_first_request_after_an_unclean_end_finds_a_new_batch(
    new_engine: Callable[..., RecordingEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = new_engine("llama")
    alone = texts(engine, others())
    conversation = Conversation(engine)
    conversation.submit(victim(n_tokens=200))
    conversation.run_until(lambda: bool(engine.sampled.get("victim")))
    stuck_in(engine._running.batch, monkeypatch)
    conversation.take(engine.abort("victim"))
    assert engine.idle
    assert texts(engine, others()) == alone
    assert "a step failed" not in caplog.text, "nothing had to be computed twice"


def test_a_token_for_nobody_does_not_end_the_engine(
    new_engine: Callable[..., RecordingEngine],
) -> None:
    engine = new_engine("llama")
    alone = texts(engine, others())
    conversation = Conversation(engine)
    conversation.submit(victim(n_tokens=200), *others())
    conversation.run_until(lambda: bool(engine.sampled.get("victim")))
    engine._running.forget(engine._running.by_id["victim"])
    while not engine.idle:
        conversation.step()
    replies = {name: reply.text for name, reply in conversation.replies.items() if name != "victim"}
    assert replies == alone
