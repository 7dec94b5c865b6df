"""The metrics of a running daemon, as `prometheus_client` wants them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .reading import Running, Snapshot
from .table import METRICS, PREFIX, Metric


def registry_of(
    running: Callable[[], Running],
    interface_drops: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
) -> CollectorRegistry:
    """A registry of all METRICS. A reload changes what is running, so it is asked for at each scrape.

    Args:
        interface_drops: interface → what its driver counts, such as `rx_missed_errors`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_BoardCollector(lambda: Snapshot(*running(), interface_drops(), time.monotonic_ns())))
    return registry


class _BoardCollector(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Family]:
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        snapshot = self._snapshot()
        for metric in METRICS:
            family: Any = _family(metric)  # `add_metric` differs by kind
            for labels, value in metric.read(snapshot):
                if metric.kind == "histogram":
                    family.add_metric(labels, _buckets(*value[:2]), float(value[2]))
                elif metric.kind == "info":
                    family.add_metric((), dict(zip(metric.labels, labels, strict=True)))
                else:
                    family.add_metric(labels, float(value))
            yield family


def _family(metric: Metric) -> Family:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(name, metric.help, labels=metric.labels)
    if metric.kind == "histogram":
        return HistogramMetricFamily(name, metric.help, labels=metric.labels)
    return InfoMetricFamily(name, metric.help)


def _buckets(ends: Iterable[float], counts: Any) -> list[tuple[str, float]]:
    """Upper end → how many were below, from counts of each bucket by itself."""
    names = [*map(floatToGoString, ends), "+Inf"]
    return list(zip(names, map(float, counts.cumsum()), strict=True))
