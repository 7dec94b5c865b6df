"""The end of `run`: `summary.json` beside the records, its findings in the log or the terminal, and the exit status."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from support.daemon_runs import Daemon, answer, configuration, datagrams, run
from support.networks import needs_command, wire
from support.traces import Conversation, make_trace, write_trace
from trafficrefinery.cli import main as cli

__all__ = ["run", "wire"]

FRAMES = make_trace(Conversation("tcp", "ethernet", 1_000 * number, number) for number in range(12))


@pytest.fixture
def trace(tmp_path):
    return write_trace(tmp_path / "trace.pcap", FRAMES)


def config_of(workers=1):
    return configuration((), Capture={"Workers": workers, "Cpus": [0]}, Metrics={"Listen": None})


def ended(folder, config, *options):
    """The exit status, the log and the summary of a run."""
    daemon = Daemon(folder, config, None, *options)
    try:
        daemon.start(wait=False)
        status = daemon.wait()
    finally:
        daemon.end()
    return status, daemon.log, json.loads((daemon.out / "summary.json").read_text())


def cut(trace):
    """The trace without its last bytes, and where its last record begins."""
    os.truncate(trace, trace.stat().st_size - 7)
    return trace.stat().st_size + 7 - 16 - len(FRAMES[-1].data)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cut_trace_ends_with_status_1_and_its_place_and_the_summary_of_its_replay(tmp_path, trace, workers):
    position = cut(trace)
    status, log, found = ended(tmp_path, config_of(workers), "--file", trace)
    assert status == 1
    (line,) = [line for line in log.splitlines() if " error " in line]
    assert f"{trace}: byte {position}: the last record is cut off" in line
    assert found["command"] == "run --file"
    assert found["complete"] is False
    (damage,) = found["damage"]
    assert (damage["file"], damage["position"]) == (str(trace), position)

    path, out = tmp_path / "config.json", tmp_path / "replayed"
    path.write_text(json.dumps(config_of(workers)))
    with pytest.raises(SystemExit) as replayed:
        cli.main(["replay", str(trace), "-c", str(path), "-o", str(out), "--quiet"])
    assert replayed.value.code == 1
    wanted = json.loads((out / "summary.json").read_text())
    for part in ("traces", "damage", "packets", "counters", "services", "records"):
        assert found[part] == wanted[part], part
    names = [one["name"] for one in wanted["findings"] if one["name"] != "keys_without_effect"]
    assert [one["name"] for one in found["findings"] if one["name"] != "keys_without_effect"] == names


def test_a_whole_trace_ends_with_status_0_and_what_was_left_out_is_reported(tmp_path, trace):
    status, log, found = ended(tmp_path, config_of(), "--file", trace, "--file", trace)
    assert status == 0
    assert " error " not in log
    assert "end of the run process=aggregator packets=" in log
    assert f"summary={tmp_path}" in log
    assert (found["complete"], found["damage"]) == (True, [])
    assert [one["file"] for one in found["left_out"]] == [str(trace)]
    assert "1 file was named again, and read once" in log


def test_in_a_terminal_the_block_is_printed_as_lines(tmp_path, trace):
    position = cut(trace)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of()))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trafficrefinery", "run", "-c", path, "--file", trace, "-o", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # the last writer has closed it
        pass
    os.close(ours)
    assert process.communicate(timeout=30)[0] == b""
    assert process.returncode == 1
    lines = said.decode().splitlines()
    assert any(line.startswith(f"error: 1 trace is damaged, and the records end there: {trace}: byte {position}: ")
               for line in lines)  # fmt: skip
    assert f"summary: {tmp_path / 'out' / 'summary.json'}" in lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_capture_with_a_summary_and_status_0(wire, run, number):
    daemon = run()
    wire.send([answer("cdn1.video.example", "203.0.113.9"), *datagrams(5)])
    daemon.wait_for_packets(6)
    daemon.signal(number)
    assert daemon.wait() == 0
    found = json.loads((daemon.out / "summary.json").read_text())
    assert (found["command"], found["complete"]) == ("run", True)
    assert found["packets"]["total"] == 6
    assert found["records"] == len(daemon.records())
    assert "end of the run process=aggregator packets=6" in daemon.log


def test_a_summary_of_before_goes_when_records_are_written(wire, run):
    daemon = run()
    assert daemon.stop() == 0
    assert (daemon.out / "summary.json").exists()
    daemon.start()
    daemon.wait_until(lambda: not (daemon.out / "summary.json").exists(), "the summary of before is there")
    assert daemon.stop() == 0


def again(daemon, wire, how):
    """Something that starts other processes within the run of a daemon."""
    if how == "reload":
        config = configuration()
        services = [*config["Services"], {"Name": "New", "Filter": {"Prefixes": ["203.0.113.77/32"]},
                                                 "Collect": ["PacketCounters"]}]  # fmt: skip
        daemon.write({**config, "Services": services})
        daemon.signal(signal.SIGHUP)
        daemon.wait_until(lambda: daemon.metrics()["config_reloads_total"] == 1, "not reloaded", 300)
    elif how == "interface":
        wire.near.run(needs_command("ip", "iproute2"), "link", "delete", wire.near_name)
        daemon.wait_for("capture failed on an interface")
        wire.connect()
        daemon.wait_for("capturing again")
    else:
        os.kill(daemon.processes()[how], signal.SIGKILL)
        daemon.wait_until(lambda: daemon.metrics()[f"process_restarts_total{{{how}}}"] == 1, "not started again")
    daemon.wait_until(lambda: daemon.metrics()["ready"] == 1, "not ready")


@pytest.mark.parametrize("how", ["reload", "interface", "aggregator", "worker0"])
def test_the_summary_is_of_the_whole_run(wire, run, how):
    daemon = run()
    wire.send([answer("cdn1.video.example", "203.0.113.9"), *datagrams(5)])
    daemon.wait_for_packets(6)
    daemon.wait_until(lambda: daemon.metrics()["sink_records_total{jsonl}"], "no record is written")
    again(daemon, wire, how)
    wire.send(datagrams(4))
    daemon.wait_until(lambda: sum(i["packets"] for i in daemon.intervals()) >= 10, "the packets never came")
    assert daemon.stop() == 0
    found = json.loads((daemon.out / "summary.json").read_text())
    assert found["packets"]["total"] == 10
    assert found["records"] == len(daemon.records())
    assert found["services"]["Net"]["packets"] == 9
    assert found["services"]["Net"]["records"] == len([r for r in daemon.records() if r["service"] == "Net"])
    assert ("New" in found["services"]) == (how == "reload")
    assert daemon.log.count("end of the run") == 1
    restarts = [one["count"] for one in found["findings"] if one["name"] == "restarts"]
    assert restarts == ([1] if how in ("aggregator", "worker0") else [])


def test_each_interval_that_an_interface_was_away_in_is_not_free_of_losses(wire, run):
    daemon = run()
    wire.send(datagrams(5))
    daemon.wait_for_intervals(1)
    from_s = time.time()
    again(daemon, wire, "interface")
    wire.send(datagrams(5))
    until_s = time.time()
    daemon.wait_until(
        lambda: daemon.intervals()[-1]["ts_start"] > until_s + 2, "no interval without the interface away"
    )
    assert daemon.stop() == 0
    for interval in daemon.intervals():
        if interval["ts_start"] < until_s - 1 and interval["ts_end"] > from_s:
            assert not interval["loss_free"], interval
    assert daemon.intervals()[-1]["loss_free"]
