"""A server with the fake engine and one with real models, for requests that nobody in his senses would send.

`MLXK_FUZZ_EXAMPLES=500 pytest -m soak tests/fuzz` looks further, at random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.target import Target
from tests.server import Server, add_fake_model, add_tiny_copy, standing

LONG_EXAMPLES = int(os.environ.get("MLXK_FUZZ_EXAMPLES", "300"))

settings.register_profile(
    "fuzz",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")

_ENV = {"MLXK_SPARE": "0", "MLXK_MAX_BODY": str(256 * 1024), "MLXK_MAX_MODELS": "2"}


@pytest.fixture(scope="package", params=["fake", "mlx"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp(f"fuzz-{request.param}")
    if request.param == "fake":
        add_fake_model(home, "org/other")
    else:
        add_tiny_copy(home, "org/other")
        # A short context: an answer without `max_tokens` is soon at its end.
        models = ("tiny", "org/other")
        limits = [f'[models."{name}"]\ncontext_length = 128\n' for name in models]
        (home / "config.toml").write_text("\n".join(limits))
    with standing(Server(home, env={**_ENV, "MLXK_ENGINE": request.param})) as server:
        made = Target(server)
        yield made
        print(f"\nfuzz: {made.n_sent} requests to the {request.param} engine: {made.summary()}")
