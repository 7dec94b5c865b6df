"""Writes model bundles: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from trafficrefinery import __version__
from trafficrefinery.errors import UsageError
from trafficrefinery.models.inference.bundle import (
    CALIBRATION,
    COLUMNS,
    MANIFEST,
    MODEL,
    SCHEMA,
    SELF_TEST,
    Calibration,
    load_bundle,
)
from trafficrefinery.models.inference.forest import Forest
from trafficrefinery.system.writing import Whole, output_errors

from .trained_on import TRAINED_ON

_SELF_TEST_ROWS = 256
_EDGES = 11


def write_bundle(  # noqa: PLR0913, PLR0917 (each is a file of the bundle)
    out: Path, forest: Forest, calibration: Calibration, schema: Mapping[str, Any], manifest: Mapping[str, Any],
    x: NDArray[np.float32], texts: Mapping[str, str], hashes: Mapping[str, NDArray[np.uint64]] = MappingProxyType({}),
) -> Path:  # fmt: skip
    """Write a bundle as a directory, and load it once.

    Args:
        schema: the content of `schema.json`.
        manifest: name, target, and what the model was made from.
        x: training data, of which the drift and the self-test are made.
        texts: further files, such as `metrics.json` and `card.md`.
        hashes: of what the model was trained on; none: it does not say.

    Raises:
        UsageError: there is something else at that place.
        OutputError: it cannot be written.
    """
    refuse_other(out)
    with output_errors(out), Whole(out) as draft:
        draft.mkdir(parents=True)
        np.savez_compressed(draft / MODEL, **forest._asdict(), bins=_bins(x))
        rows = _test_rows(x)
        np.savez_compressed(draft / SELF_TEST, rows=rows, outputs=calibration.outputs(forest.sums(rows)))
        (draft / COLUMNS).write_text(_as_json(schema))
        (draft / CALIBRATION).write_text(_as_json(calibration._asdict()))
        if hashes:
            np.savez_compressed(draft / TRAINED_ON, **dict[str, Any](hashes))
        for name, text in texts.items():
            (draft / name).write_text(text)
        digests = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(draft.iterdir())
        }  # fmt: skip
        versions = {"trafficrefinery": __version__, "python": platform.python_version(),
                    "numpy": np.__version__, "scikit-learn": sklearn.__version__}  # fmt: skip
        whole = {"schema": SCHEMA, **manifest, "versions": versions, "files": digests}
        (draft / MANIFEST).write_text(_as_json(whole))
        load_bundle(draft)
        if out.exists():
            shutil.rmtree(out)
    return out


def refuse_other(out: Path) -> None:
    """See that nothing but a bundle is replaced.

    Raises:
        UsageError: there is something else at that place.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise UsageError(f"{out}: is there already, and no bundle; name another directory")


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _bins(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Deciles of each column; (columns, 11), NaN of a column that no row has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanquantile(x.astype(np.float64), np.linspace(0, 1, _EDGES), axis=0).T.astype(np.float32)


def _test_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of the training data, without some and all of their features, and far outside."""
    rng = np.random.default_rng(0)
    rows = x[rng.integers(0, len(x), _SELF_TEST_ROWS)].copy()
    rows[:32][rng.random(rows[:32].shape) < 0.5] = np.nan
    rows[32] = np.nan
    rows[33], rows[34], rows[35] = 0.0, np.finfo(np.float32).max, -np.finfo(np.float32).max
    return rows
