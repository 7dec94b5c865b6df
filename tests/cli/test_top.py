"""`trafficrefinery top`: what it shows of a daemon, and what it says when there is none."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from support import boards
from trafficrefinery.cli import main as cli
from trafficrefinery.cli.ui.scrape import RunningDaemon
from trafficrefinery.cli.ui.topview import ITEMS, SERVICES, WORKERS, View, amount, octets
from trafficrefinery.daemon.metrics import registry_of
from trafficrefinery.daemon.query.app import SHARED_S, query_app
from trafficrefinery.daemon.query.latest import Latest, interval_channel, publish
from trafficrefinery.daemon.query.listener import bind, serve
from trafficrefinery.daemon.status import STARTING
from trafficrefinery.engine.partition import COUNTERS

PLAN = boards.plan()


@pytest.fixture
def daemon():
    """A listener over a board, as a daemon has it."""
    running, latest, inferred = boards.running(PLAN), Latest(), Latest()
    sending, receiving = interval_channel()
    with sending, receiving:
        publish(sending, boards.flow_table(PLAN, 50), [boards.summary()])
        latest.receive(receiving)
    app = query_app(lambda: running, latest, lambda: {"eth1": {"rx_dropped": 4}}, inferred)
    server = serve(bind("127.0.0.1:0"), app)
    url = f"http://127.0.0.1:{server.port}"
    yield SimpleNamespace(url=url, board=running.board, close=server.close, inferred=inferred)
    server.close()


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["top", *arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def drawn(view: View, columns: int = 80, **picture) -> str:
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    console.print(view.picture("http://127.0.0.1:9464", **picture))
    return console.file.getvalue()


def row(text: str, title: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.split()[: len(title.split())] == title.split())
    return line.split()


def two_seconds(daemon, change) -> View:
    scrape = RunningDaemon(daemon.url).scrape
    former = scrape(ITEMS)
    change(daemon.board)
    time.sleep(1.1 * SHARED_S)
    return View(scrape(ITEMS)._replace(at_s=former.at_s + 2), former)


def at_work(board):
    board.workers[0]["counters"][COUNTERS.index("packets")] += 2_000_000
    board.workers[0]["counters"][COUNTERS.index("wire_bytes")] += 250_000_000
    board.workers[0]["counters"][COUNTERS.index("malformed")] += 10
    board.workers[0]["kernel_drops_total"] += 6
    board.workers[0]["cpu_ns"] += 500_000_000
    board.workers[1]["service_packets"] += [3000, 0]
    board.workers[1]["service_bytes"] += [2_500_000, 0]
    board.services["records_total"] += [80, 0]
    board.aggregator["sinks"]["records_total"] += 8
    board.aggregator["sinks"]["failing"][1] = 1


def test_rates_are_differences_over_the_time_between(daemon):
    text = drawn(two_seconds(daemon, at_work))
    assert row(text, "0") == ["0", "1", "M", "1", "G", "3", "100", "101", "B", "25%", "250"]
    assert row(text, "1") == ["1", "0", "0", "0", "200", "201", "B", "0%", "–"]
    assert row(text, "all")[:6] == ["all", "1", "M", "1", "G", "3"]
    assert row(text, "Netflix") == ["Netflix", "1.50", "k", "10", "M", "40", "60", "40"]
    assert row(text, "jsonl") == ["jsonl", "4", "910", "920", "B", "writing"]
    assert row(text, "nats") == ["nats", "4", "911", "921", "B", "failing"]
    assert "malformed 5" in text
    assert "kernel 316 · interface 4" in text
    assert "10.0.0.4" in text


def test_before_the_second_look_there_are_no_rates(daemon):
    text = drawn(View(RunningDaemon(daemon.url).scrape(ITEMS), None))
    assert row(text, "0") == ["0", "–", "–", "–", "100", "101", "B", "–", "–"]


def test_a_counter_that_began_anew_has_no_rate(daemon):
    def restart(board):
        board.workers[0]["counters"] = 0

    assert row(drawn(two_seconds(daemon, restart)), "0")[1] == "–"


def test_sessions_are_shown_with_what_was_inferred(daemon):
    sending, receiving = interval_channel()
    with sending, receiving:
        publish(sending, boards.inference_table(7), [])
        daemon.inferred.receive(receiving)
    text = drawn(View(RunningDaemon(daemon.url).scrape(ITEMS), None))
    rows = [line.split() for line in text.splitlines()]
    assert ["10.0.0.0", "Netflix", "resolution", "480p", "88%"] in rows
    assert ["10.0.0.0", "Netflix", "startup", "1.5", "s", "–"] in rows
    assert ["10.0.0.2", "Netflix", "resolution", "–", "88%"] in rows
    assert "and 23 more" in text  # of 21 in all
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_picture_fits_the_terminal(daemon, columns):
    text = drawn(two_seconds(daemon, at_work), columns)
    assert max(map(len, text.splitlines())) <= columns
    assert len(text.splitlines()) <= 24
    assert "…" not in text


def test_a_large_daemon_is_cut_to_what_fits():
    services = [
        {
            "Name": f"A service with quite a long name {n}",
            "Filter": {"Prefixes": [f"10.{n}.0.0/16"]},
            "Collect": ["PacketCounters"],
        }
        for n in range(30)
    ]
    plan = boards.Plan.of(boards.parse_config({"Services": services}))
    board = boards.Board(plan, 64)
    for number in range(30):
        board.workers[0]["service_packets"][number] = board.workers[0]["service_bytes"][number] = 10**18 + number
    board.workers["counters"] = 10**17
    scrape = scrape_of(boards.Running(board, plan))
    text = drawn(View(scrape, scrape._replace(at_s=scrape.at_s - 2)))
    assert max(map(len, text.splitlines())) <= 80
    assert f"and {64 - WORKERS} more" in text
    assert f"and {30 - SERVICES} more" in text


def scrape_of(running):
    class Offline(RunningDaemon):
        def _get(self, path):
            return generate_latest(registry_of(lambda: running)) if path == "/metrics" else b'{"items": []}'

    return Offline("http://x").scrape(1)


def test_the_state_of_the_daemon_stands_at_the_top(daemon):
    scrape = RunningDaemon(daemon.url).scrape
    assert drawn(View(scrape(1), None)).splitlines()[0].endswith("  ready")
    daemon.board.workers[0]["state"] = STARTING
    time.sleep(1.1 * SHARED_S)
    assert drawn(View(scrape(1), None)).splitlines()[0].endswith(" not ready")
    assert drawn(View(scrape(1), None), notice="no answer since 12:00:00").splitlines()[0].endswith("since 12:00:00")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (7, "7"), (0.5, "0.50"), (12.34, "12.3"), (999, "999"), (999.6, "1.00 k"), (1000, "1 k"),
     (1234, "1.23 k"), (45_600_000, "45.6 M"), (9.87e12, "9.87 T"), (1e18, "1000000 T")],
)  # fmt: skip
def test_amounts_have_three_digits(value, text):
    assert amount(value) == text


@pytest.mark.parametrize(("value", "text"), [(512, "512 B"), (1536, "1.50 KiB"), (1 << 30, "1 GiB"), (None, "–")])
def test_bytes_are_binary(value, text):
    assert octets(value) == text


# The command


def test_once_prints_one_picture_and_ends(daemon, run):
    code, out, err = run("--url", daemon.url, "--once", "--every", "100ms")
    assert (code, err) == (0, "")
    assert out.count("Traffic Refinery") == 1
    assert max(map(len, out.splitlines())) <= 80


def test_in_a_pipe_it_prints_one_picture_too(daemon, run):
    assert run("--url", daemon.url, "--every", "100ms")[0] == 0


def test_a_daemon_that_is_not_there_is_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code, out, err = run("--url", f"http://127.0.0.1:{port}", "--once")
    assert (code, out) == (1, "")
    assert err == (
        f"error: http://127.0.0.1:{port}: no answer (Connection refused); is the daemon running, and is this its "
        "Metrics.Listen?\n"
    )


def answer_with(server, body):
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(body)


@pytest.mark.parametrize(
    "body", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello {",
             b"HTTP/1.1 200 OK\r\n\r\nother_metric 1\n", b""],
)  # fmt: skip
def test_another_program_that_answers_is_one_line(run, body):
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_with, args=(server, body))
        thread.start()
        code, _, err = run("--url", f"http://127.0.0.1:{server.getsockname()[1]}", "--once")
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert code == 1
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", "127.0.0.1:9464"], '--url: "127.0.0.1:9464" is not the URL of a listener; write it as in "http://127.0.0.1:9464"'),
        (["--every", "2"], '--every: "2" has no unit; add one of the units ns, us, ms, s, m, h, such as "10s"'),
        (["--every", "1ms"], "--every: 1ms is too often; 100ms at least"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_and_exit_2(run, arguments, error):
    assert run(*arguments) == (2, "", f"error: {error}\n")


def test_the_live_view_goes_on_without_the_daemon_and_ends_with_ctrl_c(daemon):
    controller, terminal = pty.openpty()
    code = "from trafficrefinery.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "top", "--url", daemon.url, "--every", "200ms"], stdout=terminal, stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "30"}, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    seen = b""

    def wait_for(text):
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert select.select([controller], [], [], max(deadline - time.monotonic(), 0))[0], seen
            seen += os.read(controller, 65536)

    wait_for(b"Netflix")
    daemon.close()
    wait_for(b"no answer since")
    process.send_signal(signal.SIGINT)
    try:
        while select.select([controller], [], [], 60)[0] and os.read(controller, 65536):
            pass
    except OSError:  # Linux's end of a terminal without users
        pass
    assert process.wait(60) == 0
    os.close(controller)
