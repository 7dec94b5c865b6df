"""What records take on the disk, through the sinks themselves: of all classes together, and of each alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from trafficrefinery.engine.feature_classes.fuse import Profile
from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.sinks.base import File, Interval, Place, Sink
from trafficrefinery.records.sinks.files import parquet_schema
from trafficrefinery.records.sinks.json_lines import JsonLinesSettings, JsonLinesSink
from trafficrefinery.records.sinks.opening import raise_refused
from trafficrefinery.records.sinks.parquet import ParquetSink

FORMS = ("jsonl", "jsonl.zst", "parquet")


class Stored(NamedTuple):
    """Records in files.

    Args:
        sizes: of each of FORMS, bytes.
    """

    records: int
    sizes: dict[str, int]

    def bytes_of_record(self, form: str) -> float:
        return self.sizes[form] / self.records if self.records else float("nan")


class _Files:
    """The files of one choice of classes, in all forms."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        folder.mkdir()
        self._folder, self._names, self._records = folder, [c.__name__ for p in plan.profiles for c in p.classes], 0
        place = Place(plan, folder, folder, {"records": File("records", partial(parquet_schema, plan))})
        compressed = JsonLinesSettings.model_validate({"Compress": True})
        self._sinks: list[Sink] = [
            JsonLinesSink(JsonLinesSettings(), place), JsonLinesSink(compressed, place),
            ParquetSink(ParquetSink.Settings(), place),
        ]  # fmt: skip

    def write(self, end_ns: int, batches: list[Batch]) -> None:
        """The batches of one interval."""
        chosen = [
            batch._replace(features={name: part for name, part in batch.features.items() if name in self._names})
            for batch in batches
            if batch.features.keys() & set(self._names)
        ]
        interval = Interval(end_ns, chosen, [])
        self._records += interval.records
        for sink in self._sinks:
            sink.write(interval)
            raise_refused(sink)

    def close(self) -> Stored:
        """How much it is."""
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            sink.close()
            raise_refused(sink)
        sizes = {
            form: sum(path.stat().st_size for path in self._folder.glob(f"*.{form}")) if self._records else 0
            for form in FORMS
        }
        return Stored(self._records, sizes)

    def abandon(self) -> None:
        """Let go of what is not closed."""
        for sink in self._sinks:
            sink.abandon()


class Storage:
    """Takes the records of a walk; to be used in a `with` block, which lets go of the files.

    Args:
        folder: for the files, which may be removed after.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._whole = _Files(folder / "all", plan)
        self._alone = {name: _Files(folder / name, _plan_of(plan, cls)) for name, cls in classes_of(plan).items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for files in (self._whole, *self._alone.values()):
            files.abandon()

    def take(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Write batches, an interval after the other, and hand them on."""
        waiting: list[Batch] = []
        end_s = 0.0
        for batch in batches:
            ends_s = batch.flow["ts_end"][0]
            if waiting and ends_s != end_s:
                self._write(end_s, waiting)
                waiting = []
            waiting.append(batch)
            end_s = ends_s
            yield batch
        if waiting:
            self._write(end_s, waiting)

    def _write(self, end_s: float, batches: list[Batch]) -> None:
        for files in (self._whole, *self._alone.values()):
            files.write(round(end_s * 1e9), batches)

    def close(self) -> tuple[Stored, dict[str, Stored]]:
        """Of all classes together, and of each alone."""
        return self._whole.close(), {name: files.close() for name, files in self._alone.items()}


def classes_of(plan: Plan) -> dict[str, Any]:  # type[FeatureClass]
    """The feature classes of a plan by name; of several with one name, which differ in parameters, the first."""
    found: dict[str, Any] = {}
    for profile in plan.profiles:
        for cls in profile.classes:
            found.setdefault(cls.__name__, cls)
    return found


def _plan_of(plan: Plan, cls: Any) -> Plan:
    """A plan of one class, for its columns."""
    return Plan(plan.config, (Profile((cls,), plan.config.interval_ns),), (0,) * len(plan.config.services))
