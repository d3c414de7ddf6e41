"""Names of metrics follow Prometheus' rules, and the page and the dashboard use no other ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from mlxk.api.http_meter import HttpMeter
from mlxk.api.metric_families import ABORT_CAUSES, EVICTION_REASONS, Snapshot
from mlxk.supervisor.measures import ModelMeasures, PoolMeasures
from mlxk.supervisor.meters import Histogram, ModelMeter
from mlxk.supervisor.states import ModelState

DOCS = Path(__file__).parents[2] / "docs"
UNITS = ("seconds", "bytes")
ABBREVIATED = (
    "_ms",
    "_sec",
    "_secs",
    "_s",
    "_kb",
    "_mb",
    "_gb",
    "_kib",
    "_mib",
    "_gib",
    "_us",
    "_ns",
    "_pct",
)
NO_BASE_UNITS = ("milliseconds", "minutes", "hours", "kilobytes", "megabytes", "percent", "bits")
TYPES = ("gauge", "counter", "histogram", "summary")


def _model() -> ModelMeasures:
    meter = ModelMeter()
    meter.finishes["stop"] += 1
    numbers = dict.fromkeys(set(ModelMeasures.__dataclass_fields__) - {"name", "state", "meter"}, 1)
    return ModelMeasures(name='a "b"\\\n', state=ModelState.READY, meter=meter, **numbers)  # type: ignore[arg-type]


def _families() -> list[Metric]:
    http = HttpMeter()
    http.requests["GET", "/x", 200] = http.model_requests["a", "/x", 200] = 1
    http.duration_s["/x"] = Histogram((1.0,))
    pool = PoolMeasures(1.7e9, 1.0, 2, 3, True, (_model(),))
    return list(Snapshot(pool, http, "fake").collect())


FAMILIES = _families()
NAMES = {sample.name for family in FAMILIES for sample in family.samples}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_metric_passes_promtool_s_checks(family: Metric) -> None:
    """What `promtool check metrics` looks for."""
    name = family.name + ("_total" if family.type == "counter" else "")
    assert re.fullmatch(r"mlxk(_[a-z0-9]+)+", name)
    assert family.documentation
    assert family.documentation.endswith(".")
    assert (family.type == "counter") == name.endswith("_total")
    assert not family.name.endswith(("_total", "_bucket", "_count", "_sum", *ABBREVIATED))
    parts = name.split("_")
    assert not set(parts) & {*NO_BASE_UNITS, *TYPES}
    for unit in UNITS:
        assert unit not in parts or name.removesuffix("_total").endswith(unit), "the unit is the last word"
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    for label in labels:
        assert re.fullmatch(r"[a-z]+", label)
        assert label not in ("quantile", "le", "job", "instance")
    assert all(
        (sample.labels.get("le") is not None) == sample.name.endswith("_bucket") for sample in family.samples
    )


def test_every_cause_is_there_before_it_happens() -> None:
    """`rate` sees nothing of a series that begins with 1."""
    samples = [sample for family in FAMILIES for sample in family.samples]
    assert {s.labels["cause"] for s in samples if s.name == "mlxk_aborts_total"} == set(ABORT_CAUSES.values())
    reasons = {s.labels["reason"] for s in samples if s.name == "mlxk_model_evictions_total"}
    assert reasons == set(EVICTION_REASONS)
    finishes = {s.labels["finish"] for s in samples if s.name == "mlxk_generations_total"}
    assert finishes == {"stop", "length", "tool_calls"}


def test_the_page_s_queries_use_what_there_is() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    queries = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    used = set(re.findall(r"\bmlxk_\w+", " ".join(queries)))
    assert len(used) > 8
    assert used <= NAMES


# -------------------------------------------------------------------------- dashboard


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DOCS / "grafana" / "mlxk.json").read_text(encoding="utf-8"))
    return loaded


def _targets(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield from panel.get("targets", [])


def test_the_dashboard_has_what_an_import_needs(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None  # Grafana gives it one
    assert (dashboard["uid"], dashboard["title"]) == ("mlxk", "mlxk")
    assert dashboard["schemaVersion"] >= 30
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "instance", "model"}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["model"]["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 15
    for panel in dashboard["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_no_panel_lies_on_another(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_uses_only_metrics_and_labels_that_there_are(dashboard: dict[str, Any]) -> None:
    labels_of: dict[str, set[str]] = {}
    for family in FAMILIES:
        for sample in family.samples:
            labels_of.setdefault(sample.name, set()).update(sample.labels, {"instance", "job"})
    queries = [target["expr"] for target in _targets(dashboard)]
    queries += [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    assert len(queries) > 20
    for query in queries:
        used = re.findall(r"\bmlxk_\w+", query)
        assert used
        assert set(used) <= NAMES, query
        known = set.intersection(*(labels_of[name] for name in used))
        matched = set(re.findall(r"(\w+)(?:=~|=)\"", query))
        grouped = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")
        }
        assert matched | grouped <= known, query
        assert query.count("(") == query.count(")")
        # A counter without rate or increase shows how long the server runs, and nothing else.
        for name in used:
            if name.endswith(("_total", "_bucket", "_sum", "_count")):
                assert re.search(rf"(rate|increase)\({name}\b", query), query
