"""Model bundles: directories of data, from which nothing is run.

`manifest.json` names all other files with their digests. `model.npz` holds the trees as flat arrays, `schema.json` the
columns with their units and order, `calibration.json` what is done with their sums, `selftest.npz` rows and what the
model gives for them; `metrics.json` and `card.md` are for people.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.config.model import MEDIA
from trafficrefinery.errors import UsageError
from trafficrefinery.models.sessions.provenance import UsedCode, needs_from_json
from trafficrefinery.models.targets import BUILT_IN, Target
from trafficrefinery.records.inferences import QUANTILES
from trafficrefinery.system.files import check_regular, read_bytes, read_json

from .arrays import read_arrays, zip_names
from .forest import Forest

SCHEMA = 2
_READ = (1, SCHEMA)  # schema 1 had two targets, which its manifest names, and resolutions in place of labels
MANIFEST, MODEL, COLUMNS, CALIBRATION, SELF_TEST = (
    "manifest.json", "model.npz", "schema.json", "calibration.json", "selftest.npz",
)  # fmt: skip
REQUIRED = (MODEL, COLUMNS, CALIBRATION, SELF_TEST)
_MOST_BYTES = 256 << 20
_MOST_OUTPUTS = 1 << 24  # of a self-test
_TOLERANCE = 1e-5


class BundleError(UsageError):
    """A bundle that cannot be used, or not with a configuration."""


class Calibration(NamedTuple):
    """What is done with the sums of the leaves.

    Args:
        link: `shares` (they are probabilities, but for the temperature), `logits`, or `identity`.
        temperature: above 1 makes probabilities more even (Guo et al., ICML 2017).
        stay: probability that a session has the same label in the next interval.
        weight: how much one interval counts against what is known of the session; 1 if intervals were independent.
        least_confidence: below it, the model abstains.
    """

    link: str
    temperature: float = 1.0
    stay: float = 0.5
    weight: float = 1.0
    least_confidence: float = 0.0

    def outputs(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the classes, or the values themselves."""
        if self.link == "identity":
            return sums
        logits = np.log(np.maximum(sums, 1e-6)) if self.link == "shares" else sums
        logits = logits / self.temperature
        shares: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares


class Bundle(NamedTuple):
    """A model that can be used.

    Args:
        target: what it answers.
        columns: of session-intervals, in the order of the model's features.
        units: of each column.
        needs: the feature classes of flows that the columns are made from.
        services: that it is for; empty: any.
        labels: the classes, in the target's order; empty for a quantity.
        bins: float32 (columns, edges), quantiles of each column in the training data, by which drift is told.
        first_packets: of each flow and interval, that the columns are made from; None: all.
        features: the session feature that gives each column; empty where the training data did not say.
        code: the user's own code that the columns are made by.
        opened_by: what opens the sessions that it was trained on.
    """

    name: str
    digest: str
    target: Target
    interval_s: float
    columns: tuple[str, ...]
    units: tuple[str, ...]
    needs: tuple[str, ...]
    services: tuple[str, ...]
    labels: tuple[str, ...]
    forest: Forest
    calibration: Calibration
    bins: NDArray[np.float32]
    first_packets: int | None = None
    features: tuple[str, ...] = ()
    code: tuple[UsedCode, ...] = ()
    opened_by: str = MEDIA

    @property
    def label(self) -> str:
        """As records name it."""
        return f"{self.name}@{self.digest}"

    def outputs(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities (rows, labels), or the quantiles of a quantity (rows, 3)."""
        return self.calibration.outputs(self.forest.sums(rows))


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle, with all checks.

    Raises:
        BundleError: it is none, is damaged or was changed, is too large, or does not give on this machine what it
            should.
    """
    manifest, digest = _manifest(folder)
    try:
        _check_files(folder, manifest)
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    try:
        schema = read_json(folder / COLUMNS)
        arrays = read_arrays(folder / MODEL, _MOST_BYTES)
        bundle = _bundle(manifest, digest, schema, read_json(folder / CALIBRATION), arrays)
        bundle.forest.check(len(bundle.columns))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, MemoryError, UsageError) as error:
        raise BundleError(f"{folder}: is not a model of this program: {error}; train it again") from error
    _self_test(bundle, folder)
    return bundle


def _manifest(folder: Path) -> tuple[dict[str, Any], str]:
    if folder.is_file():
        what = "a pickle, which runs code when it is loaded" if _is_pickle(folder) else "a file"
        raise BundleError(f"{folder}: is {what}; name the directory of a bundle that `trafficrefinery train` made")
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle; name the directory that `trafficrefinery train` made")
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["schema"] not in _READ:
            known = " and ".join(map(str, _READ))
            raise BundleError(f"{folder}: has schema {manifest['schema']}, this version reads {known}; train it again")
        files = manifest["files"]
        if not isinstance(files, dict) or not set(REQUIRED) <= files.keys():
            raise ValueError("it does not name all files")
    except OSError as error:
        raise BundleError(
            f"{folder / MANIFEST}: cannot be read: {error.strerror}; name the directory of a bundle"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / MANIFEST}: is not the manifest of a bundle: {error}") from error
    computes = {name: files[name] for name in REQUIRED}
    if manifest["schema"] == SCHEMA:
        computes["target"] = manifest["target"]  # which says what the numbers mean
    return manifest, hashlib.sha256(json.dumps(computes).encode()).hexdigest()[:12]


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    for name in sorted(found):
        check_regular(folder / name)
    if sum((folder / name).stat().st_size for name in found) > _MOST_BYTES:
        raise BundleError(f"{folder}: holds more than {_MOST_BYTES >> 20} MiB; train a smaller model")
    for name in sorted(found):
        if _is_pickle(folder / name):
            raise BundleError(f"{folder / name}: is a pickle, which runs code when loaded; move it out of the model")
    wanted = manifest["files"]
    if wanted.keys() != found:
        name = min(wanted.keys() ^ found)
        what = "is missing" if name in wanted else "is not in the manifest; move it out of the model"
        raise BundleError(f"{folder / name}: {what}")
    for name, digest in wanted.items():
        if hashlib.sha256(read_bytes(folder / name, _MOST_BYTES)).hexdigest() != digest:
            raise BundleError(f"{folder / name}: is not as it was written (SHA-256 differs); get the bundle again")


def _is_pickle(path: Path) -> bool:
    """By content: pickles of protocol 2 and later, and what joblib and PyTorch wrap around them."""
    start = read_bytes(path, _MOST_BYTES)[:2]
    if len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return True
    try:
        return start == b"PK" and any(name.endswith(".pkl") for name in zip_names(path))
    except ValueError as error:
        raise BundleError(f"{path}: {error}; get the bundle again") from error


def _bundle(
    manifest: Mapping[str, Any], digest: str, schema: Mapping[str, Any], calibration: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Bundle:  # fmt: skip
    columns = schema["columns"]
    names = tuple(str(column["name"]) for column in columns)
    target, labels = _answers(manifest, schema)
    forest = Forest.from_arrays(arrays)
    bins = np.asarray(arrays["bins"], np.float32)
    if len(forest.start) != (len(labels) or len(QUANTILES)) or bins.shape[:1] != (len(names),):
        raise ValueError("its files do not belong together")
    needs, code = needs_from_json(schema["needs"])
    return Bundle(
        str(manifest["name"]), digest, target, float(schema["interval_s"]), names,
        tuple(str(column["unit"]) for column in columns), needs,
        tuple(map(str, schema["services"])), labels, forest, Calibration(**calibration), bins,
        schema.get("first_packets"), tuple(str(column.get("feature", "")) for column in columns), code,
        str(schema.get("opened_by", MEDIA)),
    )  # fmt: skip


def _answers(manifest: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[Target, tuple[str, ...]]:
    """The target, and the labels that the model knows of it."""
    if manifest["schema"] == SCHEMA:
        target, labels = Target.from_json(manifest["target"], f"{MANIFEST}: target"), schema["labels"]
    else:
        target, labels = BUILT_IN[manifest["target"]], schema["resolutions"]
    told = tuple(str(label) for label in labels)
    if bool(told) != target.has_labels or target.ordered(told) != told:
        raise ValueError(f"its labels are not those of its target {target.name}")
    return target, told


def _self_test(bundle: Bundle, folder: Path) -> None:
    try:
        test = read_arrays(folder / SELF_TEST, _MOST_BYTES)
        rows, expected = test["rows"], test["outputs"]
        if rows.shape != (len(rows), len(bundle.columns)) or len(rows) * len(bundle.forest.start) > _MOST_OUTPUTS:
            raise ValueError(f"its rows are not as the model takes them: {rows.shape}")
        made = bundle.outputs(rows)
    except (ValueError, KeyError, IndexError, TypeError, OSError, MemoryError) as error:
        raise BundleError(f"{folder / SELF_TEST}: {error}; train the model again") from error
    if made.shape != expected.shape or not (
        np.allclose(made, expected, rtol=0, atol=_TOLERANCE) and (made.argmax(1) == expected.argmax(1)).all()
    ):
        raise BundleError(f"{folder}: gives other results on this machine than when it was trained; train it again")


def unit_of(doc: str) -> str:
    """The unit of a session feature: its comment up to the first comma or semicolon."""
    return re.split(r"[,;]", doc, maxsplit=1)[0].strip()


def column_units(schema: pa.Schema) -> dict[str, str]:
    """The unit of each session feature in a table."""
    return {
        field.name: unit_of((field.metadata or {}).get(b"doc", b"").decode())
        for field in schema
        if "." in field.name
    }  # fmt: skip
