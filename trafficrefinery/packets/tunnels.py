"""Tunnels over IP and UDP: what is inside, where the configuration names their kind.

Which are looked into, and at which UDP ports, is a table of numbers that `tunnel_table` makes. Functions of the packet
path, but for `may_be_tunnel`, are called from its rare branches and are not inlined there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, inlined

from .layers import (  # fmt: skip
    CAPWAP,
    ENCRYPTED,
    ERSPAN,
    ETHERIP,
    ETHERNET,
    GENEVE,
    GRE,
    GTPU,
    IP_BY_VERSION,
    IPIP,
    L2TP,
    LLC,
    MOST_PORTS,
    NOT_IP,
    NOT_TCP_OR_UDP,
    NOTHING,
    PPP,
    TEREDO,
    TUNNEL,
    TUNNELS,
    TZSP,
    VXLAN,
    WLAN,
    WLAN_SWAPPED,
    cut_or_malformed,
    u8,
    u16,
    u32,
)
from .link_layers import ethernet_fits, shim_kind

_KINDS, _LOWEST, _SPAN, _ENDINGS, _PORTS, _FIRST = range(6)
_TZSP_PORT = TUNNELS["tzsp"][0]
_LINUX_VXLAN_PORT = 8472
"""What Linux, and with it many overlays of containers, uses for VXLAN unless another port is given. IANA has assigned
it to others: VXLAN is not looked into there unless that is configured, but recognised by its header."""
TABLE_NUMBERS = _FIRST + MOST_PORTS + sum(map(len, TUNNELS.values())) + 1
"""Of a tunnel table (int64): a bit for each kind that is looked into; the lowest port, and how far the highest is from
it, and the set of the lower six bits of ports, but for TZSP's, which is among those that hosts choose; how many ports
there are; and of each port, which is 65,536 * kind + port, negative when it is not looked into."""
_MOST_HEADERS = 32
EITHER_PORT = ("gtpu", "capwap", "l2tp", "teredo")
"""Whose source port tells as well."""
_ERSPAN_2, _ERSPAN_3, _TEREDO_AUTHENTICATION, _TEREDO_ORIGIN = 0x88BE, 0x22EB, 1, 0


def ports_read(decapsulate: Iterable[str]) -> dict[int, str]:
    """UDP ports, and the tunnels that are looked into there: usual ones of kinds that are named, and `KIND:PORT`."""
    entries = [entry.partition(":") for entry in decapsulate]
    usual = {port: name for name, _, configured in entries if not configured for port in TUNNELS[name]}
    return usual | {int(configured): name for name, _, configured in entries if configured}


def tunnel_table(decapsulate: Iterable[str]) -> NDArray[np.int64]:
    """The table for `Decapsulate`: names of kinds, which stand for their usual ports, and `KIND:PORT`."""
    decapsulate = tuple(decapsulate)
    table = np.zeros(TABLE_NUMBERS, np.int64)
    numbers = {name: number for number, name in enumerate(TUNNELS, 1)}
    table[_KINDS] = sum(1 << numbers[entry] for entry in set(decapsulate) & set(TUNNELS))
    read = ports_read(decapsulate)
    usual = {port: name for name, ports in TUNNELS.items() for port in ports} | {_LINUX_VXLAN_PORT: "vxlan"}
    entries = [(numbers[name] << 16) + port for port, name in read.items()]
    entries += [-((numbers[name] << 16) + port) for port, name in usual.items() if port not in read]
    ports = sorted(set(usual | read) - {_TZSP_PORT})
    table[_LOWEST], table[_SPAN] = ports[0], ports[-1] - ports[0]
    for port in ports:
        table[_ENDINGS] |= np.uint64(1 << (port & 63)).astype(np.int64)
    table[_PORTS] = len(entries)
    table[_FIRST : _FIRST + len(entries)] = entries
    return table


@inlined
def may_be_tunnel(tunnels, source_port, destination_port):
    """False for nearly all pairs of ports that no tunnel has."""
    lowest, span, endings = tunnels[_LOWEST], tunnels[_SPAN], tunnels[_ENDINGS]
    is_source = (np.uint64(source_port - lowest) <= np.uint64(span)) & ((endings >> (source_port & 63)) & 1)
    is_destination = (np.uint64(destination_port - lowest) <= np.uint64(span)) & (
        (endings >> (destination_port & 63)) & 1
    )
    return (is_source | is_destination | (destination_port == _TZSP_PORT)) != 0  # one branch


@helper
def _port_entry(tunnels, port):
    for i in range(_FIRST, _FIRST + min(tunnels[_PORTS], TABLE_NUMBERS - _FIRST)):
        if abs(tunnels[i]) & 0xFFFF == port:
            return tunnels[i]
    return 0


@helper
def udp_tunnel(buffer, i, end, wire_end, tunnels, r):
    """What is in the payload of a UDP header at `i`: offset and kind; NOTHING when it is no tunnel to look into.

    Both ports of GTP-U, CAPWAP, L2TP and Teredo tell, of the others the destination's.
    """
    entry = _port_entry(tunnels, u16(buffer, i + 2))
    if entry == 0:
        entry = _port_entry(tunnels, u16(buffer, i))
        kind = abs(entry) >> 16
        if kind != GTPU and kind != CAPWAP and kind != L2TP and kind != TEREDO:  # EITHER_PORT
            return i, NOTHING
    number = abs(entry) >> 16
    i += 8
    inner, kind = i, NOTHING
    if number == VXLAN:
        if entry > 0 or -entry & 0xFFFF != _LINUX_VXLAN_PORT or _is_surely_vxlan(buffer, i, end, wire_end):
            inner, kind = _vxlan(buffer, i, end, entry > 0)
    elif number == GENEVE:
        inner, kind = _geneve(buffer, i, end)
    elif number == GTPU:
        inner, kind = _gtpu(buffer, i, end, wire_end)
    elif number == TZSP:
        inner, kind = _tzsp(buffer, i, end)
    elif number == CAPWAP:
        inner, kind = _capwap(buffer, i, end)
    elif number == L2TP:
        inner, kind = _l2tp(buffer, i, end)
    elif number == TEREDO:
        inner, kind = _teredo(buffer, i, end)
    fits = kind != NOTHING and inner < end
    if fits and entry > 0:
        return inner, kind
    r.tunnel_port = number
    r.unread = number if fits else 0
    return i, NOTHING


@helper
def _vxlan(buffer, i, end, wanted):
    """RFC 7348, and draft-ietf-nvo3-vxlan-gpe, which sets a flag and names what follows."""
    if i + 8 > end:
        return i, NOTHING
    flags = u8(buffer, i)
    if flags & 4:
        return i + 8, shim_kind(u8(buffer, i + 3))
    return i + 8, ETHERNET if wanted or flags & 8 else NOTHING


@helper
def _is_surely_vxlan(buffer, i, end, wire_end):
    """RFC 7348, 5: nothing but the flag I is set in what is not the VNI, and an Ethernet frame follows."""
    return (
        i + 8 <= end
        and u32(buffer, i) == 0x08000000
        and u8(buffer, i + 7) == 0
        and ethernet_fits(buffer, i + 8, end, wire_end)
    )


@helper
def _geneve(buffer, i, end):
    """RFC 8926, 3.4."""
    if i + 8 > end or u8(buffer, i) >> 6 != 0:
        return i, NOTHING
    kind = u16(buffer, i + 2)
    return i + 8 + (u8(buffer, i) & 63) * 4, kind if kind >= 1536 else NOTHING


@helper
def _gtpu(buffer, i, end, wire_end):
    """A G-PDU (3GPP TS 29.281) with its extension headers."""
    if i + 8 > end:
        return i, NOTHING
    flags = u8(buffer, i)
    if flags >> 5 != 1 or not flags & 0x10 or u8(buffer, i + 1) != 255:
        return i, NOTHING
    inner = i + 8
    if flags & 7:
        inner += 4
        if flags & 4:
            for _ in range(_MOST_HEADERS):
                if inner > end or u8(buffer, inner - 1) == 0:
                    break
                if inner >= end or u8(buffer, inner) == 0:
                    return i, NOTHING
                inner += u8(buffer, inner) * 4
    if inner >= end:
        return i, NOTHING
    version = u8(buffer, inner) >> 4
    if version == 4 or version == 6:
        return inner, IP_BY_VERSION
    return inner, ETHERNET if ethernet_fits(buffer, inner, end, wire_end) else NOTHING


@helper
def _tzsp(buffer, i, end):
    """A received packet, or one to send, behind tags that end with one of type 1."""
    if i + 5 > end or u8(buffer, i) != 1 or u8(buffer, i + 1) > 1:
        return i, NOTHING
    protocol = u16(buffer, i + 2)
    i += 4
    for _ in range(_MOST_HEADERS):
        if i >= end:
            return i, NOTHING
        tag = u8(buffer, i)
        if tag == 1:
            return i + 1, ETHERNET if protocol == 1 else (WLAN if protocol == 18 else NOTHING)
        if tag == 0:
            i += 1
        elif i + 2 > end:
            return i, NOTHING
        else:
            i += 2 + u8(buffer, i + 1)
    return i, NOTHING


@helper
def _capwap(buffer, i, end):
    """RFC 5415, 4.3: a data packet in one piece, neither encrypted nor a keep-alive."""
    if i + 8 > end:
        return i, NOTHING
    word = u32(buffer, i)
    if word >> 24 != 0 or word & 8 or (word & 0x80 and u16(buffer, i + 6) >> 3):
        return i, NOTHING
    return i + ((word >> 19) & 31) * 4, WLAN_SWAPPED if word & 0x100 else ETHERNET


@helper
def _l2tp(buffer, i, end):
    """A data message of version 2 (RFC 2661, 3.1)."""
    if i + 6 > end:
        return i, NOTHING
    flags = u16(buffer, i)
    if flags & 0x8000 or flags & 15 != 2:
        return i, NOTHING
    i += 6 + (2 if flags & 0x4000 else 0) + (4 if flags & 0x0800 else 0)
    if flags & 0x0200:
        if i + 2 > end:
            return i, NOTHING
        i += 2 + u16(buffer, i)
    return i, PPP


@helper
def _teredo(buffer, i, end):
    """RFC 4380, 5.1.1: IPv6, perhaps behind an authentication header and the origin."""
    if i + 4 <= end and u16(buffer, i) == _TEREDO_AUTHENTICATION:
        i += 13 + u8(buffer, i + 2) + u8(buffer, i + 3)
    if i + 8 <= end and u16(buffer, i) == _TEREDO_ORIGIN:
        i += 8
    if i + 40 > end or u8(buffer, i) >> 4 != 6:
        return i, NOTHING
    return i, IP_BY_VERSION


@helper
def ip_tunnel(buffer, i, end, wire_end, protocol, tunnels, r):
    """What is in an IP packet that is neither TCP nor UDP: (reason, offset, kind)."""
    if protocol == 47:
        return _gre(buffer, i, end, wire_end, tunnels, r)
    if protocol == 50:
        return ENCRYPTED, i, NOTHING
    if protocol == 4 or protocol == 41:
        return _if_wanted(tunnels, IPIP, i, IP_BY_VERSION, r)
    if protocol == 97:  # RFC 3378
        return _if_wanted(tunnels, ETHERIP, i + 2, ETHERNET, r)
    if protocol == 115:  # RFC 3931: how long its cookie is, and whether a sublayer follows, only its ends know
        for header_bytes in range(4, 20, 4):
            if ethernet_fits(buffer, i + header_bytes, end, wire_end):
                return _if_wanted(tunnels, L2TP, i + header_bytes, ETHERNET, r)
        r.unread = L2TP
        return TUNNEL, i, NOTHING
    return NOT_TCP_OR_UDP, i, NOTHING


@helper
def _if_wanted(tunnels, number, inner, kind, r):
    if tunnels[_KINDS] >> number & 1:
        return NOT_IP, inner, kind
    r.unread = number
    return TUNNEL, inner, NOTHING


@helper
def _gre(buffer, i, end, wire_end, tunnels, r):
    """RFC 2784 and 2890, ERSPAN (draft-foschiano-erspan), and PPTP's version 1 (RFC 2637)."""
    wanted = tunnels[_KINDS] >> GRE & 1 != 0
    if i + 4 > end:
        r.unread = 0 if wanted else GRE
        return (cut_or_malformed(end, wire_end) if wanted else TUNNEL), i, NOTHING
    flags, version, kind = u8(buffer, i), u8(buffer, i + 1) & 7, u16(buffer, i + 2)
    is_mirror = version == 0 and (kind == _ERSPAN_2 or kind == _ERSPAN_3)
    if not wanted and not (is_mirror and tunnels[_KINDS] >> ERSPAN & 1):
        r.unread = ERSPAN if is_mirror else GRE
        return TUNNEL, i, NOTHING
    has_sequence = flags & 0x10 != 0
    inner = i + 4 + (4 if flags & 0xC0 else 0) + (4 if flags & 0x20 else 0) + (4 if has_sequence else 0)
    if version == 1 and kind == PPP and flags & 0xE0 == 0x20:
        if i + 6 > end:
            return cut_or_malformed(end, wire_end), i, NOTHING
        inner += 4 if u8(buffer, i + 1) & 0x80 else 0
        return NOT_IP, inner, PPP if u16(buffer, i + 4) else NOTHING
    if version != 0:
        return NOT_TCP_OR_UDP, i, NOTHING
    if is_mirror:
        return _erspan(buffer, inner, end, wire_end, kind, has_sequence)
    return NOT_IP, inner, kind if kind == NOTHING or kind >= 1536 else LLC


@helper
def _erspan(buffer, i, end, wire_end, kind, has_sequence):
    """Type I has no header, and no sequence number; the first digit of the others is their version."""
    if kind == _ERSPAN_2 and not has_sequence:
        return NOT_IP, i, ETHERNET
    if i + 12 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING
    version = u8(buffer, i) >> 4
    if version == 1:
        return NOT_IP, i + 8, ETHERNET
    if version != 2:
        return NOT_IP, i, NOTHING
    last = u16(buffer, i + 10)
    inner = i + (20 if last & 1 else 12)
    return NOT_IP, inner, IP_BY_VERSION if (last >> 10) & 31 == 2 else ETHERNET
