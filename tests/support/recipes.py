"""The recipes of the documentation, as files; and distributions of others, installed as pip does it."""

from __future__ import annotations

import re
from pathlib import Path

from support.sources import ROOT

RECIPES = ROOT / "docs" / "recipes.md"


def recipe_files() -> dict[str, str]:
    """The titled code blocks of the page, by title."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', RECIPES.read_text(), re.MULTILINE | re.DOTALL))


def install_distribution(folder: Path, name: str, group: str, *entries: str) -> None:
    """Write the metadata of a distribution with entry points of a group; its modules are in `folder`."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *entries, ""]))
