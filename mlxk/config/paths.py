"""Where mlxk keeps its own files. Read from the environment at every call, never at import,
so that a test (or a service file) that sets MLXK_HOME is always obeyed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def home(environ: Mapping[str, str] | None = None) -> Path:
    """$MLXK_HOME, else ~/.mlxk. Absolute; it need not exist. Raises OSError if the user has no home."""
    chosen = (os.environ if environ is None else environ).get("MLXK_HOME", "")
    if chosen:
        return absolute(chosen)
    try:
        return absolute(Path.home()) / ".mlxk"  # absolute: HOME may be anything
    except RuntimeError as error:  # no HOME, and a user id (of a container, say) that has no name
        raise OSError("there is no home directory: set MLXK_HOME to a directory for mlxk's files") from error


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """$MLXK_CONFIG, else config.toml in the home."""
    chosen = (os.environ if environ is None else environ).get("MLXK_CONFIG", "")
    return absolute(chosen) if chosen else home(environ) / "config.toml"


def instance_file() -> Path:
    """Says which server is running."""
    return home() / "instance.json"


def lock_file() -> Path:
    """Held (flock) by the running server."""
    return home() / "lock"


def measured_file() -> Path:
    """What models were seen to take of the memory, and how long they loaded."""
    return home() / "measured.json"


def log_dir() -> Path:
    """One log file per worker, and the detached server's."""
    return home() / "logs"


def models_dir() -> Path:
    """Local models: one folder each, named NAME or ORG/NAME."""
    return home() / "models"


def absolute(path: str | Path, base: Path | None = None) -> Path:
    """`path` with ~ expanded; a relative one is taken from `base` (the current folder if None)."""
    return Path(os.path.abspath(os.path.join(base or "", os.path.expanduser(path))))
