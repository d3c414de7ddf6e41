"""`GET /metrics`, read by prometheus_client's own parser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.api.client import Client

Series = tuple[str, tuple[tuple[str, str], ...]]
GROWING = ("_total", "_bucket", "_count", "_sum")


class Scrape:
    """One scrape. `families` by name as the parser has it (a counter's without `_total`)."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self.samples: dict[Series, float] = {}
        for family in self.families.values():
            for sample in family.samples:
                series = (sample.name, tuple(sorted(sample.labels.items())))
                assert series not in self.samples, f"{series} is there twice"
                self.samples[series] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """The sum of all series of that name with these labels, and whatever others."""
        wanted = set(labels.items())
        return sum(v for (one, has), v in self.samples.items() if one == name and wanted <= set(has))

    def by(self, name: str, label: str, **labels: str) -> Mapping[str, float]:
        """The series of that name with these labels that are not 0, by one more label."""
        found: dict[str, float] = {}
        for (one, has), value in self.samples.items():
            if one == name and value and set(labels.items()) <= set(has):
                key = dict(has)[label]
                found[key] = found.get(key, 0) + value
        return found

    def labels_of(self, name: str) -> set[frozenset[str]]:
        return {frozenset(label for label, _ in has) for one, has in self.samples if one == name}

    def assert_nothing_went_back(self, earlier: Scrape) -> None:
        for series, before in earlier.samples.items():
            if series[0].endswith(GROWING):
                assert self.samples.get(series, -1) >= before, series


def scrape(client: Client) -> Scrape:
    reply = client.get("/metrics")
    assert reply.status == 200, reply.body
    return Scrape(text_string_to_metric_families(reply.body.decode()))
