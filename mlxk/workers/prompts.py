"""From a request to prompt tokens: chat template, raw text or token ids."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from mlxk.workers import harmony
from mlxk.workers.histories import style_of, template_messages, with_text_arguments
from mlxk.workers.protocol import FaultCode, Generate, Tokenize, fault

PLAIN_ROLES = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    boundaries: tuple[int, ...]
    """Positions at which a turn ends: where a cache that cannot be trimmed is worth keeping."""
    initial_state: str
    """"normal", "reasoning" when the template has opened the thoughts already, or "header"."""
    is_chat: bool


class PromptBuilder:
    """Renders and tokenizes with one model's tokenizer (mlx_lm's TokenizerWrapper)."""

    def __init__(self, tokenizer: Any, vocab_size: int, *, find_boundaries: bool) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._find_boundaries = find_boundaries
        self._style = style_of(tokenizer)
        self._is_harmony = harmony.speaks_harmony(tokenizer)

    def build(self, request: Generate) -> Prompt:
        """Raises FaultError for what cannot become a prompt; always at least one token."""
        if request.messages is not None:
            prompt = self._chat(request)
        elif request.prompt is not None:
            prompt = Prompt(self._encode(request.prompt), (), "normal", False)
        else:
            prompt = Prompt(list(request.tokens or ()), (), "normal", False)
        if not prompt.tokens:
            raise fault(
                FaultCode.INVALID_REQUEST, "The prompt is empty; send at least one token.", param="prompt"
            )
        worst = max(prompt.tokens)
        if min(prompt.tokens) < 0 or worst >= self._vocab_size:
            raise fault(
                FaultCode.INVALID_REQUEST,
                f"The prompt has token ids outside of the model's vocabulary (0 to {self._vocab_size - 1}).",
                param="prompt",
            )
        return prompt

    def tokenize(self, request: Tokenize) -> list[int]:
        """The tokens that `build` makes of the same prompt; also of one that is empty or too long.
        Raises FaultError."""
        if request.messages is None:
            return self._encode(request.prompt or "", add_special=request.add_special_tokens)
        messages = template_messages(request.messages, self._style)
        if not self._tokenizer.has_chat_template:
            return self._encode(_plain_dialogue(messages, generation_prompt=request.add_generation_prompt))
        return self._render(messages, request, generation_prompt=request.add_generation_prompt)

    def _encode(self, text: str, *, add_special: bool = True) -> list[int]:
        # A prompt that begins with the BOS text must not get a second one from the tokenizer.
        bos = self._tokenizer.bos_token
        add_special = add_special and (bos is None or not text.startswith(bos))
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special))
        except Exception as error:
            raise fault(
                FaultCode.INVALID_REQUEST, f"The prompt cannot be tokenized: {error}", param="prompt"
            ) from error

    def _chat(self, request: Generate) -> Prompt:
        messages = template_messages(request.messages or (), self._style)
        if not self._tokenizer.has_chat_template:
            return Prompt(self._encode(_plain_dialogue(messages)), (), "normal", True)
        tokens = self._render(messages, request, generation_prompt=True)
        boundaries = self._boundaries(messages, request, tokens) if self._find_boundaries else ()
        return Prompt(tokens, boundaries, self._initial_state(tokens), True)

    def _render(
        self, messages: list[dict[str, Any]], request: Generate | Tokenize, *, generation_prompt: bool
    ) -> list[int]:
        try:
            return self._apply_template(messages, request, generation_prompt)
        except Exception as error:  # templates raise what their authors and Jinja please
            written = with_text_arguments(messages)
            if written is not None:
                with contextlib.suppress(Exception):
                    return self._apply_template(written, request, generation_prompt)
            raise fault(
                FaultCode.TEMPLATE_ERROR,
                f"The model's chat template refused the messages: {type(error).__name__}: {error}",
                param="messages",
            ) from error

    def _apply_template(
        self, messages: list[dict[str, Any]], request: Generate | Tokenize, generation_prompt: bool
    ) -> list[int]:
        kwargs = {k: v for k, v in request.template_kwargs.items() if k not in _OUR_TEMPLATE_ARGUMENTS}
        return list(
            self._tokenizer.apply_chat_template(
                messages,
                tools=request.tools or None,
                add_generation_prompt=generation_prompt,
                tokenize=True,
                **kwargs,
            )
        )

    def _initial_state(self, tokens: list[int]) -> str:
        tokenizer = self._tokenizer
        if self._is_harmony:
            return harmony.prompt_state(tokenizer.decode(tokens[-32:]))
        if tokenizer.response_initial_state:
            return str(tokenizer.response_initial_state)
        if not tokenizer.has_thinking:
            return "normal"
        start = tokenizer.rfind_think_start(tokens)
        if start <= tokenizer.rfind_think_end(tokens):
            return "normal"
        # Only a template's own opening ends the prompt; a message that speaks of the marker does not.
        rest = tokenizer.decode(tokens[start + len(tokenizer.think_start_tokens) :])
        return "normal" if rest.strip() else "reasoning"

    def _boundaries(
        self, messages: list[dict[str, Any]], request: Generate, tokens: list[int]
    ) -> tuple[int, ...]:
        """Ends of the system prompt, of the history and of the last message, as positions in `tokens`."""
        n_system = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
        cuts = {n for n in (n_system, len(messages) - 1, len(messages)) if n > 0}
        found = set()
        for n in sorted(cuts):
            try:
                rendered = self._render(messages[:n], request, generation_prompt=False)
            except Exception:  # many templates insist on a user message: no boundary there, then
                continue
            shared = _shared_length(rendered, tokens)
            if 0 < shared < len(tokens):
                found.add(shared)
        return tuple(sorted(found))


_OUR_TEMPLATE_ARGUMENTS = {
    "messages",
    "conversation",
    "tools",
    "tokenize",
    "add_generation_prompt",
    "return_dict",
}


def _shared_length(a: list[int], b: list[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _plain_dialogue(messages: list[dict[str, Any]], *, generation_prompt: bool = True) -> str:
    """For models without a template: the plain form that chat_stop_strings end."""
    lines = [f"{PLAIN_ROLES.get(m['role'], 'Human')}: {m['content']}" for m in messages]
    return "\n\n".join([*lines, "Assistant:"] if generation_prompt else lines)
