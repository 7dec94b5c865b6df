"""What headers have in common: numbers of protocols, how their bytes are read, and why a packet is not read further."""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import data_address, inlined, u16_at, u32_at, u64_at

# Why a packet is not attributed to a flow of a service; the order is that of the counters.
REASONS = (
    "attributed", "not_ip", "not_tcp_or_udp", "malformed", "truncated", "unsupported_link_type",
    "fragment_without_first", "no_service", "flow_cache_full", "bad_time", "tunnel_not_decapsulated",
    "encrypted",
)  # fmt: skip
(
    ATTRIBUTED, NOT_IP, NOT_TCP_OR_UDP, MALFORMED, TRUNCATED, UNSUPPORTED_LINK,
    FRAGMENT_WITHOUT_FIRST, NO_SERVICE, CACHE_FULL, BAD_TIME, TUNNEL, ENCRYPTED,
) = range(len(REASONS))  # fmt: skip

AMSDU = 1
"""A PACKET's `unread` where the further packets of an aggregated 802.11 frame were not read; numbers of tunnels follow,
see `tunnels.UNREAD`."""

# EtherTypes, and kinds of headers that have none.
IPV4, IPV6, VLAN, QINQ, QINQ_OLD, MPLS, MPLS_M, PPPOE, TEB = (
    0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864, 0x6558,
)  # fmt: skip
PPP, WCCP, ETAG, VNTAG, NSH, ITAG, MACSEC, FABRICPATH, TRILL, CISCO_META, HSR = (
    0x880B, 0x883E, 0x893F, 0x8926, 0x894F, 0x88E7, 0x88E5, 0x8903, 0x22F3, 0x8909, 0x892F,
)  # fmt: skip
LLC = 4
"""Below 1,536, a number where an EtherType could be is a length (IEEE 802.3), and LLC follows."""
ETHERNET, IP_BY_VERSION, CUT, WLAN, WLAN_PADDED, WLAN_SWAPPED = range(0x10000, 0x10006)
WITHIN = 1 << 32
"""Added to a link type, in place of a kind: the header of that link type follows."""
NOTHING = 0
"""The kind of what follows the last header."""

STRIPPED_TAG, TAG_BYTES = 0x10000, 4
"""Set in FRAME.stripped_tag when the kernel took out the outer VLAN tag, which is in the lower 16 bits there. Its bytes
are in `wire_bytes` and not in the buffer."""


@inlined
def u8(buffer, i):
    """The index is unsigned: for a signed one Numba adds the test for a negative one."""
    return np.int64(buffer[np.uint64(i)])


@inlined
def u16(buffer, i):
    """Big-endian, as the following. Both ends are touched so that a wrong index raises where indices are checked."""
    u8(buffer, i)
    u8(buffer, i + 1)
    return u16_at(data_address(buffer) + np.int64(i))


@inlined
def u32(buffer, i):
    u8(buffer, i)
    u8(buffer, i + 3)
    return u32_at(data_address(buffer) + np.int64(i))


@inlined
def u64(buffer, i):
    u8(buffer, i)
    u8(buffer, i + 7)
    return u64_at(data_address(buffer) + np.int64(i))


@inlined
def u16_little(buffer, i):
    return u8(buffer, i) | (u8(buffer, i + 1) << 8)


@inlined
def u32_little(buffer, i):
    return u16_little(buffer, i) | (u16_little(buffer, i + 2) << 16)


@inlined
def cut_or_malformed(end, wire_end):
    """Why a header is not whole: the snap length cut it, or it was never there."""
    return TRUNCATED if wire_end > end else MALFORMED
