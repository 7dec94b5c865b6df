"""A packet's raw bytes without what tells who sent it to whom: what feature classes see where addresses are anonymised.

Blanked are addresses, and what stands between them and the TCP or UDP header (IP options and extension headers can hold
further ones), checksums (which are sums over addresses), addresses in TCP options, and the payload of protocols that
exchange names or addresses. A tunnel that is not looked into is such a protocol: inside are MAC and IP addresses.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import LATER_FRAGMENT, TCP
from trafficrefinery.jit import helper

from .tunnels import TUNNELS

BLANKED_PORTS = (
    53, 5353, 5355, 137, 138,  # DNS, mDNS, LLMNR, NetBIOS
    67, 68, 546, 547,  # DHCP
    3478, 5349, 19302,  # STUN and TURN
    *(port for tunnel in TUNNELS.values() if tunnel.udp is not None
      for port in (*tunnel.udp.ports, *tunnel.udp.other_ports, *tunnel.udp.control_ports)),
)  # fmt: skip
"""A packet from or to one of these ports, or to one that `Decapsulate` names, shows nothing behind its TCP or UDP
header."""

_NO_OPERATION, _MULTIPATH = 1, 30  # TCP options (RFC 9293, RFC 8684)
_UDP_HEADER_BYTES = 8


@helper
def blanked_byte(r, buffer, index):
    """Packet.raw where addresses are anonymised.

    Args:
        r: PACKET record.
        buffer: uint8 array with the packet.
    """
    if index < 0 or index >= np.int64(r.raw_bytes) or _is_blanked(r, buffer, np.int64(index)):
        return np.int64(0)
    return np.int64(buffer[r.raw_offset + index])


@helper
def _is_blanked(r, buffer, index):
    payload = np.int64(r.payload_offset) - np.int64(r.raw_offset)
    if index >= payload:
        return r.tunnel_port != 0 or _has_blanked_port(r)
    transport = payload
    if r.fragment != LATER_FRAGMENT:
        transport -= np.int64(r.tcp_header_bytes) if r.protocol == TCP else _UDP_HEADER_BYTES
    if index < transport:
        return index >= (10 if r.ip_version == 4 else 8)  # of IPv4 from the checksum on
    if r.protocol != TCP:
        return index >= transport + 6
    if index >= transport + 20:
        end = min(payload, np.int64(r.raw_bytes))
        return _is_in_multipath(buffer, r.raw_offset + transport + 20, r.raw_offset + end, r.raw_offset + index)
    return index == transport + 16 or index == transport + 17


@helper
def _has_blanked_port(r):
    for port in BLANKED_PORTS:  # noqa: SIM110 (a generator cannot be compiled)
        if r.src_port == port or r.dst_port == port:
            return True
    return False


@helper
def _is_in_multipath(buffer, i, end, position):
    """Whether a byte of TCP options is one of multipath TCP, which tells the other end of further addresses."""
    while i + 1 < end and i < position:
        kind = np.int64(buffer[i])
        option_bytes = np.int64(1) if kind == _NO_OPERATION else np.int64(buffer[i + 1])
        if kind == 0 or option_bytes == 0:
            return False
        if kind == _MULTIPATH and i + 2 <= position < i + option_bytes:
            return True
        i += option_bytes
    return False
