"""The short way to token ids gives the ids of the long one; a hopeless text is refused early."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from mlxk.workers import encoder as encoder_module
from mlxk.workers.encoder import Encoder, NotEncodable, TooLong
from mlxk.workers.prompts import TOKENIZE_AT_LEAST, PromptBuilder
from mlxk.workers.protocol import FaultCode, FaultError, Generate, Tokenize
from tests.unit.workers.tokenizers import KINDS, RUST, WORDS, new_wrapper, wrapper

DIRECT = ["tiny", *RUST, "split-specials"]
TEXTS = [
    "",
    " ",
    "  two  spaces  ",
    "Once upon a time\n\n\tthere was",
    "<s>begins with BOS",
    "ends with EOS</s>",
    "a <|left|> b <|right|>  c <tool> d<tool>",
    "naïve café ＡＢＣ ﬁ e\u0301",
    "日本語のテキスト",
    "👩‍👩‍👧 \U0001f1e9\U0001f1ea",
    "\x00\x01\u200b\ufeff",
    "x" * 300,
]
MARKS = ["<s>", "</s>", "<unk>", "<|im_end|>", "<think>", " ", "\n", "▁"]
PARTS = st.sampled_from([*WORDS[:40], *TEXTS, *MARKS])
ANY_TEXT = st.one_of(st.text(), st.lists(PARTS).map("".join))


def ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special))


@pytest.mark.parametrize("kind", KINDS)
def test_which_tokenizers_go_the_short_way(kind: str) -> None:
    assert Encoder(wrapper(kind)).takes_rendered_chats == (kind in DIRECT)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_the_wrapper(kind: str, special: bool) -> None:
    made = Encoder(new_wrapper(kind))
    for text in TEXTS:  # first with ours: transformers would take truncation and padding out of the backend
        assert made.encode(text, add_special=special) == ids(wrapper(kind), text, special=special), text


@pytest.mark.parametrize("kind", DIRECT)
def test_what_an_earlier_call_left_in_the_backend_does_not_count(kind: str) -> None:
    """transformers writes each call's truncation, padding and treatment of specials into the one backend."""
    used = new_wrapper(kind)
    backend = used._tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.encode_special_tokens = not used.split_special_tokens
    made = Encoder(used)
    for text in TEXTS:
        assert made.encode(text, add_special=True) == ids(wrapper(kind), text, special=True), text


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(text=ANY_TEXT, special=st.booleans())
def test_the_ids_of_any_text_are_those_of_the_wrapper(kind: str, text: str, special: bool) -> None:
    made = Encoder(wrapper(kind)).encode(text, add_special=special)
    assert made == ids(wrapper(kind), text, special=special)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12)
@given(contents=st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_a_chat_has_the_ids_of_its_template(kind: str, contents: list[str]) -> None:
    tokenizer = wrapper(kind)
    messages = [{"role": "user", "content": content} for content in contents]
    wanted = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True))
    builder = PromptBuilder(tokenizer, len(tokenizer), find_boundaries=False, context_length=8192)
    assert builder.build(Generate("g", messages=messages)).tokens == wanted


# ------------------------------------------------------------------- what cannot fit


def prose(n_characters: int) -> str:
    text = " ".join(WORDS)
    return (text * (n_characters // len(text) + 1))[:n_characters]


LONG_KINDS = ["llama", "unigram", "word-piece", "byte-level", "newline"]


@pytest.mark.parametrize("kind", LONG_KINDS)
@pytest.mark.parametrize(
    "text",
    [prose(90_000), prose(90_000).replace(" ", ""), "  \n" * 30_000, "日本" * 20_000, "a" * 90_000],
    ids=["prose", "no-spaces", "white-space", "japanese", "one-letter"],
)
def test_a_text_is_refused_only_when_it_is_too_long(kind: str, text: str) -> None:
    """Also where a normalizer leaves nothing of it, or where a word of any length is one token."""
    made = Encoder(wrapper(kind))
    n_tokens = len(made.encode(text, add_special=True))
    assert len(made.encode(text, add_special=True, limit=max(1, (3 * n_tokens) // 4))) == n_tokens
    if n_tokens > 1000:
        with pytest.raises(TooLong) as refused:
            made.encode(text, add_special=True, limit=n_tokens // 10)
        assert 0.8 * n_tokens < refused.value.tokens < 1.2 * n_tokens


@pytest.mark.parametrize("kind", ["tiny", "slow", "newline"])
def test_a_hopeless_text_is_not_tokenized_beyond_the_proof(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Encoder(wrapper(kind))
    seen: list[int] = []
    whole = made._ids

    def noted(text: str, add_special: bool) -> list[int]:
        seen.append(len(text))
        return whole(text, add_special)

    monkeypatch.setattr(made, "_ids", noted)
    with pytest.raises(TooLong):
        made.encode(prose(4_000_000), add_special=True, limit=8192)
    assert sum(seen) < 200_000
    assert max(seen) <= encoder_module.PIECE_CHARACTERS


def built(**fields: Any) -> list[int]:
    builder = PromptBuilder(wrapper("tiny"), 640, find_boundaries=False, context_length=1000)
    if "tokenize" in fields:
        return builder.tokenize(fields["tokenize"])
    return builder.build(Generate("g", **fields)).tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": prose(100_000)}, "prompt"),
        ({"messages": [{"role": "user", "content": prose(100_000)}]}, "messages"),
        ({"tokens": [1] * 1000}, "prompt"),
        ({"tokens": [-1] * 50_000}, "prompt"),
        ({"tokenize": Tokenize("t", prompt=prose(3_000_000))}, "prompt"),
        ({"tokenize": Tokenize("t", messages=[{"role": "user", "content": prose(3_000_000)}])}, "messages"),
    ],
    ids=["text", "chat", "just-over", "ids", "tokenize", "tokenize-chat"],
)
def test_it_is_refused_in_the_contracts_words(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(FaultError) as refused:
        built(**fields)
    fault = refused.value.fault
    assert (fault.code, fault.param) == (FaultCode.CONTEXT_LENGTH_EXCEEDED, param)
    assert fault.message.startswith("This model's maximum context length is 1000 tokens")


def test_tokenize_counts_what_is_too_long_for_the_model() -> None:
    assert 1000 < len(built(tokenize=Tokenize("t", prompt=prose(200_000)))) < TOKENIZE_AT_LEAST


def test_the_longest_text_that_is_encoded_leaves_the_others_their_turns() -> None:
    """A thread that ticks notices who holds the GIL: with the backend's `encode` it would not tick once. It
    may also have to wait for a core: not each time, while who holds the GIL does so each time."""
    made = Encoder(wrapper("tiny"))
    text = prose(400_000)
    assert any(_longest_turn(lambda: made.encode(text, add_special=True)) < 0.5 for _ in range(5))


def _longest_turn(work: Callable[[], object]) -> float:
    """Of all the time that the work takes, the part of the longest in which no other thread had a turn."""
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.002):
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    began = time.monotonic()
    work()
    ended = time.monotonic()
    over.set()
    ticker.join()
    times = [began, *(at for at in ticks if at < ended), ended]
    return max(after - before for before, after in itertools.pairwise(times)) / (ended - began)


# --------------------------------------------------------------------------- panics


def panicking() -> Any:
    """Its pattern backtracks without end over a run of a; the Rust library panics when it has had enough."""
    tokenizer = new_wrapper("llama")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    return tokenizer


FATAL = "a" * 40 + "b"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
"""Messages with a call are tried again with its arguments as text."""


def test_a_panic_of_the_tokenizer_is_a_refusal() -> None:
    made = Encoder(panicking())
    with pytest.raises(NotEncodable, match="retry-limit"):
        made.encode(FATAL, add_special=True)
    assert made.encode("b", add_special=False), "and no more than that"


@pytest.mark.parametrize("as_text", [True, False], ids=["rendered", "in-one"])
@pytest.mark.parametrize("kind", ["text", "chat", "calls", "tokenize"])
def test_a_panic_is_a_400(kind: str, as_text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = panicking()
    builder = PromptBuilder(tokenizer, len(tokenizer), find_boundaries=True, context_length=1000)
    if not as_text:
        monkeypatch.setattr(builder._encoder, "_backend", None)
    ask: dict[str, Callable[[], object]] = {
        "tokenize": lambda: builder.tokenize(Tokenize("t", prompt=FATAL)),
        "chat": lambda: builder.build(Generate("g", messages=[{"role": "user", "content": FATAL}])),
        "calls": lambda: builder.build(Generate("g", messages=[CALLED, {"role": "user", "content": FATAL}])),
        "text": lambda: builder.build(Generate("g", prompt=FATAL)),
    }
    with pytest.raises(FaultError) as refused:
        ask[kind]()
    code = (
        FaultCode.TEMPLATE_ERROR if kind in ("chat", "calls") and not as_text else FaultCode.INVALID_REQUEST
    )
    assert refused.value.fault.code == code


def test_an_interrupt_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Encoder(wrapper("slow"))

    def interrupted(*_: Any) -> list[int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "_ids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.encode("a", add_special=True)
