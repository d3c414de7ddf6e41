"""Streaming text equals the text of a whole decode, for any ids."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from mlxk.store.builtin import builtin_path
from mlxk.workers.detokenizer import Detokenizer, SlowDetokenizer

HARD_TEXTS = [
    "👩\u200d👩\u200d👧\u200d👦 family",
    "你好，世界。こんにちは 안녕",
    "e\u0301 a\u0308\u0323 Z\u0351\u036b",
    "   leading spaces",
    " x",
    "\n\n\ttabs and lines\r\n",
    "a \ufffd b \ufffd",
    "🇩🇪🏳️\u200d🌈",
    "<think>\nso\n</think>\n\nDone<|im_end|>\n",
    "",
]


@cache
def builtin() -> Tokenizer:
    return Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))


@cache
def sentencepiece_like() -> Tokenizer:
    """Byte fallback, "▁" for spaces and a stripped first space, as Llama's and Gemma's vocabularies have."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "cat", "▁cat", "s", "é", "日"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = Detokenizer(tokenizer)
    return "".join(decoder.push(token) for token in ids) + decoder.flush()


def whole(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.sampled_from(HARD_TEXTS))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    ids = builtin().encode(text).ids
    assert streamed(builtin(), ids) == whole(builtin(), ids)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_come_out_unchanged(text: str) -> None:
    assert streamed(builtin(), builtin().encode(text).ids) == text


@example([*builtin().encode("🙂").ids[:-1]])
@example([*builtin().encode("🙂").ids[:-1], *builtin().encode("a").ids])
@example([*builtin().encode("🙂").ids[:1] * 5, *builtin().encode("日").ids[1:], *builtin().encode("!").ids])
@given(st.lists(st.integers(0, builtin().get_vocab_size() - 1), max_size=40))
def test_any_ids_give_the_text_of_a_whole_decode(ids: list[int]) -> None:
    assert streamed(builtin(), ids) == whole(builtin(), ids)


@given(st.lists(st.integers(0, 640), max_size=20))
def test_ids_beyond_the_vocabulary_are_silent(ids: list[int]) -> None:
    known = [token for token in ids if token < builtin().get_vocab_size()]
    assert streamed(builtin(), [*ids, 999_999]) == whole(builtin(), known)


@given(st.lists(st.integers(0, builtin().get_vocab_size() - 1), max_size=30))
def test_no_half_character_is_ever_shown(ids: list[int]) -> None:
    """Between two pushes the text so far is a beginning of the final text."""
    decoder = Detokenizer(builtin())
    final = whole(builtin(), ids)
    text = ""
    for token in ids:
        text += decoder.push(token)
        assert final.startswith(text)


@given(st.lists(st.sampled_from([257, 258, 259, 260, 261, 262, 263]), max_size=20))
def test_sentencepiece_words_lose_only_the_first_space(ids: list[int]) -> None:
    assert streamed(sentencepiece_like(), ids) == whole(sentencepiece_like(), ids)


@given(st.lists(st.integers(1, 263), max_size=12))
def test_sentencepiece_bytes_never_raise_and_lose_no_word(ids: list[int]) -> None:
    """Byte fallback rewrites a whole run of bytes when one of them is wrong, so that a stream cannot always
    equal the whole decode; but each word that is not a byte must be there, once and in order."""
    text = streamed(sentencepiece_like(), ids)
    words = [sentencepiece_like().id_to_token(token) for token in ids if token >= 258]
    place = 0
    for word in words:
        spoken = word.replace("▁", "") or ""
        found = text.find(spoken, place)
        assert found >= 0
        place = found + len(spoken)


class Wrapped:
    """What `SlowDetokenizer` is given: a mlx_lm streaming detokenizer over a tokenizer."""

    def __init__(self) -> None:
        from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer

        self.decode = builtin().decode
        self.encode = lambda text, **_: builtin().encode(text).ids
        self.detokenizer = NaiveStreamingDetokenizer(self)


@given(st.sampled_from(HARD_TEXTS))
def test_a_tokenizer_without_a_rust_backend_streams_too(text: str) -> None:
    ids = [token for token in builtin().encode(text).ids if token < 600]
    decoder = SlowDetokenizer(Wrapped().detokenizer)
    assert "".join(decoder.push(token) for token in ids) + decoder.flush() == builtin().decode(ids)
