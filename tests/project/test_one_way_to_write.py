"""Files are written whole or not at all, in one way: nobody else opens, renames, or words the error."""

from __future__ import annotations

import ast

import pytest

from support.sources import PACKAGE, ROOT, package_files

_WRITING = {"w", "a", "x", "+"}
_WRITE = {"write_text", "write_bytes", "savefig"}
_RENAME = {"rename", "replace", "renames"}

STREAMS = {
    f"{PACKAGE}/system/writing.py": "the way itself",
    f"{PACKAGE}/costs/exploring/memo.py": "grows line by line",
    f"{PACKAGE}/records/storage/folder.py": "files of records, which take the next name that is free",
    f"{PACKAGE}/records/storage/recovery.py": "the same, of a daemon that was killed",
    f"{PACKAGE}/records/storage/spool.py": "a cursor of a few bytes with its checksum",
    f"{PACKAGE}/daemon/bug_report.py": "has to work when nothing else does, and replaces nothing",
    f"{PACKAGE}/daemon/query/latest.py": "memory",
    f"{PACKAGE}/cli/reports/style.py": "a picture, drawn in memory",
    f"{PACKAGE}/system/processes.py": "the answer of a child, to its pipe",
    f"{PACKAGE}/costs/checks/run_mode.py": "a temporary file, whose reader waits for the end of this process",
}
"""Where something grows, or nothing is replaced, and why."""
LAB = {"world.py": "a log", "servers.py": "of a temporary folder", "certificate.py": "of a temporary folder",
       "namespaces.py": "settings of the kernel"}  # fmt: skip


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _mode(call: ast.Call) -> str:
    """The mode of a call of `open`; it is the first argument of the method, the second of the function."""
    given = [word.value for word in call.keywords if word.arg == "mode"]
    is_path = isinstance(call.func, ast.Attribute) and _name(call.func.value) not in ("os", "io", "gzip")
    given += call.args[0:1] if is_path and call.func.attr == "open" else call.args[1:2]
    return next((str(one.value) for one in given if isinstance(one, ast.Constant)), "")


def ways_to_write(source: str) -> list[str]:
    """What in a module writes, renames, or words the error: line and what it is."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, receiver = _name(node.func), _name(getattr(node.func, "value", node))
            on_draft = any(_name(one) == "draft" for part in (node.func, *node.args) for one in ast.walk(part))
            if name in ("open", "fdopen") and _WRITING & set(_mode(node)) and not on_draft:
                found.append(f"{node.lineno}: opens for writing")
            elif name in _WRITE and not on_draft:
                found.append(f"{node.lineno}: {name}")
            elif name in _RENAME and len(node.args) == (2 if receiver == "os" else 1) and not node.keywords:
                found.append(f"{node.lineno}: renames")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "cannot be written: " in node.value:
            found.append(f"{node.lineno}: words the error")
    return found


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_writes_files_in_the_one_way(path):
    name = str(path.relative_to(ROOT))
    if name not in STREAMS:
        assert ways_to_write(path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "lab").rglob("*.py")), ids=lambda path: path.name)
def test_the_lab_writes_files_in_the_one_way(path):
    if path.name not in LAB:
        assert ways_to_write(path.read_text()) == []


@pytest.mark.parametrize("path", sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]),
                         ids=lambda path: path.name)  # fmt: skip
def test_scripts_rename_nothing_themselves(path):
    wrong = ("renames", "words the error")
    assert [found for found in ways_to_write(path.read_text()) if found.endswith(wrong)] == []


@pytest.mark.parametrize("line", [
    "open(path, 'w')", "path.open('wb', buffering=0)", "path.open(mode='a')", "path.write_text(text)",
    "os.fdopen(fd, 'w')", "partial.replace(path)", "os.replace(partial, path)", "os.rename(a, b)",
    "raise OutputError(f'{path}: cannot be written: {error}')", "figure.savefig(path, dpi=120)",
])  # fmt: skip
def test_each_way_is_found(line):
    assert len(ways_to_write(line)) == 1


@pytest.mark.parametrize("line", [
    "open(path, 'rb')", "path.open()", "path.open(newline='')", "text.replace('a', 'b')", "moment.replace(tzinfo=UTC)",
    "draft.write_bytes(data)", "open(draft, 'xb')", "pq.write_table(table, draft)", "figure.savefig(draft, format='png')",
])  # fmt: skip
def test_what_is_no_other_way_is_not_found(line):
    assert ways_to_write(line) == []


def test_what_is_listed_still_writes():
    assert [name for name in STREAMS if not ways_to_write((ROOT / name).read_text())] == []
    lab = [path for path in (ROOT / "lab").rglob("*.py") if path.name in LAB]
    assert [path.name for path in lab if not ways_to_write(path.read_text())] == []
