"""The unit as it is written: systemd understands it, finds it hardened, and sets up what it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import service_unit
from support.service_unit import UNIT, XDP

HIGHEST_EXPOSURE = 2.5


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit as it is installed, with a command that is there."""
    service_unit.need("systemd-analyze")
    command = tmp_path / "trafficrefinery"
    command.symlink_to("/bin/true")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("@BINDIR@", str(tmp_path)))
    return path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], check=False, capture_output=True, text=True)


def test_systemd_understands_every_line(unit):
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_line_that_systemd_does_not_understand_is_seen(unit):
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHom=yes"))
    assert "ProtectHom" in analyze("verify", unit).stderr


def test_memory_is_bounded_as_a_share_of_the_machines():
    """A fixed size would stop a large sensor, or be none for a small one."""
    shares = {key: int(share) for key, share in re.findall(r"(?m)^(Memory\w+)=(\d+)%$", UNIT.read_text())}
    assert shares.keys() == {"MemoryHigh", "MemoryMax"}
    assert 50 <= shares["MemoryHigh"] < shares["MemoryMax"] <= 90


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", unit)
    (found,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    return float(found)


def test_the_exposure_of_the_service_is_low(unit):
    assert exposure(unit) <= HIGHEST_EXPOSURE


def test_the_exposure_counts_what_is_not_protected(unit):
    unit.write_text(unit.read_text().replace("SystemCallFilter=", "#").replace("NoNewPrivileges=", "#"))
    assert exposure(unit) > HIGHEST_EXPOSURE


def test_the_capabilities_are_those_of_capture_and_no_others():
    found = service_unit.directives()
    for directive in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (words,) = found[directive]
        assert tuple(words.lower().split()) == service_unit.CAPABILITIES


def test_the_drop_in_of_af_xdp_grants_what_its_program_needs_and_no_more(unit):
    folder = unit.with_name(f"{unit.name}.d")
    folder.mkdir()
    (folder / XDP.name).write_text(XDP.read_text())
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    before, after = service_unit.directives(), service_unit.directives(XDP)
    for directive in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert after[directive] == [*before[directive], "CAP_BPF"]
    assert after["RestrictAddressFamilies"] == [*before["RestrictAddressFamilies"], "AF_XDP"]
    filters = "SystemCallFilter"
    assert service_unit.allowed_calls(after[filters]) == service_unit.allowed_calls(before[filters]) | {"bpf"}


@pytest.mark.parametrize(
    "call",
    [
        # LLVM and Numba; huge pages; pinning; real-time priority; shared memory; processes; files
        "mmap", "mprotect", "madvise", "sched_setaffinity", "sched_setscheduler", "mbind", "memfd_create", "mlock",
        "clone", "clone3", "execve", "wait4", "pidfd_open", "socket", "setsockopt", "sendmsg", "recvmsg", "poll",
        "epoll_pwait", "rename", "fsync", "fdatasync", "ftruncate", "fallocate", "flock", "inotify_init1",
        "timerfd_create", "eventfd2", "kill", "prlimit64", "setpriority", "sysinfo", "getrandom",
    ],
)  # fmt: skip
def test_the_filter_lets_the_daemon_work(call):
    service_unit.need("systemd-analyze")
    assert call in service_unit.allowed_calls(service_unit.directives()["SystemCallFilter"])


@pytest.mark.parametrize(
    "call",
    [
        "bpf", "chown", "chroot", "clock_settime", "init_module", "io_uring_setup", "keyctl", "mount", "open_by_handle_at",
        "perf_event_open", "pivot_root", "process_vm_readv", "ptrace", "reboot", "setns", "setuid", "swapon", "unshare",
        "userfaultfd",
    ],
)  # fmt: skip
def test_the_filter_refuses_what_the_daemon_has_no_use_for(call):
    service_unit.need("systemd-analyze")
    assert call not in service_unit.allowed_calls(service_unit.directives()["SystemCallFilter"])


def test_its_user_is_the_one_that_sysusers_makes(tmp_path):
    service_unit.need("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    sysusers = UNIT.with_suffix(".sysusers")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", sysusers], check=True, capture_output=True)
    name, _, uid, _, _, home, shell = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert [name] == service_unit.directives()["User"] == service_unit.directives()["Group"]
    assert 0 < int(uid) < 1000
    assert (home, Path(shell).name) == ("/var/lib/trafficrefinery", "nologin")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_keys_are_made_readable_for_the_service_alone(tmp_path):
    service_unit.need("systemd-tmpfiles")
    (tmp_path / "etc/trafficrefinery").mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("trafficrefinery:x:995:995::/:/bin/false\n")
    (tmp_path / "etc/group").write_text("trafficrefinery:x:995:\n")
    key, config = (tmp_path / "etc/trafficrefinery" / name for name in ("privacy.key", "config.json"))
    key.write_text("secret")
    config.write_text("{}")
    tmpfiles = UNIT.with_suffix(".tmpfiles")
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", tmpfiles], check=True, capture_output=True)
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 995)
    assert config.stat().st_uid == 0


def test_the_environment_file_changes_nothing_until_it_is_edited():
    lines = UNIT.with_suffix(".env").read_text().splitlines()
    assert all(line.startswith("#") or not line for line in lines)


def test_the_settings_of_the_environment_file_are_those_of_the_unit():
    """As the unit sets them, %C being /var/cache."""
    lines = service_unit.directives()["Environment"]
    set_there = dict(line.replace("%C", "/var/cache").split("=", 1) for line in lines)
    said = dict(re.findall(r"^#(\w+)=(.*)$", UNIT.with_suffix(".env").read_text(), re.MULTILINE))
    assert said.items() >= set_there.items()


# What system calls a whole run makes

REPLAY = [sys.executable, "-m", "trafficrefinery", "replay", "--quiet"]


def calls_of(command: list[str], folder: Path) -> set[str]:
    """The system calls that a command and its children make."""
    summary = folder / "calls"
    subprocess.run(["strace", "-f", "-c", "-o", summary, *command], check=True, capture_output=True)
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +\d+ +(?:\d+ +)?(\w+)$", summary.read_text(), re.MULTILINE)
    return set(rows) - {"total"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_makes_no_system_call_that_the_filter_refuses(tmp_path, sample_trace, root, workers):
    """Compiler, worker processes, shared memory and output included."""
    service_unit.need("strace", "systemd-analyze")
    small = {"Name": "Video", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"Services": [small]}))
    command = [*REPLAY, sample_trace, "-c", config, "-o", tmp_path / "out", "--workers", workers]
    calls = calls_of([str(word) for word in command], tmp_path)
    assert {"mmap", "execve", "openat"} <= calls
    assert calls - service_unit.allowed_calls(service_unit.directives()["SystemCallFilter"]) == set()


def test_a_call_that_the_filter_refuses_is_seen(tmp_path):
    service_unit.need("strace", "systemd-analyze")
    calls = calls_of([shutil.which("unshare") or "unshare", "--help"], tmp_path)
    chown = calls_of([sys.executable, "-c", "import os; os.chown('/dev/null', -1, -1)"], tmp_path)
    assert "chown" in chown - service_unit.allowed_calls(service_unit.directives()["SystemCallFilter"])
    assert "chown" not in calls
