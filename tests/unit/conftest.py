"""Generated cases: no verdict by the clock of a busy machine (Hypothesis' own limit is 200 ms a case)."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
