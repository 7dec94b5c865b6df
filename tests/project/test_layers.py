"""The direction of imports: a module imports only from rooms before its own, and Numba only where it is wrapped."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from support.sources import PACKAGE, ROOT, package_files

LAB = "trafficrefinery_lab"

ROOMS = (
    "errors", "system", "jit", "api", "packets", "services", "config", "capture", "engine", "records", "models", "replaying",
    "costs", "daemon", "cli",
)  # fmt: skip
"""All that stands at the top of the package. A room imports only from those before it."""
OPEN = {"__init__", "__main__"}
"""The ways in, which may import from everywhere."""


def lab_files() -> list[Path]:
    return sorted((ROOT / "lab" / LAB).rglob("*.py"))


def room_of(path: Path) -> str:
    """The room of a file: its folder directly below the package, or the module itself."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> set[str]:
    """Full names of all modules that a file imports, inside functions and TYPE_CHECKING blocks too."""
    found: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == PACKAGE else {module}
    return found


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith(f"{PACKAGE}.")} & set(ROOMS)


def test_the_package_has_these_rooms_and_no_other():
    found = {path.stem for path in (ROOT / PACKAGE).iterdir() if path.name not in ("_data", "__pycache__", "py.typed")}
    assert found - OPEN == set(ROOMS)
    assert len(ROOMS) <= 15


def test_the_documentation_has_the_rooms_in_their_order():
    table = (ROOT / "docs" / "architecture.md").read_text().partition("| --- |")[2].partition("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)(?:/|\.py)`", "".join(first_cells)) == list(ROOMS)


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_rooms_before_its_own(path):
    room = room_of(path)
    if room in OPEN:
        return
    wrong = {other for other in imported_rooms(path) - {room} if ROOMS.index(other) > ROOMS.index(room)}
    assert not wrong, f"{room} imports from {', '.join(sorted(wrong))}, which stand after it in ROOMS"


@pytest.mark.parametrize(
    "path", sorted((ROOT / PACKAGE / "models" / "targets").glob("*.py")), ids=lambda path: path.name
)
def test_targets_know_nothing_of_the_rest_of_models(path):
    others = {name for name in imported_modules(path) if name.startswith(f"{PACKAGE}.models.")}
    assert all(name.startswith(f"{PACKAGE}.models.targets") for name in others)


@pytest.mark.parametrize(
    ("compiler", "modules"),
    [("numba", {"numba_compiler", "numba_pipeline"}), ("llvmlite", {"numba_compiler", "machine_code"})],
)
def test_only_jit_imports_the_compiler(compiler, modules):
    importers = {
        str(path.relative_to(ROOT))
        for path in [*package_files(), *(ROOT / "features").glob("*.py")]
        if any(name.split(".")[0] == compiler for name in imported_modules(path))
    }
    assert importers == {f"trafficrefinery/jit/{module}.py" for module in modules}


def test_the_package_needs_nothing_of_the_lab():
    importers = [path for path in package_files() if any(name.startswith(LAB) for name in imported_modules(path))]
    assert importers == []


def test_the_lab_imports_only_what_it_declares():
    project = tomllib.loads((ROOT / "lab" / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[>\[]", one)[0] for one in project["dependencies"]}
    imported = {name.split(".")[0] for path in lab_files() for name in imported_modules(path)}
    assert imported - {*sys.stdlib_module_names, LAB, "lab"} == declared  # relative imports begin at `lab`


@pytest.mark.parametrize("path", sorted((ROOT / "features").glob("*.py")), ids=lambda path: path.name)
def test_a_feature_class_imports_only_the_api(path):
    ours = {name for name in imported_modules(path) if name.split(".")[0] == PACKAGE}
    assert ours == {f"{PACKAGE}.api"}


@pytest.mark.parametrize("path", sorted((ROOT / "features" / "sessions").glob("*.py")), ids=lambda path: path.name)
def test_a_session_feature_imports_only_the_apis(path):
    ours = {name for name in imported_modules(path) if name.split(".")[0] == PACKAGE}
    assert ours <= {f"{PACKAGE}.api", f"{PACKAGE}.api.sessions"}


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    folder = tmp_path / PACKAGE / "records"
    folder.mkdir(parents=True)
    path = folder / "jsonl.py"
    path.write_text(
        "from .. import cli\nfrom ..replaying import run\ndef f():\n    import trafficrefinery.engine.worker as w\n"
    )
    assert imported_rooms(path) == {"cli", "replaying", "engine"}
