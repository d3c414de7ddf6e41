"""`[models."NAME"]`: what may be said of one model, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxk.config.fields import MODEL_FIELDS, Effect
from mlxk.config.settings import ConfigError, ModelSettings, load_settings


def read(home: Path, table: str) -> ModelSettings:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(f"[models.a]\n{table}\n", encoding="utf-8")
    return load_settings().models["a"]


def test_everything_that_can_be_said_of_a_model(mlxk_home: Path) -> None:
    own = read(
        mlxk_home,
        """
max_batch = 4
cache = "64MiB"
temperature = 0
top_p = 0.9
top_k = 20
min_p = 0.05
repetition_penalty = 1.1
presence_penalty = -2
frequency_penalty = 2.0
max_tokens = 100
chat_template_kwargs = { enable_thinking = false, effort = { level = 2 } }
system = "Be short."
chat_stop_strings = []
environment = { MLX_X = "1", OMP_NUM_THREADS = 2 }
""",
    )
    assert own == ModelSettings(
        name="a",
        max_batch=4,
        cache_bytes=64 * 1024**2,
        temperature=0.0,
        top_p=0.9,
        top_k=20,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        max_tokens=100,
        chat_template_kwargs={"enable_thinking": False, "effort": {"level": 2}},
        system="Be short.",
        chat_stop_strings=(),
        environment={"MLX_X": "1", "OMP_NUM_THREADS": "2"},
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("temperature = 2.1", "a number from 0 to 2"),
        ('temperature = "0.5"', "a number from 0 to 2"),
        ("temperature = nan", "a number from 0 to 2"),
        ("temperature = true", "a number from 0 to 2"),
        ("top_p = -0.1", "a number from 0 to 1"),
        ("top_k = 1.5", "whole number from -1"),
        ("min_p = 2", "a number from 0 to 1"),
        ("repetition_penalty = 0", "a number from 0.01 to 100"),
        ("max_tokens = 0", "from 1"),
        ("max_batch = 0", "from 1 up"),
        ('cache = "much"', "is not a size"),
        ("chat_template_kwargs = 1", "not a table"),
        ("chat_template_kwargs = { messages = [] }", "an argument of ours"),
        ("chat_template_kwargs = { day = [2026-01-01] }", "as a text, in quotes"),
        ("system = ''", "not empty"),
        ("chat_stop_strings = 'x'", None),
        ("chat_stop_strings = ['']", "not a list of texts"),
        ("environment = { MLXK_PORT = '1' }", "MLXK_PORT is refused, it sets nothing in a worker"),
        ("environment = { PYTHONPATH = '/x' }", "PYTHONPATH is refused, it could keep the worker's Python"),
        ("environment = { HF_HUB_OFFLINE = '0' }", "set by every worker itself"),
        ("environment = { X = true }", 'write X = "..."'),
        ('environment = { "A B" = "1" }', "not a variable's name"),
        ("environment = { X = \"a\\u0000b\" }", 'write X = "..."'),
        ("environment = 'X=1'", "not a table"),
        ("context = 1000", "did you mean context_length?"),
        ("temp = 1", "did you mean temperature?"),
        ("seed = 1", "known are"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_by_line_and_key(mlxk_home: Path, line: str, words: str | None) -> None:
    if words is None:
        assert read(mlxk_home, line).chat_stop_strings == ("x",)
        return
    with pytest.raises(ConfigError) as caught:
        read(mlxk_home, line)
    message = str(caught.value)
    assert message.startswith(f"{mlxk_home / 'config.toml'}, line 2: [models.a] {line.split(' =')[0]}: ")
    assert words in message


def test_only_a_new_process_can_take_up_what_it_was_started_or_loaded_with() -> None:
    new = {one.key for one in MODEL_FIELDS if one.effect is Effect.NEW_PROCESS}
    at_start = {"environment"}
    at_load = {"path", "id", "context_length", "trust_remote_code", "options", "max_batch"}
    assert new == at_start | at_load


def test_the_api_accepts_what_the_configuration_accepts() -> None:
    """Sampling defaults have the bounds of the requests' fields."""
    from mlxk.api.schemas import MAX_STOP_CHARS, GenerationRequest
    from mlxk.config.parsers import LONGEST_STOP_STRING

    assert LONGEST_STOP_STRING == MAX_STOP_CHARS
    for one in MODEL_FIELDS:
        field: Any = GenerationRequest.model_fields.get(one.key)
        if field is None or one.key in ("keep_alive",):
            continue
        assert field.annotation is not None
        low = next((m.ge for m in _bounds(field) if getattr(m, "ge", None) is not None), None)
        high = next((m.le for m in _bounds(field) if getattr(m, "le", None) is not None), None)
        assert low is not None
        one.parse(low)
        with pytest.raises(ValueError, match="write a"):
            one.parse(low - 0.001 if isinstance(one.parse(low), float) else low - 1)
        if high is not None:
            one.parse(high)
            with pytest.raises(ValueError, match="write a"):
                one.parse(high + 1)


def _bounds(field: Any) -> list[Any]:
    return list(field.metadata)
