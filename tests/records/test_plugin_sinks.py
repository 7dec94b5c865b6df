"""Sinks of other distributions: the one of the recipe, as it is written there, and those that cannot be used."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support import networks, replay_runs, traces
from support.daemon_runs import Daemon, configuration, wait_until
from support.recipes import RECIPES, install_distribution, recipe_files
from support.sources import ROOT
from trafficrefinery.cli import main as cli
from trafficrefinery.config import config_schema, parse_config
from trafficrefinery.config.sinks import BUILT_IN
from trafficrefinery.daemon.status import Board
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import ConfigError, OutputError, PluginError
from trafficrefinery.records.sinks.base import Place
from trafficrefinery.records.sinks.opening import close_sinks, open_sinks
from trafficrefinery.records.summary import effects
from trafficrefinery.system import plugins

SERVICES = [{"Name": "Video", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}]
BROKEN = """
from trafficrefinery.records.sinks.base import Sink

class Mistaken(Sink):
    name = "mistaken"
    def take(self, interval):
        return interval.no_such_thing

class Away(Sink):
    name = "away"
    def __init__(self, settings, place):
        raise ConnectionRefusedError(111, "Connection refused")

class NoSink:
    pass
"""


def install(folder: Path, name: str, entries: dict[str, str], module: str, code: str) -> None:
    """Install a distribution of one module."""
    (folder / module).write_text(code)
    install_distribution(folder, name, plugins.SINKS, *(f"{key} = {value}" for key, value in entries.items()))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that the distribution of the recipe, and one with what cannot be used, are installed in."""
    folder, files = tmp_path_factory.mktemp("plugins"), recipe_files()
    project = tomllib.loads(files["sqlite_sink/pyproject.toml"])["project"]
    (module,) = tomllib.loads(files["sqlite_sink/pyproject.toml"])["tool"]["hatch"]["build"]["targets"]["wheel"][
        "include"
    ]
    install(folder, project["name"], project["entry-points"][plugins.SINKS], module, files[f"sqlite_sink/{module}"])
    entries = {key: f"broken_sinks:{key}" for key in ("Mistaken", "Away", "NoSink")}
    install(folder, "broken", entries, "broken_sinks.py", BROKEN)
    return folder


@pytest.fixture
def here(installed, monkeypatch):
    """The plugins can be imported in this process."""
    monkeypatch.syspath_prepend(installed)
    plugins.forget()
    yield
    plugins.forget()


def rows(path: Path) -> list[dict]:
    with sqlite3.connect(path) as database:
        return [json.loads(record) for (record,) in database.execute("SELECT record FROM records")]


def config_of(**sinks) -> dict:
    return {"Interval": "2s", "Sensor": "s", "Sinks": {"JSONLines": {"Enabled": False}, **sinks}, "Services": SERVICES}


@pytest.fixture
def trace(tmp_path) -> Path:
    return traces.write_trace(tmp_path / "some.pcap", replay_runs.frames(3, 20))


@pytest.mark.usefixtures("here")
def test_the_configuration_names_it_as_the_built_in_ones_are_named():
    config = parse_config(config_of(SQLite={"Enabled": True, "File": "x.sqlite"}))
    assert config.sinks.enabled.keys() == {"SQLite"}
    assert config.to_dict()["Sinks"]["SQLite"] == {"Enabled": True, "File": "x.sqlite"}
    assert parse_config(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r'Sinks\.SQLite\.Fil: unknown key; did you mean "File"\?'):
        parse_config(config_of(SQLite={"Fil": "x"}))
    with pytest.raises(ConfigError, match=r"Sinks\.SQLite\.File: must be a string, not 3"):
        parse_config(config_of(SQLite={"File": 3}))


@pytest.mark.usefixtures("here")
def test_a_sink_that_is_not_installed_is_refused_with_those_that_are():
    with pytest.raises(ConfigError) as caught:
        parse_config(config_of(SQLit={"Enabled": True}))
    names = "JSONLines, Parquet, StandardOutput, NATS, Away, Mistaken, NoSink, SQLite"
    assert str(caught.value) == (
        f'<config>: Sinks.SQLit: no sink of this name is installed; installed are {names}; did you mean "SQLite"?'
    )


@pytest.mark.usefixtures("here")
def test_one_that_cannot_be_loaded_stops_only_who_names_it():
    parse_config(config_of())
    with pytest.raises(
        PluginError,
        match='broken: the entry "NoSink = broken_sinks:NoSink" in trafficrefinery.sinks cannot be loaded: TypeError: is not a sink',
    ):
        parse_config(config_of(NoSink={}))


def test_the_json_schema_has_the_keys_of_all_that_are_installed(installed, monkeypatch):
    (installed / "broken-1.0.dist-info").rename(installed / "broken-1.0.away")
    try:
        monkeypatch.syspath_prepend(installed)
        plugins.forget()
        schema = config_schema()
    finally:
        (installed / "broken-1.0.away").rename(installed / "broken-1.0.dist-info")
        plugins.forget()
    sinks = schema["$defs"]["Sinks"]["properties"]
    assert list(sinks) == [*BUILT_IN, "SQLite"]
    assert sinks["SQLite"]["properties"]["File"]["description"] == "Name of the file."
    assert sinks["SQLite"]["properties"].keys() == {"Enabled", "File"}


@pytest.mark.usefixtures("here")
def test_keys_of_one_that_is_off_have_no_effect():
    config = parse_config(config_of(SQLite={"File": "x"}))
    (unused,) = [one for one in effects.without_effect(config, effects.RUN) if "SQLite" in one.key]
    assert unused == ("Sinks.SQLite.File", "Sinks.SQLite.Enabled is false")


@pytest.mark.usefixtures("here")
def test_the_board_has_a_place_for_each_sink_that_is_on():
    plan = Plan.of(parse_config(config_of(SQLite={"Enabled": True}, Parquet={"Enabled": True})))
    board = Board(plan, 1)
    assert board.sinks == ("parquet", "sqlite")
    assert len(board.aggregator["sinks"]) == 2
    board.close()


@pytest.mark.usefixtures("here")
def test_a_mistake_in_a_sink_is_counted_and_one_that_cannot_be_opened_is_refused(tmp_path):
    from support.sink_cases import interval

    config = parse_config(config_of(Mistaken={"Enabled": True}))
    sinks = open_sinks(config, Place(Plan.of(config), tmp_path, tmp_path))
    sinks[0].write(interval(0))
    assert (sinks[0].dropped_total, sinks[0].failing) == (3, True)
    close_sinks(sinks)
    config = parse_config(config_of(Away={"Enabled": True}))
    with pytest.raises(OutputError, match=r"Sinks\.Away: cannot be opened: Connection refused"):
        open_sinks(config, Place(Plan.of(config), tmp_path, tmp_path))


@pytest.mark.usefixtures("here")
def test_replay_sends_its_records_there_too(tmp_path, trace, capsys):
    path, out = tmp_path / "config.json", tmp_path / "out"
    path.write_text(json.dumps(config_of(SQLite={"File": "x.sqlite"})))
    assert cli._run(["replay", str(trace), "-c", str(path), "-o", str(out), "--sink", "SQLite"]) == 0
    written = (out / "records.jsonl").read_text().splitlines()
    assert rows(out / "x.sqlite") == list(map(json.loads, written)) != []
    assert "SQLite" not in capsys.readouterr().out  # no key is without effect
    assert cli._run(["replay", str(trace), "-c", str(path), "-o", str(out), "--sink", "SQLit"]) == 2
    assert 'did you mean "SQLite"?' in capsys.readouterr().err
    assert cli._run(["replay", str(trace), "-c", str(path), "-o", str(tmp_path / "no"), "--sink", "Away"]) == 1
    assert capsys.readouterr().err == "error: Away: cannot be written: Connection refused\n"


def test_the_commands_of_the_recipe_run_as_they_are_written(tmp_path, installed):
    text = RECIPES.read_text()
    commands = re.findall(r"^(trafficrefinery .*sqlite\.json.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    (tmp_path / "sqlite.json").write_text(recipe_files()["sqlite.json"])
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in commands:
        subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    lines = (tmp_path / "out-sqlite" / "records.jsonl").read_text().splitlines()
    assert rows(tmp_path / "out-sqlite" / "video.sqlite") == list(map(json.loads, lines))


def test_the_daemon_writes_there_and_its_metrics_tell_of_it(tmp_path, installed, trace):
    sinks = {"JSONLines": {"Enabled": True}, "SQLite": {"Enabled": True}}
    namespace = networks.Namespace()
    namespace.run("ip", "link", "set", "lo", "up")
    config = {**configuration((), Sinks=sinks), "Services": SERVICES}
    config.pop("Capture")
    daemon = Daemon(tmp_path, config, namespace, "--file", str(trace), "--speed", "10")
    try:
        daemon.start(wait=False, PYTHONPATH=str(installed))
        daemon.wait_until(lambda: "sink_records_total{sqlite}" in _metrics(daemon), "no metric of it", 500)
        wait_until(lambda: daemon.process.poll() is not None, "does not end", 120)
    finally:
        daemon.end()
        namespace.close()
    assert daemon.process.returncode == 0, daemon.log
    (lines,) = daemon.out.glob("records-*.jsonl")
    assert rows(daemon.out / "records.sqlite") == list(map(json.loads, lines.read_text().splitlines())) != []


def _metrics(daemon: Daemon) -> dict[str, float]:
    try:
        return daemon.metrics()
    except OSError:  # it does not listen yet
        return {}
