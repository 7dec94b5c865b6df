"""AF_XDP sockets on a real cable: every frame, its times, exact losses, workers that take over, and refusals."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest

from support import children
from support.bpf_calls import delete_from_map
from support.networks import Wire, needs_command, send_frames, wire
from support.ring_cases import (
    CARRIED,
    IN_TUNNELS,
    TUNNELLED,
    capture,
    dns_and_others,
    flow_frames,
    frames_of,
    members_of,
    numbered,
    read,
    sample,
)
from support.traces import DECAPSULATE, ethernet, ip, tagged, udp
from trafficrefinery.capture.bpf import calls
from trafficrefinery.capture.frames import Losses
from trafficrefinery.capture.rings import xdp_sockets
from trafficrefinery.capture.rings.afxdp import XdpReader
from trafficrefinery.capture.rings.xdp_names import XdpNames
from trafficrefinery.capture.rings.xdp_sockets import XdpInterface
from trafficrefinery.errors import UsageError

__all__ = ["wire"]
pytestmark = pytest.mark.modes


def opened(wire: Wire, members: int = 1, decapsulate=(), **keys) -> XdpInterface:
    with wire.far.inside():
        return wire.keep([XdpInterface(wire.far_name, capture(**keys), members, decapsulate)])[0]


def readers_at(wire: Wire, members: int = 1, decapsulate=(), **keys) -> list[XdpReader]:
    interface = opened(wire, members, decapsulate, **keys)
    return wire.keep([XdpReader(sockets) for sockets in interface.sockets])


def is_attached(wire: Wire) -> bool:
    return "xdp" in wire.far.run("ip", "link", "show", wire.far_name).split("qdisc")[0]


@pytest.fixture(params=["native", "generic"])
def mode(request, monkeypatch):
    """How the program is attached."""
    if request.param == "generic":
        attach = calls.attach

        def refuse_native(program, interface, flags):
            if flags == calls.NATIVE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return attach(program, interface, flags)

        monkeypatch.setattr(calls, "attach", refuse_native)
    return request.param


# --- frames -----------------------------------------------------------------------------------------------------------


def test_all_frames_are_received_bytewise_with_their_times(wire, mode):
    interface = opened(wire)
    assert interface.mode == mode
    (reader,) = (XdpReader(sockets) for sockets in interface.sockets)
    frames = sample()
    before = time.time_ns()
    wire.send(frames)
    found = read(reader, len(frames))
    assert [frame.data for frame in found] == frames
    assert [frame.wire_bytes for frame in found] == [len(data) for data in frames]
    times = [frame.ts_ns for frame in found]
    assert times == sorted(times)
    assert len(set(times)) == len(times), "frames of one turn have times of their own"
    assert before - 1_000_000 <= times[0] <= times[-1] <= time.time_ns() + 1_000_000
    assert {frame.link_type for frame in found} == {1}
    assert reader.losses() == Losses(len(frames), 0, 0)
    assert reader.losses() == Losses(0, 0, 0)


def test_tags_stay_in_the_frame(wire, mode):
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(50)))
    frames = [ethernet(packet), tagged(packet, 0x8100), tagged(packet, 0x88A8, 0x8100)]
    (reader,) = readers_at(wire)
    wire.send(frames)
    assert [frame.data for frame in read(reader, 3)] == frames


@pytest.mark.parametrize("length", [60, 61, 512, 1513, 1514])
def test_a_frame_of_any_length_is_whole(wire, length):
    (reader,) = readers_at(wire)
    frames = numbered(3, length)
    wire.send(frames)
    assert [frame.data for frame in read(reader, 3)] == frames


@pytest.mark.parametrize(("mtu_bytes", "chunk_bytes"), [(1762, 2048), (1763, 4096), (3810, 4096)])
def test_larger_frames_have_larger_memory(wire, mtu_bytes, chunk_bytes):
    """The driver of veth takes no program at the largest; then the kernel's own way is used."""
    for end, name in ((wire.near, wire.near_name), (wire.far, wire.far_name)):
        end.run("ip", "link", "set", name, "mtu", str(mtu_bytes))
    interface = opened(wire)
    assert interface.sockets[0][0].chunk_bytes == chunk_bytes
    (reader,) = (XdpReader(sockets) for sockets in interface.sockets)
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(mtu_bytes - 28)))
    frames = [*numbered(40, mtu_bytes + 14), tagged(packet, 0x8100)]
    wire.send(frames)
    assert [frame.data for frame in read(reader, 41)] == frames
    assert reader.losses() == Losses(41, 0, 0)
    assert reader.oversized_total == 0


def test_frames_larger_than_the_link_are_counted(wire):
    (reader,) = readers_at(wire)
    for end, name in ((wire.near, wire.near_name), (wire.far, wire.far_name)):
        end.run("ip", "link", "set", name, "mtu", "1700")
    wire.send([*numbered(3, 1514), *numbered(2, 1714)])
    assert len(read(reader, 5)) == 5
    assert reader.oversized_total == 2


def test_memory_is_used_again_and_again(wire):
    frames = numbered(300, 1400)
    (reader,) = readers_at(wire, RingSize="64KiB", BlockSize="32KiB")  # 32 frames
    for _ in range(5):
        for start in range(0, len(frames), 30):
            wire.send(frames[start : start + 30])
            assert [f.data for f in read(reader, 30)] == frames[start : start + 30]
    assert reader.losses() == Losses(1500, 0, 0)


def test_indices_go_over_their_end(wire):
    """They count in 32 bits; a socket cannot be made old, so the ring is read as if it were."""
    (reader,) = readers_at(wire, RingSize="64KiB", BlockSize="32KiB")
    (queue,) = reader._queues
    shift = 2**32 - 40
    for ring in (queue.ring, queue.fill):
        ring.producer, ring.consumer = ring.producer.copy(), ring.consumer.copy()
        ring.producer[0] = (int(ring.producer[0]) + shift) % 2**32
    queue.state["done"][queue.place.number] = queue.taken = (queue.taken + shift) % 2**32
    for turn in range(8):
        queue.ring.producer[0] = (int(queue.ring.producer[0]) + 10) % 2**32
        assert queue.waiting == 10
        block = reader.poll(0)
        assert len(block.frames) == 10
        reader.release()
        assert queue.done == int(queue.ring.producer[0]) == (shift + 10 * (turn + 1)) % 2**32


def test_several_interfaces_are_read_in_the_order_of_their_frames(wire):
    other = Wire()
    sockets = [*opened(wire).sockets[0], *opened(other).sockets[0]]
    reader = XdpReader(sockets)
    frames = numbered(40)
    for i, frame in enumerate(frames):
        (wire, other)[i % 2].send([frame])
        time.sleep(0.002)
    found = [frame.data for _ in range(40) for frame in frames_of(reader.poll(1))]
    assert found == frames
    assert reader.losses().received == 40
    reader.close()
    other.close()


def test_several_queues_are_shared_by_all_workers(wire):
    """Queues of veth are those that it sends from: here each direction of a flow has its own."""
    ethtool = needs_command("ethtool")
    wire.near.run("ip", "link", "del", wire.near_name)
    wire.connect(queues=2)
    wire.far.run(ethtool, "-L", wire.far_name, "rx", "2")
    wire.near.run(ethtool, "-L", wire.near_name, "tx", "2")
    interface = opened(wire, 2)
    assert [[one.queue for one in sockets] for sockets in interface.sockets] == [[0, 1], [0, 1]]
    readers = wire.keep([XdpReader(sockets) for sockets in interface.sockets])
    for _ in range(3):
        workers = members_of(wire, readers, [flow_frames(i, "ethernet", 4) for i in range(40)])
        assert all(len(found) == 1 for found in workers)
    assert all(queue.done for reader in readers for queue in reader._queues), "a queue was not used"
    assert sum(reader.losses().received for reader in readers) == 3 * 40 * 6


def test_poll_waits_no_longer_than_asked(wire):
    (reader,) = readers_at(wire)
    before = time.monotonic()
    assert reader.poll(0.05) is None
    assert time.monotonic() - before >= 0.05


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2])
def test_sent_frames_are_received_or_counted_as_dropped(wire, members, mode):
    readers = readers_at(wire, members, RingSize="64KiB", BlockSize="32KiB")
    sent = [ethernet(ip(f"10.0.{i % 7}.{i % 200}", "192.0.2.1", 17, udp(i, 2, bytes(100)))) for i in range(2000)]
    wire.send(sent)
    received, drops, _ = zip(*(reader.losses() for reader in readers), strict=True)
    assert list(received) == [len(read(reader, 0)) for reader in readers]
    assert sum(received) + sum(drops) == len(sent)
    assert all(drops)
    wire.send(sent[:10])  # it goes on afterwards
    assert sum(len(read(reader, 0)) for reader in readers) == 10
    assert sum(reader.losses().received for reader in readers) == 10
    assert sum(reader.losses().drops for reader in readers) == 0


def test_a_worker_that_hangs_takes_nothing_from_the_others(wire):
    stuck, reader = readers_at(wire, 2, RingSize="64KiB", BlockSize="32KiB")
    frames = {0: [], 1: []}
    for number in range(60):
        group = [f for f in flow_frames(number, "ethernet", 4) if len(f) < 600]
        wire.send(group)
        (frames[0] if stuck._queues[0].waiting > sum(map(len, frames[0])) else frames[1]).append(group)
        read(reader, 0, limit_s=0.05)
    assert reader.losses().drops == 0
    assert stuck.losses().drops > 0


def test_frames_too_large_for_their_memory_are_counted(wire):
    (reader,) = readers_at(wire)
    for end, name in ((wire.near, wire.near_name), (wire.far, wire.far_name)):
        end.run("ip", "link", "set", name, "mtu", "3000")
    wire.send([*numbered(2), *numbered(3, 3000)])
    assert len(read(reader, 2)) == 2
    received, drops, _ = reader.losses()
    assert (received, drops) == (2, 3)


def test_frames_of_a_queue_without_a_socket_are_counted(wire):
    interface = opened(wire)
    (reader,) = (XdpReader(sockets) for sockets in interface.sockets)
    delete_from_map(interface.maps.sockets, 0)
    wire.send(numbered(7))
    assert read(reader, 0) == []
    assert reader.losses() == Losses(0, 7, 0)
    assert reader.losses() == Losses(0, 0, 0)


# --- workers that take over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_second_reader_goes_on_where_a_killed_one_stopped(wire, blocks):
    frames = numbered(400, 1000)
    interface = opened(wire)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    wire.send(frames[:10])
    worker = context.Process(target=children.read_some_xdp, args=(interface.sockets[0], blocks, theirs))
    worker.start()
    for start in range(10, 200, 10):  # a block has what there is
        if start <= 10 * blocks:
            assert ours.poll(60), "the worker says nothing"
            assert ours.recv() == "next"
        wire.send(frames[start : start + 10])
    assert ours.poll(60), "the worker says nothing"
    done = ours.recv()
    worker.kill()
    worker.join()
    wire.send(frames[200:])
    reader = XdpReader(interface.sockets[0])
    rest = [frame.data for frame in read(reader, 400 - len(done))]
    assert done + rest == frames
    assert (len(done) > 0) == (blocks > 0)
    assert reader.losses() == Losses(400, 0, 0)


class Killed(Exception):  # noqa: N818
    """A process ends here."""


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("store", range(9))
def test_a_worker_killed_at_any_store_loses_no_memory_and_no_frame(wire, members, store):
    """The stores of `give_back` are made one after the other, up to some; then another worker of the queue goes on."""
    interface = opened(wire, members, RingSize="64KiB", BlockSize="32KiB")
    readers = [XdpReader(sockets) for sockets in interface.sockets]
    frames = [ethernet(ip("10.0.0.1", "192.0.2.1", 17, udp(i, 2, bytes(100)))) for i in range(20)]
    wire.send(frames)
    (at,) = (number for number, reader in enumerate(readers) if reader._queues[0].waiting)
    (victim,) = readers[at]._queues
    assert len(readers[at].poll(1).frames) == 20
    count = [store]

    class Guarded:
        """An array whose stores are counted."""

        def __init__(self, array):
            self.array = array

        def __getitem__(self, key):
            found = self.array[key]
            return Guarded(found) if isinstance(key, str) else found

        def __setitem__(self, key, value):
            if count[0] == 0:
                raise Killed
            count[0] -= 1
            self.array[key] = value

    victim.state, fill = Guarded(victim.state), victim.fill
    fill.producer, victim.ring.consumer = Guarded(fill.producer), Guarded(victim.ring.consumer)
    survived = False
    try:
        victim.give_back()
        survived = True
    except Killed:
        pass
    others = [reader for number, reader in enumerate(readers) if number != at]
    for reader in others:  # another worker of the queue gives back what it had, before there is a successor
        more = [ethernet(ip("10.0.0.9", f"192.0.2.{i}", 17, udp(7, 2, bytes(100)))) for i in range(9)]
        wire.send(more)
        reader.poll(0.1)
        reader.release()
    successor = XdpReader(interface.sockets[at])
    again = [frame.data for frame in read(successor, 0) if frame.data in frames]
    assert again in ([], frames), "frames are read whole, once more at most"
    assert not (survived and again)
    state = interface.sockets[at][0].state.array
    (queue,) = successor._queues
    assert queue.done == int(queue.ring.producer[0])
    owned = (int(queue.fill.producer[0]) - int(queue.fill.consumer[0])) % 2**32
    entries = queue.place.fill_entries
    given = {int(queue.fill.entries[(int(queue.fill.consumer[0]) + i) % entries]) for i in range(owned)}
    assert len(given) == owned, "memory was given back twice"
    for number, reader in enumerate(readers):
        if number != at:
            reader.release()
    assert not state["giving"].any()
    for _ in range(5):  # nothing is missing either
        wire.send(frames)
        assert len(read(successor, 20)) == 20


@pytest.mark.parametrize("before", [1, 20, 3000])  # the last fill the ring, and more
def test_what_came_or_was_lost_before_it_is_ready_can_be_left_out(wire, before):
    interface = opened(wire, RingSize="256KiB", BlockSize="32KiB")
    wire.send(numbered(before, 1000))
    (reader,) = (XdpReader(sockets) for sockets in interface.sockets)
    reader.skip()
    frames = numbered(100, 500)
    wire.send(frames)
    assert [frame.data for frame in read(reader, len(frames))] == frames
    assert reader.losses() == Losses(len(frames), 0, 0)


def test_what_is_left_is_for_the_next_reader(wire):
    interface = opened(wire)
    first, frames = XdpReader(interface.sockets[0]), numbered(30)
    wire.send(frames[:10])
    assert len(first.poll(1).frames) == 10
    wire.send(frames[10:])
    found = [frame.data for frame in frames_of(first.poll(1))]
    assert found == frames[10:]
    assert not first.leave()
    assert first.poll(0) is None
    first.release()
    second = XdpReader(interface.sockets[0])
    assert [frame.data for frame in read(second, 20)] == frames[10:]


# --- sharing out ------------------------------------------------------------------------------------------------------

FLOWS = 60


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("wrapping", CARRIED)
def test_both_directions_and_all_fragments_of_two_hosts_meet(wire, wrapping, version):
    readers = readers_at(wire, 3, DECAPSULATE if wrapping in IN_TUNNELS else ())
    workers = members_of(wire, readers, [flow_frames(i, wrapping, version) for i in range(FLOWS)])
    assert sum(len(found) == 1 for found in workers) == FLOWS
    assert {next(iter(found)) for found in workers} == {0, 1, 2}


def test_each_queue_can_have_a_worker_of_its_own(wire):
    (reader,) = readers_at(wire, Fanout="queue")
    wire.send(numbered(20))
    assert len(read(reader, 20)) == 20


# --- filters and names ------------------------------------------------------------------------------------------------


def test_what_the_filter_leaves_out_goes_on_to_the_machine(wire, mode):
    wanted = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(5, 80, bytes(30))))
    other = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(5, 22, bytes(30))))
    (reader,) = readers_at(wire, Filter="not port 22")
    with wire.far.inside():
        machine = wire.keep([children.packet_socket(wire.far_name)])[0]
    wire.send([other, wanted, other])
    assert [frame.data for frame in read(reader, 1)] == [wanted]
    assert reader.losses() == Losses(1, 0, 0)
    assert [machine.recv(2000), machine.recv(2000)] == [other, other]
    with pytest.raises(BlockingIOError):
        machine.recv(2000)


def test_a_filter_for_tags_sees_them(wire):
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(5, 80, bytes(30)))
    (reader,) = readers_at(wire, Filter="vlan 100 and port 80")
    wire.send([ethernet(packet), tagged(packet, 0x8100)])
    assert [frame.data for frame in read(reader, 1)] == [tagged(packet, 0x8100)]


def test_a_filter_that_looks_at_nothing(wire):
    (reader,) = readers_at(wire, Filter="ip or not ip")
    wire.send(numbered(5))
    assert len(read(reader, 5)) == 5


def test_the_ring_for_names_gets_dns_and_so_do_the_workers(wire, mode):
    interface = opened(wire, 1, TUNNELLED)
    reader, names = XdpReader(interface.sockets[0]), XdpNames(interface.names)
    frames = dns_and_others()
    before = time.time_ns()
    wire.send(frames)
    assert [f.data for f in read(reader, len(frames))] == frames
    found = read(names, 2 * len(frames) // 3)
    assert [f.data for f in found] == [f for i, f in enumerate(frames) if i % 3 != 1]
    assert [f.wire_bytes for f in found] == [len(f.data) for f in found]
    assert before - 1_000_000 <= found[0].ts_ns <= found[-1].ts_ns <= time.time_ns() + 1_000_000
    assert names.losses() == Losses(len(found), 0, 0)


def test_names_that_find_no_room_are_counted_and_the_ring_is_used_again(wire, monkeypatch):
    monkeypatch.setattr(xdp_sockets, "_NAMES_RING_BYTES", 64 << 10)
    interface = opened(wire)
    query = ethernet(ip("10.0.0.1", "10.0.0.53", 17, udp(5, 53, bytes(30))))
    wire.send([query] * 100)
    names = XdpNames(interface.names)
    found = len(read(names, 0))
    assert 16 <= found <= 32
    assert names.losses() == Losses(found, 100 - found, 0)
    for _ in range(20):
        wire.send([query] * 10)
        assert [f.data for f in read(names, 10)] == [query] * 10
    successor = XdpNames(interface.names)
    wire.send([query] * 3)
    assert len(read(successor, 3)) == 3
    assert successor.losses() == Losses(3, 0, 0)


# --- interfaces that come and go --------------------------------------------------------------------------------------


def test_the_program_goes_with_the_interface_object(wire):
    interface = opened(wire)
    assert is_attached(wire)
    again = interface.shared()
    interface.close()
    assert is_attached(wire)
    again.close()
    assert not is_attached(wire)


def test_the_program_goes_with_a_killed_process(wire):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with wire.far.inside():
        process = context.Process(target=children.hold_xdp, args=(wire.far_name, theirs))
        process.start()
    assert ours.poll(60), "the process says nothing"
    ours.recv()
    assert is_attached(wire)
    process.kill()
    process.join()
    end = time.monotonic() + 5
    while is_attached(wire):
        assert time.monotonic() < end, "it is still attached"
        time.sleep(0.05)
    (reader,) = readers_at(wire)  # and the queue is free
    wire.send(numbered(4))
    assert len(read(reader, 4)) == 4


def test_capture_goes_on_when_an_interface_comes_up_again(wire):
    (reader,) = readers_at(wire)
    wire.send(numbered(10))
    wire.set_far("down")
    assert len(read(reader, 0)) == 10  # what arrived before is not lost
    started = time.process_time()
    assert reader.poll(0.5) is None
    assert time.process_time() - started < 0.4, "it spins"
    wire.set_far("up")
    wire.send(numbered(5))
    assert len(read(reader, 5)) == 5


def test_a_removed_interface_is_reported_and_can_be_opened_anew(wire):
    (reader,) = readers_at(wire)
    wire.send(numbered(3))
    wire.far.run("ip", "link", "del", wire.far_name)
    assert len(read(reader, 3)) == 3
    started = time.process_time()
    assert reader.poll(0.5) is None
    assert time.process_time() - started < 0.4, "it spins"
    wire.connect()
    (again,) = readers_at(wire)
    wire.send(numbered(4))
    assert len(read(again, 4)) == 4


def test_a_machine_sends_through_an_interface_that_is_captured_on(wire):
    (reader,) = readers_at(wire)
    with wire.near.inside():
        far_end = wire.keep([children.packet_socket(wire.near_name)])[0]
    (frame,) = numbered(1)
    send_frames(wire.far, wire.far_name, [frame])
    assert far_end.recv(2000) == frame
    assert read(reader, 0) == []


# --- refusals ---------------------------------------------------------------------------------------------------------


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refusal(wire: Wire, name: str | None = None, members: int = 1, **keys) -> str:
    before = open_files()
    said = _refusal(wire, name or wire.far_name, members, **keys)
    gc.collect()
    assert open_files() == before
    assert not is_attached(wire)
    return said


def _refusal(wire: Wire, name: str, members: int, **keys) -> str:
    with wire.far.inside(), pytest.raises(UsageError) as caught:
        XdpInterface(name, capture(**keys), members)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "call", "said"),
    [
        (errno.EPERM, "make_map", "Capture.Interfaces: AF_XDP on mirror0 needs the capabilities CAP_NET_RAW, "
         "CAP_NET_ADMIN and CAP_BPF (Operation not permitted); with systemd, add systemd/afxdp.conf to the unit, else run as root, or "
         'set Capture.Source to "afpacket"'),
        (errno.ENOSYS, "make_map", "Capture.Source: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS, CONFIG_BPF_SYSCALL) "
         'or the unit forbids it (Function not implemented); set Capture.Source to "afpacket"'),
        (errno.EINVAL, "load_program", "Capture.Interfaces: mirror0: the kernel refuses AF_XDP (Invalid argument); use "
         'Linux 5.18, or set Capture.Source to "afpacket"'),
        (errno.ENOMEM, "set_in_map", "Capture.RingSize: mirror0: the kernel refuses the memory of AF_XDP (Cannot "
         "allocate memory); lower RingSize or Workers, or raise the limit of locked memory (ulimit -l)"),
    ],
)  # fmt: skip
def test_what_the_kernel_refuses_is_one_line(wire, monkeypatch, number, call, said):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(calls, call, refuse)
    assert refusal(wire) == said


def opened_with(wire: Wire, change, numbers) -> str:
    """What is said when a process with other capabilities opens an interface."""
    ours, theirs = os.pipe()
    with wire.far.inside():
        pid = os.fork()
        if pid == 0:
            try:
                change(numbers)
                XdpInterface(wire.far_name, capture(), 2, DECAPSULATE).close()
                os.write(theirs, b"opened")
            except BaseException as error:  # noqa: BLE001
                os.write(theirs, str(error).encode())
            os._exit(0)
    os.close(theirs)
    os.waitpid(pid, 0)
    with os.fdopen(ours) as said:
        return said.read()


@pytest.mark.parametrize("numbers", [(13,), (39, 21)])  # CAP_NET_RAW; CAP_BPF, and CAP_SYS_ADMIN which includes it
def test_missing_capabilities_are_named(wire, numbers):
    said = opened_with(wire, children.drop_capabilities, numbers)
    assert "Capture.Interfaces: AF_XDP on mirror0 needs the capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF" in said


def test_the_capabilities_that_are_named_are_enough(wire):
    assert opened_with(wire, children.keep_capabilities, (12, 13, 14, 39)) == "opened"


def test_an_interface_that_another_program_has(wire):
    opened(wire)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(xdp_sockets, "_BUSY_S", 0.1)
    with wire.far.inside(), pytest.raises(UsageError, match=r"has an AF_XDP socket of another program"):
        XdpInterface(wire.far_name, capture(), 1)
    monkey.undo()


def test_another_xdp_program(wire, monkeypatch):
    monkeypatch.setattr(xdp_sockets, "_BUSY_S", 0.1)
    program = calls.load_program(b"\xb7\0\0\0\2\0\0\0\x95\0\0\0\0\0\0\0")  # XDP_PASS
    with wire.far.inside():
        link = calls.attach(program, socket.if_nametoindex(wire.far_name), 0)
        with pytest.raises(UsageError, match=r"another XDP program is attached to mirror0; .* xdp off"):
            XdpInterface(wire.far_name, capture(), 1)
    os.close(link)
    os.close(program)


def test_frames_that_are_too_large(wire):
    wire.far.run("ip", "link", "set", wire.far_name, "mtu", "9000")
    assert refusal(wire) == (
        'Capture.Source: "afxdp" captures frames of an MTU up to 3810, that of mirror0 is 9000; lower it, or set '
        'Source to "afpacket"'
    )


def test_an_interface_without_ethernet(wire):
    assert refusal(wire, "lo") == (
        'Capture.Source: "afxdp" captures Ethernet, which lo is not; set Source to "afpacket"'
    )


def test_more_workers_than_queues(wire):
    assert refusal(wire, members=2, Fanout="queue") == (
        "Capture.Workers: mirror0 has 1 receive queues for 2 workers; lower Workers, make more queues (ethtool -L "
        'mirror0), or set Fanout to "addresses"'
    )
