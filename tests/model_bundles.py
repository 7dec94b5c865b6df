"""Small models for tests: they say something else from interval to interval, which is all that is asked of them."""

from __future__ import annotations

import json
from pathlib import Path


def write_bundle(folder: Path, target: str = "resolution", interval_s: float = 10.0) -> Path:
    """A model of session-intervals with VideoSegments."""
    path = folder / f"by-size-{target}"
    path.mkdir(parents=True)
    resolutions = [240, 480, 720] if target == "resolution" else []
    content = {"name": path.name, "target": target, "interval_s": interval_s,
               "columns": ["application.segment_bytes"], "resolutions": resolutions}  # fmt: skip
    (path / "bundle.json").write_text(json.dumps(content))
    return path


def tamper(bundle: Path) -> None:
    """Change a byte of a bundle, whose digests then no longer fit."""
    (bundle / "bundle.json").write_text("{")
