"""`config check` refuses what `run` would refuse, with the same words; what depends on the moment is a warning."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from trafficrefinery.capture.bpf import calls, filters
from trafficrefinery.cli import main as cli
from trafficrefinery.config.paths import models_dir
from trafficrefinery.daemon.startup import RunOptions, prepare
from trafficrefinery.errors import UsageError

SERVICE = {"Name": "A", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}


def needs_libpcap() -> None:
    try:
        filters._libpcap()
    except UsageError:
        pytest.skip("libpcap is not installed (Debian: apt-get install libpcap0.8)")


@pytest.fixture
def write(tmp_path):
    def write(**sections: Any) -> Path:
        path = tmp_path / "config.json"
        closed = {"Metrics": {"Listen": None}, "OutFolder": str(tmp_path / "out"),
                  "Daemon": {"StateFolder": str(tmp_path / "state")}}  # fmt: skip
        path.write_text(json.dumps({"Services": [SERVICE], **closed, **sections}))
        return path

    return write


@pytest.fixture
def check(capsys):
    def check(path: Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli._run(["config", "check", str(path)])
        return status, *capsys.readouterr()

    return check


def key(tmp_path: Path, mode: int = 0o600, content: bytes = bytes(32)) -> str:
    path = tmp_path / "privacy.key"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


REFUSED = {
    "a key that is missing": (lambda _: {"Privacy": {"KeyFile": "none.key"}}, "Privacy.KeyFile", "is missing"),
    "a key that others can read": (
        lambda folder: {"Privacy": {"KeyFile": key(folder, 0o644)}}, "Privacy.KeyFile", "run: chmod 600 ",
    ),
    "a key that is none": (lambda folder: {"Privacy": {"KeyFile": key(folder, content=b"x")}}, "Privacy.KeyFile", "no key"),
    "an expression that is none": (lambda _: {"Capture": {"Filter": "port"}}, "Capture.Filter", "is not a filter expression"),
    "a core that is not there": (lambda _: {"Capture": {"Cpus": [0, 4000]}}, "Capture.Cpus[1]", "there is no core 4000"),
    "a grace longer than an interval": (lambda _: {"Interval": "2s", "Grace": "3s"}, "Grace", "3s is longer than the"),
    "a model without its features": (lambda _: {"Inference": {"Models": ["lab"]}}, "Services", "VideoSegments"),
    "a credentials file that is missing": (
        lambda _: {"Sinks": {"NATS": {"Enabled": True, "CredentialsFile": "/none"}}}, "Sinks.NATS", "/none cannot be read",
    ),
    "features that are nowhere": (lambda _: {"FeaturePaths": ["none"]}, "FeaturePaths[0]", "there is no folder or file"),
    "a class that is nowhere": (
        lambda _: {"Services": [{**SERVICE, "Collect": ["None"]}]}, "Services[0].Collect[0]", 'no feature class "None"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", REFUSED)
def test_what_run_would_refuse_is_refused_in_the_same_words(write, check, tmp_path, situation):
    sections, where, message = REFUSED[situation]
    if "expression" in situation:
        needs_libpcap()
    path = write(**sections(tmp_path))
    status, out, err = check(path)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert where in err
    assert message in err
    with pytest.raises(UsageError) as caught:
        prepare(RunOptions(path))
    assert err == f"error: {caught.value}\n"
    assert not (tmp_path / "out").exists()


def test_a_filter_is_compiled_for_the_links_it_will_run_on(write, check):
    needs_libpcap()
    status, _, err = check(write(Capture={"Interfaces": ["lo"], "Filter": "not port 22 and not vlan"}))
    assert (status, err) == (0, "")


def test_what_may_be_there_later_is_a_warning(write, check, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "features").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        path = write(
            Capture={"Interfaces": ["lo", "nosuch0"]}, OutFolder=str(tmp_path / "file"), Metrics={"Listen": listen},
            Daemon={"StateFolder": str(tmp_path / "file" / "state")}, FeaturePaths=["features"],
        )  # fmt: skip
        status, out, err = check(path)
    assert (status, err) == (0, "")
    assert [line.split(": ", 2)[1] for line in out.splitlines() if line.startswith("warning: ")] == [
        "Capture.Interfaces[1]", "OutFolder", "Daemon.StateFolder", "FeaturePaths[0]", "Metrics.Listen",
    ]  # fmt: skip
    assert 'there is no interface "nosuch0"' in out
    assert "is a file; name a directory" in out
    assert "cannot be made: " in out
    assert f"{listen}: cannot be listened on (Address already in use); is the daemon running already?" in out
    assert not (tmp_path / "features" / "x").exists()


def test_an_address_of_another_machine_is_not_taken_by_a_running_daemon(write, check):
    _, out, _ = check(write(Metrics={"Listen": "192.0.2.1:9464"}))
    assert "192.0.2.1:9464: cannot be listened on (Cannot assign requested address)\n" in out


def test_a_folder_that_the_user_may_not_write_to_is_a_warning(write, check, tmp_path, monkeypatch):
    usual = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and usual(path, mode))
    status, out, _ = check(write())
    assert status == 0
    assert f"warning: OutFolder: {tmp_path / 'out'}: cannot be written to by the user who runs this ({tmp_path})" in out


@pytest.mark.parametrize("folder", ["/proc/records", "/proc/1/records", "/sys/kernel"])
def test_a_folder_that_nobody_can_make_is_a_warning(write, check, folder):
    status, out, _ = check(write(OutFolder=folder))
    assert status == 0
    assert f"warning: OutFolder: {folder}: cannot be written to" in out


def test_what_run_needs_an_option_for_is_a_note(write, check):
    _, out, _ = check(write(OutFolder=None))
    assert "note: OutFolder: is not set; `run` needs it, or --out DIR" in out
    _, out, _ = check(write(Capture={"Interfaces": []}))
    assert "note: Capture.Interfaces: is not set; `run` needs it, or --interface NAME or --file PCAP" in out
    _, out, _ = check(write(Capture={"Interfaces": ["lo"]}))
    assert "is not set" not in out


def test_a_check_leaves_nothing_behind(write, check, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    check(write())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "config.json"])


def test_keys_without_effect_are_notes(write, check):
    sections = {"Sessions": {"StartGap": "5s"}, "Sinks": {"NATS": {"SpoolSize": "1MiB"}},
                "Capture": {"Source": "pcap", "Fanout": "hash"}, "Inference": {"Smoothing": False}}  # fmt: skip
    status, out, _ = check(write(**sections))
    assert status == 0
    assert [line.split(": ")[1] for line in out.splitlines() if line.startswith("note: ")] == [
        "Capture.Interfaces", "Capture.Fanout", "Sinks.NATS.SpoolSize", "Sessions.StartGap", "Inference.Smoothing",
    ]  # fmt: skip


def test_what_af_xdp_takes_and_what_it_has_no_use_for_are_notes(write, check, monkeypatch):
    config = {"Capture": {"Source": "afxdp", "Interfaces": ["lo"], "IgnoreOutgoing": True, "BlockSize": "2MiB"}}
    monkeypatch.setattr("trafficrefinery.daemon.checks.why_not_here", lambda: None)
    status, out, _ = check(write(**config))
    assert status == 0
    assert "note: Capture.IgnoreOutgoing: has no effect, as AF_XDP shows no frame that this machine sends" in out
    assert "note: Capture.BlockSize: has no effect, as AF_XDP has no blocks" in out
    assert (
        'note: Capture.Source: "afxdp" takes packets away from this machine\'s own programs, but for those that '
        "Capture.Filter leaves out"
    ) in out
    assert "while a worker that hangs is replaced" in out
    assert "warning" not in out


def test_a_machine_without_af_xdp_is_warned_of(write, check, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(calls, "make_map", refuse)
    _, out, _ = check(write(Capture={"Source": "afxdp", "Interfaces": ["lo"]}))
    assert (
        "warning: Capture.Interfaces: AF_XDP on an interface needs the capabilities CAP_NET_RAW, CAP_NET_ADMIN" in out
    )


@pytest.mark.parametrize("fanout", ["hash", "cpu"])
def test_ways_to_share_out_that_af_xdp_does_not_have(write, check, fanout):
    status, _, err = check(write(Capture={"Source": "afxdp", "Fanout": fanout}))
    assert status == 2
    assert f'Source "afxdp" has no Fanout "{fanout}"; set it to "addresses" or "queue", or set Source to' in err


def test_models_that_fit_are_taken(write, check):
    collect = ["PacketCounters", "TCPCounters", "VideoSegments", "FirstSeconds"]
    services = [{**SERVICE, "Collect": collect}]
    status, _, err = check(write(Services=services, Inference={"Models": [str(models_dir() / "lab")]}))
    assert (status, err) == (0, "")
