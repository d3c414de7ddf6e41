"""The note of a model's last crash: one small JSON file per model, which outlives the server."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from mlxk.config.log_files import crash_file

Crash = dict[str, Any]
"""model, worker, pid, started_at, ended_at (ISO 8601, UTC), state, exit ({code, signal, step}), reason,
requests (how many it took with it), lines (the last of its output), version."""
MAX_BYTES = 1024 * 1024


def write_crash(folder: Path, crash: Crash) -> None:
    """Replaces the model's note in one step. Raises OSError."""
    path = crash_file(folder, crash["model"])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            json.dump(crash, file, ensure_ascii=True, indent=1)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def read_crash(folder: Path, model: str) -> Crash | None:
    """None if there is none that can be read."""
    return _read(crash_file(folder, model))


def newest_crash(folder: Path) -> Crash | None:
    """Of all models."""
    crashes = [crash for path in folder.glob("*.crash.json") if (crash := _read(path)) is not None]
    return max(crashes, key=lambda crash: str(crash.get("ended_at")), default=None)


def _read(path: Path) -> Crash | None:
    try:
        with path.open("rb") as file:
            crash = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return crash if isinstance(crash, dict) and isinstance(crash.get("model"), str) else None
