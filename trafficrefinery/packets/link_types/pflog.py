"""The log of OpenBSD's packet filter."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import CUT, IP_BY_VERSION, u8


@helper
def _pflog(buffer, i, end):
    """The header begins with its length, and is padded to four bytes."""
    return (i + ((u8(buffer, i) + 3) & 0xFC), IP_BY_VERSION) if i < end else (end, CUT)


LINK_TYPES = (LinkType(117, "OpenBSD packet filter", read=_pflog),)
