"""GTP-U, the user plane of mobile networks."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverUdp, Tunnel
from trafficrefinery.packets.layers import ETHERNET, IP_BY_VERSION, IPV4, NOTHING, u8
from trafficrefinery.packets.shims import ethernet_fits

_MOST_HEADERS, _MOST_IN_BPF = 32, 3  # extensions that are walked over


@helper
def _gtpu(buffer, i, end, wire_end):
    """A G-PDU (3GPP TS 29.281) with its extension headers."""
    if i + 8 > end:
        return i, NOTHING
    flags = u8(buffer, i)
    if flags >> 5 != 1 or not flags & 0x10 or u8(buffer, i + 1) != 255:
        return i, NOTHING
    inner = i + 8
    if flags & 7:
        inner += 4
        if flags & 4:
            for _ in range(_MOST_HEADERS):
                if inner > end or u8(buffer, inner - 1) == 0:
                    break
                if inner >= end or u8(buffer, inner) == 0:
                    return i, NOTHING
                inner += u8(buffer, inner) * 4
    if inner >= end:
        return i, NOTHING
    version = u8(buffer, inner) >> 4
    if version == 4 or version == 6:
        return inner, IP_BY_VERSION
    return inner, ETHERNET if ethernet_fits(buffer, inner, end, wire_end) else NOTHING


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    behind, extended, ip, ethernet = (p.label() for _ in range(4))
    p.load(1, 8)
    p.emit(bpf.ST, bpf.TWO)
    p.emit(bpf.AND, 0xF0)
    p.jump_unless(bpf.IF_EQUAL, 0x30, t.outer)
    p.load(1, 9)
    p.jump_unless(bpf.IF_EQUAL, 255, t.outer)
    p.skip(16)
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.jump_unless(bpf.IF_BITS, 7, behind)
    p.advance(4)
    p.jump_unless(bpf.IF_BITS, 4, behind)
    p.emit(bpf.TXA)
    p.emit(bpf.SUB, 1)
    p.emit(bpf.TAX)
    for _ in range(_MOST_IN_BPF):  # X is at the type of the next header
        p.load(1, 0)
        p.jump_if(bpf.IF_EQUAL, 0, extended)
        p.load(1, 1)
        p.jump_if(bpf.IF_EQUAL, 0, t.outer)
        p.emit(bpf.LSH, 2)
        p.advance_by_a()
    p.place(extended)
    p.skip(1)
    p.place(behind)
    p.emit(bpf.LD_MEMORY, bpf.END)
    p.jump_unless(bpf.IF_GREATER_X, 0, t.outer)
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_if_any((4, 6), ip)
    p.jump_if_type_at(12, ethernet)
    p.jump(t.outer)
    p.place(ethernet)
    t.then_in_datagram(ETHERNET)
    p.place(ip)
    t.then_in_datagram(IPV4)


TUNNELS = (
    Tunnel(
        "gtpu",
        "GTP-U (3GPP TS 29.281)",
        OverUdp((2152,), _gtpu, _write_bpf, has_room=True, either_port=True, control_ports=(2123,)),
    ),
)
