"""`mlxk list` with 200 models, beside the least that a Python program of our kind costs.

    python -m bench.listing [--models 200] [--runs 7]

Writes the models (headers of a usual size, small tensors) into a temporary place and prints medians of wall
and CPU time: of `python -c "import click, zmq, msgspec"`, of the first `list` ever (nothing is remembered)
and of every later one. Compiled modules are kept in that place too, as an installed package keeps them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TYPES = ("qwen3", "llama", "gemma3_text", "phi3", "qwen2", "deepseek_v3", "gpt_oss", "lfm2")
BASE = (sys.executable, "-c", "import click, zmq, msgspec")
LIST = (sys.executable, "-P", "-m", "mlxk", "list")


def write_models(hub: Path, count: int) -> None:
    """Models of 240 and 960 tensors, in one and in four shards, with a tokenizer of 150,000 tokens."""
    vocabulary = ",".join(f'"t{n}":{n}' for n in range(150_000))
    tokenizer = f'{{"added_tokens":[],"normalizer":null,"model":{{"vocab":{{{vocabulary}}}}}}}'
    for n in range(count):
        name = f"mlx-community/Model-{n:03d}-{TYPES[n % len(TYPES)]}-4bit"
        revision = hashlib.sha1(name.encode()).hexdigest()
        repo = hub / f"models--{name.replace('/', '--')}"
        snapshot = repo / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(revision)
        quantization = {"bits": 4, "group_size": 64}
        config = {"model_type": TYPES[n % len(TYPES)], "quantization": quantization}
        (snapshot / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32768}))
        (snapshot / "tokenizer.json").write_text(tokenizer)
        (snapshot / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
        _write_shards(snapshot, 4 if n % 2 else 1)


def _write_shards(folder: Path, count: int) -> None:
    weight_map: dict[str, str] = {}
    total = 0
    for n in range(count):
        name = f"model-{n + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        header: dict[str, object] = {}
        at = 0
        for layer in range(80):
            for end, dtype, shape, size in (
                ("weight", "U32", [64, 16], 4096),
                ("scales", "BF16", [64, 2], 256),
                ("biases", "BF16", [64, 2], 256),
            ):
                key = f"model.layers.{n}.{layer}.self_attn.q_proj.{end}"
                header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
                weight_map[key] = name
                at += size
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
        total += at
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def measure(
    command: Sequence[str], runs: int, before: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Medians of wall and CPU seconds."""
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(runs):
        before()
        used, began = _children_s(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - began)
        cpus.append(_children_s() - used)
    return statistics.median(walls), statistics.median(cpus)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        os.environ |= {"MLXK_HOME": str(home), "HF_HOME": str(Path(place) / "hf")}
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(place) / "pyc")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        write_models(Path(place) / "hf" / "hub", options.models)
        time.sleep(3)  # what changed less than two seconds ago is not remembered
        rows = [
            ("import click, zmq, msgspec", measure(BASE, options.runs)),
            (
                f"list, {options.models} models, the first time",
                measure(LIST, 3, lambda: (home / "inspections.json").unlink(missing_ok=True)),
            ),
            (f"list, {options.models} models", measure(LIST, options.runs)),
        ]
    for name, (wall_s, cpu_s) in rows:
        print(f"{name:40} {wall_s:6.3f} s   {cpu_s:6.3f} s of CPU")


if __name__ == "__main__":
    main()
