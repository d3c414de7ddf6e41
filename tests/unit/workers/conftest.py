"""Generated cases: the same ones in every run, and no verdict by the clock of a busy machine.

`MLXK_HYPOTHESIS_EXAMPLES=2000 pytest tests/unit/workers` looks further, at random.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import settings

from mlxk.store.builtin import builtin_path
from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.mlx_adapter import LoadedModel
from tests.models import MODEL_KINDS, make_random_model
from tests.unit.workers.engines import RecordingEngine, load_engine

_examples = int(os.environ.get("MLXK_HYPOTHESIS_EXAMPLES", "0"))
settings.register_profile(
    "workers", deadline=None, database=None, derandomize=not _examples, max_examples=_examples or 100
)
settings.load_profile("workers")


@pytest.fixture(scope="package", autouse=True)
def no_kernel_is_compiled() -> Iterator[None]:
    """On a CPU `mx.compile` calls the C++ compiler for each new kernel: a minute in all, for nothing here."""
    if mx.default_device() != mx.Device(mx.cpu):
        yield
        return
    os.environ["MLX_DISABLE_COMPILE"] = "1"
    mx.disable_compile()
    yield
    del os.environ["MLX_DISABLE_COMPILE"]
    mx.enable_compile()


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in model and a random one of every kind, by name."""
    folder = tmp_path_factory.mktemp("models")
    return {"tiny": builtin_path(), **{kind: make_random_model(folder / kind, kind) for kind in MODEL_KINDS}}


@pytest.fixture(scope="session")
def bare_engines(model_paths: dict[str, Path]) -> Callable[[str], RecordingEngine]:
    """Engines that remember nothing: what a request would say if it were the first. One per model."""
    return cache(lambda name: load_engine(model_paths[name], cache_bytes=0))


@pytest.fixture(scope="session")
def read_once() -> Callable[..., LoadedModel]:
    """What `read_model` gives, the same for all engines of a path: nothing changes weights or a tokenizer.
    (Some hundred tests have an engine, and to read a model takes 30 to 40 ms of CPU.)"""
    known: dict[str, LoadedModel] = {}
    read = adapter.read_model

    def read_model(path: str, **options: Any) -> LoadedModel:
        if path not in known:
            known[path] = read(path, **options)
        return known[path]

    return read_model


@pytest.fixture
def new_engine(
    model_paths: dict[str, Path], read_once: Callable[..., LoadedModel]
) -> Iterator[Callable[..., RecordingEngine]]:
    """Makes engines that end with the test."""
    made: list[RecordingEngine] = []

    def make(name: str, **options: Any) -> RecordingEngine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(adapter, "read_model", read_once)
            made.append(load_engine(model_paths[name], **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def tiny(new_engine: Callable[..., RecordingEngine]) -> RecordingEngine:
    return new_engine("tiny")
