"""Asks mlx_lm itself whether it can build models: `python -P -m mlxk.store.architecture_probe`.

A process of its own, because the import takes seconds and loads MLX, because a model's module may do anything
while it is imported (mlx_lm's olmo ends the process), and because MLX belongs into no front. It reads a JSON
list of config.json's from stdin and writes a JSON list of null or "what mlx_lm said" to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT_S = 120.0
_LONGEST_ANSWER = 300


class Probe:
    """The process. Started at once, so that its imports run while the caller reads headers."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "mlxk.store.architecture_probe"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(OSError, ValueError):
            self._process.communicate()

    def ask(self, configs: Sequence[Mapping[str, Any]]) -> list[str | None] | None:
        """For each why mlx_lm cannot build it, None if it can; None in all if there is no answer (MLX cannot
        be imported here, or it took longer than LIMIT_S)."""
        if not configs:
            return []
        try:
            answer, _ = self._process.communicate(json.dumps(configs).encode(), timeout=LIMIT_S)
            # Modules may print: the answer is the last line.
            reasons = json.loads(answer.splitlines()[-1])
        except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
            return None
        return reasons if isinstance(reasons, list) and len(reasons) == len(configs) else None


def refusal(config: Mapping[str, Any]) -> str | None:
    """What mlx_lm says against this configuration, None for nothing. Imports mlx_lm."""
    from mlx_lm import utils

    try:
        _, arguments = utils._get_classes(dict(config))
        arguments.from_dict(dict(config))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module of a model's may even exit
        return f"{type(error).__name__}: {error}"[:_LONGEST_ANSWER]
    return None


def main() -> None:
    import mlx_lm.utils  # noqa: F401  # seconds, while the caller is still busy

    configs = json.loads(sys.stdin.buffer.read())
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115  # modules may print at import
    reasons = [refusal(config) for config in configs]
    stdout.write(json.dumps(reasons) + "\n")
    stdout.flush()


if __name__ == "__main__":
    main()
