"""Tunnels of access points: CAPWAP to their controller, TZSP to who looks at their frames."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverUdp, Tunnel
from trafficrefinery.packets.layers import ETHERNET, LLC, NOTHING, WLAN, WLAN_SWAPPED, u8, u16, u32

_MOST_TAGS, _MOST_IN_BPF = 32, 3  # of TZSP, that are walked over


@helper
def _tzsp(buffer, i, end, wire_end):
    """A received packet, or one to send, behind tags that end with one of type 1."""
    if i + 5 > end or u8(buffer, i) != 1 or u8(buffer, i + 1) > 1:
        return i, NOTHING
    protocol = u16(buffer, i + 2)
    i += 4
    for _ in range(_MOST_TAGS):
        if i >= end:
            return i, NOTHING
        tag = u8(buffer, i)
        if tag == 1:
            return i + 1, ETHERNET if protocol == 1 else (WLAN if protocol == 18 else NOTHING)
        if tag == 0:
            i += 1
        elif i + 2 > end:
            return i, NOTHING
        else:
            i += 2 + u8(buffer, i + 1)
    return i, NOTHING


@helper
def _capwap(buffer, i, end, wire_end):
    """RFC 5415, 4.3: a data packet in one piece, neither encrypted nor a keep-alive."""
    if i + 8 > end:
        return i, NOTHING
    word = u32(buffer, i)
    if word >> 24 != 0 or word & 8 or (word & 0x80 and u16(buffer, i + 6) >> 3):
        return i, NOTHING
    return i + ((word >> 19) & 31) * 4, WLAN_SWAPPED if word & 0x100 else ETHERNET


def _write_tzsp(t: TunnelProgram) -> None:
    p = t.program
    last, wlan = p.label(), p.label()
    p.load(1, 8)
    p.jump_unless(bpf.IF_EQUAL, 1, t.outer)
    p.load(1, 9)
    p.jump_if(bpf.IF_AT_LEAST, 2, t.outer)
    p.load(2, 10)
    p.emit(bpf.ST, bpf.KIND)
    p.skip(12)
    for _ in range(_MOST_IN_BPF):
        padding, next_one = p.label(), p.label()
        p.load(1, 0)
        p.jump_if(bpf.IF_EQUAL, 1, last)
        p.jump_if(bpf.IF_EQUAL, 0, padding)
        p.load(1, 1)
        p.emit(bpf.ADD, 2)
        p.advance_by_a()
        p.jump(next_one)
        p.place(padding)
        p.skip(1)
        p.place(next_one)
    p.load(1, 0)
    p.jump_unless(bpf.IF_EQUAL, 1, t.outer)
    p.place(last)
    p.skip(1)
    p.emit(bpf.LD_MEMORY, bpf.KIND)
    p.jump_if(bpf.IF_EQUAL, 18, wlan)
    p.jump_unless(bpf.IF_EQUAL, 1, t.outer)
    t.then_in_datagram(ETHERNET)
    p.place(wlan)
    _write_wlan(t, 0, 1)


def _write_capwap(t: TunnelProgram) -> None:
    p = t.program
    whole, wlan, normal = p.label(), p.label(), p.label()
    p.load(4, 8)
    p.jump_if(bpf.IF_BITS, 0xFF000008, t.outer)
    p.jump_unless(bpf.IF_BITS, 0x80, whole)
    p.load(2, 14)
    p.jump_if(bpf.IF_BITS, 0xFFF8, t.outer)
    p.place(whole)
    p.load(1, 10)
    p.emit(bpf.ST, bpf.TWO)
    p.load(1, 9)
    p.emit(bpf.RSH, 3)
    p.emit(bpf.LSH, 2)
    p.emit(bpf.ADD, 8)
    p.advance_by_a()
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.jump_if(bpf.IF_BITS, 1, wlan)
    t.then_in_datagram(ETHERNET)
    p.place(wlan)
    p.load(1, 1)
    p.emit(bpf.AND, 15)
    p.jump_unless(bpf.IF_EQUAL, 8, normal)
    _write_wlan(t, 1, 0)
    p.place(normal)
    _write_wlan(t, 0, 1)


def _write_wlan(t: TunnelProgram, control: int, flags: int) -> None:
    """A data frame of IEEE 802.11 up to LLC; where the two bytes of its frame control are."""
    p = t.program
    three, plain = p.label(), p.label()
    p.load(1, control)
    p.emit(bpf.AND, 0x4F)
    p.jump_unless(bpf.IF_EQUAL, 8, t.outer)
    p.load(1, control)
    p.emit(bpf.ST, bpf.TWO)
    p.load(1, flags)
    p.emit(bpf.ST, bpf.KIND)
    p.jump_if(bpf.IF_BITS, 0x40, t.outer)
    p.emit(bpf.AND, 3)
    p.jump_unless(bpf.IF_EQUAL, 3, three)
    p.skip(6)
    p.place(three)
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.jump_unless(bpf.IF_BITS, 0x80, plain)
    p.load(1, 24)
    p.emit(bpf.ST, bpf.TWO)
    p.skip_if(bpf.KIND, 0x80, 4)
    p.skip(2)
    p.skip_if(bpf.TWO, 0x80, 14)
    p.place(plain)
    t.then_in_datagram(LLC, 24)


TUNNELS = (
    Tunnel(
        "capwap", "CAPWAP (RFC 5415)", OverUdp((5247,), _capwap, _write_capwap, either_port=True, control_ports=(5246,))
    ),
    Tunnel("tzsp", "TZSP, the TaZmen Sniffer Protocol", OverUdp((37008,), _tzsp, _write_tzsp)),
)
