"""The metrics of all processes as one page: each sample gets the labels `server` and `process`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge(pages: Mapping[tuple[str, str], str]) -> bytes:
    """Text pages by (server, process) into one; a page that cannot be parsed is left out."""
    families: dict[str, Metric] = {}
    for (server, process), text in sorted(pages.items()):
        try:
            parsed = list(text_string_to_metric_families(text))
        except ValueError:
            continue
        for family in parsed:
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "server": server, "process": process}
                merged.samples.append(Sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given([families[name] for name in sorted(families)]))
    return generate_latest(registry)
