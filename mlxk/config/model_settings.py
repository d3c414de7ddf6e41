"""What the configuration says of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What `[models."NAME"]` says. With `path` or `id` NAME is an alias; without, this is about a model."""

    name: str
    path: str | None = None
    """Absolute path of a model's folder."""
    id: str | None = None
    """Another model's name."""
    pinned: bool = False
    preload: bool = False
    keep_alive_s: float | None = None
    """None: the server's. Negative: forever."""
    context_length: int | None = None
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    max_batch: int | None = None
    """None: the server's."""
    cache_bytes: int | None = None
    """None: the server's."""
    temperature: float | None = None
    """This and what follows: for requests that say nothing of it. None: what the model's files say."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    """Of chats that bring no system message."""
    chat_stop_strings: tuple[str, ...] | None = None
    """None: the server's."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of its worker; may hold secrets."""
