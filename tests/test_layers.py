"""The direction of imports: a module imports only from lower layers, and Numba only where it is wrapped."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "trafficrefinery"
LAB = "trafficrefinery_lab"

# From the bottom to the top. A layer of the design is several rows where its modules build on one another.
ROWS = (
    ("errors", "expressions", "data", "late", "versions"),
    ("files",),
    ("jit",),
    ("budget", "tasks", "layers"),
    ("linklayer",),
    ("tunnels",),
    ("ranges", "session_kernels"),
    ("api", "config", "memory", "names", "origins", "privacy"),
    ("outputs", "session_api", "bugreport"),
    ("fingerprint",),
    ("connection", "wire", "flowcache", "servicemap", "shm", "testing", "transform"),
    ("blanking",),
    ("handshakes",),
    ("hellos",),
    ("registry", "kernel", "capture", "runtime", "records"),
    ("fuse", "trace_clock"),
    ("footprint", "counting"),
    ("batches",),
    ("worker",),
    ("aggregate", "status"),
    ("sinks", "metrics", "sessions", "summary"),
    ("query", "inference"),
    ("inferring",),
    ("timelines",),
    ("sessionfiles", "sessionplots"),
    ("sessionrecords",),
    ("walkthrough",),
    ("extract", "parallel", "checking", "tracenames"),
    ("daemon", "replaying", "profiling"),
    ("notebook",),
    ("dataset",),
    ("eachtrace",),
    ("training",),
    ("exploring",),
    ("cli",),
    ("__init__", "__main__"),
)
LAYERS = {name: number for number, names in enumerate(ROWS) for name in names}


def package_files() -> list[Path]:
    return sorted(path for path in (ROOT / PACKAGE).rglob("*.py") if "_data" not in path.parts)


def lab_files() -> list[Path]:
    return sorted((ROOT / "lab" / LAB).rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its module, or its folder directly below the package."""
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


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith(f"{PACKAGE}.")} & LAYERS.keys()


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_layers(path):
    part = part_of(path)
    assert part in LAYERS, f"{part} has no layer; give it one in ROWS"
    wrong = {other for other in imported_parts(path) - {part} if LAYERS[other] >= LAYERS[part]}
    assert not wrong, f"{part} (layer {LAYERS[part]}) imports {', '.join(f'{o} (layer {LAYERS[o]})' for o in wrong)}"


@pytest.mark.parametrize(("compiler", "modules"), [("numba", {"compiler"}), ("llvmlite", {"compiler", "objects"})])
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
    assert ours <= {f"{PACKAGE}.api", f"{PACKAGE}.session_api"}


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    folder = tmp_path / PACKAGE / "sinks"
    folder.mkdir(parents=True)
    path = folder / "jsonl.py"
    path.write_text(
        "from .. import cli\nfrom ..replaying import run\ndef f():\n    import trafficrefinery.worker as w\n"
    )
    assert imported_parts(path) == {"cli", "replaying", "worker"}
