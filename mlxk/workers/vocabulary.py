"""Text to token ids and back, for `/tokenize` and `/detokenize`. No MLX: the clerk's thread calls it."""

from __future__ import annotations

from typing import Any

from mlxk.workers.prompts import PromptBuilder
from mlxk.workers.protocol import Detokenize, Detokenized, FaultCode, Tokenize, Tokenized, fault


class Vocabulary:
    """One model's tokenizer (mlx_lm's TokenizerWrapper), beside the prompts that are made with it."""

    def __init__(self, tokenizer: Any, prompts: PromptBuilder, *, size: int, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self._prompts = prompts
        self._size = size
        self._context_length = context_length

    def tokenize(self, request: Tokenize) -> Tokenized:
        """The tokens that a generation of the same prompt begins with. Raises FaultError."""
        tokens = self._prompts.tokenize(request)
        names = self._names(tokens) if request.return_token_strs else None
        return Tokenized(request.id, tokens, self._context_length, names)

    def detokenize(self, request: Detokenize) -> Detokenized:
        """With special tokens; bytes that are no whole character become U+FFFD. Raises FaultError."""
        tokens = request.tokens
        if tokens and (min(tokens) < 0 or max(tokens) >= self._size):
            message = f"'tokens' has ids outside of the model's vocabulary (0 to {self._size - 1})."
            raise fault(FaultCode.INVALID_REQUEST, message, param="tokens")
        if self._fast is not None:
            # The batch form lets go of the GIL meanwhile; the plain one would hold up the engine thread.
            (text,) = self._fast.decode_batch([tokens], skip_special_tokens=False)
        else:
            text = self._tokenizer.decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return Detokenized(request.id, text)

    def _names(self, tokens: list[int]) -> list[str]:
        if self._fast is not None:
            return [self._fast.id_to_token(token) or "" for token in tokens]
        return [str(name) for name in self._tokenizer.convert_ids_to_tokens(tokens)]
