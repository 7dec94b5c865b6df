"""Teredo: IPv6 of hosts behind address translation."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverUdp, Tunnel
from trafficrefinery.packets.layers import IP_BY_VERSION, IPV6, NOTHING, u8, u16

_AUTHENTICATION, _ORIGIN = 1, 0


@helper
def _teredo(buffer, i, end, wire_end):
    """RFC 4380, 5.1.1: IPv6, perhaps behind an authentication header and the origin."""
    if i + 4 <= end and u16(buffer, i) == _AUTHENTICATION:
        i += 13 + u8(buffer, i + 2) + u8(buffer, i + 3)
    if i + 8 <= end and u16(buffer, i) == _ORIGIN:
        i += 8
    if i + 40 > end or u8(buffer, i) >> 4 != 6:
        return i, NOTHING
    return i, IP_BY_VERSION


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    plain, direct = p.label(), p.label()
    p.skip(8)
    p.load(2, 0)
    p.jump_unless(bpf.IF_EQUAL, _AUTHENTICATION, plain)
    p.load(1, 2)
    p.emit(bpf.ST, bpf.TWO)
    p.load(1, 3)
    p.emit(bpf.ADD, 13)
    p.advance_by_a()
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.advance_by_a()
    p.place(plain)
    p.load(2, 0)
    p.jump_unless(bpf.IF_EQUAL, _ORIGIN, direct)
    p.skip(8)
    p.place(direct)
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_unless(bpf.IF_EQUAL, 6, t.outer)
    t.then_in_datagram(IPV6)


TUNNELS = (Tunnel("teredo", "Teredo (RFC 4380)", OverUdp((3544,), _teredo, _write_bpf, either_port=True)),)
