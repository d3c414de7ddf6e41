"""All that can be set, in one table: the name, how a value is read, and what it is for.

The configuration file's reader, the variables, the flags, `mlxk config` and the file that `mlxk config init`
writes are made of it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mlxk.config.parsers import (
    Parser,
    choice,
    number,
    parse_environment,
    parse_finite_duration_s,
    parse_host,
    parse_hosts,
    parse_names,
    parse_origins,
    parse_path,
    parse_positive_duration_s,
    parse_size_or_auto,
    parse_stop_strings,
    parse_switch,
    parse_table,
    parse_template_arguments,
    parse_text,
    whole,
)
from mlxk.config.units import parse_duration_s, parse_size

LONGEST_NAME = 200
"""Characters in a model's name; a longer one is unknown by definition."""
MOST_TOKENS = 2**31 - 1


class Effect(Enum):
    """When a change takes effect in a running server (`mlxk reload`)."""

    AT_ONCE = "at once"
    NEXT_LOAD = "for models loaded from then on"
    NEW_PROCESS = "a reload restarts the model"
    RESTART = "only after `mlxk restart`"


class Field(NamedTuple):
    """One setting: its name in `Settings` or `ModelSettings`, and how its value is read."""

    name: str
    parse: Parser
    about: str
    """One sentence for people."""
    effect: Effect = Effect.AT_ONCE
    example: str = ""
    """TOML, for what has no default of its own."""

    @property
    def key(self) -> str:
        """The name that people write: without the unit, since the value says it ("8GB", "10m")."""
        return self.name.removesuffix("_bytes").removesuffix("_s")

    @property
    def variable(self) -> str:
        """Of a server's setting: models have tables only."""
        return f"MLXK_{self.key.upper()}"


_NEXT, _NEW, _RESTART = Effect.NEXT_LOAD, Effect.NEW_PROCESS, Effect.RESTART

SERVER_FIELDS: tuple[Field, ...] = (
    Field("host", parse_host, "The address to listen on; another than loopback needs an API key.", _RESTART),
    Field("port", whole(0, 65535, "port"), "0 takes any free one.", _RESTART),
    Field(
        "max_memory_bytes",
        parse_size_or_auto,
        'For all models together: "24GB"; auto is what Metal recommends, else 75 % of the memory.',
    ),
    Field("max_models", whole(0), "Models loaded at once; 0 is no limit."),
    Field("keep_alive_s", parse_duration_s, "How long an idle model stays loaded; -1 is for ever."),
    Field("drain_timeout_s", parse_finite_duration_s, "How long a stop waits for running requests."),
    Field("stop_grace_s", parse_finite_duration_s, "How long a worker may take to end before it is killed."),
    Field("abort_grace_s", parse_finite_duration_s, "How long a worker may take to give up a request."),
    Field("start_timeout_s", parse_positive_duration_s, "How long a worker may take to start."),
    Field("load_stall_s", parse_positive_duration_s, "A load without progress for so long is stuck."),
    Field("pong_timeout_s", parse_positive_duration_s, "A worker that is silent for so long is stuck."),
    Field(
        "max_wait_s",
        parse_finite_duration_s,
        "How long a request may wait for others; its own model's load does not count. 0: not at all.",
    ),
    Field(
        "swap_after_s",
        parse_duration_s,
        "Who waits for room for so long gets that of a busy model, which finishes first; -1 is never.",
    ),
    Field(
        "request_timeout_s",
        parse_finite_duration_s,
        "How long a completion or tokenization may take as a whole; 0 is as long as it needs.",
    ),
    Field(
        "receive_timeout_s",
        parse_positive_duration_s,
        "How long a client may take to send a request's head, and be silent within its body.",
    ),
    Field(
        "send_timeout_s",
        parse_positive_duration_s,
        "A client that takes nothing of its answer for so long is taken for gone.",
    ),
    Field("queue_per_model", whole(0), "Requests that may wait for one model."),
    Field("queue_total", whole(0), "Requests that may wait in all."),
    Field("max_batch", whole(1), "Requests that one model works on at once.", _NEXT),
    Field(
        "cache_bytes",
        parse_size_or_auto,
        "The prefix cache of one model; auto is a sixteenth of max_memory, from 64 MiB to 1 GiB.",
        _NEXT,
    ),
    Field("max_body_bytes", parse_size, "The largest request body."),
    Field("chat_stop_strings", parse_stop_strings, "Texts that end a chat's reply and are not part of it."),
    Field(
        "log_level", choice("debug", "info", "warning", "error", "critical"), "What the server's log holds."
    ),
    Field("log_json", parse_switch, "The log as JSON, one object a line."),
    Field(
        "api_key_file",
        parse_path,
        "A file with one API key a line; a relative path is taken from this file's folder.",
        example='"keys.txt"',
    ),
    Field("no_auth", parse_switch, "Serve another address than loopback without an API key.", _RESTART),
    Field(
        "cors_origins",
        parse_origins,
        'Web pages, extensions and apps that may use this server from a browser: "http://localhost:5173".',
    ),
    Field(
        "allowed_hosts",
        parse_hosts,
        'Names that this server answers to beside those of its machine: "llm.example.org", "*.lan".',
    ),
    Field("engine", choice("mlx", "fake"), 'What runs the models; "fake" is for tests.', _RESTART),
    Field("spare", parse_switch, "Keep one worker ready without a model, so that loads begin sooner."),
    Field("preload", parse_names, "Models to load when the server starts."),
)
"""All of `Settings` but the models."""

MODEL_FIELDS: tuple[Field, ...] = (
    Field(
        "path",
        parse_path,
        "The table's name is an alias of the model in this folder (relative: to this file's).",
        _NEW,
        '"/data/models/my-finetune"',
    ),
    Field(
        "id",
        parse_text,
        "Or: the table's name is an alias of this model.",
        _NEW,
        '"mlx-community/Qwen3-0.6B-4bit"',
    ),
    Field("pinned", parse_switch, "Never unload it to make room for others, nor when it is idle."),
    Field("preload", parse_switch, "Load it when the server starts."),
    Field(
        "keep_alive_s",
        parse_duration_s,
        "How long it stays loaded when idle; -1 is for ever.",
        example='"30m"',
    ),
    Field("context_length", whole(1), "A shorter context than its own, in tokens.", _NEW, "16384"),
    Field(
        "trust_remote_code", parse_switch, "Let the model's folder bring code of its own, and run it.", _NEW
    ),
    Field("options", parse_table, "Switches of the engine: { prefill_chunk = 512 }.", _NEW),
    Field("max_batch", whole(1), "Requests that it works on at once.", _NEW, "8"),
    Field("cache_bytes", parse_size_or_auto, "Its prefix cache.", _NEXT, '"512MiB"'),
    Field("temperature", number(0, 2), "Where a request has none; 0 is greedy.", example="0.6"),
    Field(
        "top_p", number(0, 1), "Where a request has none: the likeliest tokens of this share.", example="0.95"
    ),
    Field(
        "top_k", whole(-1, MOST_TOKENS), "Where a request has none: so many tokens; 0 is all.", example="20"
    ),
    Field("min_p", number(0, 1), "Where a request has none: tokens at least so likely.", example="0.05"),
    Field("repetition_penalty", number(0.01, 100), "Where a request has none; 1 is off.", example="1.05"),
    Field("presence_penalty", number(-2, 2), "Where a request has none; 0 is off.", example="0.5"),
    Field("frequency_penalty", number(-2, 2), "Where a request has none; 0 is off.", example="0.5"),
    Field(
        "max_tokens", whole(1, MOST_TOKENS), "The longest reply, where a request has none.", example="4096"
    ),
    Field(
        "chat_template_kwargs",
        parse_template_arguments,
        "Variables of its chat template; a request's own win.",
        example="{ enable_thinking = false }",
    ),
    Field(
        "system",
        parse_text,
        "The system message of chats that bring none.",
        example='"You answer in one sentence."',
    ),
    Field(
        "chat_stop_strings",
        parse_stop_strings,
        "In place of the server's.",
        example='["\\nHuman:"]',
    ),
    Field(
        "environment",
        parse_environment,
        "Variables of its worker's environment.",
        _NEW,
        '{ MLX_METAL_FAST_SYNCH = "1" }',
    ),
)
"""What a `[models."NAME"]` table may say."""
