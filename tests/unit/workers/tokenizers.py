"""Tokenizers of every kind that a model folder may hold, hand-made or trained on tiny's words."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import NewlineTokenizer, TokenizerWrapper, load
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_python import PreTrainedTokenizer

from mlxk.store.builtin import builtin_path

WORDS = (Path(__file__).parents[3] / "tools" / "tiny" / "words.txt").read_text(encoding="utf-8").split()[:400]
TEMPLATE = "{{ bos_token or '' }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
NAMES = ["<unk>", "<s>", "</s>"]


def _bos_first(tokenizer: Tokenizer) -> Any:
    return processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def _llama() -> Tokenizer:
    """SentencePiece's BPE: a prefix space, spaces as ▁, unknown characters as bytes, BOS first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marked = [f"▁{word}" for word in WORDS]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*NAMES, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(marked, trainer)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = _bos_first(tokenizer)
    return tokenizer


def _unigram() -> Tokenizer:
    """As T5's and XLNet's: NFKC, runs of spaces as one, EOS last."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=NAMES, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def _word_piece() -> Tokenizer:
    """BERT's: lower case, no accents, and one token for a word that is too long."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=NAMES, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    """GPT-2's way with Qwen's pattern and NFC; and what must not apply: the file cuts and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=NAMES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORDS], trainer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16, pad_id=2, pad_token="</s>")
    return tokenizer


def _added() -> Tokenizer:
    """Added tokens that take the white space beside them, and one that is part of words."""
    tokenizer = _llama()
    tokenizer.add_special_tokens([AddedToken("<|left|>", lstrip=True), AddedToken("<|right|>", rstrip=True)])
    tokenizer.add_tokens([AddedToken("the", normalized=False), AddedToken("<tool>", single_word=True)])
    return tokenizer


class CharacterTokenizer(PreTrainedTokenizer):  # type: ignore[misc]
    """A slow one: Python alone, no Rust."""

    def __init__(self, **kwargs: Any) -> None:
        self._names = [*NAMES, *map(chr, range(32, 127))]
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def get_vocab(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._names.index(token) if token in self._names else 0

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]


RUST = {
    "llama": _llama,
    "unigram": _unigram,
    "word-piece": _word_piece,
    "byte-level": _byte_level,
    "added-tokens": _added,
}
KINDS = ["tiny", *RUST, "split-specials", "newline", "slow"]
"""`split-specials`: the text of a special token is text. `newline`: a class with an `encode` of its own."""


@cache
def _written(kind: str) -> str:
    """Made once: training is not the same each time."""
    return RUST[kind]().to_str()


@cache
def wrapper(kind: str) -> TokenizerWrapper:
    """mlx_lm's TokenizerWrapper around it; the same one each time."""
    return new_wrapper(kind)


def new_wrapper(kind: str) -> TokenizerWrapper:
    if kind == "tiny":
        return load(builtin_path())
    if kind == "slow":
        return TokenizerWrapper(CharacterTokenizer(chat_template=TEMPLATE, **SPECIALS))
    made = NewlineTokenizer if kind == "newline" else PreTrainedTokenizerFast
    options = {"split_special_tokens": True} if kind == "split-specials" else {}
    rust = Tokenizer.from_str(_written(kind if kind in RUST else "llama"))
    return TokenizerWrapper(made(tokenizer_object=rust, chat_template=TEMPLATE, **SPECIALS, **options))
