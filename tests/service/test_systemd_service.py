"""The service as it runs: installed and started by a real systemd, and its directives one by one without systemd.

What the unit grants works, what it refuses fails, and systemd hears what the process says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from support import service_unit, systemd_boot
from support.systemd_boot import CHECKOUT, CannotBootError, Machine
from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir

INTERFACE = "mirror0"
STATE = Path("/var/lib/trafficrefinery")
PYTHON = "/usr/local/lib/trafficrefinery/current/bin/python"
PROBE = f"{CHECKOUT}/tests/support/service_probe.py"

GRANTED = (
    "capture", "interface statistics", "compile", "shared memory", "lock memory", "pin", "write state", "write cache",
    "write runtime", "write /tmp", "listen", "child process",
)  # fmt: skip
REFUSED = {
    "write /etc": {"EROFS", "EACCES"},
    "write /usr": {"EROFS", "EACCES"},
    "write /var/lib": {"EROFS", "EACCES"},
    "change a kernel setting": {"EROFS", "EACCES"},
    "read /root": {"EACCES"},
    "read /etc/shadow": {"EACCES"},
    "end another process": {"EPERM"},
    "become root": {"EPERM"},
    "give a file away": {"EPERM"},
    "mount": {"EPERM"},
    "set the clock": {"EPERM"},
    "make a device": {"EPERM"},
    "change the host's name": {"EPERM"},
}
REFUSED_BY_SYSTEMD = {
    "see other processes": {"ENOENT"},
    "make a namespace": {"EPERM"},
    "trace a process": {"EPERM"},
    "exotic socket": {"EAFNOSUPPORT"},
    "make a set-user-ID file": {"EPERM"},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    service_unit.need(*systemd_boot.PROGRAMS)
    service_unit.need_root()
    return service_unit.built_wheel(tmp_path_factory.mktemp("wheel"))


def prepare(machine: Machine) -> Machine:
    machine.install()
    machine.run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "sender0")
    for interface in (INTERFACE, "sender0"):
        machine.run("ip", "link", "set", interface, "up")
    machine.run("ip", "address", "add", "192.0.2.1/24", "dev", INTERFACE)
    return machine


@pytest.fixture(scope="module")
def booted(wheel) -> Iterator[Machine]:
    """A machine with systemd and the service installed."""
    try:
        with systemd_boot.booted(wheel) as machine:
            yield prepare(machine)
    except CannotBootError as error:
        pytest.skip(f"no systemd can be started here: {error}; its directives are tested one by one")


@pytest.fixture(scope="module")
def bare(wheel) -> Iterator[Machine]:
    """A machine with the service installed, and no systemd."""
    with systemd_boot.bare(wheel) as machine:
        yield prepare(machine)


def probing(outcomes: Path) -> str:
    return f"[Service]\nExecStart=\nExecStart={PYTHON} {PROBE} {INTERFACE} {outcomes}\n"


def read(machine: Machine, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((machine.root / path.relative_to("/")).read_text())
    return found


@pytest.fixture(scope="module")
def probe(booted) -> Machine:
    """The machine with the probe as its service."""
    booted.drop_in("probe", probing(STATE / "outcomes.json"))
    booted.run("systemctl", "start", "trafficrefinery")
    yield booted
    booted.run("systemctl", "stop", "trafficrefinery")
    booted.drop_in("probe", "")


@pytest.fixture(scope="module")
def under_systemd(probe) -> dict[str, Any]:
    return read(probe, STATE / "outcomes.json")


def capability_words(sign: str) -> str:
    return ",".join(["-all", *(f"{sign}{name.removeprefix('cap_')}" for name in service_unit.CAPABILITIES)])


@pytest.fixture(scope="module")
def one_by_one(bare) -> dict[str, Any]:
    """The probe with exactly the user and the capabilities of the unit."""
    (user,) = service_unit.directives()["User"]
    folders = {"STATE_DIRECTORY": STATE, "TRAFFICREFINERY_CACHE_DIR": "/var/cache/x", "RUNTIME_DIRECTORY": "/run/x"}
    for folder in folders.values():
        bare.run("install", "-d", "-o", user, "-g", user, folder)
    names = capability_words("+")
    bare.run(
        "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", f"--inh-caps={names}",
        f"--ambient-caps={names}", f"--bounding-set={names}", "--no-new-privs",
        *("env", *(f"{name}={folder}" for name, folder in folders.items()), *bare.settings()),
        PYTHON, PROBE, "--once", INTERFACE, STATE / "outcomes.json",
    )  # fmt: skip
    return read(bare, STATE / "outcomes.json")


@pytest.fixture(scope="module", params=["under_systemd", "one_by_one"])
def outcomes(request) -> dict[str, Any]:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("attempt", GRANTED)
def test_what_the_daemon_needs_works(outcomes, attempt):
    assert outcomes[attempt] is None


@pytest.mark.parametrize("attempt", REFUSED)
def test_what_the_daemon_does_not_need_is_refused(outcomes, attempt):
    assert outcomes[attempt] in REFUSED[attempt]


@pytest.mark.parametrize("attempt", REFUSED_BY_SYSTEMD)
def test_what_only_systemd_can_refuse_is_refused(under_systemd, attempt):
    assert under_systemd[attempt] in REFUSED_BY_SYSTEMD[attempt]


def test_every_attempt_is_granted_or_refused(under_systemd):
    attempts = {name for name in under_systemd if name not in {"process", "real-time priority"}}
    assert attempts == {*GRANTED, *REFUSED, *REFUSED_BY_SYSTEMD}


def test_the_process_has_exactly_the_capabilities_of_the_unit(outcomes):
    bits = {"cap_net_admin": 12, "cap_net_raw": 13, "cap_ipc_lock": 14}
    mask = sum(1 << bits[name] for name in service_unit.CAPABILITIES)
    status = outcomes["process"]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == mask, kind
    assert status["NoNewPrivs"] == "1"


def test_the_process_has_no_user_and_no_group_but_its_own(outcomes):
    status = outcomes["process"]
    (uid,), (gid,) = set(status["Uid"].split()), set(status["Gid"].split())
    assert 0 < int(uid) < 1000
    assert status["Groups"].split() == [gid]


def test_system_calls_are_filtered_and_new_files_are_not_for_everyone(under_systemd):
    assert under_systemd["process"]["Seccomp"] == "2"
    assert under_systemd["process"]["Umask"] == "0027"


def test_folders_are_for_the_service_alone(probe):
    for folder, mode in {STATE: "750", "/var/cache/trafficrefinery": "700", "/run/trafficrefinery": "750"}.items():
        found = probe.run("stat", "--dereference", "--format=%U %G %a", folder).stdout.split()
        assert found == ["trafficrefinery", "trafficrefinery", mode], folder


def test_limits_are_those_of_capture(probe):
    limits = {"LimitRTPRIO": "99", "LimitMEMLOCK": "infinity", "LimitNOFILE": "65536", "LimitCORE": "0"}
    assert probe.show(*limits, "OOMScoreAdjust") == {**limits, "OOMScoreAdjust": "-500"}


# What systemd hears


def test_it_is_active_only_when_it_says_that_it_is_ready(probe):
    probe.run("systemctl", "restart", "trafficrefinery")
    shown = probe.show("ActiveState", "SubState", "StatusText", "Type", "NotifyAccess")
    expected = {"ActiveState": "active", "SubState": "running", "StatusText": "probing"}
    assert shown == {**expected, "Type": "notify", "NotifyAccess": "main"}


def test_a_reload_is_over_when_the_process_says_so(probe):
    probe.run("systemctl", "reload", "--no-block", "trafficrefinery")
    probe.wait_until("a reload was not seen", ActiveState="reloading", StatusText="reloading")
    probe.wait_until("the reload did not end", ActiveState="active", StatusText="reloaded")


def restarted(machine: Machine, pid: str) -> None:
    machine.wait_until("it was not restarted", ActiveState="active", SubState="running", NRestarts="1")
    assert machine.show("MainPID")["MainPID"] not in (pid, "0")


@pytest.fixture
def quick_to_restart(probe) -> Iterator[str]:
    """The process of a service that is restarted, and watched, faster than the unit says."""
    probe.drop_in("quick", "[Service]\nRestartSec=100ms\nWatchdogSec=1s\nTimeoutAbortSec=1s\n")
    probe.run("systemctl", "restart", "trafficrefinery")
    yield probe.show("MainPID")["MainPID"]
    probe.drop_in("quick", "")
    probe.run("systemctl", "restart", "trafficrefinery")


def test_a_daemon_that_hangs_is_restarted_by_the_watchdog(probe, quick_to_restart):
    probe.run("kill", "-USR1", quick_to_restart)
    restarted(probe, quick_to_restart)
    assert "Watchdog timeout" in probe.journal()


def test_a_daemon_that_was_killed_is_restarted(probe, quick_to_restart):
    probe.run("kill", "-KILL", quick_to_restart)
    restarted(probe, quick_to_restart)


def test_a_daemon_that_was_told_to_stop_stays_stopped(probe):
    probe.run("systemctl", "stop", "trafficrefinery")
    assert probe.show("ActiveState", "Result", "NRestarts") == {
        "ActiveState": "inactive",
        "Result": "success",
        "NRestarts": "0",
    }
    probe.run("systemctl", "start", "trafficrefinery")


def test_a_worker_may_take_real_time_priority(probe):
    """LimitRTPRIO= asks systemd for CAP_SYS_RESOURCE; where a machine has not even that, CAP_SYS_NICE stands in."""
    may_raise_limits = int(probe.run("grep", "CapBnd", "/proc/1/status").stdout.split()[1], 16) >> 24 & 1
    if not may_raise_limits:
        (names,) = service_unit.directives()["AmbientCapabilities"]
        more = f"AmbientCapabilities=CAP_SYS_NICE {names}\nCapabilityBoundingSet=CAP_SYS_NICE"
        probe.drop_in("nice", f"[Service]\n{more}\n")
    probe.run("systemctl", "restart", "trafficrefinery")
    assert read(probe, STATE / "outcomes.json")["real-time priority"] is None
    probe.drop_in("nice", "")
    probe.run("systemctl", "restart", "trafficrefinery")


def test_it_is_started_again_however_often_it_ended(probe):
    assert probe.show("StartLimitIntervalUSec") == {"StartLimitIntervalUSec": "0"}


# The package in the service


def test_the_compiler_and_a_whole_replay_work_within_the_unit(booted, sample_trace):
    """All is compiled there, by the unprivileged user, with the system-call filter and the read-only file system."""
    config = {**load_config(configs_dir() / "video.json").to_dict(), "Sensor": "golden"}
    (booted.root / "etc/trafficrefinery/golden.json").write_text(json.dumps(config))
    trace = CHECKOUT / sample_trace.relative_to(service_unit.ROOT)
    command = f"/usr/local/bin/trafficrefinery replay {trace} -c /etc/trafficrefinery/golden.json -o {STATE}/golden"
    booted.run("systemctl", "stop", "trafficrefinery")
    booted.drop_in(
        "zz-replay", f"[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecStart=\nExecStart={command}\n"
    )
    booted.run("systemctl", "start", "trafficrefinery", timeout_s=400)
    booted.drop_in("zz-replay", "")
    golden = zstandard.decompress((service_unit.ROOT / "tests/golden/video.jsonl.zst").read_bytes()).decode()
    records = booted.root / "var/lib/trafficrefinery/golden/records.jsonl"
    assert records.read_text().splitlines() == golden.split("\n")
    assert records.stat().st_mode & 0o007 == 0


def test_the_installed_configuration_is_good_but_for_the_interface(booted):
    booted.run("env", *booted.settings(), "trafficrefinery", "config", "check", "/etc/trafficrefinery/config.json")


SEND = """
import socket, time
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(30):
    to.sendto(b"x" * 100, ("192.0.2.2", 9))
    time.sleep(0.05)
"""


def test_the_daemon_captures_as_a_service(booted):
    every = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}
    config = {
        "Interval": "1s",
        "OutFolder": f"{STATE}/records",
        "Services": [every],
        "Capture": {"Interfaces": [INTERFACE], "RingSize": "8MiB"},
    }
    written = booted.root / "etc/trafficrefinery/config.json"
    written.write_text(json.dumps(config))
    booted.drop_in("probe", "")
    booted.run("systemctl", "restart", "trafficrefinery", timeout_s=400)
    booted.run("ip", "neighbour", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", INTERFACE)
    booted.run("python3", "-c", SEND)
    booted.run("systemctl", "reload", "trafficrefinery")
    booted.wait_until("reloaded", ActiveState="active", SubState="running")
    written.write_text(json.dumps({**config, "Services": [{**every, "Collect": ["PacketCounter"]}]}))
    assert booted.run("systemctl", "reload", "trafficrefinery", check=False).returncode != 0
    booted.wait_until("a file that was refused", ActiveState="active", SubState="running")
    assert 'no feature class "PacketCounter"' in booted.journal()
    booted.run("systemctl", "stop", "trafficrefinery")
    assert booted.show("Result")["Result"] == "success", booted.journal()
    assert "capturing" in booted.journal()
    folder = booted.root / "var/lib/trafficrefinery/records"
    lines = [line for file in folder.glob("records*.jsonl") for line in file.read_text().splitlines()]
    counts = [r["features"]["PacketCounters"] for r in map(json.loads, lines) if r["server_port"] == 9]
    assert sum(count["packets_up"] for count in counts) == 30
