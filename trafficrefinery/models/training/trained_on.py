"""What a model was trained on, as hashes: so that it is not evaluated on it under another name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trafficrefinery.models.inference.arrays import read_arrays
from trafficrefinery.models.inference.bundle import BundleError

from .copies import Fingerprints, copied, text_hash, text_hashes
from .dataset import Dataset
from .groups import OTHERS, group_columns, group_values

TRAINED_ON = "trained_on.npz"
_MOST_BYTES = 256 << 20
_UNIT, _ROWS, _TIMED, _COLUMN = "unit", "rows", "timed", "column."


def hashes_of(dataset: Dataset, x: NDArray[np.float32]) -> dict[str, NDArray[np.uint64]]:
    """Of the units, the values of columns of groups, and the rows of a dataset.

    Addresses can be guessed from their hashes: those of clients are kept only where rows are grouped by them.

    Args:
        x: the features that the model reads.
    """
    found = _fingerprints(dataset, x)
    names = [name for name in group_columns(dataset.table.schema) if name not in OTHERS or name in dataset.by]
    columns = {name: group_values(dataset.table, name) for name in names}
    return {
        _UNIT: text_hashes(dataset.units_named()), _ROWS: np.unique(found.rows[found.rows != 0]),
        _TIMED: np.unique(found.timed[found.timed != 0]),
        **{_COLUMN + name: text_hashes(values) for name, values in columns.items()},
    }  # fmt: skip


class Seen(NamedTuple):
    """Rows that a model was trained on, or whose group, unit or copy it was trained on.

    Args:
        rows: bool, of each row.
        why: how many rows are of each kind: by column of groups, unit (`session`), and `copies`.
        values: of each column of groups, the values that the model was trained on.
    """

    rows: NDArray[np.bool_]
    why: dict[str, int]
    values: dict[str, frozenset[str]]

    def report(self, dataset: Dataset) -> dict[str, Any]:
        """As `metrics.json` has it."""
        return {"rows": int(self.rows.sum()), "sessions": len(np.unique(dataset.sessions[self.rows])), "why": self.why}


def seen_before(folder: Path, dataset: Dataset, x: NDArray[np.float32], groups: Sequence[str]) -> Seen | None:
    """Which rows of a dataset a bundle has seen; None of a bundle that does not say.

    Args:
        groups: columns whose values must not have been seen.

    Raises:
        BundleError: what the bundle says is damaged.
    """
    path = folder / TRAINED_ON
    if not path.exists():
        return None
    try:
        known = read_arrays(path, _MOST_BYTES)
        if any(one.dtype != np.uint64 or one.ndim != 1 for one in known.values()):
            raise ValueError(f"{TRAINED_ON} holds something else than hashes")
        rows, timed, unit = known[_ROWS], known[_TIMED], known[_UNIT]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: {error}; train the model again") from error
    there = set(group_columns(dataset.table.schema))
    columns = {name: group_values(dataset.table, name) for name in there if _COLUMN + name in known}
    values = {name: _among(one, known[_COLUMN + name]) for name, one in columns.items()}
    named = dataset.units_named()
    kinds = {name: columns[name].is_in(list(values[name])).fill_null(value=False).to_numpy()
             for name in groups if name in columns}  # fmt: skip
    kinds[dataset.target.unit] = named.is_in(list(_among(named, unit))).to_numpy()
    kinds["copies"] = copied(dataset.sessions, _fingerprints(dataset, x), rows, timed)
    why = {name: int(one.sum()) for name, one in kinds.items() if one.any()}
    return Seen(np.any(list(kinds.values()), axis=0), why, values)


def _fingerprints(dataset: Dataset, x: NDArray[np.float32]) -> Fingerprints:
    return Fingerprints.of((x[:, one] for one in range(x.shape[1])), dataset.table.column("ts_start").to_numpy())


def _among(texts: pl.Series, hashes: NDArray[np.uint64]) -> frozenset[str]:
    """The texts whose hashes are known."""
    known = set(hashes.tolist())
    return frozenset(text for text in texts.drop_nulls().unique().to_list() if text_hash(text) in known)
