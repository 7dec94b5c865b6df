"""Headers that name the link type of what follows."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import CUT, NOT_IP, UNSUPPORTED_LINK, WITHIN, u16_little, u32_little

_PKTAP_BYTES = 108


@helper
def _ppi(buffer, i, end):
    """Per-packet information."""
    if i + 8 > end:
        return end, CUT
    return i + u16_little(buffer, i + 2), WITHIN + u32_little(buffer, i + 4)


@helper
def _pktap(buffer, i, end):
    if i + _PKTAP_BYTES > end:
        return end, CUT
    header_bytes = u32_little(buffer, i)
    if header_bytes < _PKTAP_BYTES or u32_little(buffer, i + 4) != 1:
        return i, -NOT_IP
    return i + header_bytes, WITHIN + u32_little(buffer, i + 8)


@helper
def _pktap_of_macos(buffer, i, end):
    """The number is for private use: what does not look like PKTAP is something else."""
    following, kind = _pktap(buffer, i, end)
    return following, -UNSUPPORTED_LINK if kind == -NOT_IP else kind


LINK_TYPES = (
    LinkType(192, "PPI", read=_ppi),
    LinkType(258, "PKTAP", read=_pktap),
    LinkType(149, "PKTAP", read=_pktap_of_macos),
)
