"""The channel from workers to the aggregator: nothing lost, nothing twice, nobody waits."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support import children
from trafficrefinery.daemon.channels import channel
from trafficrefinery.daemon.channels.channel import Channel, Reader, Writer
from trafficrefinery.jit.shared_memory import Shared

POSITIONS = np.dtype([("sent_bytes", "i8"), ("taken_bytes", "i8")])


def pair(limit_bytes: int) -> tuple[Writer, Reader, Channel, Shared]:
    made, positions = Channel(limit_bytes), Shared(1, POSITIONS)
    return Writer(made, positions.array[0], 7), Reader(made, positions.array[0]), made, positions


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=3000), st.none()), max_size=60))
def test_messages_come_once_and_in_order_or_were_refused(steps):
    writer, reader, made, positions = pair(8192)
    sent, taken = [], []
    for number, step in enumerate(steps):
        if step is None:
            taken += [(message.kind, message.body.tobytes()) for message in reader.messages()]
        elif writer.send(number + 1, [step[:10], step[10:]]):
            sent.append((number + 1, step))
    taken += [(message.kind, message.body.tobytes()) for message in reader.messages()]
    assert taken == sent
    assert writer.waiting_bytes == 0
    made.close()
    positions.close()


def test_a_full_channel_refuses_and_takes_again_when_it_was_read():
    writer, reader, made, positions = pair(8192)
    count = 0
    while writer.send(1, [bytes(1000)]):
        count += 1
    assert count == 8
    assert len(list(reader.messages())) == count
    assert writer.send(1, [bytes(8192 - 64)])
    assert not writer.send(1, [bytes(9000)]), "larger than the channel"
    made.close()
    positions.close()


def test_memory_of_what_was_read_is_given_back(monkeypatch):
    monkeypatch.setattr(channel, "_KEPT_RESIDENT", 1 << 20)
    writer, reader, made, positions = pair(64 << 20)
    for _ in range(8):
        assert writer.send(1, [bytes(4 << 20)])
    resident = os.fstat(made.memory._fd).st_blocks * 512
    assert resident >= 32 << 20
    assert len(list(reader.messages())) == 8
    assert os.fstat(made.memory._fd).st_blocks * 512 <= 2 << 20
    made.close()
    positions.close()


def test_what_a_killed_writer_sent_is_read_and_its_successor_goes_on():
    made, positions = Channel(1 << 20), Shared(1, POSITIONS)
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        process = context.Process(target=children.send_and_die, args=(made, positions, 50))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    messages = [
        (message.kind, message.process, message.body.tobytes())
        for message in Reader(made, positions.array[0]).messages()
    ]
    assert [kind for kind, _, _ in messages] == [*range(1, 51)] * 2
    assert len({process for _, process, _ in messages}) == 2
    assert all(body == (kind - 1).to_bytes(4, "little") * 100 for kind, _, body in messages)
    made.close()
    positions.close()


def test_a_reader_that_was_killed_while_it_gave_memory_back_does_not_stop_its_successor(monkeypatch):
    monkeypatch.setattr(channel, "_KEPT_RESIDENT", 4096)
    writer, reader, made, positions = pair(1 << 20)
    for number in (1, 2, 3):
        assert writer.send(number, [bytes([number]) * 20_000])
    taken = next(iter(reader.messages()))
    assert taken.kind == 1
    reader._give_back(0, channel._total(20_000))  # and then it is killed: the position says nothing of it
    rest = [(message.kind, message.body.tobytes()) for message in Reader(made, positions.array[0]).messages()]
    assert rest == [(2, bytes([2]) * 20_000), (3, bytes([3]) * 20_000)]
    made.close()
    positions.close()
