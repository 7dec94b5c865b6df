"""Names of others on a terminal and in logs: one line, and nothing that a terminal obeys."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

from support.replay_runs import configuration, frames, replay
from support.sources import PACKAGE, ROOT
from support.traces import write_trace
from trafficrefinery.cli import main as command
from trafficrefinery.cli.ui.tables import print_table
from trafficrefinery.daemon import logs
from trafficrefinery.system.wording import one_line

BAD = "a\n\x1b[31mb\t\u202ec\x07"
PLAIN = "a\\n\\x1b[31mb\\t\\u202ec\\x07"
PAGES = {"main.py": 3, "lines.py": 1, "config.py": 2, "names.py": 1, "features.py": 3, "completion.py": 1}
"""Where `typer.echo` is called: for JSON, help and pages, and in the one function for all other lines."""


@pytest.mark.parametrize(
    ("text", "line"),
    [(BAD, PLAIN), ("plain ä 中", "plain ä 中"), ("", ""), ("\udcff\x9b\x00\r\u2028", "\\udcff\\x9b\\x00\\r\\u2028"),
     (Path("a\nb"), "a\\nb")],
)  # fmt: skip
def test_what_is_not_printable_is_an_escape(text, line):
    assert one_line(text) == line
    assert one_line(line) == line


def test_cells_of_a_table_are_one_line(capsys):
    print_table(["name", "n"], [[BAD, "1"], ["b", "2"]])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["name", "n"], [PLAIN, "1"], ["b", "2"]]


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.modes
def test_a_trace_of_any_name_is_named_in_one_line(tmp_path, capsys):
    """A whole one, a damaged one, and both in a folder; as the output too."""
    folder = tmp_path / "many"
    folder.mkdir()
    whole = write_trace(folder / f"{BAD}.pcap", frames(size=4))
    (folder / f"cut{BAD}.pcap").write_bytes(whole.read_bytes()[:-7])
    settings = configuration(tmp_path)
    for traces in ([whole], [folder / f"cut{BAD}.pcap"], [folder], [tmp_path / f"absent{BAD}"]):
        done = replay(capsys, *traces, "-c", settings, "-o", tmp_path / f"out{BAD}")
        assert harmless(done.out), done.out
        assert harmless(done.err), done.err
        if traces == [folder]:
            assert sum(f"{PLAIN}.pcap" in line or f"{PLAIN} " in line for line in done.out.splitlines()) >= 2
        with pytest.raises(SystemExit):
            command.main(["names", *map(str, traces), "-c", str(settings)])
        said = capsys.readouterr()
        assert harmless(said.out), said.out
        assert harmless(said.err), said.err


def test_a_log_line_is_one_line_whatever_is_in_it(capsys):
    logs.set_up("test")
    try:
        logs.warning(f"interface {BAD} is gone", interface=BAD, service="a=b c")
    finally:
        logging.getLogger("trafficrefinery").handlers.clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert f"interface={PLAIN}" in line
    assert 'service="a=b c"' in line


def test_lines_are_printed_in_one_place():
    found: dict[str, int] = {}
    for folder in (ROOT / PACKAGE / "cli", ROOT / "lab"):
        for path in folder.rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            echoes = sum(ast.unparse(call.func) in ("typer.echo", "print", "typer.secho") for call in calls)
            found |= {path.name: echoes} if echoes else {}
    assert found == PAGES
