"""Labels of traces: which session a trace shows, and what is true of it."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.capture.traces.discovery import PACKED_SUFFIXES, TRACE_SUFFIXES, is_named_as_trace
from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.label_columns import target_of_column
from trafficrefinery.models.targets.target import LABEL_PREFIX

from .label_rows import read_label_rows
from .tables import GROUP_PREFIX

RESOLUTIONS = (144, 240, 360, 480, 720, 1080, 1440, 2160)
"""Resolutions that are valid when nothing else is said."""
REQUIRED = ("file", "session", "video_id", "resolution")
OPTIONAL = ("site", "service", "startup_s", "session_start_s", "client_ip")


class Label(NamedTuple):
    """A row of labels; numbers of seconds are NaN and the others empty where they are not given.

    Args:
        video_id: the title that was played.
        resolution: None where a label file beside the trace has one for each interval.
        session_start_s: when play was pressed, s since the epoch.
        client_ip: whose session it is, in a trace of several clients.
        own: columns of the user's targets, and labels or numbers; None where it is not given.
        groups: columns of the user's groups, and names.
    """

    file: str
    session: str
    video_id: str = ""
    resolution: int | None = None
    site: str = ""
    service: str = ""
    startup_s: float = math.nan
    session_start_s: float = math.nan
    client_ip: str = ""
    own: tuple[tuple[str, str | float | None], ...] = ()
    groups: tuple[tuple[str, str], ...] = ()


def read_labels(
    path: Path, resolutions: Collection[int] = RESOLUTIONS, targets: Mapping[str, Target] = {}
) -> list[Label]:
    """The rows of a `labels.csv`, or of the same as Parquet.

    Args:
        targets: that the user defined, by name.

    Raises:
        UsageError: the file, or a line of it, is wrong; a resolution is not one of `resolutions`; there is no label.
    """
    columns, rows = read_label_rows(path)
    _check_columns(path, columns)
    own = own_targets(columns, targets, path)
    labels = [_label(row, where, resolutions, own) for where, row in rows]
    if not labels:
        raise UsageError(f"{path}: has no label; write a line for each trace: {','.join(REQUIRED)}")
    _refuse_twice(path, labels)
    return labels


def own_targets(columns: Sequence[str], targets: Mapping[str, Target], path: Path) -> dict[str, Target]:
    """The columns of the user's targets in a first line."""
    return {name: target_of_column(name, targets, str(path)) for name in columns if name.startswith(LABEL_PREFIX)}


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    known = (*REQUIRED, *OPTIONAL)
    required = REQUIRED[:2] if any(name.startswith(LABEL_PREFIX) for name in columns) else REQUIRED
    missing = [name for name in required if name not in columns]
    if missing:
        others = "" if required != REQUIRED else f", or file, session and {LABEL_PREFIX}NAME"
        raise UsageError(
            f"{path}: no column {', '.join(missing)}; the first line must name {', '.join(required)}{others}"
        )
    for name in columns:
        if name not in known and not (name.startswith((LABEL_PREFIX, GROUP_PREFIX)) and name != GROUP_PREFIX):
            hint = did_you_mean(name, known)
            hint = hint or f"; there are {', '.join(known)}, {LABEL_PREFIX}NAME and {GROUP_PREFIX}NAME"
            raise UsageError(f'{path}: no such column "{name}"{hint}')


def _label(given: Mapping[str, str], where: str, resolutions: Collection[int], own: Mapping[str, Target]) -> Label:
    for name in REQUIRED:
        if given.get(name) == "" and name != "resolution":
            raise UsageError(f"{where}: {name}: is empty")
    resolution = given.get("resolution", "")
    return Label(
        os.path.normpath(given["file"]), given["session"], given.get("video_id", ""),
        read_resolution(resolution, f"{where}: resolution", resolutions) if resolution else None,
        given.get("site", ""), given.get("service", ""),
        _seconds(given.get("startup_s", ""), f"{where}: startup_s"),
        _seconds(given.get("session_start_s", ""), f"{where}: session_start_s"), given.get("client_ip", ""),
        read_own(given, own, where),
        tuple((name, value) for name, value in given.items() if name.startswith(GROUP_PREFIX)),
    )  # fmt: skip


def read_own(
    given: Mapping[str, str], own: Mapping[str, Target], where: str
) -> tuple[tuple[str, str | float | None], ...]:
    """The labels of the user's targets in a row, by column.

    Raises:
        UsageError: one is not a label of its target.
    """
    return tuple(
        (name, target.read(given[name], f"{where}: {name}") if given[name] else None) for name, target in own.items()
    )


def read_resolution(text: str, where: str, resolutions: Collection[int]) -> int:
    """One of the valid resolutions.

    Raises:
        UsageError: it is none of them.
    """
    try:
        resolution = int(text)
    except ValueError:
        resolution = -1
    if resolution not in resolutions:
        allowed = ", ".join(map(str, sorted(resolutions)))
        raise UsageError(
            f'{where}: "{text}" is not one of {allowed}; correct it, or name the valid ones with --resolutions'
        )
    return resolution


def _seconds(text: str, where: str) -> float:
    """NaN for nothing."""
    try:
        seconds = float(text) if text else math.nan
    except ValueError:
        seconds = -1.0
    if seconds < 0 or math.isinf(seconds):
        raise UsageError(f'{where}: "{text}" is not a number of seconds')
    return seconds


def _refuse_twice(path: Path, labels: Sequence[Label]) -> None:
    """Of several sessions in a trace, each label must say whose it is, and of several of a client, when it starts."""
    names: set[str] = set()
    of_place: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        if label.session in names:
            raise UsageError(f'{path}: session "{label.session}" stands there twice; give each a name of its own')
        names.add(label.session)
        of_place.setdefault((label.file, label.client_ip), []).append(label)
    files = [file for file, _ in of_place]
    for (file, client), some in of_place.items():
        starts = {label.session_start_s for label in some if not math.isnan(label.session_start_s)}
        if (not client and (len(some) > 1 or files.count(file) > 1)) or (len(some) > 1 and len(starts) < len(some)):
            raise UsageError(
                f'{path}: file "{file}" stands there twice; give each of its sessions a client_ip, and those of '
                "one client a session_start_s"
            )


def match_traces(directory: Path, labels: Sequence[Label], labels_file: Path) -> list[Path]:
    """The traces that labels are of, each once, in their order.

    Raises:
        UsageError: there is no such directory, a label without a trace, or a trace without a label.
    """
    return match_files(directory, list(dict.fromkeys(label.file for label in labels)), labels_file)


def match_files(directory: Path, files: Sequence[str], labels_file: Path) -> list[Path]:
    """The same, of the names of all traces that have a label."""
    if not directory.is_dir():
        raise UsageError(f"{directory}: not a directory; name the directory with the traces")
    traces = [directory / file for file in files]
    missing = [file for file, trace in zip(files, traces, strict=True) if not trace.is_file()]
    if missing:
        raise UsageError(
            f"{labels_file}: file: {_some(missing)}: no such trace in {directory}; put it there, or take its "
            "line out of the labels"
        )
    known = {trace.resolve() for trace in traces}
    more = [
        path.name for path in sorted(directory.iterdir()) if is_named_as_trace(path) and path.resolve() not in known
    ]
    if more:
        raise UsageError(f"{directory}: {_some(more)}: no label in {labels_file}; add one, or move the trace away")
    return traces


def trace_stem(name: str) -> str:
    """A trace's name without what tells its format and its packing."""
    for suffixes in (PACKED_SUFFIXES, TRACE_SUFFIXES):
        for suffix in suffixes:
            if name.lower().endswith(suffix):
                name = name[: -len(suffix)]
    return name


def _some(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
