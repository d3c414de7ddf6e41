"""The file that `mlxk config init` writes: every key with its default and a sentence, all commented out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mlxk.config.fields import MODEL_FIELDS, SERVER_FIELDS, Effect, Field
from mlxk.config.model_settings import ModelSettings
from mlxk.config.settings import Settings
from mlxk.config.written import as_toml

_WIDTH = 100
_HEAD = """\
# Settings of mlxk. Every line that begins with "#key" shows a default: remove the # to change it.
# Flags win over MLXK_* variables (MLXK_PORT for port), these over this file. `mlxk config` shows what is in
# effect and where it comes from; `mlxk reload` brings an edit into effect, if nothing else is said here.

[server]
"""
_MODELS = """
# A table for each model of which something is to be said. Its name is the model's, or an alias of your
# choice with `id` or `path`. What a request says itself wins over these.
#[models."mlx-community/Qwen3-0.6B-4bit"]
"""


def commented_file() -> str:
    parts = [_HEAD]
    defaults = Settings()
    for one in SERVER_FIELDS:
        parts += _lines(one, as_toml(one, getattr(defaults, one.name)))
    parts.append(_MODELS)
    model = ModelSettings("")
    for one in MODEL_FIELDS:
        parts += _lines(one, as_toml(one, getattr(model, one.name)))
    return "".join(parts)


def _lines(one: Field, default: str | None) -> Iterator[str]:
    about = one.about
    if one.effect is not Effect.AT_ONCE:
        about += f" (A change: {one.effect.value}.)"
    yield "\n"
    for line in textwrap.wrap(about, _WIDTH - 2, break_on_hyphens=False, break_long_words=False):
        yield f"# {line}\n"
    if one.example:
        yield f"#{one.key} = {one.example}\n"
    else:
        yield f"#{one.key} = {default}\n"
