"""What has been said in a conversation, and the request that the next question becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxk.cli.asked import Wishes
from mlxk.cli.reply import Reply

SCARCE = 0.1
"""Below this part of the context each answer says how much is left."""
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """user or assistant."""
    content: str
    reasoning: str = ""
    """The thoughts before it. Kept for `/save`, and never sent back: they are no part of the conversation."""
    interrupted: bool = False
    """The answer was stopped by Ctrl-C: this is as far as it came."""


@dataclass(slots=True)
class Conversation:
    model: str
    wishes: Wishes
    plain_stops: Sequence[str] | None = None
    """Not None: `--no-chat-template`, so Human: and Assistant: are written here, and these end an answer.
    (For a model that has no template at all the server does the same, unasked.)"""
    context_length: int | None = None
    messages: list[Message] = field(default_factory=list)
    used_tokens: int | None = None
    """What the conversation takes of the context, as the server counted it last."""

    def request(self, question: str) -> tuple[str, dict[str, Any]]:
        """Endpoint and body."""
        said = [{"role": one.role, "content": one.content} for one in self.messages]
        messages = [*self.wishes.instructions(), *said, {"role": "user", "content": question}]
        body = {"model": self.model, **self.wishes.fields()}
        if self.plain_stops is None:
            return "/v1/chat/completions", {**body, "messages": messages}
        body["stop"] = list(dict.fromkeys([*self.wishes.stop, *self.plain_stops]))
        return "/v1/completions", {**body, "prompt": plain_dialogue(messages)}

    def add(self, question: str, reply: Reply, *, interrupted: bool = False) -> None:
        """A question and its answer, as far as it came."""
        content = reply.content if self.plain_stops is None else reply.content.strip()
        answer = Message("assistant", content, reply.reasoning, interrupted)
        self.messages += [Message("user", question), answer]
        if reply.used_tokens is not None:
            self.used_tokens = reply.used_tokens

    def clear(self) -> None:
        self.messages.clear()
        self.used_tokens = None

    @property
    def left_tokens(self) -> int | None:
        """Of the context, for the next question and its answer. None: not known yet."""
        if self.context_length is None or self.used_tokens is None:
            return None
        return max(0, self.context_length - self.used_tokens)

    @property
    def is_scarce(self) -> bool:
        left = self.left_tokens
        return left is not None and self.context_length is not None and left < SCARCE * self.context_length


def plain_dialogue(messages: Sequence[dict[str, Any]]) -> str:
    """For a model that is to talk without its template."""
    lines = [f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages]
    return "\n\n".join([*lines, "Assistant:"])
