"""Records to a real NATS server: at least once, in order, whatever goes away in between."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import sink_cases as cases
from support.nats_accounts import write_credentials
from support.nats_server import NatsServer, Stored
from support.sink_cases import interval, numbers_of, objects
from trafficrefinery.errors import FolderError
from trafficrefinery.records.sinks.jetstream import MAX_MESSAGE_BYTES, JetStream, NatsSettings, messages_of, subject_of
from trafficrefinery.records.storage.spool import Spool

SUBJECT = "trafficrefinery.records.edge_1_a"


@pytest.fixture
def make_server(tmp_path) -> Iterator[Callable[..., NatsServer]]:
    """Makes a server, with further settings, which is not yet started."""
    made: list[NatsServer] = []

    def make(settings: str = "") -> NatsServer:
        made.append(NatsServer(tmp_path / f"server-{len(made)}", settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def server(make_server) -> NatsServer:
    return make_server()


def opened(server: NatsServer, state: Path, **settings: object) -> JetStream:
    return cases.opened(state, state, NATS={"Enabled": True, "Servers": [server.url], **settings})


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within 15 seconds")


def numbers_in(messages: list[Stored]) -> list[int]:
    lines = [line for message in messages for line in objects(message.data)]
    return numbers_of(line for line in lines if line["kind"] == "flow")


# A server that is there


def test_records_and_summaries_of_an_interval_are_in_the_stream_that_is_made(server, tmp_path):
    server.start()
    sink = opened(server, tmp_path)
    for number in range(5):
        sink.write(interval(number))
    wait_until(lambda: sink.waiting_bytes == 0)
    stored = server.stored()
    assert numbers_in(stored) == [0, 1, 2, 3, 4]
    assert {message.subject for message in stored} == {SUBJECT}
    assert len({message.message_id for message in stored}) == 5
    for number, message in enumerate(stored):
        lines = objects(message.data)
        assert [line["kind"] for line in lines] == ["flow", "flow", "flow", "interval"]
        assert lines[-1]["number"] == number
    assert (sink.name, sink.records_total, sink.dropped_total, sink.failing) == ("nats", 15, 0, False)
    sink.close()


def test_a_large_interval_becomes_messages_of_whole_records(server, tmp_path):
    server.start()
    sink = opened(server, tmp_path)
    sink.write(interval(0, flows=3000))
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    stored = server.stored()
    assert len(stored) > 3
    assert all(len(message.data) <= MAX_MESSAGE_BYTES for message in stored)
    assert numbers_of((line for m in stored for line in objects(m.data) if line["kind"] == "flow"), 3000) == [0]
    assert sink.records_total == 3000


def test_what_waits_at_the_end_is_still_sent(server, tmp_path):
    server.start()
    sink = opened(server, tmp_path)
    for number in range(20):
        sink.write(interval(number))
    sink.close()
    assert numbers_in(server.stored()) == list(range(20))


def test_a_record_that_is_larger_than_the_server_takes_is_dropped_and_the_next_is_sent(make_server, tmp_path):
    server = make_server("max_payload: 4KB")
    server.start()
    sink = opened(server, tmp_path)
    sink.write(interval(0, flows=100))
    sink.write(interval(1))
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == [1]
    assert (sink.records_total, sink.dropped_total) == (3, 100)


def test_a_stream_that_does_not_take_the_subject_is_told(server, tmp_path, caplog):
    server.start()
    server.asked(lambda client: client.jetstream().add_stream(name="TRAFFICREFINERY", subjects=["other.>"]))
    sink = opened(server, tmp_path)
    sink.write(interval(0))
    wait_until(lambda: sink.failing)
    assert f"no stream is bound to {SUBJECT}; add it to the subjects of TRAFFICREFINERY" in caplog.text
    server.asked(
        lambda client: client.jetstream().update_stream(name="TRAFFICREFINERY", subjects=["trafficrefinery.>"])
    )
    wait_until(lambda: sink.waiting_bytes == 0)
    assert not sink.failing
    sink.close()
    assert numbers_in(server.stored()) == [0]


def test_a_credentials_file_lets_the_daemon_in(make_server, tmp_path):
    credentials = tmp_path / "daemon.creds"
    server = make_server(write_credentials(credentials))
    server.start()
    refused = opened(server, tmp_path)
    refused.write(interval(0))
    wait_until(lambda: refused.failing)
    refused.close()
    sink = opened(server, tmp_path, CredentialsFile=str(credentials))
    sink.write(interval(1))
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored(user_credentials=str(credentials))) == [0, 1]


# A server that is away


def test_what_is_written_while_the_server_is_away_follows_in_order(server, tmp_path):
    sink = opened(server, tmp_path)
    for number in range(10):
        sink.write(interval(number))
    wait_until(lambda: sink.failing)
    assert sink.waiting_bytes > 0
    server.start()
    wait_until(lambda: sink.waiting_bytes == 0)
    assert not sink.failing
    assert numbers_in(server.stored()) == list(range(10))
    sink.close()


def test_a_server_that_is_killed_and_started_again_has_everything_once_and_in_order(server, tmp_path):
    server.start()
    sink = opened(server, tmp_path)
    for number in range(200):
        sink.write(interval(number))
        if number in (50, 120):
            server.stop()
        if number in (80, 150):
            server.start()
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == list(range(200))
    assert (sink.records_total, sink.dropped_total) == (600, 0)


def test_a_server_that_hangs_is_left_and_found_again(server, tmp_path):
    server.start()
    sink = opened(server, tmp_path)
    sink.write(interval(0))
    wait_until(lambda: sink.waiting_bytes == 0)
    server.process.send_signal(signal.SIGSTOP)
    sink.write(interval(1))
    wait_until(lambda: sink.failing)
    server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == [0, 1]


def test_of_several_servers_one_that_answers_is_enough(server, tmp_path):
    server.start()
    sink = cases.opened(tmp_path, tmp_path, NATS={"Enabled": True, "Servers": ["nats://127.0.0.1:1", server.url]})
    sink.write(interval(0))
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == [0]


def test_the_spool_survives_restarts_of_both_sides(server, tmp_path):
    for start in (0, 10):
        sink = opened(server, tmp_path)
        for number in range(start, start + 10):
            sink.write(interval(number))
        sink.close()
        server.start()  # and stop again: the stream may be there or not
        server.stop()
    server.start()
    sink = opened(server, tmp_path)
    assert sink.waiting_bytes > 0
    sink.write(interval(20))
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == list(range(21))
    assert sink.records_total == 63


def test_a_message_that_is_sent_again_is_stored_once(server, tmp_path):
    """The acknowledgement is lost: the run that is killed sends everything, the next one sends it again."""
    sink = opened(server, tmp_path)
    for number in range(5):
        sink.write(interval(number))
    sink.close()
    kept = {path: path.read_bytes() for path in (tmp_path / "nats").iterdir()}
    server.start()
    for _ in range(2):
        for path, data in kept.items():
            path.write_bytes(data)
        (tmp_path / "nats" / "cursor").unlink(missing_ok=True)
        sink = opened(server, tmp_path)
        wait_until(lambda sink=sink: sink.waiting_bytes == 0)
        sink.close()
        assert sink.records_total == 15
    assert numbers_in(server.stored()) == [0, 1, 2, 3, 4]


def test_every_interval_that_was_accepted_is_sent_after_kill_9(server, tmp_path):
    nats = {"NATS": {"Enabled": True, "Servers": [server.url]}}
    accepted: list[int] = []
    for turn in range(3):
        (tmp_path / "next").write_text(str(turn * 1_000_000))
        if turn == 1:
            server.start()
        daemon = cases.start_daemon(tmp_path, nats)
        told = daemon.stdout.readline()
        time.sleep(0.2 + 0.15 * turn)
        daemon.kill()
        told += daemon.stdout.read()
        daemon.wait()
        daemon.stdout.close()
        accepted += [int(line) for line in told.splitlines(keepends=True) if line.endswith(b"\n")]
        if turn == 1:
            server.stop()
    server.start()
    sink = opened(server, tmp_path)
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    found = numbers_in(server.stored())
    assert found == sorted(found)
    assert set(accepted) <= set(found)
    assert len(found) - len(accepted) <= 3  # those in progress


# The spool


def lines(number: int) -> tuple[int, bytes]:
    return 1, b'{"number":%d,"text":"%s"}\n' % (number, b"x" * 200)


def drained(spool: Spool) -> list[bytes]:
    found = []
    while (message := spool.first()) is not None:
        found.append(message.payload)
        assert spool.acknowledge(message)
    return found


@pytest.fixture
def make_spool(tmp_path) -> Iterator[Callable[..., Spool]]:
    """Makes a spool in place of the one made before, which is closed."""
    made: list[Spool] = []

    def make(max_bytes: int = 1 << 20, before: Callable[[], object] = lambda: None) -> Spool:
        while made:
            made.pop().close()
        before()
        made.append(Spool(tmp_path / "spool", max_bytes, "Daemon.StateFolder"))
        return made[-1]

    yield make
    while made:
        made.pop().close()


def test_messages_come_out_in_order_and_only_acknowledged_ones_go(make_spool):
    spool = make_spool()
    expected = [lines(number) for number in range(1000)]
    for start in range(0, 1000, 10):
        spool.append(expected[start : start + 10])
    assert spool.first() == spool.first()
    assert drained(spool) == [payload for _, payload in expected]
    assert spool.waiting_bytes == 0
    assert spool.first() is None
    spool.append([lines(1000)])
    assert drained(spool) == [lines(1000)[1]]


@pytest.mark.parametrize("read", [0, 1, 5, 9, 10, 11, 60])
def test_a_restart_goes_on_behind_what_was_acknowledged(make_spool, read):
    spool = make_spool(1 << 16)
    for number in range(60):
        spool.append([lines(number)])
    for _ in range(read):
        assert spool.acknowledge(spool.first())
    again = make_spool(1 << 16)
    again.append([lines(60)])
    assert drained(again) == [lines(number)[1] for number in range(read, 61)]


def test_without_its_cursor_everything_is_sent_again(make_spool, tmp_path):
    spool = make_spool()
    for number in range(10):
        spool.append([lines(number)])
    sent = [spool.first()]
    spool.acknowledge(sent[0])
    again = make_spool(before=lambda: (tmp_path / "spool" / "cursor").write_bytes(b"damaged"))
    assert again.first() == sent[0]
    assert drained(again) == [lines(number)[1] for number in range(10)]


def test_torn_last_entries_are_cut_wherever_they_end(make_spool, tmp_path):
    spool = make_spool()
    for number in range(4):
        spool.append([lines(number)])
    (segment,) = (tmp_path / "spool").glob("*.segment")
    data = segment.read_bytes()
    size_bytes = len(data) // 4

    def tear(end: int) -> None:
        for old in (tmp_path / "spool").iterdir():
            old.unlink()
        segment.write_bytes(data[:end])

    for end in range(0, len(data) + 1, 7):
        spool = make_spool(before=lambda end=end: tear(end))
        spool.append([lines(9)])
        assert drained(spool) == [lines(n)[1] for n in (*range(end // size_bytes), 9)]


def test_the_oldest_are_dropped_and_counted_beyond_the_bound(make_spool, tmp_path):
    spool = make_spool(20_000)
    for number in range(500):
        spool.append([lines(number)])
    dropped = spool.lost_records
    assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= 20_000
    assert dropped > 0
    assert drained(spool) == [lines(number)[1] for number in range(dropped, 500)]
    assert 500 - dropped >= 50


def test_a_message_that_was_dropped_while_it_was_sent_is_not_acknowledged(make_spool):
    spool = make_spool(20_000)
    spool.append([lines(0)])
    message = spool.first()
    for number in range(1, 500):
        spool.append([lines(number)])
    assert not spool.acknowledge(message)
    assert drained(spool) == [lines(number)[1] for number in range(spool.lost_records, 500)]


def test_an_interval_that_is_larger_than_the_spool_is_dropped_and_counted(server, tmp_path):
    sink = opened(server, tmp_path, SpoolSize="20KB")
    sink.write(interval(0))
    sink.write(interval(1, flows=1000))
    assert (sink.dropped_total, sink.failing) == (1000, True)
    server.start()
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == [0]


def test_a_spool_on_a_full_disk_drops_and_resumes(server, small_disk):
    sink = opened(server, small_disk)
    sink.write(interval(0))
    ballast = cases.fill(small_disk)
    number = 0
    while sink.dropped_total < 9:
        number += 1
        sink.write(interval(number))
    assert sink.dropped_total == 9
    ballast.unlink()
    sink.write(interval(100))
    server.start()
    wait_until(lambda: sink.waiting_bytes == 0)
    sink.close()
    assert numbers_in(server.stored()) == [*range(number - 2), 100]


def test_a_spool_has_one_daemon_at_a_time(make_spool, tmp_path):
    make_spool()
    with pytest.raises(FolderError, match=r"another daemon \(pid \d+\).*Daemon\.StateFolder"):
        Spool(tmp_path / "spool", 1 << 20, "Daemon.StateFolder")


# Messages


@pytest.mark.parametrize("flows", [1, 1000, 3000])
def test_messages_of_an_interval_are_its_lines(flows):
    whole = interval(0, flows)
    made = list(messages_of(whole))
    assert b"".join(payload for _, payload in made) == b"".join((*whole.record_lines, *whole.summary_lines))
    assert sum(records for records, _ in made) == flows
    assert all(payload.endswith(b"\n") and len(payload) <= MAX_MESSAGE_BYTES for _, payload in made)


def test_an_interval_without_records_has_its_summary():
    whole = cases.Interval(0, [], interval(3).summaries)
    ((records, payload),) = messages_of(whole)
    assert (records, [line["number"] for line in objects(payload)]) == (0, [3])


def test_a_sensor_is_one_token_of_the_subject():
    assert subject_of(NatsSettings(), "a.b c*>ä") == "trafficrefinery.records.a_b_c___"


def test_inferences_are_records_of_the_same_subject():
    whole = cases.inferred(4)
    ((records, payload),) = messages_of(whole)
    assert records == whole.records == 3
    assert [one["kind"] for one in cases.objects(payload)] == ["inference"] * 3
