"""Log probabilities are mlx_lm's, and belong to exactly the tokens whose text the client sees."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mlxk.store.builtin import builtin_path
from mlxk.workers import mlx_engine
from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.logprobs import IMPOSSIBLE, Measured, TokenBytes, TracedPipeline, measure
from mlxk.workers.protocol import Deltas, Generate, Sampling, TokenLogprob
from tests.unit.workers.engines import GREEDY, RecordingEngine, encode, reference, run

MESSAGES = [{"role": "user", "content": "Reply with a family emoji."}]


def collect(engine: RecordingEngine, *requests: Generate) -> dict[str, tuple[str, list[TokenLogprob]]]:
    """Content and entries of each; every entry comes in a delta with content."""
    found: dict[str, tuple[str, list[TokenLogprob]]] = {request.id: ("", []) for request in requests}
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for message in engine.step():
            for delta in message.items if isinstance(message, Deltas) else ():
                assert delta.content or not delta.logprobs
                content, entries = found[delta.id]
                found[delta.id] = (content + delta.content, entries + delta.logprobs)
    return found


def joined(entries: list[TokenLogprob]) -> str:
    return b"".join(entry.utf8 for entry in entries).decode("utf-8", "replace")


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16])
def test_values_and_order_are_those_of_a_float32_softmax(kind: mx.Dtype) -> None:
    chance = np.random.default_rng(5)
    for _ in range(50):
        logits = mx.array(chance.normal(0, 6, 300).astype(np.float32)).astype(kind)
        # As the batch computes them, in the model's own type.
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        row = np.array(logprobs.astype(mx.float32)).astype(np.float64)
        wanted = row - np.log(np.exp(row).sum())
        token, n_top = int(chance.integers(300)), int(chance.integers(21))
        found = measure(logprobs, token, n_top)
        assert found.logprob == pytest.approx(wanted[token], abs=1e-4)
        order = sorted(range(300), key=lambda one: (-row[one], one))[:n_top]
        assert [value for _, value in found.top] == pytest.approx([wanted[one] for one in order], abs=1e-4)
        assert len({one for one, _ in found.top}) == n_top
        exact = [one for one in order if n_top and row[one] > row[order[-1]]]
        assert [one for one, _ in found.top][: len(exact)] == exact  # of equal last ones any may be told


def test_the_probabilities_of_a_half_precision_row_add_up_to_one() -> None:
    """The batch's own bfloat16 row is off by up to a sixteenth where the logits are large."""
    logits = mx.array([20.0, 19.0, 3.0, -4.0], mx.bfloat16)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    found = measure(logprobs, 0, 4)
    assert sum(math.exp(value) for _, value in found.top) == pytest.approx(1, abs=1e-6)


def test_a_forbidden_token_is_no_candidate_and_infinity_is_a_number_of_json() -> None:
    row = mx.array([-math.inf, 0.0, -math.inf, -math.inf])
    assert measure(row, 1, 3) == Measured(1, 0.0, [(1, 0.0)])
    assert measure(row, 2, 0) == Measured(2, IMPOSSIBLE, [])
    assert measure(mx.array([math.nan, 0.0]), 1, 1).logprob == IMPOSSIBLE


def test_more_candidates_than_tokens_are_all_tokens() -> None:
    assert [one for one, _ in measure(mx.array([-2.0, -1.0, -3.0]), 0, 20).top] == [1, 0, 2]


TEXTS = ["Count from 1 to 10, one number per line:\n1\n2\n", "The sky is", "Ünïcödé 日本語 🙂"]


@pytest.mark.parametrize("model", ["tiny", "llama", "state_space", "chunked"])
def test_alone_and_in_a_batch_they_are_those_of_mlx_lms_own_loop(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    """`chunked` cannot be batched."""
    engine = new_engine(model)
    near = 0.07 if model == "tiny" else 2e-3  # bfloat16
    prompts = [encode(engine, text) for text in TEXTS]
    requests = [
        Generate(str(i), tokens=prompt, max_tokens=8, ignore_eos=True, sampling=GREEDY, logprobs=3)
        for i, prompt in enumerate(prompts)
    ]
    alone = [collect(engine, request)[request.id][1] for request in requests]
    batch = collect(engine, *requests)
    for i, prompt in enumerate(prompts):
        steps = list(generate_step(mx.array(prompt), engine._model, max_tokens=8))
        for entries in (alone[i], batch[str(i)][1]):
            assert entries
            for entry, (token, logprobs) in zip(entries, steps, strict=False):
                row = logprobs.astype(mx.float32)
                row -= mx.logsumexp(row)
                if entry.token != token:
                    assert float(row[token] - row[entry.token]) < near  # a tie: the texts part here
                    break
                assert entry.logprob == pytest.approx(float(row[token]), abs=near)
                assert entry.top[0].logprob == pytest.approx(float(row.max()), abs=near)
                for top in entry.top:
                    assert top.logprob == pytest.approx(float(row[top.token]), abs=near)


def test_they_show_penalties_and_biases_and_no_temperature(tiny: RecordingEngine) -> None:
    prompt = encode(tiny, TEXTS[1])

    def first(**sampling: Any) -> TokenLogprob:
        request = Generate("a", tokens=prompt, max_tokens=1, logprobs=20, sampling=Sampling(**sampling))
        return collect(tiny, request)["a"][1][0]

    plain = first(temperature=0)
    values = {one.token: one.logprob for one in plain.top}
    sampled = first(temperature=1.5, seed=3, top_k=2)
    assert {one.token: one.logprob for one in sampled.top} == pytest.approx(values, abs=1e-3)
    biased = first(temperature=0, logit_bias={plain.token: -100})
    assert biased.token == plain.top[1].token
    assert plain.token not in {one.token for one in biased.top[:5]}
    assert biased.logprob > plain.top[1].logprob


def test_who_does_not_ask_pays_nothing(tiny: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def counting(logprobs: mx.array, token: int, n_top: int) -> Measured:
        measured.append(n_top)
        return measure(logprobs, token, n_top)

    monkeypatch.setattr(mlx_engine, "measure", counting)
    silent = Generate("silent", messages=MESSAGES, max_tokens=6, sampling=GREEDY)
    asking = Generate("asking", messages=MESSAGES, max_tokens=3, sampling=GREEDY, logprobs=4)
    found = collect(tiny, silent, asking)
    assert found["silent"][1] == []
    assert measured == [4] * 3


# ------------------------------------------------------------------------ tokens' bytes


def test_every_token_of_tiny_has_its_bytes(tiny: RecordingEngine) -> None:
    token_bytes = TokenBytes(tiny._tokenizer)
    for token in range(256):
        assert len(token_bytes.of(token)) == 1
    assert {token_bytes.of(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}
    for token in range(len(tiny._tokenizer)):
        whole = tiny._tokenizer.decode([token])
        assert token_bytes.of(token).decode("utf-8", "replace") == whole
    assert token_bytes.of(tiny._vocab_size + 5) == b""


class Wrapper:
    """What TokenBytes needs of mlx_lm's TokenizerWrapper."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


def sentencepiece() -> Tokenizer:
    """As Llama 2 and Gemma have it: spaces are "▁", unknown characters are byte tokens."""
    words = ["▁", "▁a", "▁the", "b", "é", "▁▁", "語", "\n", "<x>"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "b": 1, "▁": 2, "ü": 3, "▁語": 4}, unk_token="b"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def tiny_backend() -> Tokenizer:
    return Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))


TOKENIZERS = {"bytes": tiny_backend, "sentencepiece": sentencepiece, "metaspace": metaspace}


def traced(tokenizer: Tokenizer, **settings: Any) -> TracedPipeline:
    settings = {"stops": [], "hidden_stops": [], "splitter": None, **settings}
    return TracedPipeline(Detokenizer(tokenizer), TokenBytes(Wrapper(tokenizer)), **settings)


def feed(pipeline: TracedPipeline, tokens: list[int]) -> tuple[str, list[TokenLogprob]]:
    content, entries = "", []
    for token in tokens:
        if pipeline.stopped:
            break
        pipeline.note(Measured(token, -1.0, []))
        piece = pipeline.push(token)
        content += piece.content
        entries += piece.logprobs
        # Never before their text: what is told so far is told of the text so far.
        assert len(joined(entries)) >= len(content)
    piece = pipeline.finish()
    return content + piece.content, entries + piece.logprobs


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_entries_bytes_are_the_text_whatever_the_tokens(name: str) -> None:
    """Random tokens: halves of characters, bytes that are no UTF-8, spaces at the beginning."""
    tokenizer = TOKENIZERS[name]()
    chance = random.Random(1)
    size = tokenizer.get_vocab_size()
    for _ in range(300):
        tokens = [chance.randrange(size) for _ in range(chance.randint(1, 12))]
        content, entries = feed(traced(tokenizer), tokens)
        assert joined(entries) == content, tokens
        assert [entry.token for entry in entries] == (tokens if content else [])


def test_of_a_stop_string_no_token_is_told_but_one_that_begins_before_it() -> None:
    tokenizer = tiny_backend()
    chance = random.Random(2)
    text = "Hello there, one two three! 🙂 日本語 the end of the sea"
    tokens = tokenizer.encode(text).ids
    for _ in range(200):
        start = chance.randrange(len(text))
        stop = text[start : start + chance.randint(1, 9)]
        content, entries = feed(traced(tokenizer, stops=[stop]), tokens)
        assert content == text[: text.find(stop)]
        told = joined(entries)
        assert told.startswith(content)
        assert not entries or len(joined(entries[:-1])) <= len(content), (stop, told)
        assert len(b"".join(one.utf8 for one in entries[:-1])) < max(1, len(content.encode()))


# --------------------------------------------------------------- thoughts, calls, markers

SPECIAL = {"think": (634, 635), "call": (636, 637)}


@pytest.fixture
def chat_pipeline(tiny: RecordingEngine) -> Callable[..., TracedPipeline]:
    """As the engine makes it for a chat."""

    def make(**fields: Any) -> TracedPipeline:
        request = Generate("a", messages=MESSAGES, logprobs=0, **fields)
        tiny.submit(request)
        pipeline = tiny._running.by_id["a"].pipeline
        tiny.abort("a")
        assert isinstance(pipeline, TracedPipeline)
        return pipeline

    return make


def test_of_thoughts_and_markers_no_token_is_told(
    tiny: RecordingEngine, chat_pipeline: Callable[..., TracedPipeline]
) -> None:
    tokens = encode(tiny, "<think>\nfive\n</think>\n\nIt is 5")
    content, entries = feed(chat_pipeline(), tokens)
    assert content == "It is 5"
    assert joined(entries) == content


def test_of_a_call_no_token_is_told_and_of_a_broken_one_all(
    tiny: RecordingEngine, chat_pipeline: Callable[..., TracedPipeline]
) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    text = 'Sure.<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    pipeline = chat_pipeline(tools=[weather])
    content, entries = feed(pipeline, encode(tiny, text))
    assert pipeline.made_tool_calls
    assert (content, joined(entries)) == ("Sure.", "Sure.")
    broken = 'Sure.<tool_call>\n{"name": "weather", \n</tool_call> Oh.'
    content, entries = feed(chat_pipeline(tools=[weather]), encode(tiny, broken))
    assert content == broken
    assert joined(entries) == content


def test_random_texts_with_thoughts_and_calls_tell_the_content_s_tokens(
    tiny: RecordingEngine, chat_pipeline: Callable[..., TracedPipeline]
) -> None:
    """White space apart: what surrounds thoughts is trimmed, also out of the middle of a token."""
    chance = random.Random(4)
    words = [
        one
        for one in range(len(tiny._tokenizer))
        if one < 600 and not set(tiny._tokenizer.decode([one])) & set("<>�")
    ]
    for _ in range(150):
        tokens: list[int] = []
        for _ in range(chance.randint(1, 5)):
            part = [chance.choice(words) for _ in range(chance.randint(0, 6))]
            kind = chance.choice(["text", "think", "call"])
            tokens += part if kind == "text" else [SPECIAL[kind][0], *part, SPECIAL[kind][1]]
        content, entries = feed(chat_pipeline(), tokens)
        assert "".join(joined(entries).split()) == "".join(content.split()), tiny._tokenizer.decode(tokens)


@pytest.mark.parametrize("model", ["tiny", "llama", "chunked"])
def test_sampled_replies_in_a_batch_tell_their_content(
    model: str, new_engine: Callable[..., RecordingEngine]
) -> None:
    """A random model's texts are half bytes and replacement characters."""
    engine = new_engine(model)
    prompt = encode(engine, "Say:")
    requests = [
        Generate(
            f"{seed}",
            tokens=prompt,
            max_tokens=20,
            ignore_eos=True,
            logprobs=seed % 3,
            sampling=Sampling(temperature=1.0, seed=seed),
        )
        for seed in range(6)
    ]
    found = collect(engine, *requests)
    replies = run(
        engine,
        *[
            Generate(r.id, tokens=prompt, max_tokens=20, ignore_eos=True, sampling=r.sampling)
            for r in requests
        ],
    )
    for request in requests:
        content, entries = found[request.id]
        assert joined(entries) == content
        assert len(entries) == 20
        assert {len(entry.top) for entry in entries} == {request.logprobs}
        assert content == replies[request.id].content, "asking changes nothing"


def test_entries_survive_a_failed_step(tiny: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Generate("a", messages=MESSAGES, max_tokens=12, sampling=GREEDY, logprobs=1)
    wanted = collect(tiny, request)["a"]
    step, steps = type(tiny._running.batch).step, []

    def failing(self: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            raise RuntimeError("sabotage")
        return step(self)

    monkeypatch.setattr(type(tiny._running.batch), "step", failing)
    content, entries = collect(tiny, request)["a"]
    assert (content, [entry.token for entry in entries]) == (wanted[0], [entry.token for entry in wanted[1]])


def test_greedy_tokens_are_the_references(tiny: RecordingEngine) -> None:
    prompt = encode(tiny, TEXTS[0])
    request = Generate("a", tokens=prompt, max_tokens=12, ignore_eos=True, sampling=GREEDY, logprobs=2)
    _, entries = collect(tiny, request)["a"]
    assert [entry.token for entry in entries] == reference(tiny, prompt, 12)
    assert all(entry.top[0].token == entry.token for entry in entries)


class Hesitant:
    """Lets go of all but the last of what it holds, as some of our splitters do: `<<<` comes one by one."""

    state = "normal"

    def __init__(self) -> None:
        self._held = ""

    @property
    def holds_text(self) -> bool:
        return bool(self._held)

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        text = self._held + text
        self._held = "<" if text.endswith("<") else ""
        yield "normal", text.removesuffix(self._held)

    def enter(self, state: str) -> None:
        raise AssertionError

    def flush(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return "normal", held


def test_text_that_is_let_go_while_more_is_held_has_its_own_tokens() -> None:
    tokenizer = tiny_backend()
    tokens = [tokenizer.token_to_id(char) for char in "<<<<a<<b<<"]
    content, entries = feed(traced(tokenizer, splitter=Hesitant()), tokens)
    assert content == joined(entries) == "<<<<a<<b<<"
    assert [entry.token for entry in entries] == tokens
