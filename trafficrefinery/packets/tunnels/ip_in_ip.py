"""IP and Ethernet behind an IP header, with little or nothing between."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverIp, Tunnel
from trafficrefinery.packets.layers import ETHERNET, IP_BY_VERSION, IPV4


@helper
def _ip(buffer, i, end, wire_end):
    """RFC 2003 and RFC 4213."""
    return i, IP_BY_VERSION


@helper
def _etherip(buffer, i, end, wire_end):
    """RFC 3378."""
    return i + 2, ETHERNET


def _write_ip(t: TunnelProgram) -> None:
    t.then(IPV4)  # the version tells


def _write_etherip(t: TunnelProgram) -> None:
    t.then(ETHERNET, 2)


TUNNELS = (
    Tunnel("ipip", "IP in IP (RFC 2003), 6in4 (RFC 4213)", ip=OverIp((4, 41), _ip, _write_ip, has_room=True)),
    Tunnel("etherip", "EtherIP (RFC 3378)", ip=OverIp((97,), _etherip, _write_etherip, has_room=True)),
)
