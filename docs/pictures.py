"""Draws the pictures of the README and the site from the sample trace: `make pictures`.

They are kept in docs/images. A picture changes when the sample, the features or the bundled models do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def refinery(*arguments: str | Path) -> None:
    """Run a command of the program that is installed beside this interpreter."""
    subprocess.run([Path(sys.executable).parent / "trafficrefinery", *arguments], cwd=ROOT, check=True)


def main() -> None:
    """Draw them all."""
    (DOCS / "images").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "sample.parquet"
        refinery("dataset", "build", "samples", "-c", "configs/video.json", "-o", table)
        models = ("--model", "lab", "--model", "lab-startup")
        refinery("plot", "session", table, *models, "-o", DOCS / "images" / "session.png")


if __name__ == "__main__":
    main()
