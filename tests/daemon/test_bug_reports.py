"""An exception that nobody expected is one line and a file, for every command and process."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trafficrefinery.cli import main as cli
from trafficrefinery.daemon import bug_report
from trafficrefinery.errors import ElsewhereError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where the files are written."""
    monkeypatch.setenv(bug_report.FOLDER, str(tmp_path / "bugs"))
    monkeypatch.delenv(bug_report.SHOW, raising=False)
    return tmp_path / "bugs"


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({
        "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": ["PacketCounters"]}],
        "Sinks": {"NATS": {"Servers": ["nats://me:hushhush@127.0.0.1:4222"]}},
    }))  # fmt: skip
    return path


def raising(*_: object, **__: object) -> None:
    raise ZeroDivisionError("division\nby zero")


def the_report(folder: Path) -> Path:
    (report,) = folder.iterdir()
    return report


def test_a_command_ends_with_one_line_and_a_file(capsys, monkeypatch, folder):
    monkeypatch.setattr("trafficrefinery.cli.commands.config.load_config", raising)
    assert cli._run(["config", "check", "x.json"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: unexpected ZeroDivisionError: division by zero \(.*\.py:\d+\); .*\n", err)
    report = the_report(folder)
    assert str(report) in err
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    text = report.read_text()
    for part in (
        "trafficrefinery 0",
        "python 3",
        "numba ",
        "command line",
        "Traceback (most recent call last)",
        "raising",
    ):
        assert part in text


def test_the_traceback_is_shown_when_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr("trafficrefinery.cli.commands.config.load_config", raising)
    for arguments in (["config", "check", "x.json", "--traceback"], ["--traceback", "config", "check", "x.json"]):
        monkeypatch.delenv(bug_report.SHOW, raising=False)
        assert cli._run(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("Traceback (most recent call last)")
        assert err.splitlines()[-1].startswith("error: unexpected ZeroDivisionError")
    monkeypatch.delenv(bug_report.SHOW)


def test_behind_two_dashes_it_is_an_argument(capsys, monkeypatch):
    assert cli._run(["config", "check", "--", "--traceback"]) == 2
    assert "--traceback: cannot be read" in capsys.readouterr().err
    assert not bug_report.shows()


def test_the_configuration_is_in_the_file_without_its_secrets(monkeypatch, config, folder):
    monkeypatch.setattr(sys, "argv", ["trafficrefinery", "run", "-c", str(config), "nats://me:hushhush@x"])
    bug_report.write("trace")
    text = the_report(folder).read_text()
    assert '"PacketCounters"' in text
    assert "hushhush" not in text
    assert "nats://(hidden)@127.0.0.1:4222" in text


def test_a_configuration_that_cannot_be_read_does_not_hinder_the_file(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(sys, "argv", ["trafficrefinery", "run", f"--config={tmp_path / 'none.json'}"])
    bug_report.write("trace")
    assert "cannot be read" in the_report(folder).read_text()


def test_where_a_place_cannot_be_written_to_another_is_taken(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(bug_report.FOLDER, str(tmp_path / "file" / "no"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "neither"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = bug_report.write("trace")
    assert path is not None
    assert path.parent == tmp_path / "here"


def test_where_no_place_can_be_written_to_the_line_says_so(monkeypatch):
    monkeypatch.setattr(bug_report, "_places", lambda: iter([Path("/proc/no")]))
    assert "no file with the details could be written" in bug_report.one_line(ValueError("x"))


def test_an_exception_of_another_process_has_its_own_traceback(capsys, monkeypatch, folder):
    def elsewhere(*_: object) -> None:
        raise ElsewhereError("KeyError: 'x' (worker 1)", "Traceback of worker 1\n")

    monkeypatch.setattr("trafficrefinery.cli.commands.config.load_config", elsewhere)
    assert cli._run(["config", "check", "x.json"]) == 1
    assert capsys.readouterr().err.startswith("error: unexpected KeyError: 'x' (worker 1); the details")
    assert "Traceback of worker 1" in the_report(folder).read_text()


@pytest.mark.parametrize("error", [BrokenPipeError(), KeyboardInterrupt()])
def test_a_closed_pipe_and_an_interrupt_are_none(capsys, monkeypatch, folder, error):
    def ended(*_: object) -> None:
        raise error

    monkeypatch.setattr("trafficrefinery.cli.commands.config.load_config", ended)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli._run(["config", "check", "x.json"]) == 1
    assert "unexpected" not in capsys.readouterr().err
    assert not folder.exists()


DAEMON_PROCESS = """
from trafficrefinery.daemon import logs, process
logs.set_up("worker0")
process.run(lambda: [][0])
"""
THREAD = """
import threading
from trafficrefinery.daemon import logs
logs.set_up("worker0")
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
raise SystemExit(1)
"""


@pytest.mark.parametrize("program", [DAEMON_PROCESS, THREAD])
@pytest.mark.parametrize("shown", ["", "1"])
def test_the_log_of_a_process_has_one_line(folder, program, shown):
    environment = {**os.environ, bug_report.SHOW: shown}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert "error unexpected IndexError: list index out of range" in lines[0]
    assert "process=worker0" in lines[0]
    assert str(the_report(folder)) in lines[0]
    assert len(lines) == 1 or shown
    assert ("Traceback (most recent call last):" in lines) == bool(shown)
