"""PPP on serial lines, where Cisco's HDLC may be instead."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import CUT, PPP, u8, u16


@helper
def _ppp_or_hdlc(buffer, i, end):
    if i < end and (u8(buffer, i) == 0x0F or u8(buffer, i) == 0x8F):
        return (i + 4, u16(buffer, i + 2)) if i + 4 <= end else (end, CUT)
    return i, PPP


LINK_TYPES = (LinkType(9, "PPP", read=_ppp_or_hdlc), LinkType(50, "PPP in HDLC", read=_ppp_or_hdlc))
