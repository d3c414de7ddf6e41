"""One server with real models for the tests that do no harm to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.e2e.openai_sdk import KINDS, Sdk, opened
from tests.models import make_random_model
from tests.server import Server, add_tiny_copy, standing

SHORT_CONTEXT = 96
TUNED = """
[models.tuned]
id = "tiny"
max_batch = 2
cache = "3MB"
temperature = 1.5
top_k = 40
max_tokens = 12
chat_template_kwargs = { enable_thinking = false }
system = "You are brief."
chat_stop_strings = ["\\n4"]
environment = { TUNED_WORKER = "yes" }
"""
STRICT_TEMPLATE = """{%- if messages[0].role != 'user' -%}
{{- raise_exception('This model wants a user message first.') -}}
{%- endif -%}
"""


@pytest.fixture(scope="package")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With `tiny`, `tiny-copy`, `tiny-short` of a small context, `tuned`, which is `tiny` with all that a
    table can say, `tiny-strict`, whose template refuses some messages, and `random`, whose caches rotate."""
    home = tmp_path_factory.mktemp("real")
    add_tiny_copy(home, "tiny-copy")
    add_tiny_copy(home, "tiny-short")
    (home / "config.toml").write_text(f"[models.tiny-short]\ncontext_length = {SHORT_CONTEXT}\n{TUNED}")
    add_random_model(home, "random")
    strict = add_tiny_copy(home, "tiny-strict") / "chat_template.jinja"
    strict.write_text(STRICT_TEMPLATE + strict.read_text(encoding="utf-8"), encoding="utf-8")
    # (test_hot_swap.py and test_crashes.py have servers with a spare worker.)
    with standing(Server(home, env={"MLXK_SPARE": "0"})) as server:
        yield server


@pytest.fixture
def client(real_server: Server) -> Client:
    return Client(real_server.url)


@pytest.fixture(params=KINDS)
def sdk(real_server: Server, request: pytest.FixtureRequest) -> Iterator[Sdk]:
    """The `openai` client, sync and then async."""
    with opened(request.param, real_server.url) as sdk:
        yield sdk


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """For a server of the test's own."""
    return tmp_path / "home"


def add_random_model(home: Path, name: str) -> Path:
    """Another architecture: gemma3, whose caches rotate. With a context long enough for a long stream."""
    folder = make_random_model(home / "models" / name, "sliding_window")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 32768
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
