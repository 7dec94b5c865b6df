"""One name, one thing: public classes and modules that a reader cannot take for one another."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from support.sources import PACKAGE, ROOT, package_files

COMMANDS = "cli/commands"
"""Its modules have the names of the commands, whatever else is named after what a command does."""


def within(path: Path) -> Path:
    return path.relative_to(ROOT / PACKAGE)


def test_no_two_public_classes_have_one_name():
    places = defaultdict(list)
    for path in package_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(within(path)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_module_shares_its_name_with_one_other_at_most_and_with_none_in_its_room():
    places = defaultdict(list)
    for path in map(within, package_files()):
        if path.stem not in ("__init__", "__main__") and str(path.parent) != COMMANDS:
            places[path.stem].append(path)
    assert {name: found for name, found in places.items() if len(found) > 2} == {}
    assert [name for name, found in places.items() if len({path.parts[0] for path in found}) < len(found)] == []
