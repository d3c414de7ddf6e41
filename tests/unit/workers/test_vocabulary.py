"""`/tokenize` counts what a request counts, and `/detokenize` gives every text back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxk.workers.protocol import Detokenize, FaultCode, FaultError, Generate, Tokenize
from mlxk.workers.vocabulary import Vocabulary
from tests.e2e.prompts import WEATHER
from tests.unit.workers.engines import GREEDY, RecordingEngine, run_one

TEXTS = [
    "Hi",
    "  leading and trailing  ",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think><tool_call>{}</tool_call>",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈",
    "e\u0301 à q\u0307\u0323",
    "日本語 한국어 中文 हिन्दी עברית",
    "\x00\x1b[0m\ufeff\u200b\r\n\t",
    "\ufffd",
]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 👋"}]},
    {"messages": [{"role": "user", "content": "Weather in Berlin?"}], "tools": [WEATHER]},
    {"messages": [{"role": "user", "content": "Hi"}], "template_kwargs": {"enable_thinking": False}},
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "reasoning_content": "A greeting."},
            {"role": "user", "content": "<|im_end|>"},
        ]
    },
]


def tokens_of(engine: RecordingEngine, **source: Any) -> list[int]:
    return engine.tokenize(Tokenize("t", **source)).tokens


def text_of(engine: RecordingEngine, tokens: list[int]) -> str:
    return engine.detokenize(Detokenize("d", tokens)).text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(bare_engines: Callable[[str], RecordingEngine], text: str) -> None:
    engine = bare_engines("tiny")
    assert text_of(engine, tokens_of(engine, prompt=text)) == text


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_as_it_was(bare_engines: Callable[[str], RecordingEngine], text: str) -> None:
    engine = bare_engines("tiny")
    assert text_of(engine, tokens_of(engine, prompt=text)) == text


@given(tokens=st.lists(st.integers(0, 639), max_size=40))
def test_any_token_ids_have_a_text(bare_engines: Callable[[str], RecordingEngine], tokens: list[int]) -> None:
    """Also those that are no whole character; `text_of` is what a reply of these tokens would say."""
    engine = bare_engines("tiny")
    expected = engine._tokenizer._tokenizer.decode(tokens, skip_special_tokens=False)
    assert text_of(engine, tokens) == expected


def test_a_part_of_a_character_is_a_replacement_character(
    bare_engines: Callable[[str], RecordingEngine],
) -> None:
    engine = bare_engines("tiny")
    tokens = tokens_of(engine, prompt="日")
    assert len(tokens) > 1
    assert "\ufffd" in text_of(engine, tokens[:-1])
    assert text_of(engine, tokens) == "日"


@pytest.mark.parametrize("source", [*({"prompt": text} for text in TEXTS), *CHATS], ids=lambda _: "")
def test_the_count_is_that_of_a_request(
    bare_engines: Callable[[str], RecordingEngine], source: dict[str, Any]
) -> None:
    engine = bare_engines("tiny")
    reply = run_one(engine, max_tokens=1, sampling=GREEDY, **source)
    assert reply.started is not None
    assert len(tokens_of(engine, **source)) == reply.started.prompt_tokens


def test_the_names_are_those_of_the_vocabulary(bare_engines: Callable[[str], RecordingEngine]) -> None:
    engine = bare_engines("tiny")
    made = engine.tokenize(Tokenize("t", prompt="Hi<|im_end|>\n", return_token_strs=True))
    assert made.token_strs == ["H", "i", "<|im_end|>", "Ċ"]
    assert engine.tokenize(Tokenize("t", prompt="Hi")).token_strs is None
    assert made.context_length == 8192


def test_without_a_generation_prompt_the_conversation_ends_with_its_last_message(
    bare_engines: Callable[[str], RecordingEngine],
) -> None:
    engine = bare_engines("tiny")
    messages = [{"role": "user", "content": "Hi"}]
    with_prompt = tokens_of(engine, messages=messages)
    without = tokens_of(engine, messages=messages, add_generation_prompt=False)
    assert with_prompt[: len(without)] == without
    assert text_of(engine, with_prompt[len(without) :]) == "<|im_start|>assistant\n"


@pytest.mark.parametrize("token", [-1, 640, 2**40])
def test_an_id_outside_of_the_vocabulary_is_refused(
    bare_engines: Callable[[str], RecordingEngine], token: int
) -> None:
    with pytest.raises(FaultError, match=r"0 to 639") as caught:
        text_of(bare_engines("tiny"), [1, token])
    assert (caught.value.fault.code, caught.value.fault.param) == (FaultCode.INVALID_REQUEST, "tokens")


# ------------------------------------------------------------------- other tokenizers


class BosTokenizer:
    """Without a Rust backend, without a template, and with a BOS token: as Llama's tokenizer is."""

    bos_token = "<s>"
    has_chat_template = False

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        head = [1] if add_special_tokens else []
        if text.startswith("<s>"):
            head, text = [*head, 1], text[3:]
        return [*head, *(ord(letter) for letter in text)]

    def decode(self, tokens: list[int], *, skip_special_tokens: bool, **_: Any) -> str:
        return "".join("<s>" if token == 1 else chr(token) for token in tokens)

    def convert_ids_to_tokens(self, tokens: list[int]) -> list[str]:
        return [f"#{token}" for token in tokens]


def vocabulary() -> tuple[Vocabulary, Any]:
    from mlxk.workers.prompts import PromptBuilder

    tokenizer = BosTokenizer()
    prompts = PromptBuilder(tokenizer, 256, find_boundaries=False)
    return Vocabulary(tokenizer, prompts, size=256, context_length=99), prompts


@pytest.mark.parametrize("prompt", ["ab", "<s>ab", ""])
def test_bos_is_there_once_as_in_a_request(prompt: str) -> None:
    made, prompts = vocabulary()
    tokens = made.tokenize(Tokenize("t", prompt=prompt)).tokens
    assert tokens == prompts.build(Generate("g", prompt=prompt)).tokens
    assert tokens.count(1) == 1
    bare = made.tokenize(Tokenize("t", prompt="ab", add_special_tokens=False)).tokens
    assert bare == [97, 98]


def test_a_tokenizer_without_a_rust_backend_will_do() -> None:
    made, prompts = vocabulary()
    messages = [{"role": "user", "content": "a"}]
    answer = made.tokenize(Tokenize("t", messages=messages, return_token_strs=True))
    assert answer.tokens == prompts.build(Generate("g", messages=messages)).tokens
    assert answer.token_strs == [f"#{token}" for token in answer.tokens]
    text = made.detokenize(Detokenize("d", answer.tokens)).text
    assert text == "<s>Human: a\n\nAssistant:"
    shorter = made.tokenize(Tokenize("t", messages=messages, add_generation_prompt=False)).tokens
    assert made.detokenize(Detokenize("d", shorter)).text == "<s>Human: a"
