"""`mlxk convert NAME --repair`, which `mlxk health` sends people to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxk.store.inspection import inspect_model
from mlxk.store.shard_index import repair_index
from tests.unit.store.damage import INDEX_REPAIR, copy_tiny
from tests.unit.store.sick_models import SICK

REPAIRABLE = sorted(name for name, sickness in SICK.items() if sickness.advice == INDEX_REPAIR)


@pytest.mark.parametrize("name", REPAIRABLE)
def test_what_health_calls_repairable_is_repaired(tmp_path: Path, name: str) -> None:
    model = copy_tiny(tmp_path / "model")
    SICK[name].damage(model)
    assert SICK[name].kind in [fault.kind for fault in inspect_model(model).faults]
    assert not repair_index(model).was_right
    assert inspect_model(model).faults == ()
    assert repair_index(model).was_right


def test_there_are_such_faults() -> None:
    assert len(REPAIRABLE) >= 5
