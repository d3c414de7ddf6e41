"""A home with a healthy model and some sick ones, as files."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.store.damage import copy_tiny
from tests.unit.store.sick_models import SICK


def write_sick_models(home: Path, *names: str) -> None:
    """Local models "sick/NAME" (blanks become dashes), each with the fault of that name."""
    for name in names:
        folder = home / "models" / "sick" / name.replace(" ", "-")
        folder.parent.mkdir(parents=True, exist_ok=True)
        SICK[name].damage(copy_tiny(folder))


def write_broken_download(name: str) -> Path:
    """A repository in the hub's cache that has a part of a file and no snapshot."""
    repo = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True)
    part = repo / "blobs" / "abc.incomplete"
    part.write_bytes(bytes(2000))
    os.utime(part, (1, 1))
    return repo
