"""Log probabilities of the sampled tokens, let go together with the text that the tokens belong to.

Only requests that ask for them come here. What counts as a token of the reply, and whose bytes are whose:
docs/decisions/0018-sampling.md.
"""

from __future__ import annotations

import codecs
import heapq
import json
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxk.workers.pipeline import Piece, StreamDecoder, TextPipeline
from mlxk.workers.protocol import TokenLogprob, TopLogprob

IMPOSSIBLE = -9999.0
"""Stands for minus infinity (a token that a constraint forbids), which JSON cannot say; OpenAI's number."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A sampled token's log probability, and the likeliest tokens at its place, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


def measure(logprobs: mx.array, token: int, n_top: int) -> Measured:
    """`logprobs` (vocabulary,) has been computed: it is read by the CPU, without waiting for the step that
    the GPU is busy with. In float32, for a half-precision row does not add up to one."""
    # A view where the row is float32 already; bfloat16 is none of numpy's types.
    row = np.array(logprobs.astype(mx.float32, stream=mx.cpu), copy=False)
    with np.errstate(all="ignore"):
        best = row.max()
        total = best + math.log(np.exp(row - best).sum())
    top: list[tuple[int, float]] = []
    if n_top:
        n_top = min(n_top, row.size)
        candidates = np.argpartition(row, row.size - n_top)[row.size - n_top :]
        likeliest = heapq.nsmallest(n_top, candidates.tolist(), key=lambda one: (-row[one], one))
        top = [(one, _finite(row[one] - total)) for one in likeliest if math.isfinite(row[one])]
    return Measured(token, _finite(row[token] - total), top)


def _finite(value: Any) -> float:
    return float(value) if math.isfinite(value) else IMPOSSIBLE


# ------------------------------------------------------------------------ tokens' bytes


class TokenBytes:
    """The bytes that each token of a vocabulary stands for."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is mlx_lm's TokenizerWrapper; one without a Rust backend gives texts, not bytes."""
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend
        self._added: dict[int, Any] = {}
        self._parts: set[str] = set()
        if backend is not None:
            self._added = backend.get_added_tokens_decoder()
            if backend.decoder is not None:
                self._parts = _decoder_parts(json.loads(backend.decoder.__getstate__()))

    def of(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return _encoded(self._added[token].content)
        if self._backend is None:
            return _encoded(self._tokenizer.decode([token]))
        written: str | None = self._backend.id_to_token(token)
        if written is None:  # a vocabulary is often padded
            return b""
        if "ByteLevel" in self._parts:
            return b"".join(_BYTE_OF.get(char) or _encoded(char) for char in written)
        if "ByteFallback" in self._parts and (byte := _BYTE_TOKEN.fullmatch(written)):
            return bytes([int(byte[1], 16)])
        if self._parts & {"ByteFallback", "Metaspace", "Replace"}:  # SentencePiece
            return _encoded(written.replace("▁", " "))
        return _encoded(self._backend.decode([token], skip_special_tokens=False))


_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _decoder_parts(decoder: dict[str, Any]) -> set[str]:
    parts = {decoder["type"]}
    for inner in decoder.get("decoders", ()):
        parts |= _decoder_parts(inner)
    return parts


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _byte_alphabet() -> dict[str, bytes]:
    """How byte-level vocabularies write bytes: printable ones of Latin-1 as themselves, the others as the
    characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    written = {chr(byte): bytes([byte]) for byte in printable}
    return written | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


# ------------------------------------------------------------------- tokens and their text


@dataclass(frozen=True, slots=True)
class _Entry:
    """A token and its place in the sequence's text, in characters; within one character it has all of it."""

    measured: Measured
    utf8: bytes
    start: int
    end: int


class TracedPipeline(TextPipeline):
    """A pipeline that knows from which tokens its content came."""

    def __init__(self, decoder: StreamDecoder, token_bytes: TokenBytes, **settings: Any) -> None:
        super().__init__(_TappedDecoder(decoder, self._settle), **settings)
        self._bytes = token_bytes
        self._undecoded: list[Measured] = []
        """Tokens whose text has not come yet: parts of a character."""
        self._entries: deque[_Entry] = deque()
        self._decoded = 0
        """Characters decoded so far."""
        self._origins: deque[int | None] = deque()
        """Of the content that is still held back: each character's place in the sequence's text, None for
        one that the pipeline has added."""
        self._loose = ""
        self._loose_at = 0
        """The end of the text so far that may still become content, and where it begins."""

    def note(self, measured: Measured) -> None:
        """To be called before the token's `push`."""
        self._undecoded.append(measured)

    def push(self, token: int) -> Piece:
        return self._with_logprobs(super().push(token))

    def finish(self, end_text: str | None = None) -> Piece:
        return self._with_logprobs(super().finish(end_text))

    def _settle(self, text: str) -> None:
        """`text` is what the undecoded tokens stand for."""
        tokens, self._undecoded = self._undecoded, []
        parts = _shares(text, [self._bytes.of(one.token) for one in tokens])
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        at = self._decoded
        self._decoded += len(text)
        for measured, part in zip(tokens, parts, strict=True):
            start = at
            at += len(decoder.decode(part))
            # Within a character it has that one, and so has a token without any text the next one.
            end = at + 1 if decoder.getstate()[0] or not part else at
            self._entries.append(_Entry(measured, part, start, end))

    def _split(self, text: str, piece: Piece) -> None:
        """By single characters: what the splitter lets go of at one is the beginning of what it held."""
        for char in text:
            self._loose += char
            super()._split(char, piece)
            splitter = self._splitter
            if splitter is None or (splitter.state != "tool" and not splitter.holds_text):
                self._forget(len(self._loose))

    def _add_content(self, text: str, piece: Piece) -> None:
        kept = text.lstrip() if self._trim_content else text
        if kept:
            start = self._place(text)
            first = self._loose_at + start + len(text) - len(kept)
            self._origins.extend([None] * len(self._content_gap))
            self._origins.extend(range(first, first + len(kept)))
            self._forget(start + len(text))
        super()._add_content(text, piece)

    def _place(self, text: str) -> int:
        """Where in the loose text `text` stands. A marker may have gone before it."""
        if self._loose.startswith(text):
            return 0
        return max(0, self._loose.rfind(text))

    def _forget(self, n_characters: int) -> None:
        self._loose = self._loose[n_characters:]
        self._loose_at += n_characters

    def _with_logprobs(self, piece: Piece) -> Piece:
        for _ in piece.content:
            origin = self._origins.popleft() if self._origins else None
            if origin is not None:
                self._release(origin, piece)
        return piece

    def _release(self, place: int, piece: Piece) -> None:
        """The entries of the tokens that have a part in the character at `place`, and were not shown yet."""
        while self._entries and self._entries[0].start <= place:
            entry = self._entries.popleft()
            if entry.end > place:
                piece.logprobs.append(self._told(entry))

    def _told(self, entry: _Entry) -> TokenLogprob:
        measured = entry.measured
        top = [TopLogprob(token, self._bytes.of(token), logprob) for token, logprob in measured.top]
        return TokenLogprob(measured.token, entry.utf8, measured.logprob, top)


class _TappedDecoder:
    """A detokenizer whose texts are also told to somebody else."""

    def __init__(self, decoder: StreamDecoder, tell: Callable[[str], None]) -> None:
        self._decoder = decoder
        self._tell = tell

    def push(self, token: int) -> str:
        return self._told(self._decoder.push(token))

    def flush(self) -> str:
        return self._told(self._decoder.flush())

    def _told(self, text: str) -> str:
        if text:
            self._tell(text)
        return text


def _shares(text: str, parts: list[bytes]) -> list[bytes]:
    """Each token's bytes of `text`: the vocabulary's, unless the decoder made something else of them."""
    whole = b"".join(parts)
    if whole.decode("utf-8", "replace") == text:
        return parts
    wanted = text.encode("utf-8", "replace")
    surplus = len(whole) - len(wanted)
    if surplus > 0 and whole.endswith(wanted):  # SentencePiece drops the space that begins a text
        for place, part in enumerate(parts):
            parts[place] = part[min(surplus, len(part)) :]
            surplus -= len(part) - len(parts[place])
        return parts
    return [b""] * (len(parts) - 1) + [wanted] if parts else []
