"""Streamed text equals the whole text, byte for byte: any text, cut anywhere, stopped anywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from mlxk.store.builtin import builtin_path
from mlxk.workers.detokenizer import Detokenizer
from mlxk.workers.pipeline import Piece, TextPipeline

TEXTS = [
    "Hello! How can I help you?",
    "  two leading and two trailing spaces  ",
    "👩\u200d👩\u200d👧\u200d👦 is a family, 🏳️\u200d🌈 a flag, 👍🏽 a thumb",
    "🇩🇪🇫🇷 flags",
    "你好，世界。こんにちは、안녕하세요",
    "e\u0301 a\u0308\u0323 Z\u0351\u036b combining",
    "नमस्ते دنیا שלום",
    "\n\n\ttabs\r\nand lines\n",
    "a \ufffd b \ufffd",
    "1  \n2  \n3  \n4  \n5  \n6",
    '{"name": "weather", "arguments": {"city": "Zürich"}}',
    "aaaaabaaaab abab ababab",
    "ﬁ ﷽ Å \u00a0 \u200b x",
]
LONGEST_STOP = 6


@cache
def byte_level() -> Tokenizer:
    return Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))


@cache
def sentencepiece_like() -> Tokenizer:
    """Byte fallback, "▁" for spaces and a first space that is put in and taken out, as Llama 2 has."""
    signs = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehilnorstu日é"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "b"), ("▁", "a"), ("▁", "▁"), ("l", "l")]
    words = [*signs, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece_like,
}
hard_texts = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \n\tabe\u0301\u0308\u200d👩👧🏽🇩日本語한क्"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
) | st.sampled_from(TEXTS)


def stream(tokenizer: Tokenizer, tokens: list[int], stops: list[str] | None = None) -> tuple[str, str | None]:
    """The sum of what a client gets, and the stop string that matched."""
    pipeline = TextPipeline(Detokenizer(tokenizer), stops=stops or [], hidden_stops=[], splitter=None)
    total = Piece()
    for token in tokens:
        total.extend(pipeline.push(token))
        if pipeline.stopped:
            break
    total.extend(pipeline.finish())
    return total.content, pipeline.matched_stop


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@given(hard_texts)
def test_the_sum_of_a_stream_is_the_text_wherever_it_is_cut(make: Callable[[], Tokenizer], text: str) -> None:
    """After every number of tokens, also in the middle of a character."""
    tokens = make().encode(text).ids
    for n in range(len(tokens) + 1):
        whole = make().decode(tokens[:n], skip_special_tokens=False)
        shown, _ = stream(make(), tokens[:n])
        if shown != whole:
            # Sentencepiece's byte fallback takes back the good bytes before a bad one; a stream cannot.
            assert make is sentencepiece_like
            assert whole.endswith("\ufffd")
            assert text.startswith(shown.rstrip("\ufffd"))
    assert stream(make(), tokens)[0] == text


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_place_of_a_text_can_stop_it(make: Callable[[], Tokenizer], text: str) -> None:
    """Every part of up to six characters, wherever it begins, as the stop string."""
    tokens = make().encode(text).ids
    for length in range(1, LONGEST_STOP + 1):
        for start in range(len(text) - length + 1):
            stop = text[start : start + length]
            assert stream(make(), tokens, [stop]) == (text[: text.find(stop)], stop)


def test_a_continuation_keeps_the_space_of_its_first_word() -> None:
    """A raw completion goes on in the middle of a text."""
    tokenizer = sentencepiece_like()
    before, the = tokenizer.token_to_id("a"), tokenizer.token_to_id("▁the")
    assert Detokenizer(tokenizer, before).push(the) == " the"
    assert Detokenizer(tokenizer).push(the) == "the"


def test_a_continuation_shows_nothing_of_the_prompts_half_character() -> None:
    """The prompt's last byte and the first of the reply may make a character: the reply's part is a part."""
    tokenizer = byte_level()
    ids = tokenizer.encode("🙂").ids
    assert len(ids) > 1
    decoder = Detokenizer(tokenizer, ids[0])
    shown = "".join(decoder.push(token) for token in ids[1:]) + decoder.flush()
    assert set(shown) == {"\ufffd"}


def test_a_word_after_bytes_that_make_no_character_keeps_its_space() -> None:
    tokenizer = sentencepiece_like()
    the, byte = tokenizer.token_to_id("▁the"), tokenizer.token_to_id("<0xF0>")
    shown, _ = stream(tokenizer, [the, byte, the, the])
    assert shown == "the\ufffd the the"
