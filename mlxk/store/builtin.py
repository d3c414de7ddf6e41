"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

BUILTIN_NAME = "tiny"


def builtin_path() -> Path:
    """Folder of the built-in model (package data; how it was made: tools/tiny/)."""
    return Path(__file__).parent / "tiny"
