"""What representations cost, measured on their compiled classes; packets are parsed once and used for all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trafficrefinery.config import parse_config
from trafficrefinery.costs.measure.generated_traffic import traffic, write_traffic
from trafficrefinery.costs.profiling import Costs, Packets, join, measure, record
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import TraceError, UsageError
from trafficrefinery.system.progress import Progress, silent

from .explored_tables import Sources
from .memo import Memo
from .space import Sampling
from .variants import Json, collecting, of_prefixes, only_services_of

GENERATED = ("198.18.0.0/15", "2001:db8::/32")
"""The servers of generated packets (RFC 2544, RFC 3849)."""
_MOST_PACKETS = 300_000
_MOST_TRACES = 20


class CostMeter:
    """Measures each set of classes, interval and number of packets once.

    Args:
        trace: to measure on; None: the first packets of some of the labelled traces, or generated ones.
    """

    def __init__(self, sources: Sources, trace: Path | None, folder: Path, memo: Memo) -> None:
        self._config, self._memo, self._folder = sources.config, memo, folder
        self._unit = sources.unit
        self._traces = [trace] if trace is not None else _spread(sources.traces)
        self._packets: Packets | None = None

    @property
    def measured_on(self) -> str:
        """For people."""
        return ", ".join(path.name for path in self._traces) or "generated packets"

    def state_bytes(self, classes: tuple[str, ...], source: Sampling) -> int:
        """Of one flow, of the fused classes."""
        return max(profile.state_dtype().itemsize for profile in self._plan(classes, source).profiles)

    def __call__(
        self, wanted: Iterable[tuple[tuple[str, ...], Sampling]], progress: Progress = silent
    ) -> dict[tuple[tuple[str, ...], Sampling], Costs]:
        """Costs of sets of classes, one after the other, so that none disturbs another."""
        found = {}
        for classes, source in sorted(set(wanted), key=str):
            key = json.dumps([list(classes), *source])
            if key not in self._memo:
                progress(f"costs of {', '.join(classes)}, every {source}")
                plan = self._plan(classes, source)
                self._memo.add(key, measure(plan, self._recorded(plan))._asdict())
            found[classes, source] = Costs(**self._memo[key])
        return found

    def _plan(self, classes: tuple[str, ...], source: Sampling) -> Plan:
        content: Json = only_services_of(
            self._config, self._unit, collecting(self._config, classes, source, self._unit)
        )
        if not self._traces:
            content = of_prefixes(content, GENERATED)
        return Plan.of(parse_config(content, self._config.file))

    def _recorded(self, plan: Plan) -> Packets:
        if self._packets is None:
            traces = self._traces
            if not traces:
                traces = [self._folder / "generated.pcap"]
                write_traffic(traces[0], traffic(exchanges=60, many=10_000))
            parts = [part for trace in traces for part in _recorded(plan, trace, _MOST_PACKETS // len(traces))]
            if not parts:
                raise UsageError(
                    f"{self.measured_on}: has no packets of a service with {self._unit.many}; name another --trace"
                )
            self._packets = join(parts)
        return self._packets


def _recorded(plan: Plan, trace: Path, most_packets: int) -> list[Packets]:
    try:
        found = record(plan, [trace], most_packets)
    except TraceError:
        return []  # told when its features were made
    return [found] if len(found) else []


def _spread(traces: tuple[Path, ...]) -> list[Path]:
    """Some of many traces, evenly."""
    chosen = np.unique(np.linspace(0, len(traces) - 1, min(len(traces), _MOST_TRACES)).round().astype(int))
    return [traces[number] for number in chosen.tolist()] if traces else []
