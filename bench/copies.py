"""A model in other places: under several names, in a hub's cache, for an older mlx-lm."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def copies_of(folder: Path, count: int) -> Iterator[list[Path]]:
    """Real copies: hard links would share what a system keeps per file."""
    with tempfile.TemporaryDirectory(prefix="mlxk-bench-") as root:
        copies = [Path(root) / f"{folder.name}-{letter}" for letter in "abcdefgh"[:count]]
        for copy in copies:
            shutil.copytree(folder, copy)
        yield copies


def add_to_hub_cache(hub: Path, name: str, folder: Path) -> None:
    """The folder as the hub's cache would hold it."""
    repo = hub / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    with_older_config(snapshot, folder)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)


def with_older_config(target: Path, folder: Path) -> None:
    """The model, for mlx-lm 0.31.3: it does not read `rope_parameters`."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    for key, value in config.get("rope_parameters", {}).items():
        config.setdefault(key, value)
    (target / "config.json").write_text(json.dumps(config))
