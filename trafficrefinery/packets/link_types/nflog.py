"""What Linux's netfilter logs."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import CUT, IP_BY_VERSION, NOT_IP, u16, u16_little


@helper
def _nflog(buffer, i, end):
    """Values with a length and a type, in the byte order of the capturing machine; one is the packet."""
    i += 4
    while i + 4 <= end:
        value_bytes, kind = u16_little(buffer, i), u16_little(buffer, i + 2)
        if kind > 255:
            value_bytes, kind = u16(buffer, i), u16(buffer, i + 2)
        if kind == 9:
            return i + 4, IP_BY_VERSION
        if value_bytes < 4:
            return i, -NOT_IP
        i += (value_bytes + 3) // 4 * 4
    return end, CUT


LINK_TYPES = (LinkType(239, "NFLOG", read=_nflog),)
