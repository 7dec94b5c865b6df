"""L2TP: PPP over UDP in version 2, Ethernet over IP in version 3."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverIp, OverUdp, Tunnel
from trafficrefinery.packets.layers import ETHERNET, NOTHING, PPP, TUNNEL, u16
from trafficrefinery.packets.shims import ethernet_fits

_HEADERS_OF_3 = (4, 8, 12, 16)  # bytes


@helper
def _l2tp(buffer, i, end, wire_end):
    """A data message of version 2 (RFC 2661, 3.1)."""
    if i + 6 > end:
        return i, NOTHING
    flags = u16(buffer, i)
    if flags & 0x8000 or flags & 15 != 2:
        return i, NOTHING
    i += 6 + (2 if flags & 0x4000 else 0) + (4 if flags & 0x0800 else 0)
    if flags & 0x0200:
        if i + 2 > end:
            return i, NOTHING
        i += 2 + u16(buffer, i)
    return i, PPP


@helper
def _l2tp_3(buffer, i, end, wire_end):
    """RFC 3931: how long its cookie is, and whether a sublayer follows, only its ends know."""
    for header_bytes in _HEADERS_OF_3:
        if ethernet_fits(buffer, i + header_bytes, end, wire_end):
            return i + header_bytes, ETHERNET
    return i, -TUNNEL


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    p.load(2, 8)
    p.emit(bpf.ST, bpf.TWO)
    p.emit(bpf.AND, 0x800F)
    p.jump_unless(bpf.IF_EQUAL, 2, t.outer)
    p.skip(14)
    p.skip_if(bpf.TWO, 0x4000, 2)
    p.skip_if(bpf.TWO, 0x0800, 4)
    without_offset = p.label()
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.jump_unless(bpf.IF_BITS, 0x0200, without_offset)
    p.load(2, 0)
    p.emit(bpf.ADD, 2)
    p.advance_by_a()
    p.place(without_offset)
    t.then_in_datagram(PPP)


def _write_bpf_of_3(t: TunnelProgram) -> None:
    p = t.program
    for header_bytes in _HEADERS_OF_3:
        here, next_one = p.label(), p.label()
        p.jump_if_type_at(header_bytes + 12, here)
        p.jump(next_one)
        p.place(here)
        t.then(ETHERNET, header_bytes)
        p.place(next_one)
    p.jump(t.outer)


TUNNELS = (
    Tunnel(
        "l2tp",
        "L2TP (RFC 2661, and RFC 3931 over IP)",
        OverUdp((1701,), _l2tp, _write_bpf, either_port=True),
        OverIp((115,), _l2tp_3, _write_bpf_of_3),
    ),
)
