"""The conversion itself, in a process of its own: `python -m mlxk.store.mlx_conversion`.

The store's only module that touches MLX. It is told what to do by one line of JSON on stdin, which stays open
while somebody waits for the result: when it closes, nobody does, and the process ends. On the last line of
stdout it says how it went.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> None:
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ["HF_HUB_OFFLINE"] = "1"  # what is not on the disk was never asked for
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is for the log
    try:
        _convert(task)
        answer: dict[str, Any] = {"ok": True}
    except MemoryError as error:
        answer = {"ok": False, "type": "insufficient_memory", "message": str(error) or "out of memory"}
    except Exception as error:
        answer = {"ok": False, "type": "conversion_failed", "message": f"{type(error).__name__}: {error}"}
    report.write(json.dumps(answer) + "\n")
    report.flush()
    os._exit(0)


def _convert(task: dict[str, Any]) -> None:
    from mlx_lm.convert import convert

    conversion = task["conversion"]
    convert(
        task["source"],
        mlx_path=task["target"],
        quantize=conversion["mode"] is not None,
        q_bits=conversion["bits"],
        q_group_size=conversion["group_size"],
        q_mode=conversion["mode"] or "affine",
        dtype=conversion["dtype"],
        dequantize=conversion["dequantize"],
        trust_remote_code=task["trust_remote_code"],
    )
    _check(Path(task["target"]), conversion)


def _check(target: Path, conversion: dict[str, Any]) -> None:
    """mlx_lm skips layers that do not fit the group size: if all were skipped, nothing was quantized."""
    if conversion["mode"] is None:
        return
    import mlx.core as mx

    for file in target.glob("model*.safetensors"):
        if any(name.endswith(".scales") for name in mx.load(str(file))):
            return
    raise ValueError(
        f"no layer's width is a multiple of the group size {conversion['group_size']}, so that nothing was "
        "quantized; take a smaller group size"
    )


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
