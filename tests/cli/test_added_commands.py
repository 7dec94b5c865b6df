"""Commands of other distributions: found by entry points, and a hint where one of the project is not installed."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from support.recipes import install_distribution
from trafficrefinery.cli import main as cli
from trafficrefinery.system import plugins

MODULE = '''
import typer
app = typer.Typer(add_completion=False, rich_markup_mode=None)

@app.command()
def greet(name: str) -> None:
    """Greet somebody.

    At length.
    """
    typer.echo(f"hello {name}")
'''


@pytest.fixture(autouse=True)
def _forgotten():
    plugins.forget()
    yield
    plugins.forget()


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution, one file and its metadata, that adds commands."""

    def installed(lines: str, module: str = MODULE) -> None:
        (tmp_path / "strangers_command.py").write_text(module)
        install_distribution(tmp_path, "stranger", plugins.COMMANDS, lines)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "strangers_command", raising=False)

    return installed


@pytest.fixture
def run(capsys):
    def ran(*arguments):
        status = cli._run(list(arguments))
        return status, *capsys.readouterr()

    return ran


def test_the_lab_is_found_by_its_entry_point(run):
    (point,) = entry_points(group=plugins.COMMANDS, name="lab")
    assert point.dist.name == "trafficrefinery-lab"
    assert "\n  lab " in run("--help")[1]
    assert "Make labelled video sessions" in run("--help")[1]
    assert run("lab", "--help")[0] == 0


def test_the_reader_of_published_tables_is_found_in_the_group_dataset(run):
    assert "\n  import " in run("dataset", "--help")[1]
    assert "Example: trafficrefinery dataset import " in run("dataset", "import", "--help")[1]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("arguments", [["lab", "plan"], ["dataset", "import", "x.pkl", "-o", "x.parquet"]])
def test_without_the_lab_its_commands_say_what_to_install(run, arguments):
    assert "\n  lab " not in run("--help")[1]
    assert "\n  import " not in run("dataset", "--help")[1]
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "install trafficrefinery-lab, which has it" in err
    assert err.count("\n") == 1


def test_a_stranger_adds_a_command_with_one_file(install, run):
    install("greet = strangers_command:app")
    assert run("greet", "you") == (0, "hello you\n", "")
    (line,) = [line.split() for line in run("--help")[1].splitlines() if line.startswith("  greet ")]
    assert line == ["greet", "Greet", "somebody."]
    assert 'did you mean "greet"?' in run("gret")[2]


def test_a_stranger_adds_a_command_to_a_group(install, run):
    install("config.greet = strangers_command:app")
    assert run("config", "greet", "you") == (0, "hello you\n", "")
    assert "greet" in run("config", "--help")[1]
    assert "\n  greet " not in run("--help")[1]


def test_the_commands_of_the_package_cannot_be_replaced(install, run):
    install("config = strangers_command:app\nconfig.check = strangers_command:app")
    assert "Check and show configurations" in run("--help")[1]
    assert "hello" not in run("config", "check", "/absent.json")[1]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import absent_module\n", "ModuleNotFoundError: No module named 'absent_module'"),
        ("app = 3\n", "AttributeError: "),
        ("raise SystemError('no\\nmore')\n", "SystemError: no more"),
    ],
)
def test_a_command_that_cannot_be_loaded_stops_no_other(install, run, module, reason):
    install("greet = strangers_command:app", module)
    status, out, _ = run("--help")
    assert status == 0
    assert "(This command cannot be loaded.)" in out
    status, _, err = run("greet")
    assert status == 2
    assert err.startswith(
        f'error: stranger: the entry "greet = strangers_command:app" in trafficrefinery.commands cannot be loaded: {reason}'
    )
    assert err.count("\n") == 1
