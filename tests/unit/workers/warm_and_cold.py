"""Random sessions with one engine, and what their requests say to an engine that remembers nothing.

A session is a list of steps, drawn by `draw_session`: requests that share beginnings, grow, repeat themselves
or come in several copies at once, in chats and as bare tokens, greedy and seeded; aborts at any moment,
failed steps, smaller and larger budgets. Afterwards three things must hold: every request has said what it
says alone and cold (or, aborted, a beginning of it), every cache that is kept computes what its tokens
compute from nothing, and the counts add up.
"""

from __future__ import annotations

import copy
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlxk.workers.mlx_engine import MlxEngine
from mlxk.workers.protocol import FinishReason, Generate, Sampling
from tests.unit.workers.engines import GREEDY, Conversation, RecordingEngine, Reply, run

TOLERANCE = 5e-4
"""Of a logit, where the logits of one position are spread over 2 to 20. A cache is the sum of the same
numbers in another order: by the chunk of a prefill, the row of a batch, the token of a decode step. In
float32 that has made at most 4e-5 here; one token too many, too few or another one makes more than 50 times
the tolerance."""
PREFILL_CHUNK = 16
BUSY_PREFILL_CHUNK = 8
PROBE = [11, 222, 33, 144, 55]
SYSTEMS = ("You are terse.", "You are a pirate, and you speak of nothing but the sea and its weather.")
WORDS = ("red", "green fields", "What then?", "seven", "the harbour at night", "No.", "x = 1", "Why so?")
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city.", "parameters": {"type": "object"}},
}


# ---------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Bare:
    """A prompt of token ids: `keep` tokens of an earlier sequence (or none), and some new ones."""

    earlier: int
    keep: float
    new: tuple[int, ...]
    copies: int
    max_tokens: int
    seed: int | None


@dataclass(frozen=True)
class Chat:
    """The next turn of a conversation, or the first of another one."""

    goes_on: bool
    system: int | None
    tools: bool
    says: int
    called: bool
    max_tokens: int
    seed: int | None


@dataclass(frozen=True)
class Go:
    steps: int


@dataclass(frozen=True)
class Leave:
    """The client of one of the running requests."""

    which: int


@dataclass(frozen=True)
class Budget:
    max_bytes: int


@dataclass(frozen=True)
class FailedStep:
    """Every running request starts again from its tokens."""


Step = Bare | Chat | Go | Leave | Budget | FailedStep


def draw_session(seed: int) -> list[Step]:
    """The same for the same seed."""
    draw = random.Random(seed)
    return [_draw_step(draw) for _ in range(draw.randint(6, 24))]


def _draw_step(draw: random.Random) -> Step:
    max_tokens, seed = draw.randint(1, 14), draw.choice((None, None, 1, 2))
    match draw.choices(("bare", "chat", "go", "finish", "leave", "budget", "failed"), (9, 7, 6, 7, 4, 1, 1))[
        0
    ]:
        case "bare":
            new = tuple(draw.randint(5, 250) for _ in range(draw.choice((0, 1, draw.randint(2, 60)))))
            keep = draw.choice((0.0, 1.0, 1.0, draw.random(), draw.random()))
            return Bare(draw.randrange(5), keep, new, draw.choice((1, 1, 1, 1, 3)), max_tokens, seed)
        case "chat":
            system = draw.choice((None, 0, 1))
            goes_on, tools, called = draw.random() < 0.7, draw.random() < 0.3, draw.random() < 0.3
            return Chat(goes_on, system, tools, draw.randrange(len(WORDS)), called, max_tokens, seed)
        case "go":
            return Go(draw.randint(1, 9))
        case "finish":
            return Go(200)
        case "leave":
            return Leave(draw.randrange(8))
        case "budget":
            return Budget(draw.choice((0, 30_000, 100_000, 100_000, 1 << 26)))
        case _:
            return FailedStep()


# -------------------------------------------------------------------------- session


@dataclass
class Tally:
    """What has been compared, over many sessions."""

    sessions: int = 0
    requests: int = 0
    aborted: int = 0
    warm: int = 0
    ties: int = 0
    caches: int = 0
    worst: float = 0.0
    """The largest difference of a logit between a kept cache and its tokens computed anew."""


@dataclass
class Session:
    engine: RecordingEngine
    conversation: Conversation = field(init=False)
    requests: list[Generate] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    asked_last: str | None = None

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.engine)

    def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._do(step)
        self._run(10_000)

    @property
    def running(self) -> list[str]:
        replies = self.conversation.replies
        return [r.id for r in self.requests if replies[r.id].finished is None and replies[r.id].fault is None]

    def _do(self, step: Step) -> None:
        match step:
            case Bare():
                prompt = self._cut(step)
                for _ in range(step.copies):
                    self._submit(step, tokens=prompt)
            case Chat():
                self._say(step)
            case Go():
                self._run(step.steps)
            case Leave():
                if running := self.running:
                    self.conversation.abort(running[step.which % len(running)])
            case Budget():
                self.engine.trim_cache(step.max_bytes)
                assert self.engine.stats().cache.bytes <= step.max_bytes
            case FailedStep():
                if self.running:
                    self.conversation.take(self.engine._recover(RuntimeError("a step failed")))

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            if self.engine.idle:
                return
            self.conversation.step()

    def _cut(self, step: Bare) -> list[int]:
        whole = self.sequences[-1 - step.earlier % len(self.sequences)] if self.sequences else []
        # No longer than a few hundred tokens: a session is to be many requests, not long ones.
        prompt = [*whole[: round(step.keep * min(len(whole), 150))], *step.new]
        return prompt or [7]

    def _say(self, step: Chat) -> None:
        if step.goes_on and self.messages and self.asked_last:
            reply = self.conversation.replies[self.asked_last]
            said: dict[str, Any] = {"role": "assistant", "content": reply.content}
            if step.called:
                call = {"name": "weather", "arguments": '{"city": "Berlin"}'}
                said["tool_calls"] = [{"id": "c", "type": "function", "function": call}]
            self.messages.append(said)
        else:
            self.messages = []
            if step.system is not None:
                self.messages.append({"role": "system", "content": SYSTEMS[step.system]})
        role = "tool" if self.messages and "tool_calls" in self.messages[-1] else "user"
        self.messages.append({"role": role, "content": WORDS[step.says]})
        tools = [TOOL] if step.tools else []
        self.asked_last = self._submit(step, messages=list(self.messages), tools=tools)

    def _submit(self, step: Bare | Chat, **prompt: Any) -> str:
        request = Generate(
            str(len(self.requests)),
            max_tokens=step.max_tokens,
            ignore_eos=step.max_tokens % 2 == 0,
            sampling=GREEDY if step.seed is None else Sampling(temperature=0.8, top_p=1.0, seed=step.seed),
            **prompt,
        )
        self.requests.append(request)
        self.conversation.submit(request)
        sequence = self.engine._running.by_id[request.id]
        self.sequences.append(sequence.tokens)  # grows with the reply
        return request.id


# --------------------------------------------------------------------------- verdict


def check(session: Session, cold_reply: Callable[[Generate], Reply], tally: Tally) -> None:
    """Raises AssertionError for the first thing that is not as it must be."""
    tally.sessions += 1
    engine, replies = session.engine, session.conversation.replies
    for request, sequence in zip(session.requests, session.sequences, strict=True):
        reply = replies[request.id]
        assert reply.fault is None, reply.fault
        assert reply.finished is not None
        cold = cold_reply(request)
        assert cold.finished is not None
        tally.requests += 1
        tally.warm += reply.cached > 0
        wanted = cold.tokens
        if reply.finished.reason is FinishReason.ABORT:
            tally.aborted += 1
            wanted = wanted[: len(reply.tokens)]
        if reply.tokens != wanted:
            prompt = sequence[: reply.finished.usage.prompt_tokens]
            assert is_tie(engine, request, prompt, reply.tokens, wanted), (request, reply, cold)
            tally.ties += 1
        elif reply.finished.reason is not FinishReason.ABORT:
            assert (reply.text, reply.finished.reason) == (cold.text, cold.finished.reason)
    check_counts(engine, [replies[r.id] for r in session.requests])
    for found in differences(engine):
        tally.caches += 1
        tally.worst = max(tally.worst, found)
        assert found < TOLERANCE


def cold_replies(bare: RecordingEngine) -> Callable[[Generate], Reply]:
    """What a request says when it is the first and only one; asked once per request."""
    known: dict[str, Reply] = {}

    def reply(request: Generate) -> Reply:
        asked = msgspec.structs.replace(request, id="cold")
        key = repr(asked)
        if key not in known:
            known[key] = run(bare, asked)["cold"]
            assert known[key].cached == 0
        return known[key]

    return reply


def is_tie(
    engine: MlxEngine, request: Generate, prompt: list[int], got: list[int], wanted: list[int]
) -> bool:
    """At the first place where they differ, TOLERANCE more for one logit makes the other choice."""
    place = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), None)
    if place is None:
        return False
    logits = engine._model(mx.array([prompt + wanted[:place]]))[:, -1]
    logits[0, got[place]] += TOLERANCE
    logits[0, wanted[place]] -= TOLERANCE
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    sampler = engine._maker._samplers.sampler(request.sampling, drawn=place)
    return int(sampler(logprobs).item()) == got[place]


def check_counts(engine: MlxEngine, replies: list[Reply]) -> None:
    prefixes = engine._prefixes
    stats = prefixes.stats()
    assert stats.hits == sum(reply.cached > 0 for reply in replies)
    assert stats.hits + stats.misses == len(replies)
    assert stats.reused_tokens == sum(reply.cached for reply in replies)
    assert stats.entries == len(prefixes._entries)
    assert prefixes._sorted == sorted(prefixes._entries)
    held = sum(held_bytes(entry.cache) for entry in prefixes._entries.values())
    assert stats.bytes == held
    assert stats.bytes <= prefixes.max_bytes


def held_bytes(cache: list[Any]) -> int:
    arrays_ = [a for _, a in tree_flatten([layer.state for layer in cache]) if isinstance(a, mx.array)]
    return sum(a.nbytes for a in arrays_)


def differences(engine: MlxEngine) -> list[float]:
    """`difference` of each kept cache."""
    found = []
    for key, entry in engine._prefixes._entries.items():
        tokens = array("I", key).tolist()
        assert entry.n_tokens == len(tokens)
        found.append(difference(engine, tokens, entry.cache))
    return found


def difference(engine: MlxEngine, tokens: list[int], cache: list[Any]) -> float:
    """How far the logits after `cache` are from those after `tokens` computed anew."""
    model = engine._model
    warm = model(mx.array([PROBE]), cache=copy.deepcopy(cache))[0]
    cold = model(mx.array([tokens + PROBE]), cache=make_prompt_cache(model))[0, len(tokens) :]
    return float(mx.abs(warm - cold).max())
