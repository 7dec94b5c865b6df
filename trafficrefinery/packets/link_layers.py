"""Link layers, and the tags and shims between them and IP: what is rarer than Ethernet, a VLAN tag and IP.

All functions are called from the rare branches of `wire.parse`, and are not inlined there.
"""

from __future__ import annotations

from trafficrefinery.jit import helper

from .layers import (  # fmt: skip
    AMSDU,
    CISCO_META,
    CUT,
    ENCRYPTED,
    ETAG,
    ETHERNET,
    FABRICPATH,
    HSR,
    IP_BY_VERSION,
    IPV4,
    IPV6,
    ITAG,
    LLC,
    MACSEC,
    MPLS,
    MPLS_M,
    NOT_IP,
    NOTHING,
    NSH,
    PPP,
    PPPOE,
    QINQ,
    QINQ_OLD,
    TRILL,
    UNKNOWN,
    VLAN,
    VNTAG,
    WCCP,
    WLAN,
    WLAN_PADDED,
    WLAN_SWAPPED,
    cut_or_malformed,
    u8,
    u16,
    u16_little,
    u32,
    u32_little,
)

_WRAPPERS = 4  # headers that name a link type (PPI, PKTAP), one in the other
_PKTAP_BYTES = 108


@helper
def first_header(buffer, i, end, link_type):
    """Offset and kind of what follows the capture's own header; kind -1 when the link type is not supported."""
    for _ in range(_WRAPPERS):
        if link_type == 192:  # PPI
            if i + 8 > end:
                return end, CUT
            link_type = u32_little(buffer, i + 4)
            i += u16_little(buffer, i + 2)
        elif link_type == 258 or link_type == 149:  # PKTAP has 149 on macOS, which is a number for private use
            if i + _PKTAP_BYTES > end:
                return end, CUT
            header_bytes = u32_little(buffer, i)
            if header_bytes < _PKTAP_BYTES or u32_little(buffer, i + 4) != 1:
                return i, -1 if link_type == 149 else UNKNOWN
            link_type = u32_little(buffer, i + 8)
            i += header_bytes
        else:
            return _behind_link_header(buffer, i, end, link_type)
    return i, -1


@helper
def _behind_link_header(buffer, i, end, link_type):
    if link_type == 1:
        return i, ETHERNET
    if link_type == 113:
        return (i + 16, u16(buffer, i + 14)) if i + 16 <= end else (end, CUT)
    if link_type == 276:
        return (i + 20, u16(buffer, i)) if i + 20 <= end else (end, CUT)
    if link_type == 12 or link_type == 14 or link_type == 101 or link_type == 228 or link_type == 229:
        return i, IP_BY_VERSION
    if link_type == 0 or link_type == 108:  # a 4-byte address family; its values differ by system, the IP version tells
        return (i + 4, IP_BY_VERSION) if i + 4 <= end else (end, CUT)
    if link_type == 9 or link_type == 50:
        if i < end and (u8(buffer, i) == 0x0F or u8(buffer, i) == 0x8F):
            return _cisco_hdlc(buffer, i, end)
        return i, PPP
    if link_type == 204 or link_type == 166:
        return i + 1, PPP
    if link_type == 51:
        return i, PPPOE
    if link_type == 104:
        return _cisco_hdlc(buffer, i, end)
    if link_type == 205:
        return _cisco_hdlc(buffer, i + 1, end)
    if link_type == 105:
        return i, WLAN
    if link_type == 127:
        return _radiotap(buffer, i, end)
    if link_type == 119 or link_type == 163:
        return _prism(buffer, i, end)
    if link_type == 239:
        return _nflog(buffer, i, end)
    if link_type == 281 or link_type == 284 or link_type == 285:  # a switch's tag between the addresses and the type
        tag_bytes = 8 if link_type == 285 else 4
        return (i + 14 + tag_bytes, u16(buffer, i + 12 + tag_bytes)) if i + 14 + tag_bytes <= end else (end, CUT)
    if link_type == 282 or link_type == 240:
        return i + 4, ETHERNET
    if link_type == 241:
        return i + 12, ETHERNET
    if link_type == 100:
        return i, LLC
    if link_type == 219:
        return i, MPLS
    if link_type == 138:
        return (i + 18, u16(buffer, i + 16)) if i + 18 <= end else (end, CUT)
    if link_type == 109:
        return i + 12, IP_BY_VERSION
    if link_type == 226:
        return i + 24, IP_BY_VERSION
    if link_type == 117:
        return (i + ((u8(buffer, i) + 3) & 0xFC), IP_BY_VERSION) if i < end else (end, CUT)
    return i, -1


@helper
def _cisco_hdlc(buffer, i, end):
    return (i + 4, u16(buffer, i + 2)) if i + 4 <= end else (end, CUT)


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
            return i, UNKNOWN
        i += (value_bytes + 3) // 4 * 4
    return end, CUT


@helper
def next_header(buffer, i, end, wire_end, kind, mac, r):
    """What is behind one header that is neither Ethernet, VLAN nor IP.

    Returns:
        (reason, offset, kind): the kind is NOTHING when the frame is not read further, for that reason.
    """
    if kind < 1536:
        return _llc(buffer, i, end)
    if kind == MPLS or kind == MPLS_M:
        return _mpls(buffer, i, end, wire_end)
    if kind == PPPOE:
        return (NOT_IP, i + 6, PPP) if i + 8 <= end else (cut_or_malformed(end, wire_end), i, NOTHING)
    if kind == PPP:
        return _ppp(buffer, i, end, wire_end)
    if kind == WLAN or kind == WLAN_SWAPPED or kind == WLAN_PADDED:
        return _wlan(buffer, i, end, wire_end, kind, mac, r)
    tag_bytes = _tag_bytes(kind)
    if tag_bytes > 0:  # the type of what follows is at its end
        if i + tag_bytes > end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        return NOT_IP, i + tag_bytes, _type_or_length(u16(buffer, i + tag_bytes - 2))
    if kind == ITAG:
        return NOT_IP, i + 4, ETHERNET
    if kind == FABRICPATH:
        return NOT_IP, i + 2, ETHERNET
    if kind == TRILL:
        if i + 6 > end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        return NOT_IP, i + 6 + ((u16(buffer, i) >> 6) & 31) * 4, ETHERNET
    if kind == WCCP:  # RFC 3040's second version has a header of 4 bytes
        if i >= end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        return NOT_IP, i if u8(buffer, i) >> 4 == 4 else i + 4, IP_BY_VERSION
    if kind == NSH:
        return _nsh(buffer, i, end, wire_end)
    if kind == MACSEC:
        return _macsec(buffer, i, end, wire_end)
    return NOT_IP, i, NOTHING


@helper
def _tag_bytes(kind):
    """Bytes of a tag with the type of what it precedes; 0 for others."""
    if kind == ETAG or kind == CISCO_META:
        return 8
    return 6 if kind == VNTAG or kind == HSR else 0


@helper
def _type_or_length(kind):
    return LLC if kind < 1536 else kind


@helper
def _llc(buffer, i, end):
    """IP inside a SNAP header (RFC 1042, or IEEE 802.1H's bridge tunnel), or with a SAP of its own."""
    if i + 3 <= end and u16(buffer, i) == 0x0606 and u8(buffer, i + 2) == 3:
        return NOT_IP, i + 3, IPV4
    if i + 8 > end or u32(buffer, i) != 0xAAAA0300:
        return NOT_IP, i, NOTHING
    organisation = u16(buffer, i + 4)
    if organisation != 0 and organisation != 0x00F8:
        return NOT_IP, i, NOTHING
    kind = u16(buffer, i + 6)
    return NOT_IP, i + 8, kind if kind >= 1536 else NOTHING


@helper
def _mpls(buffer, i, end, wire_end):
    """A label; behind the last one there is no type (RFC 4928), and what fits is taken."""
    if i + 5 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    bottom = u8(buffer, i + 2) & 1
    i += 4
    if not bottom:
        return NOT_IP, i, MPLS
    nibble = u8(buffer, i) >> 4
    if nibble == 0:  # a control word before Ethernet (RFC 4448), or an address that begins so
        without = ethernet_fits(buffer, i, end, wire_end) and not ethernet_fits(buffer, i + 4, end, wire_end)
        return NOT_IP, i if without else i + 4, ETHERNET
    if nibble != 4 and nibble != 6:
        return NOT_IP, i, ETHERNET
    if i + 6 <= end:  # an IP packet ends where the frame does, unless that is padded
        total = u16(buffer, i + 2) if nibble == 4 else u16(buffer, i + 4) + 40
        if total != wire_end - i and ethernet_fits(buffer, i, end, wire_end):
            return NOT_IP, i, ETHERNET
    return NOT_IP, i, IP_BY_VERSION


@helper
def ethernet_fits(buffer, i, end, wire_end):
    """Whether an Ethernet header can be here: a type that is in use, and behind it what it announces."""
    if i + 15 > end:
        return False
    kind = u16(buffer, i + 12)
    i += 14
    while kind == VLAN or kind == QINQ or kind == QINQ_OLD:
        if i + 5 > end:
            return True
        kind = u16(buffer, i + 2)
        i += 4
    version = u8(buffer, i) >> 4
    if kind == IPV4:
        return version == 4 and u8(buffer, i) & 15 >= 5 and (i + 4 > end or u16(buffer, i + 2) <= wire_end - i)
    if kind == IPV6:
        return version == 6 and (i + 6 > end or u16(buffer, i + 4) + 40 <= wire_end - i)
    if kind < 1536:
        return kind >= 3 and kind <= wire_end - i
    return (
        kind == 0x0806 or kind == 0x8035 or kind == MPLS or kind == MPLS_M or kind == PPPOE or kind == 0x8863
        or kind == 0x88CC or kind == 0x888E or kind == 0x8902 or kind == MACSEC or kind == ITAG or kind == ETAG
        or kind == VNTAG
    )  # fmt: skip


@helper
def _ppp(buffer, i, end, wire_end):
    """RFC 1661 and 1662; address, control and half of the protocol may be left out."""
    if i + 2 <= end and u16(buffer, i) == 0xFF03:
        i += 2
    for _ in range(2):
        if i >= end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        protocol = u8(buffer, i)
        i += 1
        if not protocol & 1:
            if i >= end:
                return cut_or_malformed(end, wire_end), i, NOTHING
            protocol = (protocol << 8) | u8(buffer, i)
            i += 1
        if protocol != 0x3D:
            break
        if i >= end or u8(buffer, i) & 0xC0 != 0xC0:  # multilink (RFC 1990): a packet in one piece only
            return NOT_IP, i, NOTHING
        i += 4
    if protocol == 0x21:
        return NOT_IP, i, IPV4
    if protocol == 0x57:
        return NOT_IP, i, IPV6
    if protocol == 0x281 or protocol == 0x283:
        return NOT_IP, i, MPLS
    return NOT_IP, i, NOTHING


@helper
def _nsh(buffer, i, end, wire_end):
    """RFC 8300, 2.2."""
    if i + 8 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    protocol = u8(buffer, i + 3)
    return NOT_IP, i + (u16(buffer, i) & 0x3F) * 4, shim_kind(protocol)


@helper
def shim_kind(protocol):
    """The "next protocol" of NSH and VXLAN-GPE."""
    if protocol == 1 or protocol == 2:
        return IP_BY_VERSION
    if protocol == 3:
        return ETHERNET
    if protocol == 4:
        return NSH
    return MPLS if protocol == 5 else NOTHING


@helper
def _macsec(buffer, i, end, wire_end):
    """IEEE 802.1AE: what is only signed can be read."""
    if i + 8 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    control = u8(buffer, i)
    if control & 0x0C:
        return ENCRYPTED, i, NOTHING
    i += 14 if control & 0x20 else 6
    if i + 2 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    return NOT_IP, i + 2, _type_or_length(u16(buffer, i))


@helper
def _wlan(buffer, i, end, wire_end, kind, mac, r):
    """A data frame of IEEE 802.11."""
    if i + 2 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    start, control, flags = i, u8(buffer, i), u8(buffer, i + 1)
    sequence = 22
    if kind == WLAN_SWAPPED and flags & 15 == 8:  # some access points send numbers in the other byte order
        control, flags, sequence = flags, control, 23
    if control & 15 != 8 or control & 0x40:  # no data
        return NOT_IP, i, NOTHING
    if i + 24 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    if u8(buffer, i + sequence) & 15:  # a later fragment
        return NOT_IP, i, NOTHING
    to_network, from_network = flags & 1, flags & 2
    if mac != 0:
        source = i + (24 if to_network and from_network else (16 if from_network else 10))
        destination = i + (16 if to_network else 4)
        r.mac_side = (1 if source + 6 <= end and mac_at(buffer, source) == mac else 0) | (
            2 if mac_at(buffer, destination) == mac else 0
        )
    i += 30 if to_network and from_network else 24
    aggregated = False
    if control & 0x80:
        if i + 2 > end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        aggregated = u8(buffer, i) & 0x80 != 0
        i += 6 if flags & 0x80 else 2
    if flags & 0x40:
        return ENCRYPTED, i, NOTHING
    if kind == WLAN_PADDED:
        i += (start - i) & 3
    if aggregated:  # the first packet of several is read
        if i + 14 > end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        following = i + (14 + u16(buffer, i + 12) + 3) // 4 * 4
        if following + 14 < wire_end:
            r.unread = AMSDU
        i += 14
    return NOT_IP, i, LLC


@helper
def mac_at(buffer, i):
    return (u16(buffer, i) << 32) | u32(buffer, i + 2)
