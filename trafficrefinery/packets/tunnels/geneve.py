"""Geneve, of virtual networks."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverUdp, Tunnel
from trafficrefinery.packets.layers import NOTHING, u8, u16


@helper
def _geneve(buffer, i, end, wire_end):
    """RFC 8926, 3.4."""
    if i + 8 > end or u8(buffer, i) >> 6 != 0:
        return i, NOTHING
    kind = u16(buffer, i + 2)
    return i + 8 + (u8(buffer, i) & 63) * 4, kind if kind >= 1536 else NOTHING


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    p.load(1, 8)
    p.jump_if(bpf.IF_BITS, 0xC0, t.outer)
    p.load(2, 10)
    p.jump_unless(bpf.IF_AT_LEAST, 1536, t.outer)
    p.emit(bpf.ST, bpf.KIND)
    p.load(1, 8)
    p.emit(bpf.AND, 63)
    p.emit(bpf.LSH, 2)
    p.emit(bpf.ADD, 16)
    p.advance_by_a()
    t.then_if_it_fits()


TUNNELS = (Tunnel("geneve", "Geneve (RFC 8926)", OverUdp((6081,), _geneve, _write_bpf, has_room=True)),)
