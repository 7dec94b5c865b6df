"""Rows and units that are copies of others, whatever they are called: by hashes of their features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

_SIGNIFICANT = 4096.0  # steps of a mantissa: tables that went through text are still the same
_LEAST_SHARED = 3
Hashes = NDArray[np.uint64]


class Fingerprints(NamedTuple):
    """Hashes of rows; 0 of rows that say nothing: without a feature, or all of them 0.

    Args:
        rows: uint64, of the features.
        timed: uint64, of the features and the time of the row.
    """

    rows: Hashes
    timed: Hashes

    @classmethod
    def of(cls, columns: Iterable[NDArray[np.float32]], ts_start: NDArray[np.float64]) -> Fingerprints:
        """Hash the columns of a table (NaN where nothing was observed), to three significant digits."""
        hashes = np.zeros(len(ts_start), np.uint64)
        telling = np.zeros(len(ts_start), np.bool_)
        for column in columns:
            mantissa, exponent = np.frexp(column.astype(np.float64))
            rounded = np.ldexp(np.round(mantissa * _SIGNIFICANT) / _SIGNIFICANT, exponent).astype(np.float32)
            rounded[np.isnan(rounded)] = np.nan  # of which there are many
            telling |= ~np.isnan(rounded) & (rounded != 0)
            hashes = _mixed(hashes ^ (rounded + np.float32(0)).view(np.uint32))
        timed = _mixed(hashes ^ np.round(ts_start * 1e3).astype(np.int64).view(np.uint64))
        return cls(np.where(telling, hashes, 0), np.where(telling, timed, 0))


def _mixed(hashes: Hashes) -> Hashes:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    hashes = hashes + np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def text_hashes(texts: pl.Series) -> Hashes:
    """Hashes of the texts in a column, ascending, each once; what is null is left out."""
    return np.unique(np.array([text_hash(one) for one in texts.drop_nulls().unique().to_list()], np.uint64))


def text_hash(text: str) -> int:
    """64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def originals(units: NDArray[np.int64], found: Fingerprints) -> NDArray[np.int64]:
    """For each row the number of the unit that its unit is a copy of; its own if it is none.

    A unit is a copy if half of the rows of the smaller of the two are in both, and three of them or at the same time.
    """
    original = np.arange(int(units.max(initial=-1)) + 1)
    for hashes, least in ((found.rows, _LEAST_SHARED), (found.timed, 1)):
        frame = pl.DataFrame({"unit": units, "hash": hashes}).filter(pl.col("hash") != 0).unique()
        frame = frame.with_columns(pl.len().over("unit").alias("of"), pl.col("unit").min().over("hash").alias("first"))
        sizes = frame.select(pl.col("unit").alias("first"), pl.col("of").alias("of_first")).unique()
        pairs = frame.filter(pl.col("unit") != pl.col("first")).group_by("unit", "first", "of").len()
        pairs = pairs.join(sizes, on="first").filter(
            (pl.col("len") >= least) & (2 * pl.col("len") >= pl.min_horizontal("of", "of_first"))
        )
        np.minimum.at(original, pairs["unit"].to_numpy(), pairs["first"].to_numpy())
    while (original[original] != original).any():
        original = original[original]
    return original[units]


def copied(units: NDArray[np.int64], found: Fingerprints, rows: Hashes, timed: Hashes) -> NDArray[np.bool_]:
    """Rows that are in other data: at the same time, or as half of a unit's rows.

    Args:
        rows: hashes of the other data, without times.
        timed: with times.
    """
    there: NDArray[np.bool_] = np.isin(found.timed, timed) & (found.timed != 0)
    number = np.unique(units, return_inverse=True)[1]
    shared = np.bincount(number, np.isin(found.rows, rows) & (found.rows != 0))
    telling = np.bincount(number, found.rows != 0)
    whole: NDArray[np.bool_] = (shared >= _LEAST_SHARED) & (2 * shared >= telling)
    also = np.bincount(number, there)
    whole |= (also > 0) & (2 * also >= telling)
    there |= whole[number]
    return there
