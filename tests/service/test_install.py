"""`make install` and `make uninstall`, into a folder in place of the root."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import typer

from support import service_unit
from trafficrefinery import __version__
from trafficrefinery.cli.main import COMMANDS
from trafficrefinery.config import load_config

PREFIX = "/opt/refinery"
COMPLETIONS = {
    "bash": "opt/refinery/share/bash-completion/completions/trafficrefinery",
    "zsh": "opt/refinery/share/zsh/site-functions/_trafficrefinery",
    "fish": "opt/refinery/share/fish/vendor_completions.d/trafficrefinery.fish",
}
MANUAL = "opt/refinery/share/man/man1"
FILES = {
    "etc/default/trafficrefinery",
    "etc/systemd/system/trafficrefinery.service",
    "etc/sysusers.d/trafficrefinery.conf",
    "etc/tmpfiles.d/trafficrefinery.conf",
    "etc/trafficrefinery/config.json",
    "opt/refinery/bin/trafficrefinery",
    *COMPLETIONS.values(),
}
KEPT = {"etc/default/trafficrefinery", "etc/trafficrefinery/config.json"}
RELEASES = Path("opt/refinery/lib/trafficrefinery")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return service_unit.built_wheel(tmp_path_factory.mktemp("wheel"))


def installer(destdir: Path, *arguments: object) -> str:
    """Run what `make` runs; the packages that ours needs are not installed again."""
    environment = {
        "DESTDIR": str(destdir), "PREFIX": PREFIX, "PIP_OPTIONS": "--no-deps --no-index",
        "PACKAGES": str(Path(typer.__file__).parent.parent),
    }  # fmt: skip
    command = [service_unit.ROOT / "systemd" / "install", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    destdir = tmp_path_factory.mktemp("root")
    said = installer(destdir, "install", sys.executable, wheel)
    assert "systemctl enable --now trafficrefinery" in said
    return destdir


def files(destdir: Path) -> set[str]:
    """All but the virtual environment, the manual, and the drop-in for newer releases of systemd."""
    found = {path.relative_to(destdir) for path in destdir.rglob("*") if path.is_symlink() or path.is_file()}
    return {str(path) for path in found if not path.is_relative_to(RELEASES)
            and path.name != "backoff.conf" and path.parent != Path(MANUAL)}  # fmt: skip


def test_every_file_has_its_place(installed):
    assert files(installed) == FILES


def test_every_command_has_a_manual_page(installed):
    pages = {path.stem for path in (installed / MANUAL).iterdir()}
    assert {"trafficrefinery", *(f"trafficrefinery-{name}" for name in COMMANDS)} <= pages
    assert {"trafficrefinery-features-check", "trafficrefinery-plot-session"} <= pages


def test_manual_pages_are_read_without_a_warning(installed):
    man = shutil.which("man")
    if man is None:
        pytest.skip("man is not installed (Debian: apt-get install man-db)")
    for page in sorted((installed / MANUAL).iterdir()):
        done = subprocess.run([man, "--warnings", "-l", page], check=True, capture_output=True, text=True)
        assert not done.stderr, page
        assert done.stdout.count("\nNAME\n") == 1
        assert "\nSYNOPSIS\n" in done.stdout


def test_a_shell_completes_commands_and_options(installed, tmp_path):
    """Bash itself, with the script that was installed and the command that it calls."""
    command = Path(sys.executable).parent / "trafficrefinery"
    for typed, found in (("rep", "replay"), ("plot se", "session"), ("replay --mo", "--model"), ("run --fi", "--file")):
        words = ["trafficrefinery", *typed.split()]
        script = f"""
            source {installed / COMPLETIONS["bash"]}
            COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
            _trafficrefinery_completion {command}
            echo "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path)
        assert found in done.stdout.split(), words


TYPED = {"rep": ("replay", "report"), "plot se": ("session",), "replay --mo": ("--model",)}


def needs_shell(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")


def test_fish_completes_commands_and_options(installed, monkeypatch):
    needs_shell("fish")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for typed, found in TYPED.items():
        script = f"source {installed / COMPLETIONS['fish']}; complete -C 'trafficrefinery {typed}'"
        done = subprocess.run(["fish", "--no-config", "-c", script], check=True, capture_output=True, text=True)
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(found)


def test_zsh_completes_commands_and_options_at_the_first_tab(installed, monkeypatch, tmp_path):
    needs_shell("zsh")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    functions = (installed / COMPLETIONS["zsh"]).parent
    (tmp_path / ".zshrc").write_text(
        f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D; PS1='ready> '\n"
    )
    for typed, found in TYPED.items():
        shown = typed_in_zsh(f"trafficrefinery {typed}\t", found)
        assert all(one in shown for one in found), shown


def typed_in_zsh(typed: str, expected: tuple[str, ...]) -> str:
    """What a terminal shows of a zsh in which somebody types, until it shows what is expected or 30 s are over."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "dumb"
        os.execvp("zsh", ["zsh", "-i"])
    shown, sent, end_s = "", False, time.monotonic() + 30
    try:
        while time.monotonic() < end_s and not (sent and all(one in shown for one in expected)):
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 1 << 16).decode(errors="replace")
            if not sent and "ready> " in shown:
                os.write(terminal, typed.encode())
                shown, sent = "", True
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    return shown


def test_nothing_tells_where_it_was_put_together(installed):
    """Scripts and compiled modules too; a link would lead there."""
    for path in installed.rglob("*"):
        if path.is_symlink():
            assert str(installed) not in str(path.readlink()), path
        elif path.is_file():
            assert str(installed).encode() not in path.read_bytes(), path


def test_the_unit_starts_the_command_that_was_installed(installed):
    unit = (installed / "etc/systemd/system/trafficrefinery.service").read_text()
    assert f"\nExecStart={PREFIX}/bin/trafficrefinery run -c " in unit
    assert "@BINDIR@" not in unit


def test_the_command_is_the_wheel_s(installed):
    command = (installed / PREFIX.lstrip("/") / "bin/trafficrefinery").resolve()
    release = (installed / RELEASES / "current").resolve()
    assert command == release / "bin/trafficrefinery"
    assert command.read_text().startswith(f"#!{PREFIX}/lib/trafficrefinery/{release.name}/bin/python\n")
    said = subprocess.run(
        [installed / RELEASES / "current/bin/python", "-P", "-m", "trafficrefinery", "--version"],
        env={"PYTHONPATH": sysconfig.get_path("purelib")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout == f"trafficrefinery {__version__}\n"


def test_the_configuration_is_that_of_the_daemon(installed):
    config = load_config(installed / "etc/trafficrefinery/config.json")
    assert config.out_folder == Path("/var/lib/trafficrefinery/records")
    assert config.capture.interfaces
    assert {"Netflix", "YouTube"} <= {service.name for service in config.services}


def test_installing_again_keeps_what_the_user_wrote_and_uninstalling_too(wheel, installed, tmp_path):
    shutil.copytree(installed, tmp_path, symlinks=True, dirs_exist_ok=True)
    for name in KEPT:
        (tmp_path / name).write_text("mine")
    own = tmp_path / "etc/systemd/system/trafficrefinery.service.d/own.conf"
    own.parent.mkdir(exist_ok=True)
    own.write_text("[Service]\n")
    installer(tmp_path, "install", sys.executable, wheel)
    assert files(tmp_path) == FILES | {str(own.relative_to(tmp_path))}
    installer(tmp_path, "uninstall")
    assert files(tmp_path) == KEPT | {str(own.relative_to(tmp_path))}
    assert not (tmp_path / RELEASES).exists()
    assert all((tmp_path / name).read_text() == "mine" for name in KEPT)


def releases(destdir: Path) -> dict[str, str]:
    """Where the links lead; every folder is led to."""
    folder = destdir / RELEASES
    links = {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}
    assert {path.name for path in folder.iterdir() if not path.is_symlink()} == set(links.values())
    return links


def test_an_upgrade_keeps_the_release_before_and_a_rollback_goes_back_to_it(wheel, installed, tmp_path):
    shutil.copytree(installed, tmp_path, symlinks=True, dirs_exist_ok=True)
    first = releases(tmp_path)["current"]
    older = tmp_path / RELEASES / "0.1.0-20260101T000000"
    shutil.copytree(tmp_path / RELEASES / first, older, symlinks=True)
    (tmp_path / RELEASES / "pyvenv.cfg").write_text("of version 0.1, which was installed here\n")
    installer(tmp_path, "install", sys.executable, wheel)
    second = releases(tmp_path)["current"]
    assert second.startswith(f"{__version__}-")
    assert second > first
    assert releases(tmp_path) == {"current": second, "previous": first}
    assert first in installer(tmp_path, "rollback")
    assert releases(tmp_path) == {"current": first, "previous": second}
    assert (tmp_path / PREFIX.lstrip("/") / "bin/trafficrefinery").resolve().is_relative_to(tmp_path / RELEASES / first)


def test_an_upgrade_that_fails_changes_nothing(installed, tmp_path):
    shutil.copytree(installed, tmp_path / "root", symlinks=True)
    wheel = tmp_path / f"trafficrefinery-{__version__}-py3-none-any.whl"
    wheel.write_bytes(b"half a wheel")
    before = releases(tmp_path / "root")
    with pytest.raises(subprocess.CalledProcessError):
        installer(tmp_path / "root", "install", sys.executable, wheel)
    assert releases(tmp_path / "root") == before
    assert files(tmp_path / "root") == FILES


def test_there_is_nothing_to_go_back_to_after_the_first_installation(installed):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        installer(installed, "rollback")
    assert raised.value.stderr.startswith("error: there is no release before")
