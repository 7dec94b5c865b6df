"""IEEE 802.11, alone and behind what the capturing driver tells of each frame."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType
from trafficrefinery.packets.layers import CUT, WLAN, WLAN_PADDED, u8, u16_little, u32, u32_little


@helper
def _radiotap(buffer, i, end):
    """The header says how long it is, and whether the driver padded the 802.11 header (https://www.radiotap.org)."""
    if i + 8 > end:
        return end, CUT
    following = i + u16_little(buffer, i + 2)
    at = i + 4
    present = u32_little(buffer, at)
    fields = present & 3
    while present & 0x80000000:
        at += 4
        if at + 4 > end:
            return end, CUT
        present = u32_little(buffer, at)
    if fields & 2:
        at += 4
        if fields & 1:  # a clock of 8 bytes, aligned
            at = i + (at - i + 7) // 8 * 8 + 8
        if at < min(following, end) and u8(buffer, at) & 0x20:
            return following, WLAN_PADDED
    return following, WLAN


@helper
def _prism(buffer, i, end):
    """Prism, in the byte order of the capturing machine, or AVS, which is big-endian."""
    if i + 8 > end:
        return end, CUT
    if u32(buffer, i) >> 12 == 0x80211:
        return i + u32(buffer, i + 4), WLAN
    header_bytes = u32_little(buffer, i + 4)
    return i + (header_bytes if header_bytes < 65536 else u32(buffer, i + 4)), WLAN


LINK_TYPES = (
    LinkType(105, "802.11", then=WLAN),
    LinkType(127, "802.11 with radiotap", read=_radiotap),
    LinkType(119, "802.11 with Prism header", read=_prism),
    LinkType(163, "802.11 with AVS header", read=_prism),
)
