"""What can be around an IP packet, byte by byte: link layers, tags and tunnels that are rarer than those of `traces`.

Of each: the link type, a function of the packet and whether it goes up, and the entries of `Decapsulate` that it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from support import encapsulations

HOST, GATEWAY = bytes.fromhex("020000000001"), bytes.fromhex("0200000000fe")
LOW_HOST, HIGH_HOST = bytes.fromhex("0011223344aa"), bytes.fromhex("4600d0123456")


class Wrapping(NamedTuple):
    link_type: int
    wrap: Callable[[bytes, bool], bytes]
    decapsulate: tuple[str, ...] = ()


def kind(packet: bytes) -> bytes:
    return b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd"


def eth(packet: bytes, up: bool, ether_type: bytes | None = None, host: bytes = HOST) -> bytes:
    ends = GATEWAY + host if up else host + GATEWAY
    return ends + (kind(packet) if ether_type is None else ether_type) + packet


def to_host(packet: bytes, host: bytes) -> bytes:
    """Ethernet whose first byte is that of a certain address."""
    return host + GATEWAY + kind(packet) + packet


def ip4(protocol: int, body: bytes) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, b"\xac\x10\0\1", b"\xac\x10\0\2"
    )
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + ((total & 0xFFFF) + (total >> 16) ^ 0xFFFF).to_bytes(2) + header[12:] + body


def ip6(protocol: int, body: bytes) -> bytes:
    return (
        struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
        + b"\x20\1\x0d\xb8"
        + bytes(12)
        + b"\x20\1\x0d\xb8"
        + bytes(11)
        + b"\1"
        + body
    )


def udp4(port: int, body: bytes, source: int = 50_000) -> bytes:
    return ip4(17, struct.pack(">HHHH", source, port, 8 + len(body), 0) + body)


def tunnel(protocol: int, body: bytes, up: bool) -> bytes:
    return eth(ip4(protocol, body), up)


def ppp(packet: bytes) -> bytes:
    return (b"\0\x21" if packet[0] >> 4 == 4 else b"\0\x57") + packet


def short_ppp(packet: bytes) -> bytes:
    return ppp(packet)[1:]


def snap(packet: bytes) -> bytes:
    return b"\xaa\xaa\3\0\0\0" + kind(packet) + packet


def wlan(
    packet: bytes, up: bool, control: int = 0x08, flags: int | None = None, behind: bytes = b"", pad: int = 0
) -> bytes:
    """A data frame to or from an access point."""
    flags = (1 if up else 2) if flags is None else flags
    access_point = b"\2\0\0\0\0\x55"
    first, second, third = (access_point, HOST, GATEWAY) if flags & 1 else (HOST, access_point, GATEWAY)
    fourth = HOST if flags & 3 == 3 else b""
    return (
        bytes([control, flags])
        + b"\0\0"
        + first
        + second
        + third
        + b"\x60\x37"
        + fourth
        + behind
        + bytes(pad)
        + snap(packet)
    )


def radiotap(frame: bytes, flags: int = 0) -> bytes:
    """A clock, flags, and a second word of fields."""
    return b"\0\0\x1a\0" + struct.pack("<II", 0x80000003, 0) + bytes(4) + bytes(8) + bytes([flags, 0]) + frame


def amsdu(packet: bytes, up: bool) -> bytes:
    inner = snap(packet)
    part = HOST + GATEWAY + len(inner).to_bytes(2) + inner
    return wlan(packet, up, 0x88, behind=b"\x80\0")[:26] + part


def pktap(frame: bytes, link_type: int) -> bytes:
    return struct.pack("<III", 108, 1, link_type) + bytes(96) + frame


def nflog(packet: bytes) -> bytes:
    """A prefix of 5 bytes, which is padded, a mark, then the packet."""
    value = struct.pack("<HH", 4 + len(packet), 9) + packet
    family = b"\2" if packet[0] >> 4 == 4 else b"\x0a"
    return family + b"\0\0\1" + b"\5\0\x0a\0\0" + bytes(3) + b"\x08\0\2\0" + bytes(4) + value


def gre(kind_of: bytes, body: bytes, flags: bytes = b"\0\0", options: bytes = b"") -> bytes:
    return flags + kind_of + options + body


def mpls(body: bytes) -> bytes:
    return b"\0\1\1\x40" + body


def geneve(body: bytes, protocol: bytes) -> bytes:
    return b"\2\0" + protocol + b"\0\0\1\0" + b"\1\1\1\1" + bytes(4) + body


def tzsp(body: bytes, protocol: int) -> bytes:
    return b"\1\0" + protocol.to_bytes(2) + b"\0" + b"\x0a\1\x20" + b"\1" + body


def swapped(frame: bytes) -> bytes:
    return frame[1::-1] + frame[2:22] + frame[23:21:-1] + frame[24:]


def capwap(body: bytes, native: int) -> bytes:
    """A header of three words."""
    return struct.pack(">I", 3 << 19 | 1 << 9 | native << 8) + bytes(8) + body


def version_of(packet: bytes) -> int:
    return 4 if packet[0] >> 4 == 4 else 41


def in_ipv6(packet: bytes) -> bytes:
    """Teredo carries IPv6 only."""
    return packet if packet[0] >> 4 == 6 else ip6(4, packet)


def authenticated(packet: bytes, up: bool) -> bytes:
    """The packet with an authentication header before its transport header; fragments and IPv6 options stay as they are."""
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        if packet[6:8] != b"\0\0":
            return eth(packet, up)
        ah = bytes([packet[9], 4]) + bytes(22)
        total = (int.from_bytes(packet[2:4]) + len(ah)).to_bytes(2)
        return eth(packet[:2] + total + packet[4:9] + b"\x33" + packet[10:header] + ah + packet[header:], up)
    if packet[6] not in (6, 17):
        return eth(packet, up)
    ah = bytes([packet[6], 4]) + bytes(22)
    size = (int.from_bytes(packet[4:6]) + len(ah)).to_bytes(2)
    return eth(packet[:4] + size + b"\x33" + packet[7:40] + ah + packet[40:], up)


RARE: dict[str, Wrapping] = {
    # Link types
    "ppp": Wrapping(9, lambda p, up: b"\xff\3" + ppp(p)),
    "ppp compressed": Wrapping(9, lambda p, up: short_ppp(p)),
    "ppp hdlc": Wrapping(50, lambda p, up: b"\xff\3" + ppp(p)),
    "ppp as cisco hdlc": Wrapping(50, lambda p, up: b"\x0f\0" + kind(p) + p),
    "ppp multilink": Wrapping(9, lambda p, up: b"\xff\3\0\x3d\xc0\0\0\1" + ppp(p)),
    "ppp mpls": Wrapping(9, lambda p, up: b"\xff\3\2\x81\0\1\1\x40" + p),
    "ppp with direction": Wrapping(204, lambda p, up: bytes([up]) + b"\xff\3" + ppp(p)),
    "ppp of pppd": Wrapping(166, lambda p, up: bytes([up]) + b"\xff\3" + ppp(p)),
    "ppp over ethernet": Wrapping(51, lambda p, up: b"\x11\0\0\1" + (len(p) + 2).to_bytes(2) + ppp(p)),
    "cisco hdlc": Wrapping(104, lambda p, up: b"\x0f\0" + kind(p) + p),
    "cisco hdlc with direction": Wrapping(205, lambda p, up: bytes([up]) + b"\x8f\0" + kind(p) + p),
    "nflog": Wrapping(239, lambda p, up: nflog(p)),
    "802.11": Wrapping(105, wlan),
    "802.11 qos": Wrapping(105, lambda p, up: wlan(p, up, 0x88, behind=b"\0\0")),
    "802.11 ht": Wrapping(105, lambda p, up: wlan(p, up, 0x88, 0x81, b"\0\0\0\0\0\0")),
    "802.11 four addresses": Wrapping(105, lambda p, up: wlan(p, up, 0x88, 3, b"\0\0")),
    "802.11 aggregated": Wrapping(105, amsdu),
    "radiotap": Wrapping(127, lambda p, up: radiotap(wlan(p, up))),
    "radiotap padded": Wrapping(127, lambda p, up: radiotap(wlan(p, up, 0x88, behind=b"\0\0", pad=2), 0x20)),
    "prism": Wrapping(119, lambda p, up: struct.pack("<II", 0x44, 144) + bytes(136) + wlan(p, up)),
    "avs": Wrapping(163, lambda p, up: struct.pack(">II", 0x80211001, 64) + bytes(56) + wlan(p, up)),
    "ppi": Wrapping(192, lambda p, up: b"\0\0\x10\0" + struct.pack("<I", 1) + bytes(8) + eth(p, up)),
    "pktap": Wrapping(258, lambda p, up: pktap(eth(p, up), 1)),
    "pktap raw": Wrapping(149, lambda p, up: pktap(p, 12)),
    "dsa": Wrapping(284, lambda p, up: eth(b"\xc0\x08\0\1" + kind(p) + p, up, b"")),
    "edsa": Wrapping(285, lambda p, up: eth(b"\xda\xda\0\0\xc0\x08\0\1" + kind(p) + p, up, b"")),
    "broadcom": Wrapping(281, lambda p, up: eth(b"\0\0\0\3" + kind(p) + p, up, b"")),
    "broadcom in front": Wrapping(282, lambda p, up: b"\0\0\0\3" + eth(p, up)),
    "netanalyzer": Wrapping(240, lambda p, up: bytes(4) + eth(p, up) + bytes(4)),
    "atm": Wrapping(100, lambda p, up: snap(p)),
    "mpls link": Wrapping(219, lambda p, up: mpls(p)),
    "ip over firewire": Wrapping(138, lambda p, up: bytes(16) + kind(p) + p),
    "pflog": Wrapping(117, lambda p, up: b"\x3d" + (b"\2" if p[0] >> 4 == 4 else b"\x18") + bytes(62) + p),
    "enc": Wrapping(109, lambda p, up: (b"\2" if p[0] >> 4 == 4 else b"\x18") + bytes(11) + p),
    "ipnet": Wrapping(226, lambda p, up: b"\1" + (b"\2" if p[0] >> 4 == 4 else b"\x1a") + b"\0\1" + len(p).to_bytes(4) + bytes(16) + p),
    "sll 802.2": Wrapping(113, lambda p, up: bytes(14) + b"\0\4" + snap(p)),
    # Tags and shims
    "vlan snap": Wrapping(1, lambda p, up: eth(b"\0\x64" + min(len(p) + 8, 1_500).to_bytes(2) + snap(p), up, b"\x81\0")),
    "bridge tunnel": Wrapping(1, lambda p, up: eth(
        b"\xaa\xaa\3\0\0\xf8" + kind(p) + p, up, min(len(p) + 8, 1_500).to_bytes(2))),
    "e-tag": Wrapping(1, lambda p, up: eth(bytes(6) + kind(p) + p, up, b"\x89\x3f")),
    "vn-tag": Wrapping(1, lambda p, up: eth(bytes(4) + b"\x81\0\0\x64" + kind(p) + p, up, b"\x89\x26")),
    "802.1ah": Wrapping(1, lambda p, up: eth(b"\0\0\1\0" + eth(p, up), up, b"\x88\xe7")),
    "macsec": Wrapping(1, lambda p, up: eth(b"\x20\0\0\0\0\1" + bytes(8) + kind(p) + p + bytes(16), up, b"\x88\xe5")),
    "nsh": Wrapping(1, lambda p, up: eth(
        b"\x0f\xc6\1" + (b"\1" if p[0] >> 4 == 4 else b"\2") + b"\0\0\1\xff" + bytes(16) + p, up, b"\x89\x4f")),
    "fabricpath": Wrapping(1, lambda p, up: eth(b"\0\x60" + eth(p, up), up, b"\x89\3")),
    "trill": Wrapping(1, lambda p, up: eth(b"\0\x3f\0\1\0\2" + eth(p, up), up, b"\x22\xf3")),
    "hsr": Wrapping(1, lambda p, up: eth(b"\0\x40\0\1" + kind(p) + p, up, b"\x89\x2f")),
    "cisco metadata": Wrapping(1, lambda p, up: eth(b"\1\1\0\1\0\2" + kind(p) + p, up, b"\x89\x09")),
    "pppoe compressed": Wrapping(1, lambda p, up: eth(
        b"\x11\0\0\1" + (len(p) + 1).to_bytes(2) + short_ppp(p), up, b"\x88\x64")),
    "pseudowire of 00": Wrapping(1, lambda p, up: eth(mpls(to_host(p, LOW_HOST)), up, b"\x88\x47")),
    "pseudowire of 46": Wrapping(1, lambda p, up: eth(mpls(to_host(p, HIGH_HOST)), up, b"\x88\x47")),
    "pseudowire of 64": Wrapping(1, lambda p, up: eth(mpls(to_host(p, b"\x64" + HIGH_HOST[1:])), up, b"\x88\x47")),
    "pseudowire of ce": Wrapping(1, lambda p, up: eth(mpls(to_host(p, b"\xce" + HIGH_HOST[1:])), up, b"\x88\x47")),
    "ah": Wrapping(1, authenticated),
    # Tunnels
    "erspan 1": Wrapping(1, lambda p, up: tunnel(47, gre(b"\x88\xbe", eth(p, up)), up), ("erspan",)),
    "erspan 2": Wrapping(1, lambda p, up: tunnel(
        47, gre(b"\x88\xbe", b"\x10\x0a\0\x64\0\0\0\1" + eth(p, up), b"\x10\0", bytes(4)), up), ("erspan",)),
    "erspan 3": Wrapping(1, lambda p, up: tunnel(
        47, gre(b"\x22\xeb", b"\x20\x0a\0\x64" + bytes(7) + b"\1" + bytes(8) + eth(p, up), b"\x10\0", bytes(4)), up),
        ("gre",)),
    "erspan 3 of ip": Wrapping(1, lambda p, up: tunnel(
        47, gre(b"\x22\xeb", b"\x20\x0a\0\x64" + bytes(6) + b"\x08\0" + p, b"\x10\0", bytes(4)), up), ("erspan",)),
    "gre over ipv6": Wrapping(1, lambda p, up: eth(ip6(47, gre(kind(p), p, b"\x20\0", bytes(4))), up), ("gre",)),
    "nvgre": Wrapping(1, lambda p, up: tunnel(47, gre(b"\x65\x58", eth(p, up), b"\x20\0", bytes(4)), up), ("gre",)),
    "wccp": Wrapping(1, lambda p, up: tunnel(47, gre(b"\x88\x3e", bytes(4) + p), up), ("gre",)),
    "gre mpls": Wrapping(1, lambda p, up: tunnel(47, gre(b"\x88\x47", mpls(p)), up), ("gre",)),
    "pptp": Wrapping(1, lambda p, up: tunnel(47, gre(
        b"\x88\x0b", b"\xff\3" + ppp(p), b"\x30\x81", (len(p) + 4).to_bytes(2) + bytes(10)), up), ("gre",)),
    "vxlan elsewhere": Wrapping(1, lambda p, up: eth(udp4(8472, b"\x08\0\0\0\0\0\1\0" + eth(p, up)), up), ("vxlan:8472",)),
    "vxlan gpe": Wrapping(1, lambda p, up: eth(
        udp4(4790, b"\x0c\0\0" + (b"\1" if p[0] >> 4 == 4 else b"\2") + b"\0\0\1\0" + p), up), ("vxlan",)),
    "vxlan over ipv6": Wrapping(1, lambda p, up: eth(ip6(
        17, struct.pack(">HHHH", 1, 4789, 30 + len(p), 0) + b"\x08\0\0\0\0\0\1\0" + eth(p, up)), up), ("vxlan",)),
    "geneve": Wrapping(1, lambda p, up: eth(udp4(6081, geneve(eth(p, up), b"\x65\x58")), up), ("geneve",)),
    "geneve of ip": Wrapping(1, lambda p, up: eth(udp4(6081, geneve(p, kind(p))), up), ("geneve",)),
    "geneve elsewhere": Wrapping(1, lambda p, up: eth(udp4(7000, geneve(p, kind(p))), up), ("geneve:7000", "geneve")),
    "gtpu elsewhere": Wrapping(1, lambda p, up: eth(
        udp4(50_000, b"\x30\xff" + len(p).to_bytes(2) + bytes(4) + p, 3386), up), ("gtpu:3386",)),
    "ip in ip": Wrapping(1, lambda p, up: tunnel(version_of(p), p, up), ("ipip",)),
    "ip in ipv6": Wrapping(1, lambda p, up: eth(ip6(version_of(p), p), up), ("ipip",)),
    "etherip": Wrapping(1, lambda p, up: tunnel(97, b"\x30\0" + eth(p, up), up), ("etherip",)),
    "tzsp": Wrapping(1, lambda p, up: eth(udp4(37008, tzsp(eth(p, up), 1)), up), ("tzsp",)),
    "tzsp of 802.11": Wrapping(1, lambda p, up: eth(udp4(37008, tzsp(wlan(p, up), 18)), up), ("tzsp",)),
    "capwap": Wrapping(1, lambda p, up: eth(udp4(5247, capwap(swapped(wlan(p, up)), 1)), up), ("capwap",)),
    "capwap of ethernet": Wrapping(1, lambda p, up: eth(udp4(40_000, capwap(eth(p, up), 0), 5247), up), ("capwap",)),
    "l2tp": Wrapping(1, lambda p, up: eth(
        udp4(1701, b"\x48\2" + (len(p) + 16).to_bytes(2) + b"\0\1\0\2" + bytes(4) + b"\xff\3" + ppp(p)), up), ("l2tp",)),
    "l2tp 3": Wrapping(1, lambda p, up: tunnel(115, b"\0\0\0\1" + eth(p, up), up), ("l2tp",)),
    "teredo": Wrapping(1, lambda p, up: eth(udp4(3544, b"\0\1\0\0" + bytes(9) + bytes(8) + in_ipv6(p)), up),
                       ("teredo", "ipip")),
    "erspan of vxlan": Wrapping(1, lambda p, up: tunnel(
        47, gre(b"\x88\xbe", eth(udp4(4789, b"\x08\0\0\0\0\0\1\0" + eth(p, up)), up)), up), ("erspan", "vxlan")),
}  # fmt: skip
NOT_FOR_DNS = ("nsh", "macsec", "trill", "fabricpath", "pseudowire of 46", "pseudowire of 64")
"""The socket filter of the DNS process has no room to look into these,"""
NOT_FOR_DNS_TWICE = ("erspan of vxlan",)
"""nor into a tunnel in a tunnel."""

RARE.update(encapsulations.added("WRAPPINGS"))
