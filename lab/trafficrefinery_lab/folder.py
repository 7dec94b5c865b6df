"""The folder of a run: the plan that it follows, labels of what is complete, and nothing half-done."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trafficrefinery.errors import UsageError
from trafficrefinery.system.writing import PARTIAL, make_directory, output_errors, write_file

from .plan import SITE, SessionPlan
from .session import LABELS_SUFFIX, TRACE_SUFFIX, TRUTH_SUFFIX

LABELS, PLAN = "labels.csv", "plan.json"
COLUMNS = ("file", "session", "video_id", "resolution", "site", "service", "startup_s", "session_start_s")
_OURS = re.compile(
    rf"({SITE}-\d+-\d{{4,}}-\w+)({'|'.join(map(re.escape, (TRACE_SUFFIX, LABELS_SUFFIX, TRUTH_SUFFIX)))})"
    rf"((?:\.\d+)?{re.escape(PARTIAL)})?"
)
Rows = dict[str, dict[str, str]]
"""Rows of labels by session."""


def prepare(folder: Path, plan: Sequence[SessionPlan]) -> Rows:
    """Make the folder ready for a plan; what was left half-done is removed. The rows that are there.

    Raises:
        UsageError: it has sessions of another plan.
        OutputError: it cannot be written.
    """
    make_directory(folder)
    with output_errors(folder):
        _remember(folder / PLAN, plan)
        rows = read_rows(folder / LABELS)
        complete = {row["file"] for row in rows.values()}
        for path in folder.iterdir():
            ours = _OURS.fullmatch(path.name)
            if ours is not None and (ours[3] or ours[1] + TRACE_SUFFIX not in complete):
                path.unlink()
    return rows


def _remember(path: Path, plan: Sequence[SessionPlan]) -> None:
    """Write the plan, unless it contradicts the one that is there."""
    # Compared as text, so that a tuple and the list it becomes in JSON are the same.
    ours = {one.session: json.dumps({**one._asdict(), "profile": asdict(one.profile)}) for one in plan}
    known = json.loads(path.read_text()) if path.exists() else {}
    for session in sorted(ours.keys() & known.keys()):
        if known[session] != ours[session]:
            raise UsageError(
                f"{path}: has another session {session}; use another folder, or the same --seed, --profiles and "
                "--duration"
            )
    write_file(path, json.dumps({**known, **ours}, indent=0) + "\n")


def read_rows(labels: Path) -> Rows:
    """What is complete; nothing where there is no file."""
    if not labels.exists():
        return {}
    with labels.open(newline="") as opened:
        return {row["session"]: row for row in csv.DictReader(opened)}


def write_rows(labels: Path, rows: Rows) -> None:
    """Write labels anew, ordered by session; they get their name when they are complete."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[session] for session in sorted(rows))
    write_file(labels, text.getvalue())
