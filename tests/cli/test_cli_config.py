"""The command line: exit codes, one line for each error, and quick help."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
import types

import pytest
import typer

from support.feature_cases import write_case
from trafficrefinery.cli import main as cli
from trafficrefinery.config import config_schema, load_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.errors import OutputError, TraceError, UsageError
from trafficrefinery.jit import COMPILED

ALL = str(configs_dir() / "all.json")
TWO_SERVICES = {
    "Description": "Two services.",
    "Sys": {"CPUProf": True},
    "Services": [
        {
            "Name": "Net flix",
            "Filter": {"DomainsString": ["a", "b"], "DomainsRegex": ["c"]},
            "Collect": ["PacketCounters"],
        },
        {
            "Name": "All",
            "Filter": {"Prefixes": ["::/0"]},
            "Collect": ["PacketCounters", {"VideoSegments": {"MinBytes": 5}}],
            "Interval": "1m",
        },
    ],
}


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def process(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def command(monkeypatch):
    """Make `trafficrefinery fails` a command that does what a function does."""

    def install(function):
        module = types.ModuleType("failing")
        module.app = typer.Typer(add_completion=False)
        module.app.command()(function)
        monkeypatch.setitem(sys.modules, "failing", module)
        monkeypatch.setitem(cli.COMMANDS, "fails", ("failing", "Fail."))

    return install


def raising(error):
    def function():
        raise error

    return function


@pytest.fixture
def two_services(tmp_path):
    path = tmp_path / "two.json"
    path.write_text(json.dumps(TWO_SERVICES))
    return str(path)


def test_check_says_what_was_found_and_what_is_ignored(run, two_services):
    status, out, err = run("config", "check", two_services)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{two_services}: valid, 2 services, interval 10s, direction service",
        "Two services.",
        "service   interval  domains  regex  prefixes  collect",
        "Net flix  10s       2        1      0         PacketCounters",
        "All       1m        0        0      1         PacketCounters, VideoSegments(MinBytes=5)",
        "note: OutFolder: is not set; `run` needs it, or --out DIR",
        "note: Capture.Interfaces: is not set; `run` needs it, or --interface NAME or --file PCAP",
        "note: Sys.CPUProf: has no meaning here, ignored",
    ]


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_check_compiles_what_the_daemon_needs_once(tmp_path):
    body = f"    def add_packet(self, pkt: Packet) -> None:\n        self.n += {time.time_ns() % 2**32}\n"  # never compiled before
    write_case(tmp_path, body)
    config = tmp_path / "config.json"
    services = [{"Name": "all", "Filter": {"Prefixes": ["::/0"]}, "Collect": ["Case"]}]
    config.write_text(json.dumps({"FeaturePaths": [str(tmp_path)], "Services": services}))
    command = [sys.executable, "-m", "trafficrefinery", "config", "check", config, "--compile"]
    said = [subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()[-1] for _ in range(2)]
    assert (said[0].startswith("compiled in "), said[1]) == (True, "nothing was left to compile")


@pytest.mark.parametrize(
    ("collect", "message"),
    [
        ("PacketCounter", 'Services[0].Collect[0]: no feature class "PacketCounter"; did you mean "PacketCounters"?'),
        ({"VideoSegments": {"MinByte": 5}}, 'Services[0].Collect[0].VideoSegments: no parameter "MinByte"; did you'),
    ],
)
def test_check_knows_the_feature_classes(run, tmp_path, collect, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"Services": [{**TWO_SERVICES["Services"][0], "Collect": [collect]}]}))
    status, _, err = run("config", "check", str(path))
    assert status == 2
    assert err.startswith(f"error: {path}: {message}")


def test_show_prints_a_configuration_that_loads(run, tmp_path):
    status, out, _ = run("config", "show", ALL)
    assert status == 0
    (tmp_path / "x.json").write_text(out)
    assert load_config(tmp_path / "x.json").to_dict() == load_config(ALL).to_dict() == json.loads(out)


def test_schema_prints_the_schema(run):
    status, out, _ = run("config", "schema")
    assert status == 0
    assert json.loads(out) == config_schema(Registry().schemas())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["confg"], 'no such command "confg"; did you mean "config"?'),
        (["config", "chek"], "no such command 'chek'"),
        (["--verzion"], "no such option: --verzion"),
        (["config", "check"], "missing argument 'FILE'"),
        (["config", "check", "a", "b"], "got unexpected extra argument"),
        (["config", "check", "/absent.json"], "/absent.json: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_wrong_configuration_is_file_key_and_message(run, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"Services": [{"Name": "a", "Filter": {"Prefixes": ["10.0.0.1/8"]}, "Collect": ["A"]}]}')
    status, _, err = run("config", "check", str(path))
    expected = '"10.0.0.1/8" has host bits set; the network is "10.0.0.0/8"'
    assert (status, err) == (2, f"error: {path}: Services[0].Filter.Prefixes[0]: {expected}\n")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (TraceError("a.pcap", 24, "is truncated"), 1, "error: a.pcap: byte 24: is truncated"),
        (OutputError("disk\nfull"), 1, "error: disk full"),
        (UsageError("not so"), 2, "error: not so"),
        (KeyboardInterrupt(), 1, "error: interrupted"),
        (PermissionError(13, "Permission denied", "out"), 1, "error: out: Permission denied"),
        (typer.BadParameter("too many"), 2, "error: invalid value: too many"),
    ],
)
def test_a_failure_at_work_is_one_line_and_its_exit_code(run, command, error, status, line):
    command(raising(error))
    code, out, err = run("fails")
    assert (code, out) == (status, "")
    assert err.strip().startswith(line)
    assert err.strip().count("\n") == 0


def test_the_exit_code_of_a_command_is_kept(run, command):
    command(raising(typer.Exit(3)))
    assert run("fails")[0] == 3


def test_an_error_of_the_program_itself_is_one_line_that_names_a_file(command, run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAFFICREFINERY_BUG_REPORTS", str(tmp_path))
    command(raising(ZeroDivisionError()))
    status, out, err = run("fails")
    assert (status, out) == (1, "")
    assert err.startswith("error: unexpected ZeroDivisionError")
    assert str(next(tmp_path.iterdir())) in err


def test_help_and_version_succeed_and_so_does_no_argument(run):
    for arguments in ([], ["--help"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        assert all(f"\n  {name} " in out and text in out for name, (_, text) in cli.COMMANDS.items())
    assert run("config")[0] == 0
    assert run("--version")[1].startswith("trafficrefinery ")


@pytest.mark.parametrize("name", ["check", "show", "schema"])
def test_help_of_each_command_has_an_example(run, name):
    status, out, _ = run("config", name, "--help")
    assert status == 0
    assert f"Example: trafficrefinery config {name}" in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_that_is_listed_is_there(run, name):
    status, out, _ = run(name, "--help")
    assert status == 0
    assert "Example" in out


@pytest.mark.parametrize("arguments", [["--help"], ["config", "check", ALL], ["config", "schema"]])
def test_small_commands_do_not_wait_for_the_compiler(arguments):
    code = (
        "import sys; from trafficrefinery.cli import main\n"
        "try: main.main(sys.argv[1:])\n"
        "finally: print(sorted({'numba', 'polars', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    result = process("-c", code, *arguments)
    assert (result.returncode, result.stderr) == (0, "[]\n")


def test_python_m_is_the_command():
    result = process("-m", "trafficrefinery", "config", "check", "/absent.json")
    assert result.returncode == 2
    assert result.stderr == "error: /absent.json: cannot be read: No such file or directory\n"


def test_a_closed_pipe_is_silent():
    code = "from trafficrefinery.cli.main import main; import time; time.sleep(0.2); main(['config', 'schema'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 1


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        result = subprocess.run(
            [sys.executable, "-m", "trafficrefinery", "config", "schema"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, "error: No space left on device\n")


def test_a_terminal_gets_a_table_with_lines(two_services):
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(
        [sys.executable, "-m", "trafficrefinery", "config", "check", two_services],
        stdout=terminal,
        env=environment,
        check=True,
    )
    os.close(terminal)
    out = b""
    while chunk := read_or_end(controller):
        out += chunk
    os.close(controller)
    assert "│ Net flix".encode() in out


def read_or_end(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux: the other end of the terminal is closed
        return b""
