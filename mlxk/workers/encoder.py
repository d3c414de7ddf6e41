"""Text to token ids, by the shortest way, and no further than the answer is in doubt.

transformers builds a BatchEncoding around the ids: type ids, masks, offsets and a string for each token. 4 MB
of text took 770 MB that way and held the GIL for 0.3 s (docs/decisions/0027-encoding.md).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SURELY_CHEAP_BYTES_PER_TOKEN = 4
"""Times the limit. A text up to here is encoded at once: it hardly has more tokens than bytes. Prose has
about four bytes a token, so what is longer has little chance to fit and is counted piece by piece first."""
PIECE_CHARACTERS = 32 * 1024
DOUBT = 2
"""The pieces' tokens are not the text's: a token may lie over a cut, and a merge depends on what is beside
it. Both move the count by a few tokens for each cut; what is refused is twice as long as it may be."""
CUT_TOKENS = 16
"""What a piece may have more than its share: a prefix space, the parts of a token that was cut."""


class TooLong(Exception):
    """A text of more than the limit. `tokens`: how many it has, estimated from its beginning."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"about {tokens} tokens")
        self.tokens = tokens


class NotEncodable(Exception):
    """The tokenizer refused the text, or panicked over it."""


class Encoder:
    """One model's tokenizer (mlx_lm's TokenizerWrapper), seen from the text's side.

    The ids are those of `TokenizerWrapper.encode`. Any thread may call it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._wrapper = tokenizer
        self._backend = _plain_backend(tokenizer)
        if self._backend is not None:
            # transformers sets these at each call; they are the same for all of ours.
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = tokenizer.split_special_tokens

    @property
    def takes_rendered_chats(self) -> bool:
        """Whether a chat may be rendered first and then encoded, to the ids of `apply_chat_template`."""
        return self._backend is not None and _is_plain(self._wrapper, "apply_chat_template", "__call__")

    def encode(self, text: str, *, add_special: bool, limit: int | None = None) -> list[int]:
        """Raises TooLong for a text that has far more than `limit` tokens, as soon as that is certain (one
        that has a few too many comes back), and NotEncodable."""
        try:
            if limit is not None:
                self._check_length(text, limit)
            return self._ids(text, add_special)
        except TooLong:
            raise
        except BaseException as error:
            if not is_refusal(error):
                raise
            raise NotEncodable(str(error)) from error

    def _check_length(self, text: str, limit: int) -> None:
        """Never holds more tokens than those of one piece."""
        cheap_bytes = limit * SURELY_CHEAP_BYTES_PER_TOKEN
        if len(text) <= cheap_bytes and len(text.encode("utf-8", "surrogatepass")) <= cheap_bytes:
            return
        count = 0
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            count += max(0, len(self._ids(piece, add_special=False)) - CUT_TOKENS)
            if count > DOUBT * limit:
                raise TooLong(count * len(text) // (start + len(piece)))

    def _ids(self, text: str, add_special: bool) -> list[int]:
        if self._backend is None:
            return list(self._wrapper.encode(text, add_special_tokens=add_special))
        # Of the backend's calls only those for batches let go of the GIL; the fast one computes no offsets.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special)
        ids: list[int] = encoding.ids
        return ids


def is_refusal(error: BaseException) -> bool:
    """Whether it is the text's fault. A panic of the Rust tokenizer is no Exception to Python, and a pattern
    that backtracks too long over a client's text is enough for one."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _plain_backend(wrapper: Any) -> Any | None:
    """The Rust tokenizer, if it alone makes the ids: some classes (code_llama, mlx_lm's NewlineTokenizer)
    change the text before or the ids after, and slow tokenizers have none."""
    own = getattr(wrapper, "_tokenizer", None)
    if not isinstance(own, PreTrainedTokenizerFast) or not _is_plain(wrapper, "encode", "_encode_plus"):
        return None
    return own.backend_tokenizer


def _is_plain(wrapper: Any, *methods: str) -> bool:
    """Whether these are transformers' own, overridden by no class below."""
    own = type(wrapper._tokenizer)
    originals = (PreTrainedTokenizerFast, PreTrainedTokenizerBase)
    return all(any(getattr(own, name) is getattr(base, name) for base in originals) for name in methods)
