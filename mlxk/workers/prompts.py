"""From a request to prompt tokens: chat template, raw text or token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxk.workers import harmony
from mlxk.workers.encoder import Encoder, NotEncodable, TooLong, is_refusal
from mlxk.workers.histories import known_arguments, style_of, template_messages, with_text_arguments
from mlxk.workers.protocol import FaultCode, FaultError, Generate, Tokenize, fault

TOKENIZE_AT_LEAST = 256 * 1024
"""Tokens that `/tokenize` lists of any model, or four contexts of them: each takes 300 bytes for a moment."""
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

    def __init__(
        self, tokenizer: Any, vocab_size: int, *, find_boundaries: bool, context_length: int | None = None
    ) -> None:
        """With a `context_length` hopelessly long texts are refused before they are tokenized."""
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._context_length = context_length
        self._vocab_size = vocab_size
        self._find_boundaries = find_boundaries
        self._style = style_of(tokenizer)
        self._is_harmony = harmony.speaks_harmony(tokenizer)

    def build(self, request: Generate) -> Prompt:
        """Raises FaultError for what cannot become a prompt; always at least one token."""
        if request.messages is not None:
            prompt = self._chat(request)
        elif request.prompt is not None:
            prompt = Prompt(self._encode(request.prompt, request), (), "normal", False)
        else:
            self._check_length(request)
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
            return self._encode(request.prompt or "", request, add_special=request.add_special_tokens)
        messages = template_messages(request.messages, self._style)
        if not self._tokenizer.has_chat_template:
            text = _plain_dialogue(messages, generation_prompt=request.add_generation_prompt)
            return self._encode(text, request)
        return self._render(messages, request, generation_prompt=request.add_generation_prompt)

    def _check_length(self, request: Generate) -> None:
        """A list of ids needs no tokenizer to be too long, and not even a look at them."""
        limit, n_tokens = self._context_length, len(request.tokens or ())
        if limit is not None and n_tokens >= limit:
            raise too_long(limit, n_tokens, request)

    def _encode(self, text: str, request: Generate | Tokenize, *, add_special: bool = True) -> list[int]:
        # A prompt that begins with the BOS text must not get a second one from the tokenizer.
        bos = self._tokenizer.bos_token
        return self._ids(text, request, add_special=add_special and (bos is None or not text.startswith(bos)))

    def _ids(self, text: str, request: Generate | Tokenize, *, add_special: bool) -> list[int]:
        context = self._context_length
        limit = context
        if context is not None and isinstance(request, Tokenize):
            limit = max(TOKENIZE_AT_LEAST, 4 * context)
        try:
            return self._encoder.encode(text, add_special=add_special, limit=limit)
        except TooLong as error:
            assert context is not None
            raise too_long(context, error.tokens, request) from error
        except NotEncodable as error:
            raise _not_encodable(request, error) from error

    def _chat(self, request: Generate) -> Prompt:
        messages = template_messages(request.messages or (), self._style)
        if not self._tokenizer.has_chat_template:
            return Prompt(self._encode(_plain_dialogue(messages), request), (), "normal", True)
        tokens = self._render(messages, request, generation_prompt=True)
        boundaries = self._boundaries(messages, request, tokens) if self._find_boundaries else ()
        return Prompt(tokens, boundaries, self._initial_state(tokens), True)

    def _render(
        self, messages: list[dict[str, Any]], request: Generate | Tokenize, *, generation_prompt: bool
    ) -> list[int]:
        rendered = self._rendered(messages, request, generation_prompt)
        if isinstance(rendered, str):  # the template has written the BOS, if there is to be one
            return self._ids(rendered, request, add_special=False)
        return rendered

    def _rendered(
        self, messages: list[dict[str, Any]], request: Generate | Tokenize, generation_prompt: bool
    ) -> str | list[int]:
        try:
            return self._apply_template(messages, request, generation_prompt)
        except BaseException as error:  # templates raise what their authors and Jinja please
            if not is_refusal(error):
                raise
            written = with_text_arguments(messages)
            if written is not None:
                try:
                    return self._apply_template(written, request, generation_prompt)
                except BaseException as again:
                    if not is_refusal(again):
                        raise
            raise fault(
                FaultCode.TEMPLATE_ERROR,
                f"The model's chat template refused the messages: {type(error).__name__}: {error}",
                param="messages",
            ) from error

    def _apply_template(
        self, messages: list[dict[str, Any]], request: Generate | Tokenize, generation_prompt: bool
    ) -> str | list[int]:
        """Text, or tokens where this tokenizer does more than to encode the text."""
        asked = known_arguments(request.template_kwargs, self._style)
        kwargs = {k: v for k, v in asked.items() if k not in _OUR_TEMPLATE_ARGUMENTS}
        as_text = self._encoder.takes_rendered_chats
        made = self._tokenizer.apply_chat_template(
            messages,
            tools=request.tools or None,
            add_generation_prompt=generation_prompt,
            tokenize=not as_text,
            **kwargs,
        )
        return made if as_text else list(made)

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
        beginnings = [messages[:n] for n in {len(messages) - 1, len(messages)} - {0, n_system}]
        if 0 < n_system < len(messages):
            # Followed by an empty question: many templates insist on one, and gemma's puts the system prompt
            # into it, so that without one nothing of it is rendered.
            beginnings.append([*messages[:n_system], {"role": "user", "content": ""}])
        found = set()
        for beginning in beginnings:
            try:
                rendered = self._render(beginning, request, generation_prompt=False)
            except Exception:  # templates also insist on an order of roles: no boundary there, then
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


def too_long(context_length: int, n_tokens: int, request: Generate | Tokenize) -> FaultError:
    # OpenAI's first words: clients (litellm) know by them to take a model with a longer context.
    message = (
        f"This model's maximum context length is {context_length} tokens; the prompt has {n_tokens}, "
        "and a reply needs at least one more. Shorten the prompt."
    )
    return fault(FaultCode.CONTEXT_LENGTH_EXCEEDED, message, param=_param(request))


def _not_encodable(request: Generate | Tokenize, error: Exception) -> FaultError:
    message = f"The prompt cannot be tokenized: {error}"
    return fault(FaultCode.INVALID_REQUEST, message, param=_param(request))


def _param(request: Generate | Tokenize) -> str:
    return "prompt" if request.messages is None else "messages"


def _shared_length(a: list[int], b: list[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _plain_dialogue(messages: list[dict[str, Any]], *, generation_prompt: bool = True) -> str:
    """For models without a template: the plain form that chat_stop_strings end."""
    lines = [f"{PLAIN_ROLES.get(m['role'], 'Human')}:{_after_a_blank(str(m['content']))}" for m in messages]
    return "\n\n".join([*lines, "Assistant:"] if generation_prompt else lines)


def _after_a_blank(text: str) -> str:
    """An answer begins with the blank that the model put after "Assistant:" itself; with a second one the
    next prompt would not be what the model has seen."""
    return text if text.startswith(" ") else f" {text}"
