"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from mlxk.workers.protocol import TokenLogprob, TopLogprob


def chat_logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Of a message, or of the part of one that a chunk brings."""
    content = [
        {**_chat_token(entry), "top_logprobs": [_chat_token(top) for top in entry.top]} for entry in entries
    ]
    return {"content": content, "refusal": None}


def _chat_token(entry: TokenLogprob | TopLogprob) -> dict[str, Any]:
    return {"token": _name(entry.utf8), "logprob": entry.logprob, "bytes": list(entry.utf8)}


class TextLogprobs:
    """Of one text completion, from its beginning: the offsets count the characters of all its chunks."""

    def __init__(self, n_top: int) -> None:
        self._n_top = n_top
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def json(self, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
        tokens, values, tops, offsets = [], [], [], []
        for entry in entries:
            tokens.append(_name(entry.utf8, "bytes:"))
            values.append(entry.logprob)
            # Two tokens may have one name: the likelier one stands. The sampled one is always there.
            top = {_name(one.utf8, "bytes:"): one.logprob for one in reversed(entry.top)}
            top.setdefault(tokens[-1], entry.logprob)
            tops.append(top)
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(entry.utf8))
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops if self._n_top else None,
            "text_offset": offsets,
        }


def _name(utf8: bytes, prefix: str = "") -> str:
    """The text of a token; a part of a character, which has none, as OpenAI writes it: escaped bytes."""
    try:
        return utf8.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in utf8)
