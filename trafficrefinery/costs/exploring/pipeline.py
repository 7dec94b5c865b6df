"""From data to a Pareto front, and what deploys the recommended point."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from trafficrefinery.config import Config, parse_config
from trafficrefinery.costs.measure.machine import machine
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import OutputError, TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.tables import write_table
from trafficrefinery.models.inference.requirements import fields_of
from trafficrefinery.models.sessions.provenance import Provenance
from trafficrefinery.records.summary.versions import sources_digest
from trafficrefinery.system.files import sha256_of
from trafficrefinery.system.progress import Progress, silent
from trafficrefinery.system.writing import make_directory, write_file

from .costing import CostMeter
from .deploying import deploy
from .evaluating import Evaluator, Scores
from .explored_tables import Sources, ranking, read_sources
from .memo import Memo
from .options import ExploreOptions
from .points import (
    ACCURACY_OF,
    ERROR_OF,
    FRONT_COLUMNS,
    RANDOM,
    RANKING,
    SEARCH,
    Scale,
    front_points,
    growth,
    recommended,
    table_of,
)
from .searching import Objectives, at_random, by_ranking, searched
from .space import Representation, Space
from .variants import collected, collecting

TABLE, FRONT, SUMMARY, DEPLOY = "table.parquet", "front.json", "explore.json", "deploy"
_STARTED, _EVALUATED = "started.json", "evaluated.jsonl"
NOTES = (
    (
        "Accuracy is that of intervals of groups that the model has not seen, such as videos (grouped folds), smoothed "
        "over a session, flow or client as inference does it. Its standard error is by these."
    ),
    (
        "State is what one flow keeps in memory: the compiled feature classes together, in whole cache lines. "
        "Processing is the time of all of them together for a packet, net of parsing and lookup. A record is a JSON "
        "line."
    ),
    (
        "{} are in every representation if they are collected at all, because {} follow from them. So a model "
        "of other features alone has their cost as well."
    ),
)


class Explored(NamedTuple):
    """What was found.

    Args:
        frame: every point, as in `table.parquet`.
        front: as in `front.json`.
        summary: as in `explore.json`.
        recommended: the point that `deploy` runs; None where no point is within the limits.
        no_point: why there is none.
        reused: evaluations that were there from an earlier run.
    """

    frame: pl.DataFrame
    front: list[dict[str, Any]]
    summary: dict[str, Any]
    recommended: dict[str, Any] | None
    no_point: TrafficRefineryError | None
    reused: int


def explore(
    data: Path, out: Path, config: Config | None = None, options: ExploreOptions = ExploreOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent,
) -> Explored:  # fmt: skip
    """Explore a dataset, or a directory of labelled traces.

    A run that was stopped goes on in the same directory; one with more trials adds to it.

    Raises:
        UsageError: the data, the configuration or an option cannot be used, or `out` is of another exploration.
        OutputError: something cannot be written.
    """
    if not data.exists():
        raise UsageError(f"{data}: no such file or directory; give a dataset or a directory of labelled traces")
    make_directory(out)
    _begin(data, out, config, options)
    sources = read_sources(data, out, config, options, progress)
    space = _space(sources, options, progress)
    memos = Memo(out / _EVALUATED), Memo(out / "measured.jsonl")
    try:
        return _explored((data, out), sources, space, memos, options, progress)
    finally:
        for memo in memos:
            memo.close()


def _begin(data: Path, out: Path, config: Config | None, options: ExploreOptions) -> None:
    """See that what is in a directory belongs to this exploration; a run that failed before it made anything does."""
    inputs = _inputs(data, config, options)
    path = out / _STARTED
    try:
        before = json.loads(path.read_text()) if path.exists() else {}
        made = [name for name in ("tables", _EVALUATED) if (out / name).exists()]
        changed = [name for name, value in inputs.items() if before.get(name) != value]
        if made and changed:
            raise UsageError(f"{out}: holds an exploration with another {', '.join(changed)}; name another directory")
        write_file(path, json.dumps(inputs, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be used: {error}; name another directory") from error


def _inputs(data: Path, config: Config | None, options: ExploreOptions) -> dict[str, Any]:
    """What figures depend on; as JSON gives it back."""
    file = options.labels or data / "labels.csv" if data.is_dir() else data
    inputs = {
        "data": data.name, "labels" if data.is_dir() else "table": sha256_of(file) if file.is_file() else "",
        "traces": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(data.iterdir())
                   if path.is_file()] if data.is_dir() else [],
        "configuration": None if config is None else config.to_dict(), "seed": options.seed,
        "target": ", ".join((options.target, *options.also)), "group": ", ".join(options.groups),
        "trace": None if options.trace is None else str(options.trace), "single_columns": options.single_columns,
        "intervals_s": options.intervals_s, "first_packets": options.first_packets,
        "sources_sha256": sources_digest(() if config is None else config.feature_paths),
    }  # fmt: skip
    made: dict[str, Any] = json.loads(json.dumps(inputs))
    return made


def _space(sources: Sources, options: ExploreOptions, progress: Progress) -> Space:
    there = collected(sources.config, sources.unit)
    columns, made_by = sources.columns(), _made_by(sources, there)
    usable = tuple(name for name in columns if name in made_by)
    if not usable:
        raise UsageError(
            f"{sources.config.file}: no column of the tables is made by what it collects, {', '.join(there)}; collect "
            "what they were made with"
        )
    rankings = {}
    for source, dataset in sources.datasets.items():
        progress(f"mutual information, {source}")
        rankings[source] = ranking(dataset, usable, options.seed)
    return Space(usable, tuple(there), rankings, made_by, sources.base, options.single_columns)


def _made_by(sources: Sources, there: Collection[str]) -> dict[str, Provenance]:
    """What makes the columns that the configuration gives as the tables have them.

    Columns that need a class that is not collected, or that other code or parameters made, have no price here and could
    not be deployed.
    """
    source, first = next(iter(sources.datasets.items()))
    content = collecting(sources.config, tuple(there), source, sources.unit)
    plan = Plan.of(parse_config(content, sources.config.file))
    said = {field.name: Provenance.of(field) for field in first.table.schema}
    return {
        name: made_by for name, field in fields_of(sources.unit.name, plan).items()
        if (made_by := field.made_by) is not None and set(made_by.needs) <= set(there)
        and said.get(name) in (None, made_by)
    }  # fmt: skip


def _explored(
    paths: tuple[Path, Path],
    sources: Sources,
    space: Space,
    memos: tuple[Memo, Memo],
    options: ExploreOptions,
    progress: Progress,
) -> Explored:
    (data, out), (evaluated, measured) = paths, memos
    evaluator = Evaluator(sources, evaluated, options.tasks, options.seed)
    meter = CostMeter(sources, options.trace, out, measured)
    reused = len(evaluated)
    tried = _tried(space, evaluator, meter, out, options, progress)
    everything = list({one.key: one for some in tried.values() for one in some}.values())
    scores = dict(zip((one.key for one in everything), evaluator(everything), strict=True))
    costs = meter(((space.classes(one.columns), one.source) for one in everything), progress)
    frame = table_of(tried, scores, costs, space)
    points = front_points(frame)
    grown = _growth(tried, scores, sources, space, meter)
    summary = _summary(data, sources, space, meter, frame)
    summary["searches"] = {
        way: {"trials": len(tried[way]), "hypervolume": values[-1], "growth": values} for way, values in grown.items()
    }
    _write_table(frame, points, out)
    progress("the recommended point")
    no_point = None
    try:
        point = recommended(frame, options)
    except TrafficRefineryError as error:
        no_point = error
        summary |= {"recommended": None, "no_point": str(error), "deployed": None}
    else:
        chosen = next(one for one in everything if one.key == point["key"])
        metrics = deploy(chosen, space.classes(chosen.columns), sources, out / DEPLOY, options)
        summary |= {
            "recommended": {name: point[name] for name in FRONT_COLUMNS},
            "also": {name: [point[ACCURACY_OF + name], point[ERROR_OF + name]] for name in options.also},
            "deployed": {
                name: metrics[name] for name in ("accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95", "group")
            },
        }
    write_file(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return Explored(frame, points, summary, summary["recommended"], no_point, reused)


def _tried(
    space: Space, evaluator: Evaluator, meter: CostMeter, out: Path, options: ExploreOptions, progress: Progress
) -> dict[str, Sequence[Representation]]:
    """What each way to search tries, all evaluated."""
    way, done = SEARCH, 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(f"{way}: {done} representations evaluated")

    def objectives(wanted: Sequence[Representation]) -> list[Objectives]:
        scores = evaluator(wanted, count)
        state = [float(meter.state_bytes(space.classes(one.columns), one.source)) for one in wanted]
        found = zip(state, scores, strict=True)
        return [(_mean_accuracy(one), size, *(() if one.startup_error_s is None else (one.startup_error_s,)))
                for size, one in found]  # fmt: skip

    tried: dict[str, Sequence[Representation]] = {
        SEARCH: searched(
            space, options.trials, objectives, out / "study.journal", options.seed, 3 if evaluator.tells_delays else 2
        )
    }
    if options.compare:
        tried[RANDOM] = at_random(space, options.trials, options.seed)
        tried[RANKING] = by_ranking(space, options.trials)
        for name in (RANDOM, RANKING):
            way = name
            evaluator(tried[name], count)
    return tried


def _mean_accuracy(scores: Scores) -> float:
    """Over all targets."""
    return float(np.mean([scores.accuracy, *(accuracy for accuracy, _ in scores.also.values())]))


def _growth(
    tried: Mapping[str, Sequence[Representation]], scores: Mapping[str, Scores], sources: Sources, space: Space,
    meter: CostMeter,
) -> dict[str, list[float]]:  # fmt: skip
    keys = {one.key: one for some in tried.values() for one in some}
    state = {key: meter.state_bytes(space.classes(one.columns), one.source) for key, one in keys.items()}
    common = max(
        float(np.unique(dataset.truth, return_counts=True)[1].max() / len(dataset.truth))
        for dataset in sources.datasets.values()
    )
    largest = max(meter.state_bytes(space.classes(space.columns), source) for source in space.sources)
    scale = Scale(common, largest)
    return {way: growth(some, scores, state, scale) for way, some in tried.items()}


def _summary(data: Path, sources: Sources, space: Space, meter: CostMeter, frame: pl.DataFrame) -> dict[str, Any]:
    first = next(iter(sources.datasets.values()))
    noise = float(np.median(frame["noise"].to_numpy()))
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "name": data.name, "unit": sources.unit.name, "sessions": len(np.unique(first.sessions)),
            "rows": {str(source): len(dataset.truth) for source, dataset in sources.datasets.items()},
            "columns": len(space.columns), "collected": list(space.collected),
            "left_out": [name for name in sources.columns() if name not in space.columns],
            "intervals_s": sorted({source.interval_s for source in space.sources}),
            "first_packets": sorted({source.first_packets or 0 for source in space.sources}),
            "measured_on": meter.measured_on, "failed": dict(sources.failed),
        },
        "space": space.size if space.size < 2**53 else f"2^{space.size.bit_length() - 1}",
        "representations": len(frame),
        "notes": _notes(sources),
        "warnings": list(dict.fromkeys(one for dataset in sources.datasets.values() for one in dataset.warnings)),
        "machine": {**machine(), "noise of ns per packet": f"{noise:.1%}, in the median"},
    }  # fmt: skip


def _notes(sources: Sources) -> list[str]:
    *notes, of_base = NOTES
    base = sources.base
    return [*notes, of_base.format(" and ".join(base), sources.unit.many)] if base else notes


def _write_table(frame: pl.DataFrame, points: list[dict[str, Any]], out: Path) -> None:
    write_table(frame.drop("key").to_arrow(), out / TABLE)
    write_file(out / FRONT, json.dumps(points, indent=1) + "\n")
