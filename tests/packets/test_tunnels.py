"""Tunnels: which are looked into, how those that are not are counted, and the lengths of what is inside."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support.naive.frames import Frame
from support.parsing import one, parsed
from support.replays import config_of, replay_files, replay_frames
from support.traces import DECAPSULATE, WRAPPINGS, Conversation, ethernet, ip, make_trace, tagged, tcp, udp
from support.wrappings import RARE
from trafficrefinery.config import config_schema, load_config, parse_config
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import ConfigError
from trafficrefinery.packets.parser import REASONS
from trafficrefinery.packets.tunnels import MOST_PORTS, TUNNELS, UNREAD, USUAL_PORTS, ports_read
from trafficrefinery.records.summary.counters import words_of

pytestmark = pytest.mark.modes
ENDS = "192.0.2.1", "198.51.100.2"
ENDS_6 = "2001:db8::1", "2001:db8::2"
NEEDED = {"gre": ("gre",), "vxlan": ("vxlan",), "gtpu": ("gtpu",)} | {
    name: rare.decapsulate for name, rare in RARE.items() if rare.decapsulate
}
SERVICE = [{"Name": "a", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": ["PacketCounters"]}]


@pytest.fixture
def shared_cases(shared_data) -> Path:
    """Small traces that were read wrongly, with right values; not part of the project."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no small traces with known faults: there is no folder beside the traces with ground truth")
    return folder


def frames_in(wrapping: str, kinds=("tcp", "udp")) -> list[Frame]:
    return make_trace([Conversation(kind, wrapping, 0, seed) for kind in kinds for seed in range(2)])


# What is looked into


@pytest.mark.parametrize("wrapping", NEEDED)
def test_what_is_not_looked_into_is_counted_by_its_kind_and_named_entries_help(wrapping):
    frames = frames_in(wrapping)
    unread = 0
    for reason, packet, _ in parsed(frames, ()):
        if packet is None:
            assert reason == "tunnel_not_decapsulated"
        else:
            unread += int(packet["unread"] != 0)
            assert packet["src_port"] in {p for ports in USUAL_PORTS.values() for p in ports} | {
                50_000,
                40_000,
                3386,
                1,
                2152,
                5_000,
            }
    run = replay_frames(Plan.of(config_of(Decapsulate=[])), frames)
    counted = {name: run.counters[name] for name in UNREAD if run.counters[name]}
    if wrapping == "vxlan elsewhere":  # at the port that Linux uses
        assert counted == {"vxlan_not_decapsulated": len(frames)}
        assert "vxlan:8472" in words_of("vxlan_not_decapsulated").remedy
    elif "elsewhere" in wrapping:  # nobody can know that a tunnel is at that port
        assert counted == {}
    else:
        (name,) = counted
        assert counted[name] == len(frames)
        kind = name.removesuffix("_not_decapsulated")
        # What helps is named: with it, and what is inside of it, the packets are read.
        assert kind in NEEDED[wrapping] or (kind, NEEDED[wrapping]) == ("erspan", ("gre",))
        assert unread == len(frames) - run.counters["tunnel_not_decapsulated"]
    assert {reason for reason, _, _ in parsed(frames, NEEDED[wrapping])} == {"attributed"}


def test_the_counter_of_each_kind_is_there_and_its_name_is_an_entry_of_decapsulate():
    assert set(UNREAD) <= set(COUNTERS)
    assert {name.removesuffix("_not_decapsulated") for name in UNREAD if name != "amsdu_not_split"} == set(TUNNELS)


def test_each_port_and_each_protocol_is_of_one_tunnel_or_it_is_decided_by_a_look_inside():
    over_udp = [t.udp for t in TUNNELS.values() if t.udp is not None]
    ports = [port for udp in over_udp for port in (*udp.ports, *udp.other_ports)]
    assert len(ports) == len(set(ports))
    protocols = [
        number for t in TUNNELS.values() if t.ip is not None and t.ip.is_one is None for number in t.ip.protocols
    ]
    assert len(protocols) == len(set(protocols))


def test_a_udp_tunnel_that_is_not_looked_into_is_still_a_flow():
    link_type, wrap = WRAPPINGS["vxlan"]
    packet = one(wrap(ip(*ENDS, 17, udp(1, 2, b"")), True), link_type, decapsulate=("gre", "geneve"))
    assert (packet["dst_port"], UNREAD[packet["unread"] - 1]) == (4789, "vxlan_not_decapsulated")


@pytest.mark.parametrize("decapsulate", [(), ("vxlan",), ("gre", "geneve", "vxlan:7000")])
def test_vxlan_at_the_port_of_linux_is_recognised_where_it_is_not_configured(decapsulate):
    frame = RARE["vxlan elsewhere"].wrap(ip(*ENDS, 6, tcp(5, 443, 1, 1, 16)), True)
    packet = one(frame, decapsulate=decapsulate)
    assert (packet["dst_port"], UNREAD[packet["unread"] - 1]) == (8472, "vxlan_not_decapsulated")


INSIDE = ethernet(ip(*ENDS, 6, tcp(5, 443, 1, 1, 16)))


@pytest.mark.parametrize(
    ("header", "inside"),
    [
        (b"\x08\0\0\0\0\0\1\0", b""),
        (b"\x08\0\0\0\0\0\1", b""),
        (b"\x08\0\0\0\0\0\1\1", INSIDE),  # a reserved bit
        (b"\x08\0\1\0\0\0\1\0", INSIDE),
        (b"\x0c\0\0\0\0\0\1\0", INSIDE),
        (b"\0\0\0\0\0\0\1\0", INSIDE),  # without a VNI
        (b"\x08\0\0\0\0\0\1\0", bytes(60)),
        (b"\x08\0\0\0\0\0\1\0", INSIDE[:14] + b"\x65" + INSIDE[15:]),
        (b"", b"\xff" * 60),
    ],
)
@pytest.mark.parametrize("source", [5, 8472])
def test_other_datagrams_at_the_port_of_linux_are_no_tunnel(header, inside, source):
    for ports in ((source, 8472), (8472, 40_000)):
        packet = one(ethernet(ip(*ENDS, 17, udp(*ports, header + inside))), decapsulate=("vxlan",))
        assert (packet["dst_port"], packet["unread"]) == (ports[1], 0)


def test_what_does_not_fit_a_tunnel_is_an_ordinary_datagram():
    for port in (port for ports in USUAL_PORTS.values() for port in ports if port not in (4789, 4790)):
        for payload in (b"", b"\xff", b"\xff" * 60, bytes(7)):
            packet = one(ethernet(ip(*ENDS, 17, udp(5, port, payload))))
            assert (packet["dst_port"], packet["payload_bytes"], packet["unread"]) == (port, len(payload), 0)


def test_entries_name_kinds_and_ports():
    assert ports_read(("gre", "vxlan")) == {4789: "vxlan", 4790: "vxlan"}
    assert ports_read(("vxlan:8472",)) == {8472: "vxlan"}
    assert ports_read(("vxlan", "gtpu:4789")) == {4789: "gtpu", 4790: "vxlan"}
    wrap = RARE["vxlan elsewhere"].wrap
    frame = wrap(ip(*ENDS, 6, tcp(5, 443, 1, 1, 16)), True)
    assert one(frame, decapsulate=("vxlan:8472",))["dst_port"] == 443
    assert one(frame, decapsulate=("vxlan",))["dst_port"] == 8472
    assert one(frame, decapsulate=("geneve:8472",))["dst_port"] == 8472


@pytest.mark.parametrize(
    ("entries", "key", "message"),
    [
        (["vxlan:"], "Decapsulate[0]", 'names no UDP port, such as "vxlan:4789"'),
        (["gre", "vxlan:65536"], "Decapsulate[1]", "names no UDP port"),
        (["vxlan:0"], "Decapsulate[0]", "names no UDP port"),
        (["gre:47"], "Decapsulate[0]", '"gre" has no UDP port; write "gre"'),
        (["vxlann"], "Decapsulate[0]", 'did you mean "vxlan"?'),
        ([7], "Decapsulate[0]", "must be a string"),
        (["vxlan:7000", "geneve:7000"], "Decapsulate", "UDP port 7000 cannot be both"),
        (["vxlan:7000", "vxlan:07000"], "Decapsulate", "twice"),
        ([f"vxlan:{port}" for port in range(1, MOST_PORTS + 2)], "Decapsulate", f"at most {MOST_PORTS}"),
    ],
)
def test_what_is_no_entry_is_refused_with_what_would_be_right(entries, key, message):
    with pytest.raises(ConfigError) as refused:
        parse_config({"Services": SERVICE, "Decapsulate": entries})
    assert key in str(refused.value)
    assert message in str(refused.value)


def test_entries_are_kept_as_they_were_written_and_are_in_the_schema():
    entries = ["gre", "vxlan", "vxlan:8472"]
    config = parse_config({"Services": SERVICE, "Decapsulate": entries})
    assert config.to_dict()["Decapsulate"] == entries
    assert "vxlan|" in config_schema()["properties"]["Decapsulate"]["items"]["pattern"]


# What is a tag, or says of itself that it cannot be read


@pytest.mark.parametrize(
    ("frame", "link_type", "reason"),
    [
        (ethernet(b"\x2c" + bytes(60), kind=0x88E5), 1, "encrypted"),
        (ethernet(ip(*ENDS, 50, bytes(40))), 1, "encrypted"),
        (b"\x08\x41" + bytes(60), 105, "encrypted"),
        (b"\x88\x41" + bytes(60), 105, "encrypted"),
        (b"\x80\0" + bytes(60), 105, "not_ip"),  # a beacon
        (b"\xd4\0" + bytes(8), 105, "not_ip"),  # an acknowledgement
        (b"\x48\1" + bytes(60), 105, "not_ip"),  # no data
        (b"\x08\1" + bytes(20) + b"\x11\0" + bytes(60), 105, "not_ip"),  # a later fragment
        (b"\xff\3\0\xfd" + bytes(40), 9, "not_ip"),  # compressed
        (b"\xff\3\0\x3d\x80\0\0\1" + bytes(40), 9, "not_ip"),  # a piece of multilink
        (b"\x0f\0\x80\x35" + bytes(40), 104, "not_ip"),  # SLARP
        (bytes(4), 149, "malformed"),
        (b"\0" * 120, 149, "unsupported_link_type"),
        (b"\0" * 120, 258, "not_ip"),
        (bytes(200), 147, "unsupported_link_type"),
        ((b"\0\0\x08\0" + struct.pack("<I", 192)) * 9, 192, "unsupported_link_type"),
    ],
)
def test_what_cannot_be_read_is_reported_by_its_reason(frame, link_type, reason):
    assert one(frame, link_type) == reason


def test_of_an_aggregated_frame_the_first_packet_is_read_and_the_others_are_counted():
    packet = ip(*ENDS, 17, udp(1, 2, b"abc"))
    frame = RARE["802.11 aggregated"].wrap(packet, True)
    assert one(frame, 105)["unread"] == 0
    several = frame + bytes(-(len(frame) - 26) % 4) + frame[26:]
    assert UNREAD[one(several, 105)["unread"] - 1] == "amsdu_not_split"
    assert one(several, 105)["dst_port"] == 2


# Lengths


@pytest.mark.parametrize("ends", [ENDS, ENDS_6])
@pytest.mark.parametrize("wrap", [ethernet, lambda packet: tagged(packet, 0x8100)], ids=["plain", "tagged"])
def test_a_length_beyond_the_frame_is_that_of_the_frame(ends, wrap):
    packet = bytearray(ip(*ends, 6, tcp(1, 2, 3, 4, 16, bytes(100))))
    at = 2 if "." in ends[0] else 4
    right = one(wrap(bytes(packet)))
    packet[at : at + 2] = (60_000).to_bytes(2)
    wrong = one(wrap(bytes(packet)))
    assert (wrong["ip_bytes"], wrong["payload_bytes"]) == (right["ip_bytes"], 100)
    # Of a frame that the snap length cut, the bytes on the wire count.
    cut = one(wrap(bytes(packet))[:80], wire_bytes=len(wrap(packet)))
    assert (cut["ip_bytes"], cut["payload_bytes"]) == (right["ip_bytes"], 100)


def test_a_frame_of_66_bytes_counts_no_more_than_these():
    packet = bytearray(ip(*ENDS, 6, tcp(1, 2, 3, 4, 16, options=bytes(12))))
    packet[2:4] = (29_492).to_bytes(2)
    assert one(ethernet(bytes(packet)))["ip_bytes"] == 52


@pytest.mark.parametrize("ends", [ENDS, ENDS_6])
@pytest.mark.parametrize(
    ("size", "payload_bytes"), [(11, 3), (8, 0), (28, 20), (29, 20), (60_000, 20), (0, 20), (3, 0)]
)
def test_the_payload_of_a_datagram_is_what_udp_says_and_is_there(ends, size, payload_bytes):
    datagram = udp(1, 2, bytes(20))
    packet = one(ethernet(ip(*ends, 17, datagram[:4] + size.to_bytes(2) + datagram[6:])))
    assert (packet["payload_bytes"], packet["captured_payload"]) == (payload_bytes, payload_bytes)
    assert packet["ip_bytes"] == (48 if "." in ends[0] else 68)


def test_an_empty_length_of_ipv6_is_that_of_the_frame():
    packet = ip(*ENDS_6, 6, tcp(1, 2, 3, 4, 16, bytes(70_000)[:65_000]))
    packet = one(ethernet(packet[:4] + b"\0\0" + packet[6:]))
    assert (packet["ip_bytes"], packet["payload_bytes"]) == (65_060, 65_000)


@pytest.mark.parametrize("wrapping", ["gre", "vxlan", "erspan 2", "geneve", "ip in ip", "l2tp"])
def test_a_length_in_a_tunnel_ends_with_the_tunnel(wrapping):
    """The padding of the outer frame is none of the inner packet."""
    packet = bytearray(ip(*ENDS, 6, tcp(1, 2, 3, 4, 16, b"abc")))
    packet[2:4] = (1_400).to_bytes(2)
    link_type, wrap = WRAPPINGS[wrapping]
    assert one(wrap(bytes(packet), True) + bytes(30), link_type)["payload_bytes"] == 3


def test_the_frame_that_promised_too_much(shared_cases):
    run = replay_files(Plan.of(load_config(shared_cases / "all.json")), [shared_cases / "iplen_beyond_frame.pcap"])
    features = [record["features"] for record in run.records]
    total = sum(f["PacketCounters"]["bytes_up"] + f["PacketCounters"]["bytes_down"] for f in features)
    frames = 30_083 - 24 - 16 * run.counters["packets"]
    assert total == frames - 14 * run.counters["packets"]


def test_a_session_in_erspan(shared_cases):
    run = replay_files(Plan.of(load_config(shared_cases / "all.json")), [shared_cases / "erspan2.pcap"])
    counts = [record["features"]["PacketCounters"] for record in run.records]
    assert sum(c["packets_up"] + c["packets_down"] for c in counts) == 28
    named = load_config(shared_cases / "named.json").to_dict() | {"Decapsulate": ["erspan"]}
    run = replay_files(Plan.of(parse_config(named)), [shared_cases / "erspan2.pcap"])
    assert {(r["protocol"], r["matched_by"], r["domain"]) for r in run.records} == {
        ("tcp", "sni", "erspan.video.example")
    }


# Several workers


@pytest.mark.parametrize("decapsulate", [DECAPSULATE, ()], ids=["all", "none"])
def test_records_and_counters_do_not_depend_on_the_number_of_workers_in_any_wrapping(decapsulate):
    frames = make_trace([
        Conversation(kind, wrapping, 10 * i, i)
        for i, wrapping in enumerate(WRAPPINGS) for kind in ("tcp", "udp", "fragments", "junk")
    ])  # fmt: skip
    plan = Plan.of(config_of(Decapsulate=list(decapsulate)))
    runs = [replay_frames(plan, frames, partitions=number) for number in (1, 2, 3)]
    assert runs[0].lines == runs[1].lines == runs[2].lines
    assert runs[0].counters["packets"] == len(frames)
    for name in (*REASONS, *UNREAD):
        assert runs[0].counters[name] == runs[1].counters[name] == runs[2].counters[name], name
