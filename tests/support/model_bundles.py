"""Small models for tests, written as version 0.1 did: they say something else from interval to interval, which is all that is asked of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from trafficrefinery.models.inference.bundle import Calibration, column_units
from trafficrefinery.models.inference.forest import LEAF, Forest
from trafficrefinery.models.inference.requirements import classes_behind
from trafficrefinery.models.sessions import SessionRegistry, session_schema

COLUMNS = ("application.segment_bytes", "application.requests")
RESOLUTIONS = (240, 480, 720)
_DEPTH = 4


def _forest(outputs: int) -> Forest:
    """A tree that looks at bytes of segments, down to 16 leaves."""
    inner, leaves = 2**_DEPTH - 1, 2**_DEPTH
    number = np.arange(inner + leaves)
    is_leaf = number >= inner
    thresholds = np.zeros(inner)
    for node in range(inner):  # in the order of the tree's levels
        level = int(np.log2(node + 1))
        place = (2 * (node + 1 - 2**level) + 1) / 2 ** (level + 1)
        thresholds[node] = 8e6 * place
    random = np.random.default_rng(7)
    if outputs == len(RESOLUTIONS):
        values = 0.05 + 0.85 * np.eye(outputs)[random.integers(0, outputs, leaves)]
        values[::5] = 1 / outputs  # from which it abstains
    else:
        values = np.sort(random.uniform(0.5, 5, (leaves, outputs)), axis=1)
    return Forest(
        np.array([0]), np.where(is_leaf, LEAF, 0).astype(np.int32),
        np.concatenate([thresholds, np.zeros(leaves)]).astype(np.float32),
        np.where(is_leaf, number - inner, 2 * number + 1).astype(np.int32), np.zeros(len(number), np.uint8),
        values.astype(np.float32), np.zeros(outputs),
    )  # fmt: skip


def write_bundle(folder: Path, target: str = "resolution", interval_s: float = 10.0, **schema: object) -> Path:
    """A model of session-intervals with VideoSegments; `schema` replaces parts of its schema."""
    path = folder / f"by-size-{target}"
    path.mkdir(parents=True)
    registry = SessionRegistry()
    units = column_units(session_schema(registry.fields()))
    is_resolution = target == "resolution"
    forest = _forest(3)
    calibration = Calibration("shares" if is_resolution else "identity", 1.0, 0.6, 0.8, 0.5)
    edges = np.array([[0, 1e6, 2e6, 4e6, 8e6], [0, 1, 2, 4, 8]], np.float32)
    rows = np.array([[0, 1], [3e6, 2], [np.nan, np.nan], [2e7, 8]], np.float32)
    described = {
        "columns": [{"name": name, "unit": units[name]} for name in COLUMNS], "interval_s": interval_s,
        "needs": classes_behind(COLUMNS, registry.made_by), "services": [],
        "resolutions": RESOLUTIONS if is_resolution else [], **schema,
    }  # fmt: skip
    np.savez(path / "model.npz", bins=edges, **forest._asdict())
    np.savez(path / "selftest.npz", rows=rows, outputs=calibration.outputs(forest.sums(rows)))
    (path / "schema.json").write_text(json.dumps(described))
    (path / "calibration.json").write_text(json.dumps(calibration._asdict()))
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}
    (path / "manifest.json").write_text(
        json.dumps({"schema": 1, "name": path.name, "target": target, "files": digests})
    )
    return path


def tamper(bundle: Path) -> None:
    """Change a byte of a bundle, whose digests then no longer fit."""
    calibration = bundle / "calibration.json"
    calibration.write_text(calibration.read_text().replace("0.6", "0.7"))
