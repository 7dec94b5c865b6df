"""The published tables of session-intervals to ours: read safely, cleaned, and with our names and units."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.api.sessions import GROUPS, TRANSPORT
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.tables import dataset_schema, write_manifest, write_table
from trafficrefinery.models.sessions import SessionRegistry, session_schema
from trafficrefinery.system.files import sha256_of

from .counterparts import COUNTERPARTS
from .fates import LAYER, METADATA, fate_of
from .tables import read_any

RESOLUTIONS = (240, 360, 480, 720, 1080)
"""Valid in the published tables; 0 there means that the player told none."""
INTERVAL_S = 10.0
MAPPED = frozenset(column.name for column in COUNTERPARTS.values())

Frame = dict[str, NDArray[Any]]


class Imported(NamedTuple):
    """What was imported.

    Args:
        invalid: rows that were dropped, because their resolution is not valid.
        dropped: column → why it was left out.
        labelled: whether there are labels.
    """

    rows: int
    invalid: int
    dropped: dict[str, str]
    labelled: bool
    manifest: Path


def import_published(path: Path, out: Path, resolutions: Collection[int] = RESOLUTIONS) -> Imported:
    """Turn a published table into a dataset.

    Raises:
        UsageError: the file is no such table.
        TrafficRefineryError: no row has a valid resolution.
        OutputError: the dataset cannot be written.
    """
    frame = {LAYER.sub("", name): values for name, values in read_any(path).items()}
    rows = len(next(iter(frame.values()), ()))
    if not rows or not MAPPED & frame.keys():
        what = "no row" if frame.keys() and not rows else "none of the columns of the published dataset"
        raise UsageError(f"{path}: has {what}")
    labelled = "resolution" in frame
    invalid = 0
    if labelled:
        labels, resolutions_of = frame["resolution"], {one: _resolution(one) for one in _different(frame["resolution"])}
        frame["resolution"] = np.array([resolutions_of[_plain(one)] for one in labels.tolist()], np.float64)
        valid = np.isin(frame["resolution"], list(resolutions))
        invalid = rows - int(valid.sum())
        if invalid == rows:
            raise TrafficRefineryError(_no_resolution(path, resolutions_of, resolutions))
        frame = {name: values[valid] for name, values in frame.items()}
        rows -= invalid
    table, dropped = _Converted(frame, rows, path.name).table()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, out)
    manifest = write_manifest(out, {
        "made_by": "dataset import", "rows": rows, "interval_s": INTERVAL_S,
        "source": {"file": path.name, "sha256": sha256_of(path)}, "rows_dropped": {"resolution not valid": invalid},
        "resolutions": sorted(resolutions), "columns_dropped": dropped,
    })  # fmt: skip
    return Imported(rows, invalid, dropped, labelled, manifest)


_LINES = re.compile(r"(?:\d+ ?[x×] ?)?(?:hd ?)?(\d{3,4}(?:\.0*)?)(?:p\d*)?", re.IGNORECASE)
_NAMED = {"tiny": 144.0, "small": 240.0, "medium": 360.0, "large": 480.0}
"""Qualities as the player of YouTube names them, beside hd720 and the like."""


def _resolution(value: Any) -> float:
    """Lines of a label: of 720, 720.0, "720p", "720p60", "hd720" and "1280x720"; NaN of anything else."""
    if isinstance(value, str):
        text = value.strip()
        told = _LINES.fullmatch(text)
        return float(told[1]) if told else _NAMED.get(text.lower(), np.nan)
    return np.nan if isinstance(value, bool) else _number(value)


def _plain(value: Any) -> Any:
    """That can be looked up: not NaN, which is like none."""
    return None if value != value else value


def _different(values: NDArray[Any]) -> set[Any]:
    return {_plain(one) for one in values.tolist()}


def _no_resolution(path: Path, there: Mapping[Any, float], resolutions: Collection[int]) -> str:
    allowed = ", ".join(map(str, sorted(resolutions)))
    lines = sorted({f"{one:g}" for one in there.values() if one == one})
    if lines:
        what = f"--resolutions {','.join(lines[:5])} takes what there is"
    else:
        shown = ", ".join(sorted({f'"{one}"' for one in there})[:3])
        what = f"it has {shown}; write lines, such as 720, 720p, hd720 or 1280x720"
    return f"{path}: resolution: no row has one of {allowed}; {what}"


class _Converted:
    """One table, column by column."""

    def __init__(self, frame: Frame, rows: int, file: str) -> None:
        self._frame, self._rows, self._file = frame, rows, file
        is_tcp = frame.get("is_tcp")
        self._tcp = np.ones(rows, np.bool_) if is_tcp is None else _numbers(is_tcp) != 0

    def table(self) -> tuple[pa.Table, dict[str, str]]:
        """The table, and why columns were left out."""
        fields = SessionRegistry().fields()
        columns = self._metadata()
        for field in fields:
            theirs = COUNTERPARTS.get(field.name)
            if theirs and theirs.name in self._frame:
                values = _numbers(self._frame[theirs.name]) * theirs.factor + theirs.plus
                if theirs.name.endswith("MaxInterArrivalTime"):
                    values = np.minimum(values, INTERVAL_S)  # a gap may have begun before the interval
                columns[field.name] = self._column(values, field.name, whole=field.kind == "int")
        for way in ("up", "down"):
            parts = [self._frame.get(f"service_{kind}_throughput_{way}") for kind in ("Video", "non_video")]
            if all(part is not None for part in parts):
                columns[f"network.kbps_{way}"] = self._column(
                    sum(_numbers(part) for part in parts if part is not None), ""
                )
        dropped = {}
        more = []
        for name in self._frame.keys() - MAPPED - set(METADATA):
            group, reason = fate_of(name)
            if group is None:
                dropped[name] = reason
            else:
                doc = {"doc": f"{name} of the published dataset, group {group}", "group": group}
                more.append(pa.field(f"published.{name}", pa.float64(), metadata=doc))
                columns[more[-1].name] = self._column(_numbers(self._frame[name]), f"{group}.{name}")
        schema = dataset_schema(session_schema(fields))
        schema = pa.schema([*schema, *sorted(more, key=lambda one: one.name)])
        filled = [columns.get(field.name, pa.nulls(self._rows, field.type)).cast(field.type) for field in schema]
        return pa.table(filled, schema=schema), dict(sorted(dropped.items()))

    def _column(self, values: Any, name: str, *, whole: bool = False) -> pa.Array:
        """Numbers; null where there are none, and for transport of QUIC."""
        gone = ~np.isfinite(values)
        if name.startswith(f"{TRANSPORT}."):
            gone |= ~self._tcp
        kept = np.where(gone, 0, values)
        return pa.array(np.round(kept).astype(np.int64) if whole else kept, mask=gone)

    def _texts(self, name: str) -> list[str | None]:
        values = self._frame.get(name)
        if values is None:
            return [None] * self._rows
        return [None if value is None or value != value else _text(value) for value in values.tolist()]

    def _metadata(self) -> dict[str, pa.Array]:
        service = self._texts("service")
        sessions = self._texts("session_id")
        hashed = {one: hashlib.sha256(one.encode()).hexdigest()[:16] for one in {str(one) for one in sessions}}
        ids = pa.array([hashed[str(one)] for one in sessions])
        end_s = self._ends_s(sessions)
        columns: dict[str, pa.Array] = {
            "file": pa.array([self._file] * self._rows), "session": ids, "session_id": ids,
            "video_id": pa.array(self._texts("video_id")), "site": pa.array(self._texts("home_id")),
            "service": pa.array(service, pa.string()), "session_start": pa.array(np.zeros(self._rows)),
            "ts_start": pa.array(end_s - INTERVAL_S), "ts_end": pa.array(end_s),
        }  # fmt: skip
        for group in GROUPS:
            columns[f"{group}_observed"] = pa.array(self._tcp if group == TRANSPORT else np.ones(self._rows, np.bool_))
        if "resolution" in self._frame:
            columns["resolution"] = self._column(_numbers(self._frame["resolution"]), "", whole=True)
        if "startup_time" in self._frame:
            startup_s = _numbers(self._frame["startup_time"]) / 1e3
            columns["startup_s"] = self._column(np.where(startup_s > 0, startup_s, np.nan), "")
        return columns

    def _ends_s(self, sessions: list[str | None]) -> NDArray[np.float64]:
        """The end of each interval after the session's start; counted where the table does not tell."""
        if "relative_timestamp" in self._frame:
            return _numbers(self._frame["relative_timestamp"])
        seen: dict[str | None, int] = {}
        ends = []
        for one in sessions:
            seen[one] = seen.get(one, 0) + 1
            ends.append(INTERVAL_S * seen[one])
        return np.array(ends)


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """As floats: of a list the last element, NaN for what is no number."""
    if values.dtype != np.dtype("O"):
        kept = values.dtype.kind in "biuf"
        return values.astype(np.float64) if kept else np.array([_number(one) for one in values.tolist()], np.float64)
    return np.array([_number(value) for value in values.tolist()], np.float64)


def _text(value: Any) -> str:
    """The same for an identifier that is a whole number, whether it comes as one or as a float."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(value: Any) -> float:
    while isinstance(value, tuple):
        value = value[-1] if value else np.nan
    if isinstance(value, str) and value[:1] in {"[", "("}:  # a list in CSV
        value = value.strip("[]() ").replace(",", " ").split()[-1:] or np.nan
        value = value[0] if isinstance(value, list) else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan
