"""What the next load of a model is expected to take: asked by the pool before it makes room, and by
`mlxk show`, so that both say the same."""

from __future__ import annotations

from mlxk.config.settings import Settings
from mlxk.store.catalog import ModelRef
from mlxk.supervisor import costs
from mlxk.supervisor.costs import Estimate
from mlxk.supervisor.measured import Kind, MeasuredPeaks


def forecast(ref: ModelRef, settings: Settings, limit_bytes: int, measured: MeasuredPeaks) -> Estimate:
    """`limit_bytes`: what all models together may take, of which the prefix cache's budget is a part."""
    kind = kind_of(ref, settings, limit_bytes)
    return costs.estimate(
        ref.size_bytes, kind.cache_bytes, measured.working_bytes(kind), measured.load_s(kind)
    )


def kind_of(ref: ModelRef, settings: Settings, limit_bytes: int) -> Kind:
    own = settings.models.get(ref.name)
    configured = settings.cache_bytes if own is None or own.cache_bytes is None else own.cache_bytes
    cache_bytes = costs.cache_budget_bytes(configured, limit_bytes)
    identity = ref.revision or f"{ref.modified_at:.0f}"
    return Kind(ref.name, identity, ref.size_bytes, settings.engine, cache_bytes)
