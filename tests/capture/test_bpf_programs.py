"""Our BPF programs see in a frame what the packet loop sees: the same addresses, the same DNS."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import bpf_machine
from support.naive.frames import Frame
from support.traces import (
    DECAPSULATE,
    WRAPPINGS,
    Conversation,
    ethernet,
    ip,
    make_trace,
    seeded_trace,
    tagged,
    tcp,
    traces,
    udp,
)  # fmt: skip
from support.wrappings import NOT_FOR_DNS, NOT_FOR_DNS_TWICE
from trafficrefinery.capture.bpf import programs
from trafficrefinery.capture.frames import FRAME
from trafficrefinery.jit import kernel, records
from trafficrefinery.packets.parser import PACKET, parse
from trafficrefinery.packets.tunnels import MOST_PORTS, tunnel_table
from trafficrefinery.packets.tunnels import TUNNELS as TUNNEL_NAMES

OUTGOING = 4
TUNNELS = ((), ("gre",), ("vxlan",), ("gtpu",), DECAPSULATE)
LINKS = (1, 101)
address_hash, dns_filter = cache(programs.address_hash), cache(programs.dns_filter)


@kernel
def parse_one(buffer, frames, tunnels, packets):
    return parse(buffer, frames[0], tunnels, 0, packets[0])


def parsed(frame: Frame, decapsulate=()):
    """(reason, PACKET record) as the packet loop reads a frame."""
    frames, packets = records(np.zeros(1, FRAME)), records(np.zeros(1, PACKET))
    frames[0] = (frame.ts_ns, 0, len(frame.data), frame.wire_bytes, frame.link_type, 0)
    buffer = np.frombuffer(bytearray(frame.data or b"\0"), np.uint8)
    return parse_one(buffer, frames, tunnel_table(decapsulate), packets), packets[0]


def member(frame: Frame, decapsulate=(), *, outgoing: bool = False) -> int:
    """What the fanout program says of a frame; see `bpf_programs.address_hash` for what it is shown."""
    is_ethernet = frame.link_type == 1
    program = address_hash(is_ethernet, decapsulate)
    if not is_ethernet:
        kind = 0x0800 if frame.data[:1] and frame.data[0] >> 4 == 4 else 0x86DD
        return bpf_machine.run(program, frame.data, protocol=kind)
    if outgoing:
        return bpf_machine.run(program, frame.data, packet_type=OUTGOING)
    kind = int.from_bytes(frame.data[12:14])
    return bpf_machine.run(program, frame.data[14:], protocol=kind if kind >= 1536 else 4)


@given(trace=traces(), decapsulate=st.sampled_from(TUNNELS), outgoing=st.booleans())
def test_packets_between_two_addresses_have_one_hash(trace, decapsulate, outgoing):
    hashes = {}
    for frame in trace:
        if frame.link_type in LINKS and len(frame.data) == frame.wire_bytes:
            reason, packet = parsed(frame, decapsulate)
            if reason == 0:
                ends = frozenset([(packet["a_hi"], packet["a_lo"]), (packet["b_hi"], packet["b_lo"])])
                hashes.setdefault(ends, set()).add(member(frame, decapsulate, outgoing=outgoing))
    assert all(len(found) == 1 for found in hashes.values())


@pytest.mark.parametrize("wrapping", [name for name, (link, _) in WRAPPINGS.items() if link in LINKS])
@pytest.mark.parametrize("decapsulate", [(), DECAPSULATE], ids=["outer", "inner"])
def test_in_every_wrapping_the_hash_is_that_of_the_addresses_which_the_loop_sees(wrapping, decapsulate):
    plain = {}
    for frame in seeded_trace(7, 40, [wrapping, "raw"]):
        reason, packet = parsed(frame, decapsulate)
        if reason == 0:
            ends = tuple(sorted([(packet["a_hi"], packet["a_lo"]), (packet["b_hi"], packet["b_lo"])]))
            plain.setdefault(ends, set()).add(member(frame, decapsulate))
    assert len(plain) > 1
    assert all(len(found) == 1 for found in plain.values())


def test_pairs_of_addresses_spread_evenly_over_workers():
    r = random.Random(1)
    for version in (4, 6):
        counts = np.zeros((3, 8), int)
        for i in range(4000):
            if version == 4:
                ends = f"10.0.{i // 256}.{i % 256}", f"192.0.2.{r.randrange(4)}"
            else:
                ends = f"2001:db8::{i + 1:x}", f"2001:db8:1::{r.randrange(4) + 1:x}"
            found = member(Frame(0, ethernet(ip(*ends, 17, udp(1, 2, b""))), 0, 1))
            for row, workers in enumerate((2, 3, 8)):
                counts[row, found % workers] += 1
        for row, workers in zip(counts, (2, 3, 8), strict=True):
            shares = row[:workers] / 4000 * workers
            assert shares.min() > 0.85, (version, workers, shares)
            assert shares.max() < 1.15, (version, workers, shares)


WHOLE = ("tzsp", "capwap", "l2tp", "teredo")  # the DNS filter has no room to look into these, and accepts all of them


def is_accepted(frame: Frame, decapsulate) -> bool:
    return bpf_machine.run(dns_filter(frame.link_type == 1, decapsulate), frame.data, protocol=0x0800) > 0


@pytest.mark.parametrize("decapsulate", [(), DECAPSULATE], ids=["outer", "inner"])
@pytest.mark.parametrize("wrapping", [name for name, (link, _) in WRAPPINGS.items() if link in LINKS])
def test_the_dns_filter_accepts_exactly_what_the_loop_reads_as_port_53(wrapping, decapsulate):
    missing = (*NOT_FOR_DNS, *(NOT_FOR_DNS_TWICE if decapsulate else ()))
    accepts_all = bool(decapsulate) and (wrapping.split()[0] in WHOLE or wrapping == "pptp")
    for frame in make_trace(
        [Conversation(kind, wrapping, 0, seed) for kind in ("dns", "tcp", "udp", "fragments") for seed in range(3)]
    ):
        reason, packet = parsed(frame, decapsulate)
        if reason == 0 and packet["fragment"] != 2:
            is_dns = 53 in (packet["src_port"], packet["dst_port"])
            assert is_accepted(frame, decapsulate) == ((is_dns and wrapping not in missing) or accepts_all)


@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8, 0x8100)])
def test_dns_behind_tags_is_accepted_and_its_fragments_are_not(tags):
    query = ip("10.0.0.1", "10.0.0.53", 17, udp(5, 53, bytes(20)))
    rest = ip("10.0.0.53", "10.0.0.1", 17, bytes(60), ident=5, offset=800)
    wrap = (lambda packet: tagged(packet, *tags)) if tags else ethernet
    assert bpf_machine.run(dns_filter(True), wrap(query)) > 0
    assert bpf_machine.run(dns_filter(True), wrap(rest)) == 0
    assert bpf_machine.run(dns_filter(True), wrap(ip("10.0.0.1", "10.0.0.9", 6, tcp(443, 5, 0, 0, 2)))) == 0


def test_programs_fit_into_what_the_kernel_takes():
    most = (*TUNNELS[-1], *TUNNEL_NAMES, *(f"vxlan:{port}" for port in range(8_000, 8_000 + MOST_PORTS)))
    for link in (True, False):
        assert len(address_hash(link, most)) // 8 <= 4096  # BPF_MAXINSNS
        # 1,115 of a socket filter were seen to fit into the 20 KiB of net.core.optmem_max that older kernels have.
        assert len(dns_filter(link, most)) // 8 <= 1_150
