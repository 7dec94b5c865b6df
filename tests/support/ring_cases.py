"""Captures from packet rings."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from support.naive.frames import Frame
from support.networks import Wire, each_padded
from support.traces import WRAPPINGS, ethernet, ip, seeded_trace, tcp, udp
from support.wrappings import RARE
from trafficrefinery.capture.rings.afpacket import open_rings
from trafficrefinery.config.daemon import Capture

SENT_BYTES_MOST = 1514
TUNNELLED = ("gre", "vxlan", "gtpu")
IN_TUNNELS = {*TUNNELLED, *(name for name, rare in RARE.items() if rare.decapsulate)}
CARRIED = [name for name, (link, _) in WRAPPINGS.items() if link == 1]


def capture(**keys) -> Capture:
    return Capture(**{"RingSize": "4MiB", "BlockSize": "256KiB", "BlockTimeout": "5ms", **keys})


def rings_at(wire: Wire, members: int = 1, decapsulate=(), **keys):
    with wire.far.inside():
        return wire.keep(open_rings(wire.far_name, capture(**keys), members, decapsulate))


def read(reader, wanted: int, *, limit_s: float = 20.0) -> list[Frame]:
    """Frames until there are as many as wanted, and what comes in the tenth of a second after."""
    found: list[Frame] = []
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        block = reader.poll(0.1)
        if block is None:
            if len(found) >= wanted:
                break
            continue
        found += frames_of(block)
    return found


def frames_of(block) -> list[Frame]:
    memory = memoryview(block.buffer)
    rows = np.asarray(block.frames)[["ts_ns", "offset", "captured_bytes", "wire_bytes", "link_type"]].tolist()
    return [Frame(ts, bytes(memory[at : at + size]), whole, link) for ts, at, size, whole, link in rows]


def numbered(count: int, size: int = 60) -> list[bytes]:
    return [ethernet(i.to_bytes(4).ljust(size - 14, b"x"), kind=0x88B5) for i in range(count)]


def sample(size: int = 60) -> list[bytes]:
    """Frames of all kinds that fit through the cable. What has a tag in front loses it: see the tests of tags."""
    trace = seeded_trace(3, size)
    fitting = [f.data for f in trace if f.link_type == 1 and 14 <= len(f.data) <= SENT_BYTES_MOST]
    return [data for data in fitting if data[12:14] not in (b"\x81\0", b"\x88\xa8")]


def flow_frames(number: int, wrapping: str, version: int) -> list[bytes]:
    """Both directions of one pair of addresses: whole packets and fragments, the number in the ports."""
    if version == 4:
        ends = f"10.1.{number // 256}.{number % 256}", "192.0.2.7"
    else:
        ends = f"2001:db8::{number + 1:x}", "2001:db8:2::7"
    wrap = WRAPPINGS[wrapping][1]
    body = udp(1000 + number, 7000, bytes(1200))
    packets = [
        (ip(*ends, 17, udp(1000 + number, 7000, bytes(20))), True),
        (ip(*ends[::-1], 17, udp(7000, 1000 + number, bytes(20))), False),
        (ip(*ends, 6, tcp(1000 + number, 443, 1, 1, 16)), True),
        (ip(*ends, 17, body[:600], ident=number, offset=0, more=True), True),
        (ip(*ends, 17, body[600:], ident=number, offset=600), True),
        (ip(*ends[::-1], 17, body[600:], ident=number, offset=600), False),
    ]
    return each_padded([wrap(packet, up) for packet, up in packets])


def members_of(
    wire: Wire, readers, groups: list[list[bytes]], shown: Callable[[bytes], bytes] = bytes
) -> list[set[int]]:
    """For each group of frames, the workers that got them.

    Args:
        shown: a frame as the readers show it.
    """
    wire.send(frame for group in groups for frame in group)
    owner = {shown(frame): number for number, group in enumerate(groups) for frame in group}
    workers: list[set[int]] = [set() for _ in groups]
    total = 0
    for member, reader in enumerate(readers):
        for frame in read(reader, 0):
            workers[owner[frame.data]].add(member)
            total += 1
    assert total == sum(map(len, groups))
    return workers


def dns_and_others() -> list[bytes]:
    """A query, what is not DNS, and DNS over TCP, in turns, in what is looked into for names."""
    query = ip("10.0.0.1", "10.0.0.53", 17, udp(5, 53, bytes(30)))
    stream = ip("2001:db8::53", "2001:db8::1", 6, tcp(53, 5, 1, 1, 24, bytes(30)))
    other = ip("10.0.0.1", "10.0.0.53", 17, udp(5, 54, bytes(30)))
    carried = ("ethernet", "vlan", "qinq", "mpls", "pppoe", *TUNNELLED)
    return [WRAPPINGS[name][1](packet, True) for name in carried for packet in (query, other, stream)]
