"""Token ids to text, one by one, exactly as decoding them all at once would give."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """Streaming decoder of one sequence, over the Rust tokenizer's own `DecodeStream`.

    mlx_lm's detokenizers drop a reply's leading space and rebuild their byte table for every
    token (docs/decisions/0004-own-detokenizer.md). Special tokens are kept: thinking and tool
    markers are special in some vocabularies.
    """

    def __init__(self, tokenizer: Tokenizer, before: int | None = None) -> None:
        """`before`: the last token of the text that this one continues. Sentencepiece vocabularies drop the
        space of a text's first word, and the first word of a continuation is none."""
        self._tokenizer = tokenizer
        self._before = before
        self._stream = self._new_stream()
        self._pending: list[int] = []
        """Ids since the last text: an unfinished character."""

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        try:
            text: str | None = self._stream.step(self._tokenizer, token)
        except Exception:
            # "Invalid prefix": some decoders rewrite earlier text at odd byte sequences. Begin anew
            # here; only the unfinished bytes before this token turn into a replacement character.
            lost = self.flush()
            self._stream = self._new_stream()
            return lost + self._kept(token, self._stream.step(self._tokenizer, token))
        return self._kept(token, text)

    def _kept(self, token: int, text: str | None) -> str:
        if text is None:
            self._pending.append(token)
            return ""
        self._pending.clear()
        self._before = token
        return text

    def _new_stream(self) -> DecodeStream:
        if self._before is not None:
            text = self._tokenizer.decode([self._before], skip_special_tokens=False)
            if text and "\ufffd" not in text:  # half a character would come out with the text
                return DecodeStream(ids=[self._before], skip_special_tokens=False)
        return DecodeStream(skip_special_tokens=False)

    def flush(self) -> str:
        """The end: an unfinished character becomes U+FFFD, as in a whole decode."""
        if not self._pending:
            return ""
        text: str = self._tokenizer.decode(self._pending, skip_special_tokens=False)
        self._pending.clear()
        return text


class SlowDetokenizer:
    """The same for tokenizers without a Rust backend, over mlx_lm's streaming detokenizer."""

    def __init__(self, detokenizer: Any) -> None:
        self._detokenizer = detokenizer
        self._detokenizer.reset()

    def push(self, token: int) -> str:
        self._detokenizer.add_token(token)
        segment: str = self._detokenizer.last_segment
        return segment

    def flush(self) -> str:
        self._detokenizer.finalize()
        segment: str = self._detokenizer.last_segment
        return segment
