"""A worker's share of the machine: MLX's own limits, and a prefix cache that gives memory back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from mlxk.workers import mlx_adapter as adapter
from mlxk.workers.protocol import Load
from tests.unit.workers.engines import RecordingEngine, encode, run_one

GB = 1 << 30
LONG = "Once upon a time there was a machine that counted. " * 20


def limits() -> tuple[int, int]:
    """Memory and cache limits in force. MLX tells the old one to whoever sets a new one."""
    memory, cache = mx.set_memory_limit(GB), mx.set_cache_limit(GB)
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)
    return memory, cache


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    memory, cache = limits()
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


def load(engine: RecordingEngine, path: Path, memory_bytes: int | None) -> None:
    engine.load(Load(path.name, str(path), 1 << 26, memory_bytes), lambda done, total: None)


def test_a_loaded_model_keeps_to_its_share(model_paths: dict[str, Path]) -> None:
    engine = RecordingEngine()
    load(engine, model_paths["llama"], 3 * GB)
    assert limits() == (3 * GB, 3 * GB // 4)
    engine.trim_cache(1 << 20, 2 * GB)
    assert limits() == (2 * GB, 2 * GB // 4)
    engine.trim_cache(1 << 20)
    assert limits() == (2 * GB, 2 * GB // 4)  # only the cache was meant
    engine.close()


def test_without_a_share_mlx_decides(model_paths: dict[str, Path]) -> None:
    before = limits()
    engine = RecordingEngine()
    load(engine, model_paths["llama"], None)
    assert limits() == before
    engine.close()


def test_a_load_that_fails_on_its_way_can_be_closed(tmp_path: Path, model_paths: dict[str, Path]) -> None:
    """The worker is told to end then; an error would look like a crash."""
    folder = tmp_path / "odd"
    shutil.copytree(model_paths["llama"], folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": "five"}')
    engine = RecordingEngine()
    with pytest.raises(TypeError):
        engine.load(Load("odd", str(folder), 0), lambda *_: None)
    assert hasattr(engine, "_model"), "it failed too early for this test"
    engine.close()
    engine.close()


def test_on_metal_the_wired_limit_is_the_share_and_is_set_after_the_batch_set_its_own(
    model_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metal's part is played: there is none on Linux."""
    calls: list[object] = []
    make_batch = adapter.StepGenerator.__init__

    def make(self: object, *args: object, **options: object) -> None:
        calls.append("batch")
        make_batch(self, *args, **options)

    monkeypatch.setattr(adapter.StepGenerator, "__init__", make)
    monkeypatch.setattr(adapter, "working_set_bytes", lambda: 8 * GB)
    monkeypatch.setattr(adapter.mx, "set_wired_limit", calls.append)
    engine = RecordingEngine()
    load(engine, model_paths["llama"], 3 * GB)
    assert calls == ["batch", 3 * GB]
    engine.trim_cache(1 << 20, 12 * GB)
    assert calls[2:] == [8 * GB]  # never more than Metal recommends
    engine.close()


def test_a_trim_gives_the_memory_back(new_engine: Callable[..., RecordingEngine]) -> None:
    engine = new_engine("llama")
    for i in range(8):
        run_one(engine, tokens=[i, *encode(engine, LONG)], max_tokens=4)
    held, before = engine.stats().cache.bytes, mx.get_active_memory()
    assert held > 0
    freed = engine.trim_cache(held // 4)
    assert engine.stats().cache.bytes <= held // 4
    assert before - mx.get_active_memory() >= held // 2
    assert freed >= held // 2
    run_one(engine, tokens=[99, *encode(engine, LONG)], max_tokens=4)
    assert engine.stats().cache.bytes <= held // 4, "the smaller budget did not last"
