"""The unit of the service as tests read it, what it grants, and the wheel that its installer installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "trafficrefinery.service"
XDP = UNIT.with_name("afxdp.conf")
CAPABILITIES = ("cap_net_raw", "cap_net_admin", "cap_ipc_lock")


def directives(*drop_ins: Path) -> dict[str, list[str]]:
    """All values of each directive, section by section; those of drop-ins come after the unit's."""
    found: dict[str, list[str]] = {}
    for path in (UNIT, *drop_ins):
        for line in path.read_text().splitlines():
            if match := re.fullmatch(r"(\w+)=(.*)", line):
                found.setdefault(match[1], []).append(match[2])
    return found


def need(*programs: str) -> None:
    """Skip where a program is absent; fail in CI, which installs them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"{', '.join(missing)} not installed (Debian: apt-get install systemd util-linux iproute2 strace)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def need_root() -> None:
    """Skip where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root may make namespaces and capture")


def built_wheel(folder: Path) -> Path:
    """A folder of its own with the wheel: the one that `make test` tests, else one of the checkout as it is."""
    if "PYTHONSAFEPATH" in os.environ:
        (wheel,) = (ROOT / "dist").glob("trafficrefinery-*.whl")
        return Path(shutil.copy(wheel, folder))
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def allowed_calls(filters: list[str]) -> set[str]:
    """The system calls that lines of SystemCallFilter= allow, with sets written out by systemd itself."""
    allowed: set[str] = set()
    for line in filters:
        calls = {call for word in line.removeprefix("~").split() for call in _calls_of(word)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def _calls_of(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", word], capture_output=True, text=True, check=True
    )
    words = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return {call for inner in words if inner and not inner.startswith("#") for call in _calls_of(inner)}
