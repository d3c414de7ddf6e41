"""What a worker's process is made of: no torch, nothing downloaded, little memory, a quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

RSS_LIMIT = 250 * 2**20
"""Measured: 80 MB without torch, 570 MB with it."""

IMPORT_ENGINE = """
import json, os, psutil, sys, time
began = time.process_time()
from mlxk.workers.mlx_engine import MlxEngine
used = time.process_time() - began
rss = psutil.Process().memory_info().rss  # not ru_maxrss: a child begins with its parent's
from mlxk.store.builtin import builtin_path
from mlxk.workers.protocol import Generate, Load
engine = MlxEngine()
engine.load(Load("tiny", str(builtin_path()), 1 << 20), lambda done, total: None)
engine.submit(Generate("a", messages=[{"role": "user", "content": "Hello"}], max_tokens=2))
while not engine.idle:
    engine.step()
print(json.dumps({"rss": rss, "cpu_s": used, "modules": sorted(sys.modules), "env": dict(os.environ)}))
"""

SAMPLE = """
import json, sys
import mlx.core as mx
from mlxk.workers.protocol import Sampling
from mlxk.workers.sampling import Samplers
samplers = Samplers(640, {})
logprobs = mx.random.normal((1, 640), key=mx.random.key(1))
for seed in (None, 3):
    sampling = Sampling(temperature=0.8, top_p=0.9, min_p=0.01, top_k=40, seed=seed)
    mx.eval(samplers.sampler(sampling)(logprobs))
print(json.dumps("sampled"))
"""


def python(code: str, **environment: str) -> Any:
    """What `code` printed last, as JSON."""
    kept = {name: value for name, value in os.environ.items() if name != "MLX_DISABLE_COMPILE"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def poisoned_path(tmp_path: Path) -> Path:
    """A path with packages that a user may have and that a worker must not import."""
    for name in ("torch", "tensorflow", "jax", "flax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).write_text({name!r})\n"
            "__version__ = '9.9.9'\n"
        )
        info = tmp_path / f"{name}-9.9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9.9\n")
    return tmp_path


def test_a_worker_imports_no_torch_and_stays_small_and_offline(poisoned_path: Path) -> None:
    found = python(IMPORT_ENGINE, PYTHONPATH=str(poisoned_path))
    assert not (poisoned_path / "imported").exists()
    assert "mlx_lm.generate" in found["modules"]
    assert not [m for m in found["modules"] if m.startswith(("torch.", "tensorflow.", "jax.", "fastapi"))]
    assert found["rss"] < RSS_LIMIT
    assert found["env"]["HF_HUB_OFFLINE"] == "1"
    print(f"worker: {found['rss'] / 2**20:.0f} MiB, {found['cpu_s']:.2f} s of CPU to import")


def test_the_poison_would_be_seen(poisoned_path: Path) -> None:
    python("import json, torch; print(json.dumps(1))", PYTHONPATH=str(poisoned_path))
    assert (poisoned_path / "imported").exists()


def test_the_protocol_and_the_fake_engine_load_no_mlx() -> None:
    code = (
        "import json, sys; import mlxk.workers.protocol, mlxk.workers.fake_engine, mlxk.workers.loop; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    modules = set(python(code))
    assert not modules & {"mlx", "mlx.core", "mlx_lm", "transformers", "tokenizers"}


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="only a CPU's kernels need a compiler")
def test_sampling_on_a_cpu_does_not_stop_to_compile(tmp_path: Path) -> None:
    """The C++ compiler takes seconds for it, inside of the step that all requests share."""
    assert python(SAMPLE, TMPDIR=str(tmp_path)) == "sampled"
    assert list(tmp_path.rglob("*.cpp")) == []
