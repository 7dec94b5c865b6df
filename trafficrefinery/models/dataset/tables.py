"""What all datasets have in common: their columns, how they are written, and the manifest beside them."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery import __version__
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.label_columns import label_field
from trafficrefinery.system.files import sha256_of
from trafficrefinery.system.writing import Whole, output_errors, write_file

LABEL_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "file": (pa.string(), "the trace or table that the row is from"),
    "session": (pa.string(), "name of the labelled session: rows of one belong together"),
    "video_id": (pa.string(), "what was played: folds are to be grouped by it"),
    "site": (pa.string(), "where it was recorded"),
    "resolution": (pa.int64(), "label: lines of the video that was played; null where nothing was"),
    "startup_s": (pa.float64(), "label: s, from the start to the first picture"),
    "session_start_s": (pa.float64(), "label: s since the epoch, when play was pressed"),
    "downloaded_resolution": (pa.int64(), "label: lines of the video that was downloaded"),
    "stalls": (pa.int64(), "label: stalls that began"),
    "stalled_s": (pa.float64(), "label: s in which playing stood still"),
    "switches": (pa.int64(), "label: changes of the resolution that was played"),
    "buffer_s": (pa.float64(), "label: s of media that were buffered at the end"),
}
"""Columns beside those of `session_schema`."""

GROUP_PREFIX = "group."
"""What columns of a user's own groups begin with: `group.device`."""

FIRST_PACKETS = b"trafficrefinery.first_packets"
"""In the metadata of a table, where features saw only the first packets of each flow and interval: how many."""


OPENED_BY = b"trafficrefinery.opened_by"
"""Likewise, where something else than media segments opened the sessions: what."""


def dataset_schema(sessions: pa.Schema, targets: Iterable[Target] = (), groups: Iterable[str] = ()) -> pa.Schema:
    """The columns of a dataset: labels, then those of session-intervals.

    Args:
        targets: that the user defined.
        groups: names of the user's columns of groups.
    """
    labels = [pa.field(name, kind, metadata={"doc": doc}) for name, (kind, doc) in LABEL_COLUMNS.items()]
    own = [pa.field(name, pa.string(), metadata={"doc": "label: a group of rows"}) for name in groups]
    return pa.schema([*labels, *own, *map(label_field, targets), *sessions])


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file; it gets its name when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path), Whole(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def write_manifest(path: Path, content: dict[str, Any]) -> Path:
    """Write what a dataset was made from beside it, as `NAME.manifest.json`."""
    versions = {"trafficrefinery": __version__, "python": platform.python_version(), "numpy": np.__version__,
                "polars": pl.__version__, "pyarrow": pa.__version__}  # fmt: skip
    manifest = path.with_name(path.name.removesuffix(".parquet") + ".manifest.json")
    whole = {"schema": 1, "data": path.name, "sha256": sha256_of(path), "versions": versions, **content}
    return write_file(manifest, json.dumps(whole, indent=2) + "\n")
