"""The walk over headers that our BPF programs have in common.

It goes where `wire.parse` goes: through VLAN tags, MPLS, PPPoE, SNAP, and the tunnels that are decapsulated. The kernel
takes no loops, so it is unrolled: `link_steps` headers at most before each IP header, one number for
each level of tunnels. At what lies deeper, is cut off or is no IP, a program returns 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from trafficrefinery.capture.bpf import (
    AND,
    END,
    IF_AT_LEAST,
    IF_BITS,
    IF_EQUAL,
    IF_GREATER_X,
    IP,
    KIND,
    LD_IMMEDIATE,
    LD_MEMORY,
    LDX_MEMORY,
    LSH,
    RETURN,
    RSH,
    ST,
    STX,
    SUB,
    SUB_X,
    TAX,
    TWO,
    TXA,
    Program,
)  # fmt: skip

IPV4, IPV6, TRANSPARENT_ETHERNET, ETHERNET = 0x0800, 0x86DD, 0x6558, 0x10000
_TAGS, _MPLS, _PPPOE = (0x8100, 0x88A8, 0x9100), (0x8847, 0x8848), 0x8864
_UDP, _GRE = 17, 47
EXTENSIONS = 3  # of IPv6 and of GTP-U that are walked over


class Walk:
    """The headers from the link layer to the innermost IP header; then `found` goes on, with X there."""

    def __init__(
        self,
        program: Program,
        decapsulate: Collection[str],
        link_steps: tuple[int, ...],
        found: Callable[[Program], None],
    ) -> None:
        self._p, self._decapsulate, self._found = program, set(decapsulate), found
        self._link_steps = link_steps if decapsulate else link_steps[:1]
        self._stop, self._innermost = program.label(), program.label()

    def write(self) -> None:
        """X is at a header of the kind that is in A."""
        p = self._p
        for depth, steps in enumerate(self._link_steps):
            ip = p.label()
            self._link_headers(steps, ip)
            p.place(ip)
            if depth < len(self._link_steps) - 1:
                inner, following = p.label(), p.label()
                self._tunnel(inner, following)
                p.place(inner)  # an IP header without a type before it, which its version tells
                p.emit(LD_IMMEDIATE, IPV4)
                p.place(following)
        p.place(self._innermost)
        self._found(p)
        p.place(self._stop)
        p.emit(RETURN, 0)

    def _link_headers(self, steps: int, ip: int) -> None:
        p = self._p
        for _ in range(steps):
            tag, mpls, pppoe, ethernet, snap, following = (p.label() for _ in range(6))
            for kinds, label in (
                ((IPV4, IPV6), ip),
                (_TAGS, tag),
                (_MPLS, mpls),
                ((_PPPOE,), pppoe),
                ((ETHERNET, TRANSPARENT_ETHERNET), ethernet),
            ):
                for kind in kinds:
                    p.jump_if(IF_EQUAL, kind, label)
            p.jump_unless(IF_AT_LEAST, 1536, snap)
            p.jump(self._stop)
            p.place(tag)
            p.load(2, 2)
            p.advance(4)
            p.jump(following)
            p.place(ethernet)
            p.load(2, 12)
            p.advance(14)
            p.jump(following)
            p.place(mpls)
            self._mpls(ip, following)
            p.place(pppoe)
            p.load(2, 6)
            p.advance(8)
            p.jump_if(IF_EQUAL, 0x0021, ip)
            p.jump_if(IF_EQUAL, 0x0057, ip)
            p.jump(self._stop)
            p.place(snap)
            p.load(4, 0)
            p.jump_unless(IF_EQUAL, 0xAAAA0300, self._stop)
            p.load(2, 4)
            p.jump_unless(IF_EQUAL, 0, self._stop)
            p.load(2, 6)
            p.advance(8)
            p.place(following)
        for kind in (IPV4, IPV6):
            p.jump_if(IF_EQUAL, kind, ip)
        p.jump(self._stop)

    def _mpls(self, ip: int, following: int) -> None:
        p = self._p
        bottom, control_word = p.label(), p.label()
        p.load(1, 2)
        p.advance(4)
        p.jump_if(IF_BITS, 1, bottom)
        p.emit(LD_IMMEDIATE, _MPLS[0])
        p.jump(following)
        p.place(bottom)  # the first nibble tells what follows (RFC 4928)
        p.load(1, 0)
        p.emit(RSH, 4)
        p.jump_if(IF_EQUAL, 4, ip)
        p.jump_if(IF_EQUAL, 6, ip)
        p.jump_if(IF_EQUAL, 0, control_word)
        p.emit(LD_IMMEDIATE, ETHERNET)
        p.jump(following)
        p.place(control_word)
        p.emit(LD_IMMEDIATE, ETHERNET)
        p.advance(4)
        p.jump(following)

    def _tunnel(self, inner: int, following: int) -> None:
        """From an IP header into the tunnel behind it, or to `innermost` when there is none."""
        p = self._p
        version6, gre, udp, outer = (p.label() for _ in range(4))
        p.emit(STX, IP)
        p.load(1, 0)
        p.emit(RSH, 4)
        p.jump_if(IF_EQUAL, 6, version6)
        p.jump_unless(IF_EQUAL, 4, self._stop)
        p.behind_ipv4(outer)
        self._tunnel_protocols(gre, udp, outer)
        p.place(version6)
        p.behind_ipv6(outer, EXTENSIONS)
        self._tunnel_protocols(gre, udp, outer)
        if "gre" in self._decapsulate:
            p.place(gre)
            self._gre(outer, following)
        if {"vxlan", "gtpu"} & self._decapsulate:
            p.place(udp)
            self._udp(outer, inner, following)
        p.place(outer)
        p.emit(LDX_MEMORY, IP)
        p.jump(self._innermost)

    def _tunnel_protocols(self, gre: int, udp: int, outer: int) -> None:
        p = self._p
        if "gre" in self._decapsulate:
            p.jump_if(IF_EQUAL, _GRE, gre)
        if {"vxlan", "gtpu"} & self._decapsulate:
            p.jump_if(IF_EQUAL, _UDP, udp)
        p.jump(outer)

    def _gre(self, outer: int, following: int) -> None:
        p = self._p
        p.load(1, 1)
        p.jump_if(IF_BITS, 7, outer)  # version 1 is PPTP's
        p.load(2, 2)
        p.emit(ST, KIND)
        p.load(1, 0)
        p.emit(ST, TWO)
        p.advance(4)
        for bits in (0xC0, 0x20, 0x10):
            absent = p.label()
            p.emit(LD_MEMORY, TWO)
            p.jump_unless(IF_BITS, bits, absent)
            p.advance(4)
            p.place(absent)
        p.emit(LD_MEMORY, KIND)
        p.jump(following)

    def _udp(self, outer: int, inner: int, following: int) -> None:
        p = self._p
        vxlan, gtpu = p.label(), p.label()
        p.emit(LD_MEMORY, END)
        p.emit(SUB_X)
        p.jump_unless(IF_AT_LEAST, 16, outer)
        p.load(2, 2)
        if "vxlan" in self._decapsulate:
            p.jump_if(IF_EQUAL, 4789, vxlan)
        if "gtpu" in self._decapsulate:
            p.jump_if(IF_EQUAL, 2152, gtpu)
            p.load(2, 0)
            p.jump_if(IF_EQUAL, 2152, gtpu)
        p.jump(outer)
        if "vxlan" in self._decapsulate:
            p.place(vxlan)
            p.emit(LD_IMMEDIATE, ETHERNET)
            p.advance(16)
            p.jump(following)
        if "gtpu" in self._decapsulate:
            p.place(gtpu)
            self._gtpu(outer, inner)

    def _gtpu(self, outer: int, inner: int) -> None:
        """A G-PDU (3GPP TS 29.281), with its extension headers."""
        p = self._p
        behind, extended = p.label(), p.label()
        p.load(1, 8)
        p.emit(ST, TWO)
        p.emit(AND, 0xF0)
        p.jump_unless(IF_EQUAL, 0x30, outer)
        p.load(1, 9)
        p.jump_unless(IF_EQUAL, 255, outer)
        p.advance(16)
        p.emit(LD_MEMORY, TWO)
        p.jump_unless(IF_BITS, 7, behind)
        p.advance(4)
        p.jump_unless(IF_BITS, 4, behind)
        p.emit(TXA)
        p.emit(SUB, 1)
        p.emit(TAX)
        for _ in range(EXTENSIONS):  # X is at the type of the next header
            p.load(1, 0)
            p.jump_if(IF_EQUAL, 0, extended)
            p.load(1, 1)
            p.jump_if(IF_EQUAL, 0, outer)
            p.emit(LSH, 2)
            p.advance_by_a()
        p.place(extended)
        p.advance(1)
        p.place(behind)
        p.emit(LD_MEMORY, END)
        p.jump_if(IF_GREATER_X, 0, inner)
        p.jump(outer)
