"""The frame parser: each link type and header against the naive reading, dpkt, and tshark."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.naive.frames import MAPPED, Frame, Packet, UnusableError, read_frame
from support.parsing import ALL_TUNNELS, one, parse_block, parsed
from support.traces import (
    ACK,
    HOST_MAC,
    SYN,
    WRAPPINGS,
    Conversation,
    ethernet,
    ip,
    make_trace,
    seeded_trace,
    tagged,
    tcp,
    timestamps,
    traces,
    udp,
    write_trace,
)  # fmt: skip
from trafficrefinery.api import Packet as ApiPacket
from trafficrefinery.api import state_fields
from trafficrefinery.capture.frames import FRAME
from trafficrefinery.jit import COMPILED, records
from trafficrefinery.packets.parser import REASONS, STRIPPED_TAG, TAG_BYTES
from trafficrefinery.packets.tunnels import UNREAD, tunnel_table

pytestmark = pytest.mark.modes
NOT_OF_THE_FRAME = {"interval_start_ns", "direction"}  # set by the packet loop


def end(packet, side):
    return (int(packet[f"{side}_hi"]) << 64 | int(packet[f"{side}_lo"]), int(packet[f"{side}_port"]))


def check(frames: Sequence[Frame], decapsulate: tuple[str, ...] = ALL_TUNNELS) -> None:
    """All that the parser says of the frames is what the naive reading says."""
    ours = parsed(frames, decapsulate)
    for frame, (reason, packet, payload) in zip(frames, ours, strict=True):
        try:
            expected: Packet | None = read_frame(frame, decapsulate)
            told = "attributed"
        except UnusableError as error:
            expected, told = None, str(error)
        assert reason == told, frame
        if expected is None:
            continue
        for name in state_fields(ApiPacket).keys() - NOT_OF_THE_FRAME:
            assert int(packet[name]) == getattr(expected, name), (name, frame)
        a, b = end(packet, "a"), end(packet, "b")
        assert sorted((expected.source, expected.destination)) == [a, b], frame
        assert (a if packet["source_is_a"] else b) == expected.source, frame
        assert payload == expected.payload, frame
        assert int(packet["fragment_id"]) == expected.fragment_id, frame
        assert ("", *UNREAD)[packet["unread"]] == expected.unread, frame


@given(traces(), st.sets(st.sampled_from(ALL_TUNNELS)))
@settings(max_examples=150 if COMPILED else 15)
def test_made_frames_are_read_as_by_the_naive_reading(frames, tunnels):
    check(frames, tuple(tunnels))


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_is_read_and_every_cut_of_it(wrapping):
    kinds = [Conversation(kind, wrapping, 0, seed) for kind in ("tcp", "udp", "fragments") for seed in range(3)]
    frames = make_trace(kinds)
    check(frames)
    usable = [reason for reason, _, _ in parsed(frames)]
    assert usable.count("attributed") > 0.8 * len(usable)
    for frame in frames[:: 1 if COMPILED else 8]:
        check([frame._replace(data=frame.data[:count]) for count in range(min(len(frame.data), 150))])
        check([frame._replace(data=frame.data[:count], wire_bytes=count) for count in range(min(len(frame.data), 150))])


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4))
@settings(max_examples=200 if COMPILED else 20)
def test_damaged_frames_are_read_as_by_the_naive_reading(seed, changes):
    frames = []
    for frame in seeded_trace(seed, 3)[:40]:
        data = bytearray(frame.data)
        for at, value in changes:
            if at < len(data):
                data[at] = value
        frames.append(frame._replace(data=bytes(data)))
    check(frames)


# By hand, where the naive reading could share a mistake


def whole(data: bytes, link_type: int = 1) -> Frame:
    return Frame(1, data, len(data), link_type)


SEGMENT = ip("192.0.2.1", "198.51.100.2", 6, tcp(1_000, 443, 7, 8, ACK, b"hello", window=99))


def test_padding_of_short_frames_is_no_payload():
    assert one(ethernet(SEGMENT[:2] + b"\0\x28" + SEGMENT[4:40]) + bytes(6))["payload_bytes"] == 0


def test_what_the_snap_length_cut_counts_with_its_real_length():
    packet = one(ethernet(SEGMENT)[:54], wire_bytes=59)
    assert (packet["payload_bytes"], packet["captured_payload"], packet["ip_bytes"]) == (5, 0, 45)
    assert (packet["wire_bytes"], packet["captured_bytes"], packet["seq"]) == (59, 54, 7)


def test_an_empty_total_length_is_that_of_the_frame():
    assert one(ethernet(SEGMENT[:2] + b"\0\0" + SEGMENT[4:]))["ip_bytes"] == 45


def test_a_tag_that_the_kernel_took_out_counts_on_the_wire_but_not_in_the_packet():
    frame = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, b"abc")))
    without_length = frame[:16] + b"\0\0" + frame[18:]
    for data, reason in ((frame, 0), (without_length, 0), (frame[:30], REASONS.index("malformed"))):
        frames = records(np.zeros(1, FRAME))
        frames[0] = (0, 0, len(data), len(data) + TAG_BYTES, 1, STRIPPED_TAG | 100)
        packets, reasons = parse_block(np.frombuffer(bytearray(data), np.uint8), frames, tunnel_table(()))
        assert reasons[0] == reason
        assert packets["wire_bytes"][0] == len(data) + TAG_BYTES
        if reason == 0:
            assert (packets["ip_bytes"][0], packets["payload_bytes"][0]) == (31, 3)


@pytest.mark.parametrize(
    ("data", "link_type", "reason"),
    [
        (b"", 1, "malformed"),
        (bytes(60), 1, "not_ip"),
        (ethernet(bytes(28), kind=0x0806), 1, "not_ip"),
        (ethernet(b"\x42\x42\x03" + bytes(40), kind=38), 1, "not_ip"),  # spanning tree
        (ethernet(b"\xaa\xaa\x03\0\0\x0c\x20\0" + bytes(40), kind=50), 1, "not_ip"),  # CDP
        (ethernet(ip("10.0.0.1", "10.0.0.2", 1, bytes(8))), 1, "not_tcp_or_udp"),
        (ethernet(ip("10.0.0.1", "10.0.0.2", 47, bytes(4))), 1, "not_ip"),  # GRE keep-alive
        (ethernet(ip("10.0.0.1", "10.0.0.2", 6, bytes(19))), 1, "malformed"),
        (ethernet(ip("10.0.0.1", "10.0.0.2", 6, bytes(20))), 1, "malformed"),  # a TCP header of 0 bytes
        (ethernet(ip("10.0.0.1", "10.0.0.2", 17, bytes(7))), 1, "malformed"),
        (ethernet(b"\x44" + SEGMENT[1:]), 1, "malformed"),
        (ethernet(b"\x55" + SEGMENT[1:], kind=0x0800), 1, "malformed"),
        (b"\0\x04", 113, "malformed"),
        (b"\0", 0, "malformed"),
        (SEGMENT, 147, "unsupported_link_type"),
        (ethernet(SEGMENT * 0 + b"\0\x01" * 70, kind=0x8100), 1, "not_ip"),
        (ethernet(b"\0\x01\x81\0" * 40 + SEGMENT, kind=0x8100), 1, "malformed"),  # more tags than anyone sends
    ],
)
def test_what_is_no_packet_is_told_by_its_reason(data, link_type, reason):
    assert one(data, link_type) == reason


def test_a_header_behind_the_captured_bytes_is_truncated_not_malformed():
    for count in range(14, 38):
        assert one(ethernet(SEGMENT)[:count], wire_bytes=59) == "truncated"
    assert not isinstance(one(ethernet(SEGMENT)[:38], wire_bytes=59), str)


def test_both_directions_have_one_flow_key():
    back = ip("198.51.100.2", "192.0.2.1", 6, tcp(443, 1_000, 8, 12, ACK))
    there, here = one(ethernet(SEGMENT)), one(ethernet(back))
    assert [there[f"{side}_{part}"] for side in "ab" for part in ("hi", "lo", "port")] == [
        here[f"{side}_{part}"] for side in "ab" for part in ("hi", "lo", "port")
    ]
    assert there["source_is_a"] != here["source_is_a"]


def test_tcp_options_are_read():
    options = (
        b"\x02\x04\x05\xb4" + b"\x01\x03\x03\x0f" + timestamps(5, 6) + b"\x05\x0a" + bytes([0, 0, 0, 9, 0, 0, 0, 12])
    )
    packet = one(ethernet(ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 3, 4, SYN, options=options))))
    assert (packet["mss"], packet["window_scale"], packet["has_timestamps"]) == (
        1460,
        14,
        1,
    )  # RFC 7323, 2.3: at most 14
    assert (packet["tsval"], packet["tsecr"]) == (5, 6)
    assert (packet["sack_blocks"], packet["sack_left"], packet["sack_right"]) == (1, 9, 12)
    assert packet["tcp_header_bytes"] == 20 + len(options) + -len(options) % 4


@pytest.mark.parametrize(("source", "side"), [(HOST_MAC, 1), (bytes(6), 0)])
def test_the_configured_mac_address_is_seen(source, side):
    frame = ethernet(SEGMENT)
    mac = int.from_bytes(HOST_MAC)
    assert one(frame[:6] + source + frame[12:], mac=mac)["mac_side"] == side
    assert one(HOST_MAC + source + frame[12:], mac=mac)["mac_side"] == side | 2


def test_a_tunnel_is_not_looked_into_unless_that_is_asked():
    link_type, wrap = WRAPPINGS["vxlan"]
    frame = wrap(SEGMENT, True)
    assert one(frame, link_type, decapsulate=())["dst_port"] == 4789
    assert one(frame, link_type, decapsulate=("vxlan",))["dst_port"] == 443
    link_type, wrap = WRAPPINGS["gre"]
    assert one(wrap(SEGMENT, True), link_type, decapsulate=()) == "tunnel_not_decapsulated"


# Peers


def test_dpkt_reads_the_same_addresses_ports_and_lengths():
    frames = [frame for frame in seeded_trace(5, 80, wrappings=("ethernet",)) if frame.link_type == 1]
    frames = [f for f in frames if f.data[12:14] in (b"\x08\0", b"\x86\xdd")]
    compared = 0
    for frame, (reason, packet, payload) in zip(frames, parsed(frames, ()), strict=True):
        try:
            layer = dpkt.ethernet.Ethernet(frame.data).data
        except dpkt.Error:
            continue
        if reason != "attributed" or packet["fragment"] or not isinstance(layer.data, dpkt.tcp.TCP | dpkt.udp.UDP):
            continue
        compared += 1
        source, destination = (MAPPED * (len(a) == 4) | int.from_bytes(a) for a in (layer.src, layer.dst))
        ends = (source, layer.data.sport), (destination, layer.data.dport)
        assert (end(packet, "a"), end(packet, "b")) == tuple(sorted(ends))
        if packet["payload_bytes"] == packet["captured_payload"] and packet["ip_bytes"] != len(frame.data) - 14:
            assert payload.startswith(bytes(layer.data.data))
        else:
            assert payload == bytes(layer.data.data)
        if isinstance(layer.data, dpkt.tcp.TCP):
            assert (packet["seq"], packet["ack"]) == (layer.data.seq, layer.data.ack)
            assert (packet["tcp_flags"], packet["window"]) == (layer.data.flags & 255, layer.data.win)
            assert packet["tcp_header_bytes"] == layer.data.off * 4
    assert compared > len(frames) / 2


FIELDS = (
    "frame.number", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "ip.len", "tcp.srcport", "tcp.dstport", "udp.srcport",
    "udp.dstport", "ipv6.plen", "udp.length", "tcp.seq_raw", "tcp.len", "tcp.options.timestamp.tsval", "ip.dsfield.dscp",
)  # fmt: skip


DECODE_AS = {
    "vxlan elsewhere": "udp.port==8472,vxlan", "geneve elsewhere": "udp.port==7000,geneve",
    "gtpu elsewhere": "udp.port==3386,gtp", "pseudowire": "mpls.label==16,pwethcw",
    **{name: "mpls.label==16,pwethnocw" for name in WRAPPINGS if name.startswith("pseudowire of")},
}  # fmt: skip
NOT_OF_TSHARK = {
    "fabricpath": "takes the last four bytes for a checksum", "netanalyzer": "needs the device's own header",
    "erspan 3 of ip": "reads Ethernet only", "l2tp 3": "needs to be told what the session carries",
    **dict.fromkeys(
        ("ppp of pppd", "cisco hdlc with direction", "dsa", "edsa", "broadcom", "broadcom in front", "mpls link"),
        "does not know the link type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrapping", sorted(set(WRAPPINGS) - set(NOT_OF_TSHARK)))
def test_tshark_reads_the_same(wrapping, tshark, tmp_path):
    kinds = ("tcp", "tcp", "udp", "quic", "dns")
    frames = make_trace([Conversation(kind, wrapping, 10 * i, i) for i, kind in enumerate(kinds * 3)])
    path = write_trace(tmp_path / "trace.pcap", frames, WRAPPINGS[wrapping][0])
    command = [tshark, "-r", str(path), "-o", "tcp.desegment_tcp_streams:false", "-T", "fields", "-E", "occurrence=l"]
    command += [part for field in FIELDS for part in ("-e", field)]
    command += ["-d", DECODE_AS[wrapping]] if wrapping in DECODE_AS else []
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(frames)
    for line, (reason, packet, _) in zip(lines, parsed(frames), strict=True):
        theirs = dict(zip(FIELDS, line.split("\t"), strict=True))
        assert reason == "attributed", line
        is_tcp, is_v4 = (
            packet["protocol"] == 6,
            packet["ip_version"] == 4,
        )  # of a tunnel, tshark prints the outer ones too
        kind, layer = ("tcp" if is_tcp else "udp"), ("ip" if is_v4 else "ipv6")
        source, destination = (
            int(ipaddress.ip_address(theirs[f"{layer}.{x}"])) | MAPPED * bool(is_v4) for x in ("src", "dst")
        )
        ports = [int(theirs[f"{kind}.{x}port"]) for x in ("src", "dst")]
        assert (end(packet, "a"), end(packet, "b")) == tuple(sorted(zip((source, destination), ports, strict=True)))
        if is_v4:
            assert packet["ip_bytes"] == int(theirs["ip.len"])
            assert packet["dscp"] == int(theirs["ip.dsfield.dscp"])
        else:
            assert packet["ip_bytes"] == int(theirs["ipv6.plen"]) + 40
        if is_tcp:
            assert packet["seq"] == int(theirs["tcp.seq_raw"])
            # An 802.3 header counts at most 1,500 bytes, and tshark leaves out what is beyond.
            assert wrapping in SHORTENED or packet["payload_bytes"] == int(theirs["tcp.len"])
            assert str(packet["tsval"] if packet["has_timestamps"] else "") == theirs["tcp.options.timestamp.tsval"]
        else:
            assert wrapping in SHORTENED or packet["payload_bytes"] == int(theirs["udp.length"]) - 8


SHORTENED = ("snap", "vlan snap", "bridge tunnel")


def test_two_tags_are_read_in_any_order_of_types():
    for tags in ((0x8100, 0x8100), (0x9100, 0x8100), (0x88A8, 0x88A8, 0x8100)):
        assert one(tagged(SEGMENT, *tags))["dst_port"] == 443
