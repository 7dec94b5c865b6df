"""Rings of the kernel on a real cable: every frame, its times, exact losses, readers that take over, and refusals."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dpkt
import numpy as np
import pytest

from support import children
from support.networks import Namespace, Wire, needs_command, needs_root, send_frames, wire
from support.ring_cases import (
    CARRIED,
    IN_TUNNELS,
    SENT_BYTES_MOST,
    TUNNELLED,
    capture,
    dns_and_others,
    flow_frames,
    frames_of,
    members_of,
    numbered,
    read,
    rings_at,
    sample,
)
from support.traces import DECAPSULATE, ethernet, ip, seeded_trace, tagged, udp, write_trace
from trafficrefinery.capture.frames import Losses
from trafficrefinery.capture.rings import sockets
from trafficrefinery.capture.rings.afpacket import (
    RingReader,
    interface_drops,
    open_ring_for_names,
    open_rings,
    receive_offloads,
)
from trafficrefinery.errors import UsageError
from trafficrefinery.packets.parser import STRIPPED_TAG

__all__ = ["wire"]
pytestmark = pytest.mark.modes
NS = 1_000_000_000


# --- frames -----------------------------------------------------------------------------------------------------------


def test_all_frames_are_received_bytewise_with_their_times(wire):
    frames = sample()
    reader = RingReader(rings_at(wire))
    before = time.time_ns()
    wire.send(frames)
    found = read(reader, len(frames))
    assert [frame.data for frame in found] == frames
    assert [frame.wire_bytes for frame in found] == [len(data) for data in frames]
    times = [frame.ts_ns for frame in found]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()
    assert {frame.link_type for frame in found} == {1}
    assert reader.losses() == Losses(len(frames), 0, 0)
    assert reader.losses() == Losses(0, 0, 0)


def test_a_trace_sent_with_tcpreplay_is_received_whole(wire, tmp_path):
    needs_command("tcpreplay")
    frames = [frame for frame in seeded_trace(5, 40, ["ethernet"]) if len(frame.data) <= SENT_BYTES_MOST]
    reader = RingReader(rings_at(wire))
    wire.replay(write_trace(tmp_path / "t.pcap", frames))
    assert [f.data for f in read(reader, len(frames))] == [f.data for f in frames]


def test_large_blocks_are_handed_over_in_pieces_and_kept_until_the_last(wire):
    frames = numbered(1000)
    (ring,) = rings_at(wire, BlockTimeout="300ms")
    reader = RingReader([ring], frames_per_block=64)
    wire.send(frames)
    sizes, found = [], []
    while len(found) < len(frames):
        block = reader.poll(5)
        assert block is not None
        reader.release()  # more of the same block follows: nothing is given back
        sizes.append(len(block.frames))
        found += frames_of(block)
    assert [frame.data for frame in found] == frames
    assert max(sizes) == 64


def test_a_ring_is_used_again_and_again(wire):
    frames = numbered(300, 1400)
    reader = RingReader(rings_at(wire, RingSize="128KiB", BlockSize="32KiB"))
    for _ in range(5):
        for start in range(0, len(frames), 30):
            wire.send(frames[start : start + 30])
            assert [f.data for f in read(reader, 30)] == frames[start : start + 30]
    assert reader.losses() == Losses(1500, 0, 0)


def test_several_rings_are_read_in_the_order_of_their_blocks(wire):
    other = Wire()
    keys = {"RingSize": "2MiB", "BlockSize": "32KiB"}
    with other.far.inside():
        rings = [*rings_at(wire, **keys), *wire.keep(open_rings(other.far_name, capture(**keys), 1))]
    reader = RingReader(rings)
    frames = numbered(40)
    for i, frame in enumerate(frames):
        (wire, other)[i % 2].send([frame])
        time.sleep(0.012)  # each in a block of its own
    assert [frame.data for frame in read(reader, 40)] == frames
    assert reader.losses().received == 40
    other.close()


def test_poll_waits_no_longer_than_asked(wire):
    reader = RingReader(rings_at(wire))
    before = time.monotonic()
    assert reader.poll(0.05) is None
    assert time.monotonic() - before >= 0.05


# --- losses -----------------------------------------------------------------------------------------------------------


def test_sent_frames_are_received_or_counted_as_dropped(wire):
    (ring,) = rings_at(wire, RingSize="64KiB", BlockSize="32KiB")
    reader = RingReader([ring])
    sent = 2000
    wire.send(numbered(sent, 500))
    found = read(reader, 1)
    received, drops, freezes = reader.losses()
    assert received == len(found)
    assert received + drops == sent
    assert drops > 0
    assert freezes > 0
    wire.send(numbered(10))  # it goes on afterwards
    assert len(read(reader, 10)) == 10
    assert reader.losses() == Losses(10, 0, 0)


# --- readers that take over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_second_reader_goes_on_where_a_killed_one_stopped(wire, blocks):
    frames = numbered(400, 1000)
    rings = rings_at(wire, RingSize="1MiB", BlockSize="32KiB")
    wire.send(frames[:200])
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=children.read_some, args=(rings, blocks, theirs))
    worker.start()
    assert ours.poll(60), "the worker says nothing"
    done = ours.recv()
    worker.kill()
    worker.join()
    wire.send(frames[200:])
    rest = [frame.data for frame in read(RingReader(rings), 400 - len(done))]
    assert done + rest == frames
    assert (len(done) > 0) == (blocks > 0)


@pytest.mark.parametrize("before", [1, 100, 3000])  # the last fill the ring, and more
def test_what_came_or_was_lost_before_it_is_ready_can_be_left_out(wire, before):
    rings = rings_at(wire, RingSize="256KiB", BlockSize="32KiB")
    wire.send(numbered(before, 1000))
    time.sleep(0.2)  # until the last block is handed over
    reader = RingReader(rings)
    reader.skip()
    frames = numbered(100, 500)
    wire.send(frames)
    assert [frame.data for frame in read(reader, len(frames))] == frames
    assert reader.losses() == Losses(len(frames), 0, 0)


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 20])
def test_a_reader_finds_its_place_in_a_ring_at_any_turn(wire, before):
    rings = rings_at(wire, RingSize="256KiB", BlockSize="32KiB")  # 8 blocks
    first = RingReader(rings)
    for i in range(before):
        wire.send([numbered(21)[i]])
        assert len(read(first, 1)) == 1
    second = RingReader(rings)
    frames = numbered(5)
    wire.send(frames)
    assert [frame.data for frame in read(second, 5)] == frames


# --- tags, sizes, directions ------------------------------------------------------------------------------------------


def test_a_tag_that_the_kernel_took_out_counts_on_the_wire(wire):
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(50)))
    frames = [ethernet(packet), tagged(packet, 0x8100), tagged(packet, 0x88A8, 0x8100)]
    reader = RingReader(rings_at(wire))
    wire.send(frames)
    blocks = []
    while sum(len(frames) for _, frames in blocks) < 3:
        block = reader.poll(5)
        blocks.append((frames_of(block), np.asarray(block.frames).copy()))
    found = [frame for frames, _ in blocks for frame in frames]
    tags = [int(row["stripped_tag"]) for _, rows in blocks for row in rows]
    assert [frame.wire_bytes for frame in found] == [len(data) for data in frames]
    assert [len(frame.data) for frame in found] == [len(frames[0]), len(frames[1]) - 4, len(frames[2]) - 4]
    assert [frame.data for frame in found] == [data[:12] + data[16 if i else 12 :] for i, data in enumerate(frames)]
    assert tags == [0, STRIPPED_TAG | 100, STRIPPED_TAG | 100]


def test_frames_larger_than_the_link_are_counted(wire):
    wire.near.run("ip", "link", "set", wire.near_name, "mtu", "9000")
    wire.far.run("ip", "link", "set", wire.far_name, "mtu", "9000")
    rings = rings_at(wire, BlockSize="32KiB")
    wire.far.run("ip", "link", "set", wire.far_name, "mtu", "1500")
    rings = [ring.__class__(**{**vars(ring), "frame_bytes": 1514}) for ring in rings]
    wire.far.run("ip", "link", "set", wire.far_name, "mtu", "9000")
    reader = RingReader(rings)
    inner = bytes(1500)
    fitting = [ethernet(inner, kind=0x88B5), ethernet(b"\0\1\x88\xb5" + inner, kind=0x8100)]
    two_tags = ethernet(b"\0\1\x81\0\0\1\x88\xb5" + inner, kind=0x88A8)
    merged = [ethernet(bytes(1501), kind=0x88B5), ethernet(b"\0\1\x88\xb5" + bytes(1505), kind=0x8100)]
    wire.send([*fitting, two_tags, *merged])
    assert len(read(reader, 5)) == 5
    assert reader.oversized_total == 2


@pytest.mark.parametrize("ignore", [False, True])
def test_outgoing_frames_are_left_out_on_request(wire, ignore):
    reader = RingReader(rings_at(wire, IgnoreOutgoing=ignore))
    incoming, outgoing = numbered(2)
    wire.send([incoming])
    send_frames(wire.far, wire.far_name, [outgoing])
    assert [f.data for f in read(reader, 1 if ignore else 2)] == [incoming, *([] if ignore else [outgoing])]


@pytest.mark.parametrize("promiscuous", [True, False])
def test_promiscuous_mode_lasts_as_long_as_the_socket(wire, promiscuous):
    def mode() -> int:
        words = wire.far.run("ip", "-d", "link", "show", wire.far_name).split()
        return int(words[words.index("promiscuity") + 1])

    rings = rings_at(wire, 2, Promiscuous=promiscuous)
    assert mode() == (2 if promiscuous else 0)
    for ring in rings:
        ring.close()
    assert mode() == 0


def test_loopback_shows_each_packet_once():
    needs_root()
    place = Namespace()
    place.run("ip", "link", "set", "lo", "up")
    with place.inside():
        rings = open_rings("lo", capture(), 1)
        reader = RingReader(rings)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", 9))
    datagrams = [f for f in read(reader, 1) if dpkt.ethernet.Ethernet(f.data).data.p == 17]
    assert len(datagrams) == 1
    rings[0].close()
    place.close()


def test_a_link_without_link_header_gives_raw_packets():
    needs_root()
    place, packet = Namespace(), ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, b"x"))
    with place.inside():
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        place.run("ip", "link", "set", "tun0", "up")
        rings = [*open_rings("tun0", capture(), 2), *open_rings("tun0", capture(Filter="udp dst port 2"), 1)]
    shared, reader = RingReader(rings[:2]), RingReader(rings[2:])
    os.write(tun, packet)
    for each in (shared, reader):
        assert [(frame.data, frame.link_type) for frame in read(each, 1)] == [(packet, 101)]
    os.close(tun)
    for ring in rings:
        ring.close()
    place.close()


# --- sharing out ------------------------------------------------------------------------------------------------------

FLOWS = 200


def without_tag(frame: bytes) -> bytes:
    """As the kernel shows it."""
    return frame[:12] + frame[16:] if frame[12:14] in (b"\x81\0", b"\x88\xa8") else frame


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("wrapping", CARRIED)
def test_both_directions_and_all_fragments_of_two_hosts_meet(wire, wrapping, version):
    decapsulate = DECAPSULATE if wrapping in IN_TUNNELS else ()
    readers = [RingReader([ring]) for ring in rings_at(wire, 3, decapsulate, BlockTimeout="50ms")]
    workers = members_of(wire, readers, [flow_frames(i, wrapping, version) for i in range(FLOWS)], without_tag)
    assert sum(len(found) == 1 for found in workers) == FLOWS
    shares = Counter(next(iter(found)) for found in workers)
    assert set(shares) == {0, 1, 2}
    assert max(shares.values()) < FLOWS / 2


def test_outgoing_packets_meet_the_incoming_ones(wire):
    readers = [RingReader([ring]) for ring in rings_at(wire, 3)]
    flows = [flow_frames(number, "ethernet", 4)[:2] for number in range(50)]
    wire.send(up for up, _ in flows)
    send_frames(wire.far, wire.far_name, [down for _, down in flows])
    owner = {frame: number for number, flow in enumerate(flows) for frame in flow}
    found = Counter((owner[frame.data], member) for member, reader in enumerate(readers) for frame in read(reader, 0))
    assert set(found.values()) == {2}
    assert len(found) == 50


@pytest.mark.parametrize("fanout", ["hash", "cpu", "queue"])
def test_the_kernels_own_ways_lose_nothing(wire, fanout):
    readers = [RingReader([ring]) for ring in rings_at(wire, 2, Fanout=fanout)]
    wire.send(numbered(100))
    assert sum(len(read(reader, 0)) for reader in readers) == 100


def test_groups_of_two_interfaces_do_not_mix(wire):
    other = Wire()
    with other.far.inside():
        theirs = [RingReader([ring]) for ring in other.keep(open_rings(other.far_name, capture(), 2))]
    ours = [RingReader([ring]) for ring in rings_at(wire, 2)]
    wire.send(numbered(50))
    assert sum(len(read(reader, 0)) for reader in ours) == 50
    assert sum(len(read(reader, 0)) for reader in theirs) == 0
    other.close()


def test_no_frame_is_seen_before_all_workers_have_their_rings(wire, monkeypatch):
    opened = []
    original = sockets._open

    def open_and_send(*arguments):
        opened.append(original(*arguments))
        wire.send(numbered(20))
        return opened[-1]

    monkeypatch.setattr(sockets, "_open", open_and_send)
    readers = [RingReader([ring]) for ring in rings_at(wire, 3)]
    assert sum(len(read(reader, 0)) for reader in readers) == 0
    wire.send(numbered(30))
    assert sum(len(read(reader, 0)) for reader in readers) == 30


# --- filters and names ------------------------------------------------------------------------------------------------


def test_a_filter_leaves_frames_out(wire):
    wanted = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(5, 80, bytes(30))))
    other = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(5, 22, bytes(30))))
    reader = RingReader(rings_at(wire, Filter="not port 22"))
    wire.send([other, wanted, other])
    assert [frame.data for frame in read(reader, 1)] == [wanted]
    assert reader.losses() == Losses(1, 0, 0)


def test_a_filter_for_tags_sees_those_that_the_kernel_takes_out(wire):
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(5, 80, bytes(30)))
    reader = RingReader(rings_at(wire, Filter="vlan 100 and port 80"))
    wire.send([ethernet(packet), tagged(packet, 0x8100)])
    assert [frame.wire_bytes for frame in read(reader, 1)] == [len(packet) + 18]


def test_the_ring_for_names_gets_dns_only(wire):
    with wire.far.inside():
        reader = RingReader(wire.keep([open_ring_for_names(wire.far_name, capture(Filter="tcp port 80"), TUNNELLED)]))
    frames = dns_and_others()
    wire.send(frames)
    wanted = 2 * len(frames) // 3
    assert len(read(reader, wanted)) == wanted


# --- interfaces that come and go --------------------------------------------------------------------------------------


def test_capture_goes_on_when_an_interface_comes_up_again(wire):
    readers = [RingReader([ring]) for ring in rings_at(wire, 2)]
    wire.send(numbered(10))
    wire.set_far("down")
    before = [len(read(reader, 0)) for reader in readers]  # what arrived before is not lost
    assert sum(before) == 10
    started = time.process_time()
    assert [reader.poll(0.5) for reader in readers] == [None, None]
    assert time.process_time() - started < 0.4, "it spins"
    assert readers[0].states() == {wire.far_name: "down"}
    wire.set_far("up")
    flows = [flow_frames(i, "ethernet", 4) for i in range(20)]
    workers = members_of(wire, readers, flows, without_tag)
    assert all(len(found) == 1 for found in workers)


def test_a_removed_interface_is_reported_and_its_ring_can_be_opened_anew(wire):
    (ring,) = rings_at(wire)
    reader = RingReader([ring])
    wire.send(numbered(3))
    wire.far.run("ip", "link", "del", wire.far_name)
    assert len(read(reader, 3)) == 3
    started = time.process_time()
    assert reader.poll(0.5) is None
    assert time.process_time() - started < 0.4, "it spins"
    assert reader.states() == {wire.far_name: "removed"}
    assert ring.state() == "removed"
    reader.close()
    ring.close()
    wire.connect()
    again = RingReader(rings_at(wire))
    assert again.states()[wire.far_name] in ("up", "down")  # the carrier is noted a little later
    wire.send(numbered(4))
    assert len(read(again, 4)) == 4


def test_an_interface_that_is_down_is_captured_when_it_comes_up(wire, caplog):
    wire.set_far("down")
    reader = RingReader(rings_at(wire))
    assert f"{wire.far_name} is down or has no carrier; capture starts when it comes up" in caplog.text
    wire.set_far("up")
    wire.send(numbered(4))
    assert len(read(reader, 4)) == 4


def test_drops_and_offloads_of_the_interface_are_told(wire):
    with wire.far.inside():
        assert interface_drops(wire.far_name) == {"rx_missed_errors": 0, "rx_dropped": 0}
        assert interface_drops("absent0") == {}
        assert receive_offloads(wire.far_name) == []
        wire.far.run(needs_command("ethtool"), "-K", wire.far_name, "gro", "on")
        assert receive_offloads(wire.far_name) == ["rx-gro"]
        assert receive_offloads("absent0") == []


# --- refusals ---------------------------------------------------------------------------------------------------------


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refusal(wire: Wire, name: str | None = None, members: int = 1, **keys) -> str:
    with wire.far.inside(), pytest.raises(UsageError) as caught:
        open_rings(name or wire.far_name, capture(**keys), members)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_that_no_interface_has(wire):
    assert refusal(wire, "miror0") == 'Capture.Interfaces: there is no interface "miror0"; did you mean "mirror0"?'
    assert refusal(wire, "zzz") == 'Capture.Interfaces: there is no interface "zzz"; there are lo, mirror0'


def test_a_missing_capability_is_named(wire):
    def try_it() -> str:
        with wire.far.inside():  # before: entering it takes CAP_SYS_ADMIN, which stays
            children.drop_capabilities((13,))
            with pytest.raises(UsageError) as caught:
                open_rings(wire.far_name, capture(), 1)
        return str(caught.value)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(try_it).result() == (
            "Capture.Interfaces: capturing on mirror0 needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN; the "
            "systemd unit grants them (AmbientCapabilities), else run as root"
        )


def test_a_ring_larger_than_memory_is_refused_before_the_kernel_is_asked(wire, monkeypatch):
    monkeypatch.setattr(sockets, "available_memory_bytes", lambda: 512 << 20)
    assert refusal(wire, members=2, RingSize="256MiB") == (
        "Capture.RingSize: 2 rings of 256 MiB need 512 MiB of memory for each interface, and 512 MiB are available; "
        "lower RingSize or Workers"
    )


def test_what_the_kernel_says_of_a_ring_is_handed_on(wire, monkeypatch):
    monkeypatch.setattr(sockets, "available_memory_bytes", lambda: 1 << 60)
    assert refusal(wire, RingSize="4194304MiB", BlockSize="4KiB") == (
        "Capture.RingSize: mirror0: the kernel refuses a ring of 4194304 MiB in blocks of 4096 bytes (Cannot allocate "
        "memory); lower RingSize or Workers"
    )


def test_a_block_smaller_than_a_frame_of_the_link(wire):
    wire.far.run("ip", "link", "set", wire.far_name, "mtu", "9000")
    assert refusal(wire, BlockSize="8KiB") == (
        "Capture.BlockSize: a frame of mirror0 (MTU 9000) needs 9270 bytes, a block has 8192; set it to 16384B or more"
    )


def test_a_group_that_the_kernel_refuses_leaves_nothing_open(wire, monkeypatch):
    before = open_files()
    monkeypatch.setitem(sockets._FANOUT_KINDS, "hash", 99)
    assert refusal(wire, members=2, Fanout="hash") == (
        'Capture.Fanout: mirror0: the kernel refuses to share frames out by "hash" to 2 workers (Invalid argument); '
        "set Workers to 1"
    )
    refusal(wire, members=2, Filter="nonsense words")
    assert open_files() == before
