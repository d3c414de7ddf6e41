"""Prompts of a chosen length that nobody has seen before: seeded words, counted in the models' own tokens."""

from __future__ import annotations

import functools
import itertools
import random
import re
import time
from typing import Any

from mlxk.store.builtin import builtin_path

Messages = list[dict[str, str]]
_seeds = itertools.count(time.time_ns() % 1_000_000_000)


def fresh_text(tokens: int) -> str:
    """Different from its first words on, in every call of every run: no server can have it in a cache."""
    words = _words()
    chosen = random.Random(next(_seeds)).choices(words, k=tokens)
    encoding = _tokenizer().encode(" ".join(chosen), add_special_tokens=False)
    _, end = encoding.offsets[min(tokens, len(encoding.offsets)) - 1]
    return " ".join(chosen)[:end]


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def with_system(system: str, text: str) -> Messages:
    return [{"role": "system", "content": system}, *user(text)]


@functools.cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(builtin_path() / "tokenizer.json"))


@functools.cache
def _words() -> list[str]:
    """Whole words of the vocabulary: about a token each."""
    found = (re.fullmatch("Ġ([a-z]{2,})", piece) for piece in _tokenizer().get_vocab())
    return sorted(match[1] for match in found if match)
