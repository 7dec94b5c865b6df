"""The part of our BPF programs that looks into tunnels, as `tunnels` does for the packet loop."""

from __future__ import annotations

from collections.abc import Collection

from trafficrefinery.packets.layers import ETHERNET, IPV4, IPV6, MPLS, NSH, PPP, QINQ, TUNNELS, VLAN, WCCP
from trafficrefinery.packets.tunnels import EITHER_PORT, ports_read

from .assembler import (  # fmt: skip
    ADD,
    AND,
    END,
    IF_AT_LEAST,
    IF_BITS,
    IF_EQUAL,
    IF_GREATER_X,
    KIND,
    LD_IMMEDIATE,
    LD_MEMORY,
    LSH,
    RETURN,
    RSH,
    ST,
    SUB,
    SUB_X,
    TAX,
    TWO,
    TXA,
    WHOLE_FRAME,
    Program,
)

_GRE, _UDP, _L2TP, _ETHERIP, _IP_IN_IP = 47, 17, 115, 97, (4, 41)
_ERSPAN_2, _ERSPAN_3 = 0x88BE, 0x22EB
_SHIM_KINDS = {1: IPV4, 2: IPV6, 3: ETHERNET, 4: NSH, 5: MPLS}
_RARE = ("tzsp", "capwap", "l2tp", "teredo")
_MOST = 3  # extension headers of GTP-U, and tags of TZSP, that are walked over


class Tunnels:
    """What is behind an IP header, if the configuration says that it is looked into."""

    def __init__(self, program: Program, decapsulate: Collection[str], *, is_short: bool) -> None:
        self._p, self._ports, self._is_short = program, ports_read(decapsulate), is_short
        self._kinds = {entry for entry in decapsulate if ":" not in entry}
        self._fits = self._outer = self._following = 0

    def write(self, outer: int, following: int) -> None:
        """X is behind an IP header, whose protocol is in A: to `following` with the next kind in A, or to `outer`."""
        p = self._p
        gre, ip, etherip, l2tp, udp = (p.label() for _ in range(5))
        self._outer, self._following, self._fits = outer, following, p.label()
        bodies = []
        if {"gre", "erspan"} & self._kinds:
            p.jump_if(IF_EQUAL, _GRE, gre)
            bodies.append((gre, self._gre))
        if "ipip" in self._kinds:
            for protocol in _IP_IN_IP:
                p.jump_if(IF_EQUAL, protocol, ip)
            bodies.append((ip, lambda: self._then(IPV4)))  # the version tells
        if "etherip" in self._kinds:
            p.jump_if(IF_EQUAL, _ETHERIP, etherip)
            bodies.append((etherip, lambda: self._then(ETHERNET, 2)))
        if "l2tp" in self._kinds:
            p.jump_if(IF_EQUAL, _L2TP, l2tp)
            bodies.append((l2tp, self._accept if self._is_short else self._l2tp_3))
        if self._ports:
            p.jump_if(IF_EQUAL, _UDP, udp)
            bodies.append((udp, self._udp))
        p.jump(outer)
        for label, body in bodies:
            p.place(label)
            body()
        p.place(self._fits)  # what is in a datagram has to begin before its end; its kind is in KIND
        p.emit(LD_MEMORY, END)
        p.jump_unless(IF_GREATER_X, 0, outer)
        p.emit(LD_MEMORY, KIND)
        p.jump(following)

    def _accept(self) -> None:
        self._p.emit(RETURN, WHOLE_FRAME)

    def _then(self, kind: int, count: int = 0) -> None:
        if count:
            self._p.skip(count)
        self._p.emit(LD_IMMEDIATE, kind)
        self._p.jump(self._following)

    def _then_in_datagram(self, kind: int) -> None:
        self._p.emit(LD_IMMEDIATE, kind)
        self._p.emit(ST, KIND)
        self._p.jump(self._fits)

    def _gre(self) -> None:
        p = self._p
        version_1, mirror, numbered = p.label(), p.label(), p.label()
        p.load(2, 2)
        p.emit(ST, KIND)
        p.load(1, 0)
        p.emit(ST, TWO)
        p.load(1, 1)
        p.jump_if(IF_BITS, 7, version_1)
        p.emit(LD_MEMORY, KIND)
        p.jump_if(IF_EQUAL, _ERSPAN_2, mirror)
        p.jump_if(IF_EQUAL, _ERSPAN_3, mirror)
        if "gre" not in self._kinds:
            p.jump(self._outer)
        else:
            wccp, redirected = p.label(), p.label()
            p.jump_if(IF_EQUAL, WCCP, wccp)
            self._behind_gre_options()
            p.emit(LD_MEMORY, KIND)
            p.jump(self._following)
            p.place(wccp)
            self._behind_gre_options()
            p.load(1, 0)
            p.emit(RSH, 4)
            p.jump_if(IF_EQUAL, 4, redirected)
            p.skip(4)
            p.place(redirected)
            self._then(IPV4)
        p.place(version_1)
        if "gre" in self._kinds:
            self._accept() if self._is_short else self._pptp()
        else:
            p.jump(self._outer)
        p.place(mirror)
        self._behind_gre_options()
        p.emit(LD_MEMORY, KIND)
        p.jump_if(IF_EQUAL, _ERSPAN_3, numbered)
        p.emit(LD_MEMORY, TWO)
        p.jump_if(IF_BITS, 0x10, numbered)
        self._then(ETHERNET)
        p.place(numbered)
        self._erspan()

    def _behind_gre_options(self) -> None:
        p = self._p
        p.skip(4)
        for bits in (0xC0, 0x20, 0x10):
            absent = p.label()
            p.emit(LD_MEMORY, TWO)
            p.jump_unless(IF_BITS, bits, absent)
            p.skip(4)
            p.place(absent)

    def _pptp(self) -> None:
        """Version 1 of GRE (RFC 2637)."""
        p = self._p
        unacknowledged = p.label()
        p.emit(AND, 7)
        p.jump_unless(IF_EQUAL, 1, self._outer)
        p.emit(LD_MEMORY, KIND)
        p.jump_unless(IF_EQUAL, PPP, self._outer)
        p.load(1, 1)
        p.emit(ST, KIND)
        self._behind_gre_options()
        p.emit(LD_MEMORY, KIND)
        p.jump_unless(IF_BITS, 0x80, unacknowledged)
        p.skip(4)
        p.place(unacknowledged)
        self._then(PPP)

    def _erspan(self) -> None:
        p = self._p
        version_3, short, ip = p.label(), p.label(), p.label()
        p.load(1, 0)
        p.emit(RSH, 4)
        p.jump_if(IF_EQUAL, 2, version_3)
        p.jump_unless(IF_EQUAL, 1, self._outer)
        self._then(ETHERNET, 8)
        p.place(version_3)
        p.load(2, 10)
        p.emit(ST, TWO)
        p.jump_unless(IF_BITS, 1, short)
        p.skip(8)
        p.place(short)
        p.skip(12)
        p.emit(LD_MEMORY, TWO)
        p.emit(RSH, 10)
        p.emit(AND, 31)
        p.jump_if(IF_EQUAL, 2, ip)
        self._then(ETHERNET)
        p.place(ip)
        self._then(IPV4)

    def _l2tp_3(self) -> None:
        p = self._p
        for header_bytes in range(4, 20, 4):
            here, next_one = p.label(), p.label()
            p.load(2, header_bytes + 12)
            for kind in (IPV4, IPV6, VLAN, QINQ):
                p.jump_if(IF_EQUAL, kind, here)
            p.jump(next_one)
            p.place(here)
            self._then(ETHERNET, header_bytes)
            p.place(next_one)
        p.jump(self._outer)

    def _udp(self) -> None:
        p = self._p
        p.emit(LD_MEMORY, END)
        p.emit(SUB_X)
        p.jump_unless(IF_AT_LEAST, 16, self._outer)
        labels = {name: p.label() for name in sorted(set(self._ports.values()))}
        usual = [port for ports in TUNNELS.values() for port in ports]
        p.load(2, 2)
        for port, name in self._ports.items():
            p.jump_if(IF_EQUAL, port, labels[name])
        for port in set(usual) - set(self._ports):
            p.jump_if(IF_EQUAL, port, self._outer)
        p.load(2, 0)
        for port, name in self._ports.items():
            if name in EITHER_PORT:
                p.jump_if(IF_EQUAL, port, labels[name])
        p.jump(self._outer)
        for name, label in labels.items():
            p.place(label)
            if self._is_short and name in _RARE:
                self._accept()
                continue
            {
                "vxlan": self._vxlan, "geneve": self._geneve, "gtpu": self._gtpu, "tzsp": self._tzsp,
                "capwap": self._capwap, "l2tp": self._l2tp, "teredo": self._teredo,
            }[name]()  # fmt: skip

    def _vxlan(self) -> None:
        p = self._p
        extended = p.label()
        p.load(1, 8)
        p.jump_if(IF_BITS, 4, extended)
        p.skip(16)
        self._then_in_datagram(ETHERNET)
        p.place(extended)
        p.load(1, 11)
        p.advance(16)
        for number, kind in _SHIM_KINDS.items():
            other = p.label()
            p.jump_unless(IF_EQUAL, number, other)
            self._then_in_datagram(kind)
            p.place(other)
        p.jump(self._outer)

    def _geneve(self) -> None:
        p = self._p
        p.load(1, 8)
        p.jump_if(IF_BITS, 0xC0, self._outer)
        p.load(2, 10)
        p.jump_unless(IF_AT_LEAST, 1536, self._outer)
        p.emit(ST, KIND)
        p.load(1, 8)
        p.emit(AND, 63)
        p.emit(LSH, 2)
        p.emit(ADD, 16)
        p.advance_by_a()
        p.jump(self._fits)

    def _gtpu(self) -> None:
        """A G-PDU (3GPP TS 29.281), with its extension headers."""
        p = self._p
        behind, extended, ip = p.label(), p.label(), p.label()
        p.load(1, 8)
        p.emit(ST, TWO)
        p.emit(AND, 0xF0)
        p.jump_unless(IF_EQUAL, 0x30, self._outer)
        p.load(1, 9)
        p.jump_unless(IF_EQUAL, 255, self._outer)
        p.skip(16)
        p.emit(LD_MEMORY, TWO)
        p.jump_unless(IF_BITS, 7, behind)
        p.advance(4)
        p.jump_unless(IF_BITS, 4, behind)
        p.emit(TXA)
        p.emit(SUB, 1)
        p.emit(TAX)
        for _ in range(_MOST):  # X is at the type of the next header
            p.load(1, 0)
            p.jump_if(IF_EQUAL, 0, extended)
            p.load(1, 1)
            p.jump_if(IF_EQUAL, 0, self._outer)
            p.emit(LSH, 2)
            p.advance_by_a()
        p.place(extended)
        p.skip(1)
        p.place(behind)
        p.emit(LD_MEMORY, END)
        p.jump_unless(IF_GREATER_X, 0, self._outer)
        p.load(1, 0)
        p.emit(RSH, 4)
        for version in (4, 6):
            p.jump_if(IF_EQUAL, version, ip)
        self._if_ethernet()
        p.place(ip)
        self._then_in_datagram(IPV4)

    def _if_ethernet(self) -> None:
        """To `outer`, unless the type of an Ethernet header is one that can be read."""
        p = self._p
        here = p.label()
        p.load(2, 12)
        for kind in (IPV4, IPV6, VLAN, QINQ):
            p.jump_if(IF_EQUAL, kind, here)
        p.jump(self._outer)
        p.place(here)
        self._then_in_datagram(ETHERNET)

    def _tzsp(self) -> None:
        p = self._p
        last, next_one, wlan = p.label(), p.label(), p.label()
        p.load(1, 8)
        p.jump_unless(IF_EQUAL, 1, self._outer)
        p.load(1, 9)
        p.jump_if(IF_AT_LEAST, 2, self._outer)
        p.load(2, 10)
        p.emit(ST, KIND)
        p.skip(12)
        for _ in range(_MOST):
            padding, next_one = p.label(), p.label()
            p.load(1, 0)
            p.jump_if(IF_EQUAL, 1, last)
            p.jump_if(IF_EQUAL, 0, padding)
            p.load(1, 1)
            p.emit(ADD, 2)
            p.advance_by_a()
            p.jump(next_one)
            p.place(padding)
            p.skip(1)
            p.place(next_one)
        p.load(1, 0)
        p.jump_unless(IF_EQUAL, 1, self._outer)
        p.place(last)
        p.skip(1)
        p.emit(LD_MEMORY, KIND)
        p.jump_if(IF_EQUAL, 18, wlan)
        p.jump_unless(IF_EQUAL, 1, self._outer)
        self._then_in_datagram(ETHERNET)
        p.place(wlan)
        self._wlan(0, 1)

    def _capwap(self) -> None:
        """RFC 5415, 4.3."""
        p = self._p
        whole, wlan, normal = p.label(), p.label(), p.label()
        p.load(4, 8)
        p.jump_if(IF_BITS, 0xFF000008, self._outer)
        p.jump_unless(IF_BITS, 0x80, whole)
        p.load(2, 14)
        p.jump_if(IF_BITS, 0xFFF8, self._outer)
        p.place(whole)
        p.load(1, 10)
        p.emit(ST, TWO)
        p.load(1, 9)
        p.emit(RSH, 3)
        p.emit(LSH, 2)
        p.emit(ADD, 8)
        p.advance_by_a()
        p.emit(LD_MEMORY, TWO)
        p.jump_if(IF_BITS, 1, wlan)
        self._then_in_datagram(ETHERNET)
        p.place(wlan)
        p.load(1, 1)
        p.emit(AND, 15)
        p.jump_unless(IF_EQUAL, 8, normal)
        self._wlan(1, 0)
        p.place(normal)
        self._wlan(0, 1)

    def _wlan(self, control: int, flags: int) -> None:
        """A data frame of IEEE 802.11 up to LLC; where the two bytes of its frame control are."""
        p = self._p
        three, plain, short, single = (p.label() for _ in range(4))
        p.load(1, control)
        p.emit(AND, 0x4F)
        p.jump_unless(IF_EQUAL, 8, self._outer)
        p.load(1, control)
        p.emit(ST, TWO)
        p.load(1, flags)
        p.emit(ST, KIND)
        p.jump_if(IF_BITS, 0x40, self._outer)
        p.emit(AND, 3)
        p.jump_unless(IF_EQUAL, 3, three)
        p.skip(6)
        p.place(three)
        p.emit(LD_MEMORY, TWO)
        p.jump_unless(IF_BITS, 0x80, plain)
        p.load(1, 24)
        p.emit(ST, TWO)
        p.emit(LD_MEMORY, KIND)
        p.jump_unless(IF_BITS, 0x80, short)
        p.skip(4)
        p.place(short)
        p.skip(2)
        p.emit(LD_MEMORY, TWO)
        p.jump_unless(IF_BITS, 0x80, single)
        p.skip(14)
        p.place(single)
        p.place(plain)
        p.skip(24)
        self._then_in_datagram(4)

    def _l2tp(self) -> None:
        """Version 2 (RFC 2661, 3.1)."""
        p = self._p
        p.load(2, 8)
        p.emit(ST, TWO)
        p.emit(AND, 0x800F)
        p.jump_unless(IF_EQUAL, 2, self._outer)
        p.skip(14)
        for bits, count in ((0x4000, 2), (0x0800, 4)):
            absent = p.label()
            p.emit(LD_MEMORY, TWO)
            p.jump_unless(IF_BITS, bits, absent)
            p.skip(count)
            p.place(absent)
        absent = p.label()
        p.emit(LD_MEMORY, TWO)
        p.jump_unless(IF_BITS, 0x0200, absent)
        p.load(2, 0)
        p.emit(ADD, 2)
        p.advance_by_a()
        p.place(absent)
        self._then_in_datagram(PPP)

    def _teredo(self) -> None:
        """RFC 4380, 5.1.1."""
        p = self._p
        plain, direct = p.label(), p.label()
        p.skip(8)
        p.load(2, 0)
        p.jump_unless(IF_EQUAL, 1, plain)
        p.load(1, 2)
        p.emit(ST, TWO)
        p.load(1, 3)
        p.emit(ADD, 13)
        p.advance_by_a()
        p.emit(LD_MEMORY, TWO)
        p.advance_by_a()
        p.place(plain)
        p.load(2, 0)
        p.jump_unless(IF_EQUAL, 0, direct)
        p.skip(8)
        p.place(direct)
        p.load(1, 0)
        p.emit(RSH, 4)
        p.jump_unless(IF_EQUAL, 6, self._outer)
        self._then_in_datagram(IPV6)
