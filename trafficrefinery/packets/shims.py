"""Headers between the link layer and IP that are rarer than Ethernet and VLAN tags.

All functions are called from the rare branches of `parser.parse`, and are not inlined there.
"""

from __future__ import annotations

from trafficrefinery.jit import helper

from .layers import (  # fmt: skip
    AMSDU,
    CISCO_META,
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
    VLAN,
    VNTAG,
    WCCP,
    WLAN,
    WLAN_PADDED,
    WLAN_SWAPPED,
    cut_or_malformed,
    u8,
    u16,
    u32,
)


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
