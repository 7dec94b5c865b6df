"""Classic programs as parts of extended ones give, in the kernel, what a machine for classic BPF gives."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import bpf_machine
from support.bpf_calls import run_once
from support.networks import needs_root
from support.ring_cases import flow_frames
from support.traces import DECAPSULATE, WRAPPINGS, seeded_trace
from trafficrefinery.capture.bpf import calls
from trafficrefinery.capture.bpf.extended import CONTEXT, EXIT, A, Extended
from trafficrefinery.capture.bpf.filters import compile_filter
from trafficrefinery.capture.bpf.programs import address_hash, dns_filter
from trafficrefinery.packets import bpf

ETHERNET = [name for name, (link, _) in WRAPPINGS.items() if link == 1]
FILTERS = (
    "not port 22", "vlan 100 and port 53", "tcp[tcpflags] & tcp-syn != 0", "greater 200", "ether[0] & 1 = 1",
    "net 10.0.0.0/8 or host 192.0.2.7", "ip[2:2] > 100 and ip proto 17", "len % 7 = 3 or len / 3 = 20", "mpls",
)  # fmt: skip


@contextmanager
def loaded(program: bytes) -> Iterator[int]:
    """In the kernel; it returns what the classic program does."""
    needs_root()
    p = Extended()
    p.copy(CONTEXT, 1)
    p.classic(program)
    p.copy(0, A)
    p.emit(EXIT)
    fd = calls.load_program(p.assembled())
    try:
        yield fd
    finally:
        os.close(fd)


def agree(program: bytes, frames: list[bytes]) -> None:
    with loaded(program) as fd:
        for frame in frames:
            expected = bpf_machine.run(program, frame, packet_type=bpf.OUTGOING, protocol=int.from_bytes(frame[12:14]))
            assert run_once(fd, frame) == expected, frame.hex()


@pytest.mark.parametrize("decapsulate", [(), ("gre",), DECAPSULATE], ids=["outer", "gre", "inner"])
@pytest.mark.parametrize("program", [address_hash, dns_filter])
def test_our_programs_say_the_same_of_all_wrappings(program, decapsulate):
    frames = [frame for name in ETHERNET for version in (4, 6) for frame in flow_frames(1, name, version)]
    frames += [f.data for f in seeded_trace(11, 150, ETHERNET) if 14 <= len(f.data) <= 3000]
    agree(program(True, decapsulate), frames)


@pytest.mark.parametrize("program", [address_hash, dns_filter])
def test_our_programs_say_the_same_of_frames_that_are_cut(program):
    frames = [frame[:size] for name in ETHERNET for frame in flow_frames(2, name, 4)[:1] for size in range(14, 80, 3)]
    agree(program(True, DECAPSULATE), [frame for frame in frames if len(frame) >= 14])


@pytest.mark.parametrize("expression", FILTERS)
def test_filters_say_the_same(expression):
    frames = [f.data for f in seeded_trace(3, 100, ETHERNET) if 14 <= len(f.data) <= 3000]
    agree(compile_filter(expression), frames)


ALU = (0x00, 0x10, 0x20, 0x40, 0x50, 0xA0)
NUMBERS = st.sampled_from([0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xAAAA0300, 0xFFFFFFFF, 1536])


@given(
    steps=st.lists(st.tuples(st.sampled_from(ALU), st.booleans(), NUMBERS), max_size=6),
    test=st.sampled_from([bpf.IF_EQUAL, bpf.IF_GREATER_X & ~8, bpf.IF_AT_LEAST, bpf.IF_BITS]),
    by_x=st.booleans(), value=NUMBERS, first=NUMBERS,
)  # fmt: skip
def test_arithmetic_and_comparisons_are_of_32_bits(steps, test, by_x, value, first):
    code = [(bpf.LD_IMMEDIATE, 0, 0, first), (bpf.TAX, 0, 0, 0)]
    for op, of_x, number in steps:
        code.append((0x04 | op | (8 if of_x else 0), 0, 0, number))
    code += [(bpf.ST, 0, 0, 5), (bpf.LDX_MEMORY, 0, 0, 5), (bpf.LD_IMMEDIATE, 0, 0, value)]
    code += [(test | (8 if by_x else 0), 0, 1, first), (bpf.TXA, 0, 0, 0), (bpf.RETURN_A, 0, 0, 0)]
    agree(b"".join(struct.pack("HBBI", *one) for one in code), [bytes(60)])


def test_a_division_by_zero_ends_a_program():
    divide, ok = (0x3C, 0, 0, 0), (bpf.RETURN, 0, 0, 7)
    for x in (0, 3):
        code = [(bpf.LDX_IMMEDIATE, 0, 0, x), (bpf.LD_IMMEDIATE, 0, 0, 21), divide, ok]
        with loaded(b"".join(struct.pack("HBBI", *one) for one in code)) as fd:
            assert run_once(fd, bytes(60)) == (7 if x else 0)


def test_what_the_verifier_says_is_in_the_error():
    needs_root()
    p = Extended()
    p.copy(0, random.Random(1).randrange(6, 9))  # a register that nobody wrote
    p.emit(EXIT)
    with pytest.raises(OSError, match=r"!read_ok"):
        calls.load_program(p.assembled())
