from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def mlxk_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and none of the user's MLXK_* variables."""
    for variable in [name for name in os.environ if name.startswith("MLXK_")]:
        monkeypatch.delenv(variable)
    home = tmp_path / "mlxk-home"
    monkeypatch.setenv("MLXK_HOME", str(home))
    return home
