"""VXLAN, of virtual networks."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverUdp, Tunnel
from trafficrefinery.packets.layers import ETHERNET, IPV4, IPV6, MPLS, NOTHING, NSH, u8, u32
from trafficrefinery.packets.shims import ethernet_fits, shim_kind

_OF_LINUX = 8472
"""What Linux, and with it many overlays of containers, uses unless another port is given.

IANA has assigned it to others.
"""
_SHIM_KINDS = {1: IPV4, 2: IPV6, 3: ETHERNET, 4: NSH, 5: MPLS}


@helper
def _vxlan(buffer, i, end, wire_end):
    """RFC 7348, and draft-ietf-nvo3-vxlan-gpe, which sets a flag and names what follows."""
    if i + 8 > end:
        return i, NOTHING
    return i + 8, shim_kind(u8(buffer, i + 3)) if u8(buffer, i) & 4 else ETHERNET


@helper
def _is_vxlan(buffer, i, end, wire_end, port):
    """RFC 7348, 5: the flag I is set. At the port of Linux, nothing else is but the VNI."""
    if i + 8 > end:
        return False
    if port != _OF_LINUX:
        return u8(buffer, i) & 12 != 0
    return u32(buffer, i) == 0x08000000 and u8(buffer, i + 7) == 0 and ethernet_fits(buffer, i + 8, end, wire_end)


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    extended = p.label()
    p.load(1, 8)
    p.jump_if(bpf.IF_BITS, 4, extended)
    t.then_in_datagram(ETHERNET, 16)
    p.place(extended)
    p.load(1, 11)
    p.advance(16)
    for number, kind in _SHIM_KINDS.items():
        other = p.label()
        p.jump_unless(bpf.IF_EQUAL, number, other)
        t.then_in_datagram(kind)
        p.place(other)
    p.jump(t.outer)


TUNNELS = (
    Tunnel(
        "vxlan",
        "VXLAN (RFC 7348), and its generic protocol extension",
        OverUdp((4789, 4790), _vxlan, _write_bpf, has_room=True, other_ports=(_OF_LINUX,), is_one=_is_vxlan),
    ),
)
