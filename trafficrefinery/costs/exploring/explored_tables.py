"""The tables that are explored: a dataset, or one of each interval and number of packets from labelled traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.feature_selection import mutual_info_classif

from trafficrefinery.config import Config, parse_config
from trafficrefinery.errors import UsageError
from trafficrefinery.models.targets import RESOLUTION, STARTUP, UNITS, Target, Unit
from trafficrefinery.models.training.dataset import STARTUP_COLUMNS, Dataset, feature_set, read_dataset
from trafficrefinery.records.inferences import SESSION
from trafficrefinery.replaying.labelled import BuildOptions, build, labels_of
from trafficrefinery.system.files import read_json
from trafficrefinery.system.progress import Progress
from trafficrefinery.system.writing import make_directory

from .options import INTERVALS_S, ExploreOptions
from .space import Sampling
from .variants import collected, collecting, default_config

_RANKED_ROWS = 3_000


class Sources(NamedTuple):
    """What is explored.

    Args:
        startups: for startup delays, of the sources that have labels for them.
        also: the same tables for further targets, by the name of the target.
        traces: that it was made from, if it was.
        failed: traces that could not be read, and why.
    """

    config: Config
    datasets: Mapping[Sampling, Dataset]
    startups: Mapping[Sampling, Dataset]
    traces: tuple[Path, ...]
    failed: Mapping[str, str] = {}
    also: Mapping[str, Mapping[Sampling, Dataset]] = {}

    @property
    def target(self) -> Target:
        """That labels are of."""
        return next(iter(self.datasets.values())).target

    @property
    def unit(self) -> Unit:
        """What its rows are about."""
        return UNITS[self.target.unit]

    @property
    def base(self) -> tuple[str, ...]:
        """Feature classes that are collected in every representation, as far as they are collected at all."""
        if self.unit.name != SESSION:
            return self.target.base
        return tuple(filter(None, (self.config.sessions.opening_class, "PacketCounters")))

    def columns(self) -> tuple[str, ...]:
        """Those that say something in every table."""
        common = _common([feature_set(dataset, "all") for dataset in self.datasets.values()])
        starts = _common([feature_set(dataset, "all") for dataset in self.startups.values()])
        return (*common, *(name for name in starts if name.startswith(STARTUP_COLUMNS)))


def _common(sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for name in sets[0] if all(name in one for one in sets)) if sets else ()


def read_sources(data: Path, out: Path, config: Config | None, options: ExploreOptions, progress: Progress) -> Sources:
    """Read a dataset, or make tables from traces in `out`.

    Raises:
        UsageError: neither can be used.
        TraceError, OutputError, TrafficRefineryError: as of `labelled.build`.
    """
    if data.is_dir():
        return _of_traces(data, out, config or default_config(), options, progress)
    for value, name in ((options.intervals_s, "--intervals"), (options.first_packets, "--first-packets"),
                        (options.labels, "--labels")):  # fmt: skip
        if value is not None:
            raise UsageError(f"{name}: {data} is a table, whose rows are made already; give a directory of traces")
    dataset = _read(data, options)
    source = Sampling(dataset.interval_s, dataset.first_packets)
    startup = _startup(data, options)
    startups = {} if startup is None else {source: startup}
    also = {name: {source: _read(data, options, name)} for name in options.also}
    return Sources(config or _config_of(data), {source: dataset}, startups, (), also=also)


def _config_of(data: Path) -> Config:
    """The configuration that a dataset was built with, as its manifest has it; the usual one for an imported table.

    Raises:
        UsageError: there is a manifest, but it cannot be read.
    """
    manifest = data.with_suffix(".manifest.json")
    try:
        content = read_json(manifest).get("configuration")
    except FileNotFoundError:
        return default_config()
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{manifest}: cannot be read: {error}; give the configuration with -c CONFIG") from error
    return default_config() if content is None else parse_config(content, str(manifest))


def _of_traces(directory: Path, out: Path, config: Config, options: ExploreOptions, progress: Progress) -> Sources:
    labels = labels_of(config, directory, BuildOptions(labels=options.labels))
    traces = tuple(labels)
    unit = UNITS[next(iter(labels.values())).unit]
    classes = tuple(collected(config, unit))
    sources = [
        Sampling(interval_s, first_packets)
        for interval_s in options.intervals_s or INTERVALS_S
        for first_packets in options.first_packets or (None,)
    ]
    make_directory(out / "tables")
    datasets, startups = {}, {}
    also: dict[str, dict[Sampling, Dataset]] = {name: {} for name in options.also}
    failed: dict[str, str] = {}
    for source in sources:
        progress(f"features every {source}")
        file = out / "tables" / f"{str(source).replace(' ', '').replace(',', '-')}.parquet"
        if not file.exists() or not _manifest(file).exists():
            made = parse_config(collecting(config, classes, source, unit), config.file)
            build(made, directory, file, BuildOptions(options.tasks, labels=options.labels),
                  lambda _, *done, source=source: progress(f"features every {source}", *done))  # fmt: skip
        failed |= _failed(file)
        datasets[source] = _read(file, options)
        for name, its in also.items():
            its[source] = _read(file, options, name)
        startup = _startup(file, options)
        if startup is not None:
            startups[source] = startup
    kept = tuple(trace for trace in traces if str(trace.relative_to(directory)) not in failed)
    return Sources(config, datasets, startups, kept, failed, also)


def _failed(file: Path) -> dict[str, str]:
    """Traces that a table has not, by its manifest."""
    failed: dict[str, str] = read_json(_manifest(file))["failed"]
    return failed


def _manifest(file: Path) -> Path:
    return file.with_suffix(".manifest.json")


def _read(file: Path, options: ExploreOptions, target: str = "") -> Dataset:
    target = target or options.target
    dataset = read_dataset(file, target, options.groups)
    if not dataset.target.has_labels:
        raise UsageError(f"--target: {target} is a quantity, without an accuracy; take one with labels")
    return dataset


def _startup(file: Path, options: ExploreOptions) -> Dataset | None:
    """Startup delays, which are reported beside resolutions; None where too few sessions have one."""
    if options.target != RESOLUTION.name:
        return None
    try:
        dataset = read_dataset(file, STARTUP, options.groups)
    except UsageError:
        return None
    return dataset if len(np.unique(dataset.groups)) > 1 else None


def ranking(dataset: Dataset, columns: tuple[str, ...], seed: int) -> list[str]:
    """Columns by their mutual information with the labels, the most telling first; not those of the start."""
    columns = tuple(name for name in columns if not name.startswith(STARTUP_COLUMNS))
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(dataset.truth))[:_RANKED_ROWS])
    x = dataset.matrix(columns)[rows].astype(np.float64)
    for number in range(len(columns)):
        gone = np.isnan(x[:, number])
        seen = x[~gone, number]
        x[gone, number] = seen.min() - max(np.ptp(seen), 1.0) if len(seen) else 0.0  # a value of its own
    told = mutual_info_classif(x, dataset.truth[rows], random_state=seed)
    return [columns[number] for number in np.argsort(-told, kind="stable")]
