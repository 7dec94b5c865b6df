"""The naive reading of what can be around IP: link layers, tags and tunnels.

Each function is given the `Reading` (its `data` from the frame's first byte on, `wire_end`, `need`) and a position, and
returns the kind of the next header, an EtherType or a word, and where it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support import encapsulations

# Names of `Decapsulate`, and the usual UDP ports.
PORTS = {
    "vxlan": (4789, 4790), "geneve": (6081,), "gtpu": (2152,), "tzsp": (37008,), "capwap": (5247,), "l2tp": (1701,),
    "teredo": (3544,),
}  # fmt: skip
EITHER_PORT = ("gtpu", "capwap", "l2tp", "teredo")
RAW = (12, 14, 101, 228, 229)
TAGS = {0x893F: 8, 0x8909: 8, 0x8926: 6, 0x892F: 6}  # bytes up to the next type
FIXED = {0x88E7: 4, 0x8903: 2}  # bytes before Ethernet
KNOWN = {
    0x0806, 0x8035, 0x8847, 0x8848, 0x8863, 0x8864, 0x88CC, 0x888E, 0x8902, 0x88E5, 0x88E7, 0x893F, 0x8926,
}  # fmt: skip
SHIMS = {1: "ip", 2: "ip", 3: "ethernet", 4: 0x894F, 5: 0x8847}
LINKS = {  # bytes in front of a header whose kind is certain
    1: (0, "ethernet"), 51: (0, 0x8864), 100: (0, "llc"), 105: (0, "802.11"), 166: (1, "ppp"), 204: (1, "ppp"),
    219: (0, 0x8847), 240: (4, "ethernet"), 241: (12, "ethernet"), 282: (4, "ethernet"), 109: (12, "ip"),
    226: (24, "ip"), **dict.fromkeys(RAW, (0, "ip")),
}  # fmt: skip
TYPED = {
    113: (14, 16),
    276: (0, 20),
    104: (2, 4),
    205: (3, 5),
    138: (16, 18),
    281: (16, 18),
    284: (16, 18),
    285: (20, 22),
}


class UnusableError(Exception):
    """The frame is no TCP or UDP packet that can be read; the argument is the reason's name."""


def number(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count])


def little(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count], "little")


def first_header(reading: Any, link: int) -> tuple[int | str, int]:
    """Behind the link-layer header."""
    data, at = reading.data, 0
    for _ in range(4):
        if link == 192:
            reading.need(at + 8)
            link, at = little(data, at + 4, 4), at + little(data, at + 2, 2)
        elif link in (149, 258):
            reading.need(at + 108)
            if little(data, at, 4) < 108 or little(data, at + 4, 4) != 1:
                raise UnusableError("unsupported_link_type" if link == 149 else "not_ip")
            link, at = little(data, at + 8, 4), at + little(data, at, 4)
        else:
            break
    else:
        raise UnusableError("unsupported_link_type")
    if link in (9, 50):
        if data[at : at + 1] in (b"\x0f", b"\x8f"):
            link = 104
        else:
            return "ppp", at
    if link in LINKS:
        before, kind = LINKS[link]
        return kind, at + before
    if link in TYPED:
        where, size = TYPED[link]
        reading.need(at + size)
        return number(data, at + where, 2), at + size
    if link in (0, 108):
        reading.need(at + 4)
        return "ip", at + 4
    if link == 117:
        reading.need(at + 1)
        return "ip", at + -(-data[at] // 4 * 4) % 256
    if link == 127:
        return radiotap(reading, at)
    if link in (119, 163):
        reading.need(at + 8)
        if data[at : at + 3] == b"\x80\x21\x10":
            return "802.11", at + number(data, at + 4, 4)
        size = little(data, at + 4, 4)
        return "802.11", at + (size if size < 65536 else number(data, at + 4, 4))
    if link == 239:
        return nflog(reading, at + 4)
    if link in READERS:
        return READERS[link](reading, at)
    raise UnusableError("unsupported_link_type")


def radiotap(reading: Any, start: int) -> tuple[str, int]:
    data = reading.data
    reading.need(start + 8)
    words, at = [little(data, start + 4, 4)], start + 8
    while words[-1] >> 31:
        reading.need(at + 4)
        words.append(little(data, at, 4))
        at += 4
    if words[0] & 1:
        at = start + (at - start + 7) // 8 * 8 + 8
    behind = start + little(data, start + 2, 2)
    padded = words[0] & 2 and at < min(behind, len(data)) and data[at] & 0x20
    return ("802.11 padded" if padded else "802.11"), behind


def nflog(reading: Any, at: int) -> tuple[str, int]:
    data = reading.data
    while True:
        reading.need(at + 4)
        size, kind = little(data, at, 2), little(data, at + 2, 2)
        if kind > 255:
            size, kind = number(data, at, 2), number(data, at + 2, 2)
        if kind == 9:
            return "ip", at + 4
        if size < 4:
            raise UnusableError("not_ip")
        at += size + -size % 4


def next_header(reading: Any, kind: int | str, at: int) -> tuple[int | str, int]:
    data, need = reading.data, reading.need
    if kind == "llc" or (isinstance(kind, int) and kind < 1536):
        return llc(reading, at)
    if kind in (0x8847, 0x8848):
        return mpls(reading, at)
    if kind == 0x8864:
        need(at + 8)
        return "ppp", at + 6
    if kind in ("ppp", 0x880B):
        return ppp(reading, at + 2 if data[at : at + 2] == b"\xff\x03" else at, False)
    if isinstance(kind, str) and kind.startswith("802.11"):
        return wlan(reading, at, kind)
    if kind in TAGS:
        need(at + TAGS[kind])
        return number(data, at + TAGS[kind] - 2, 2), at + TAGS[kind]
    if kind in FIXED:
        return "ethernet", at + FIXED[kind]
    if kind == 0x22F3:
        need(at + 6)
        return "ethernet", at + 6 + 4 * (number(data, at, 2) >> 6 & 31)
    if kind == 0x883E:
        need(at + 1)
        return "ip", at + (0 if data[at] >> 4 == 4 else 4)
    if kind == 0x894F:
        need(at + 8)
        if data[at + 3] in SHIMS:
            return SHIMS[data[at + 3]], at + 4 * (data[at + 1] & 63)
    if kind == 0x88E5:
        need(at + 8)
        if data[at] & 0x0C:
            raise UnusableError("encrypted")
        size = 16 if data[at] & 0x20 else 8
        need(at + size)
        return number(data, at + size - 2, 2), at + size
    raise UnusableError("not_ip")


def llc(reading: Any, at: int) -> tuple[int, int]:
    data = reading.data
    if data[at : at + 3] == b"\x06\x06\x03":
        return 0x0800, at + 3
    kind = number(data, at + 6, 2)
    if len(data) >= at + 8 and data[at : at + 6] in (b"\xaa\xaa\x03\0\0\0", b"\xaa\xaa\x03\0\0\xf8") and kind >= 1536:
        return kind, at + 8
    raise UnusableError("not_ip")


def mpls(reading: Any, at: int) -> tuple[int | str, int]:
    data = reading.data
    reading.need(at + 5)
    bottom, at = data[at + 2] & 1, at + 4
    if not bottom:
        return 0x8847, at
    nibble = data[at] >> 4
    if nibble == 0:
        return "ethernet", at if fits(reading, at) and not fits(reading, at + 4) else at + 4
    if nibble not in (4, 6):
        return "ethernet", at
    total = number(data, at + 2, 2) if nibble == 4 else number(data, at + 4, 2) + 40
    is_ethernet = len(data) >= at + 6 and total != reading.wire_end - at and fits(reading, at)
    return "ethernet" if is_ethernet else "ip", at


def fits(reading: Any, at: int) -> bool:
    """Whether an Ethernet header can begin here."""
    data, left = reading.data, reading.wire_end - at - 14
    if len(data) < at + 15:
        return False
    kind, at = number(data, at + 12, 2), at + 14
    while kind in (0x8100, 0x88A8, 0x9100):
        if len(data) < at + 5:
            return True
        kind, at, left = number(data, at + 2, 2), at + 4, left - 4
    version, rest = data[at] >> 4, len(data) - at
    if kind == 0x0800:
        return version == 4 and data[at] & 15 >= 5 and (rest < 4 or number(data, at + 2, 2) <= left)
    if kind == 0x86DD:
        return version == 6 and (rest < 6 or number(data, at + 4, 2) + 40 <= left)
    return 3 <= kind <= left if kind < 1536 else kind in KNOWN


def ppp(reading: Any, at: int, in_multilink: bool) -> tuple[int, int]:
    data = reading.data
    reading.need(at + 1)
    size = 1 if data[at] & 1 else 2
    reading.need(at + size)
    protocol, at = number(data, at, size), at + size
    if protocol == 0x3D and not in_multilink and at < len(data) and data[at] >> 6 == 3:
        return ppp(reading, at + 4, True)
    kinds = {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847, 0x283: 0x8847}
    if protocol not in kinds:
        raise UnusableError("not_ip")
    return kinds[protocol], at


def wlan(reading: Any, start: int, kind: str) -> tuple[str, int]:
    data, need = reading.data, reading.need
    need(start + 2)
    control, flags, sequence = data[start], data[start + 1], 22
    if kind == "802.11 swapped" and flags & 15 == 8:
        control, flags, sequence = flags, control, 23
    if control & 15 != 8 or control & 0x40:
        raise UnusableError("not_ip")
    need(start + 24)
    if data[start + sequence] & 15:
        raise UnusableError("not_ip")
    first, second, third, fourth = (data[start + i : start + i + 6] for i in (4, 10, 16, 24))
    to_network, from_network = flags & 1, flags & 2
    source = (fourth if to_network else third) if from_network else second
    reading.packet.macs = source, third if to_network else first
    size = 30 if to_network and from_network else 24
    aggregated = 0
    if control & 0x80:
        need(start + size + 2)
        aggregated = data[start + size] & 0x80
        size += 6 if flags & 0x80 else 2
    if flags & 0x40:
        raise UnusableError("encrypted")
    at = start + size + (-size % 4 if kind == "802.11 padded" else 0)
    if aggregated:
        need(at + 14)
        size = 14 + number(data, at + 12, 2)
        if at + size + -size % 4 + 14 < reading.wire_end:
            reading.packet.unread = "amsdu_not_split"
        at += 14
    return "llc", at


# Tunnels


def ports_of(decapsulate: tuple[str, ...]) -> dict[int, tuple[str, bool]]:
    """UDP ports: which tunnel is there, and whether it is looked into."""
    named = {int(port): name for name, _, port in (entry.partition(":") for entry in decapsulate) if port}
    found = {port: (name, name in decapsulate) for name, ports in PORTS.items() for port in ports}
    return {8472: ("vxlan of linux", False), **found, **{port: (name, True) for port, name in named.items()}}


def udp_tunnel(reading: Any, source_port: int, destination_port: int, at: int) -> tuple[int | str, int] | None:
    """What is in a UDP datagram whose payload is at `at`; None when it is only that."""
    ports = ports_of(reading.decapsulate)
    name, wanted = ports.get(destination_port, ("", False))
    if not name:
        name, wanted = ports.get(source_port, ("", False))
        if name not in EITHER_PORT:
            return None
    inside = UDP_TUNNELS[name](reading, at, wanted)
    if inside is None or inside[1] >= len(reading.data):
        return None
    if not wanted:
        reading.packet.unread = f"{name.split()[0]}_not_decapsulated"
        return None
    return inside


def vxlan(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    if len(data) < at + 8:
        return None
    if data[at] & 4:
        return (SHIMS[data[at + 3]], at + 8) if data[at + 3] in SHIMS else None
    return ("ethernet", at + 8) if wanted or data[at] & 8 else None


def vxlan_of_linux(reading: Any, at: int, wanted: bool) -> Any:
    """At a port that is not VXLAN's: its header and an Ethernet frame, without doubt."""
    data = reading.data
    sure = len(data) >= at + 8 and data[at : at + 4] == b"\x08\0\0\0" and data[at + 7] == 0
    return ("ethernet", at + 8) if sure and fits(reading, at + 8) else None


def geneve(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    if len(data) < at + 8 or data[at] >> 6:
        return None
    kind = number(data, at + 2, 2)
    return (kind, at + 8 + 4 * (data[at] & 63)) if kind >= 1536 else None


def gtpu(reading: Any, at: int, wanted: bool) -> Any:
    """Where the inner packet of a G-PDU begins."""
    data = reading.data
    if len(data) < at + 8 or data[at] >> 5 != 1 or not data[at] & 0x10 or data[at + 1] != 255:
        return None
    inner = at + 8
    if data[at] & 7:
        inner += 4
        extension = data[at] & 4 and (data[inner - 1] if inner <= len(data) else 0)
        while extension:
            if inner >= len(data) or data[inner] == 0:
                return None
            inner += 4 * data[inner]
            if inner > len(data):
                return None
            extension = data[inner - 1]
    if inner >= len(data):
        return None
    if data[inner] >> 4 in (4, 6):
        return "ip", inner
    return ("ethernet", inner) if fits(reading, inner) else None


def tzsp(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    if len(data) < at + 5 or data[at] != 1 or data[at + 1] not in (0, 1):
        return None
    kind, at = {1: "ethernet", 18: "802.11"}.get(number(data, at + 2, 2)), at + 4
    for _ in range(32):
        if at >= len(data):
            return None
        if data[at] == 1:
            return (kind, at + 1) if kind else None
        if data[at] == 0:
            at += 1
        elif at + 1 < len(data):
            at += 2 + data[at + 1]
        else:
            return None
    return None


def capwap(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    if len(data) < at + 8 or data[at] or data[at + 3] & 8 or (data[at + 3] & 0x80 and number(data, at + 6, 2) >= 8):
        return None
    return "802.11 swapped" if data[at + 2] & 1 else "ethernet", at + 4 * (data[at + 1] >> 3)


def l2tp(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    flags = number(data, at, 2)
    if len(data) < at + 6 or flags & 0x8000 or flags & 15 != 2:
        return None
    at += 6 + 2 * bool(flags & 0x4000) + 4 * bool(flags & 0x0800)
    if flags & 0x0200:
        if len(data) < at + 2:
            return None
        at += 2 + number(data, at, 2)
    return "ppp", at


def teredo(reading: Any, at: int, wanted: bool) -> Any:
    data = reading.data
    if len(data) >= at + 4 and data[at : at + 2] == b"\0\1":
        at += 13 + data[at + 2] + data[at + 3]
    if len(data) >= at + 8 and data[at : at + 2] == b"\0\0":
        at += 8
    return ("ip", at) if len(data) >= at + 40 and data[at] >> 4 == 6 else None


UDP_TUNNELS = {
    "vxlan": vxlan, "vxlan of linux": vxlan_of_linux, "geneve": geneve, "gtpu": gtpu, "tzsp": tzsp, "capwap": capwap, "l2tp": l2tp, "teredo": teredo,
}  # fmt: skip


def ip_tunnel(reading: Any, protocol: int, at: int) -> tuple[int | str, int]:
    """What an IP packet holds that is neither TCP nor UDP."""
    if protocol == 47:
        return gre(reading, at)
    if protocol == 50:
        raise UnusableError("encrypted")
    if protocol in (4, 41):
        return allowed(reading, "ipip", "ip", at)
    if protocol == 97:
        return allowed(reading, "etherip", "ethernet", at + 2)
    if protocol == 115:
        for before in (4, 8, 12, 16):
            if fits(reading, at + before):
                return allowed(reading, "l2tp", "ethernet", at + before)
        unread(reading, "l2tp")
    if protocol in IP_TUNNELS:
        name, read = IP_TUNNELS[protocol]
        if name not in reading.decapsulate:
            unread(reading, name)
        return read(reading, at)
    raise UnusableError("not_tcp_or_udp")


def allowed(reading: Any, name: str, kind: str, at: int) -> tuple[str, int]:
    if name not in reading.decapsulate:
        unread(reading, name)
    return kind, at


def unread(reading: Any, name: str) -> None:
    reading.packet.unread = f"{name}_not_decapsulated"
    raise UnusableError("tunnel_not_decapsulated")


def gre(reading: Any, at: int) -> tuple[int | str, int]:
    data, names = reading.data, reading.decapsulate
    if len(data) < at + 4 and "gre" not in names:
        unread(reading, "gre")
    reading.need(at + 4)
    kind, flags, version = number(data, at + 2, 2), data[at], data[at + 1] & 7
    mirror = version == 0 and kind in (0x88BE, 0x22EB)
    if "gre" not in names and not (mirror and "erspan" in names):
        unread(reading, "erspan" if mirror else "gre")
    inner = at + 4 + sum(4 for bits in (0xC0, 0x20, 0x10) if flags & bits)
    if version == 1 and kind == 0x880B and flags & 0xE0 == 0x20:
        reading.need(at + 6)
        if number(data, at + 4, 2) == 0:
            raise UnusableError("not_ip")
        return "ppp", inner + (4 if data[at + 1] & 0x80 else 0)
    if version:
        raise UnusableError("not_tcp_or_udp")
    if kind == 0:
        raise UnusableError("not_ip")
    if not mirror:
        return kind, inner
    if kind == 0x88BE and not flags & 0x10:
        return "ethernet", inner
    reading.need(inner + 12)
    if data[inner] >> 4 == 1:
        return "ethernet", inner + 8
    if data[inner] >> 4 != 2:
        raise UnusableError("not_ip")
    what, more = number(data, inner + 10, 2) >> 10 & 31, data[inner + 11] & 1
    return "ip" if what == 2 else "ethernet", inner + (20 if more else 12)


# What came later has a file of its own.
READERS: dict[int, Callable[[Any, int], tuple[int | str, int]]] = encapsulations.added("READERS")
IP_TUNNELS: dict[int, tuple[str, Callable[[Any, int], tuple[int | str, int]]]] = encapsulations.added("IP_TUNNELS")
LINKS.update(encapsulations.added("LINKS"))
TYPED.update(encapsulations.added("TYPED"))
PORTS.update(encapsulations.added("PORTS"))
UDP_TUNNELS.update(encapsulations.added("UDP_TUNNELS"))
