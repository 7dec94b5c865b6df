"""How things are measured: interleaved repetitions, wall and CPU time, and a report that says where they were taken."""

from __future__ import annotations

import datetime
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trafficrefinery.costs.measure.machine import machine

K = TypeVar("K")


class Sample(NamedTuple):
    """Seconds of one repetition. The machine may be shared: `cpu_s` is what this thread got of it."""

    wall_s: float
    cpu_s: float


def timed(function: Callable[..., Any], *arguments: Any) -> Sample:
    """Call once."""
    wall, cpu = time.perf_counter(), time.thread_time()
    function(*arguments)
    return Sample(time.perf_counter() - wall, time.thread_time() - cpu)


def interleaved(runs: Mapping[K, Callable[[], Sample]], repetitions: int) -> dict[K, list[Sample]]:
    """Repeat all runs in turn, so that a busy neighbour disturbs each of them; the first turn warms up, uncounted."""
    samples: dict[K, list[Sample]] = {name: [] for name in runs}
    for turn in range(repetitions + 1):
        for name, run in runs.items():
            gc.collect()
            sample = run()
            if turn:
                samples[name].append(sample)
    return samples


@contextmanager
def other_processes(count: int, environment: Mapping[str, str] | None = None) -> Iterator[ProcessPoolExecutor]:
    """New processes with an empty memory, and `environment` from their start."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            yield pool
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass
class Figure:
    """A measured figure.

    Args:
        name: permanent, so that results can be compared over time.
        values: by wall time, one a repetition.
        cpu_values: the same by CPU time.
        at_least, at_most: the target, if there is one.
    """

    name: str
    unit: str
    values: list[float]
    cpu_values: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """ok or short; nothing without a target."""
        if self.at_least is None and self.at_most is None:
            return ""
        enough = self.at_least is None or self.value >= self.at_least
        return "ok" if enough and (self.at_most is None or self.value <= self.at_most) else "short"

    def cells(self) -> list[str]:
        """The figure as a row of a table."""
        target = f"≥ {self.at_least:g}" if self.at_least is not None else ""
        target = f"≤ {self.at_most:g}" if self.at_most is not None else target
        cpu = _text(statistics.median(self.cpu_values)) if self.cpu_values else ""
        spread = f"{_text(min(self.values))} – {_text(max(self.values))}" if len(self.values) > 1 else ""
        return [self.name, self.unit, target, _text(self.value), spread, cpu, self.verdict]


COLUMNS = ["figure", "unit", "target", "reached", "spread", "by CPU time", ""]


def _text(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def rates(name: str, unit: str, amount: float, samples: Sequence[Sample], **target: float) -> Figure:
    """Amount a second, `amount` in the unit's multiples (10.4 for Mpps and 10.4 million packets)."""
    return Figure(name, unit, [amount / s.wall_s for s in samples], [amount / s.cpu_s for s in samples], **target)


def ratios(name: str, over: Sequence[Sample], under: Sequence[Sample], **target: float) -> Figure:
    """`over` by `under`, each pair of one turn."""
    pairs = list(zip(over, under, strict=True))
    return Figure(name, "×", [a.wall_s / b.wall_s for a, b in pairs], [a.cpu_s / b.cpu_s for a, b in pairs], **target)


class Report:
    """The figures of a run, printed as they come, and written with machine and commit."""

    def __init__(self, kind: str, **about: Any) -> None:
        self.kind, self.about, self.figures = kind, about, list[Figure]()
        self._load = os.getloadavg()
        self._started = datetime.datetime.now(datetime.UTC)

    def add(self, *figures: Figure) -> None:
        for figure in figures:
            self.figures.append(figure)
            name, unit, target, reached, spread, cpu, verdict = figure.cells()
            beside = f" (CPU {cpu})" if cpu else ""
            print(f"{name:<66} {reached:>8} {unit:<8} {target:<10} {verdict:<6} {spread}{beside}", flush=True)

    def markdown(self) -> str:
        return markdown(COLUMNS, [figure.cells() for figure in self.figures])

    def write(self, directory: Path) -> Path:
        """Write `DATE-COMMIT-KIND.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self._started:%Y-%m-%d}-{commit()}-{self.kind}.json"
        figures = [{**asdict(figure), "value": figure.value, "verdict": figure.verdict} for figure in self.figures]
        report = {
            "kind": self.kind, "started": self._started.isoformat(timespec="seconds"), "commit": commit(),
            "machine": machine(), "load_before": self._load, "load_after": os.getloadavg(), **self.about,
            "figures": figures,
        }  # fmt: skip
        path.write_text(json.dumps(report, indent=1) + "\n")
        return path


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stamp(*checkouts: Path) -> str:
    """When, on which commits and on what a result was measured: what each file of `results/` says first."""
    commits = " against ".join(map(commit, checkouts)) if checkouts else commit()
    told = machine()
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commits}, {told['cpu']}, {told['cores']} cores."


def commit(checkout: Path = Path(__file__).parent) -> str:
    """The commit of a checkout, `-changed` behind it when files differ from it."""
    git = ["git", "-C", str(checkout)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("-changed" if changed.stdout else "")
