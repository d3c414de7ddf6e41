"""A copy of the built-in model for each fault that `mlxk health` knows, damaged in just that way."""

from __future__ import annotations

from tests.unit.store.damage import Sickness
from tests.unit.store.sick_files import SICK_FILES
from tests.unit.store.sick_weights import SICK_WEIGHTS
from tests.unit.store.unsupported_models import UNSUPPORTED

SICK: dict[str, Sickness] = {**SICK_FILES, **SICK_WEIGHTS, **UNSUPPORTED}
"""By what happened to it."""
