"""The walk over headers that our BPF programs have in common.

It goes where `parser.parse` goes: through VLAN tags, MPLS, PPPoE and other tags, SNAP, and the tunnels that are
decapsulated (`tunnels`). The kernel takes no loops, so it is unrolled: `link_steps` headers at most before each IP
header, one number for each level of tunnels. At what lies deeper, is cut off or is no IP, a program returns 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import Program
from trafficrefinery.packets.layers import (  # fmt: skip
    CISCO_META,
    ETAG,
    ETHERNET,
    FABRICPATH,
    HSR,
    IPV4,
    IPV6,
    ITAG,
    MACSEC,
    MPLS,
    MPLS_M,
    NSH,
    PPP,
    PPPOE,
    QINQ,
    QINQ_OLD,
    TEB,
    TRILL,
    VLAN,
    VNTAG,
)

from .tunnels import Tunnels

EXTENSIONS = 3  # of IPv6 that are walked over
_RARE_STEPS = 2  # of each level, where what is rarest is looked for
_BEFORE_TYPE = {2: (VLAN, QINQ, QINQ_OLD), 4: (VNTAG, HSR), 6: (ETAG, CISCO_META), 12: (ETHERNET, TEB)}  # bytes


class Walk:
    """The headers from the link layer to the innermost IP header; then `found` goes on, with X there.

    Args:
        is_short: leave out what is rarest (NSH, MACsec, TRILL, and addresses that look like IP behind MPLS labels), and
            accept all frames with tunnels of the rarer kinds, for a program that has to be small.
    """

    def __init__(
        self,
        program: Program,
        decapsulate: Collection[str],
        link_steps: tuple[int, ...],
        found: Callable[[Program], None],
        *,
        is_short: bool = False,
    ) -> None:
        self._p, self._found, self._is_short = program, found, is_short
        self._tunnels = Tunnels(program, decapsulate, is_short=is_short)
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
                following = p.label()
                self._tunnel(following)
                p.place(following)
        p.place(self._innermost)
        self._found(p)
        p.place(self._stop)
        p.emit(bpf.RETURN, 0)

    def _tunnel(self, following: int) -> None:
        """From an IP header into the tunnel behind it, or to `innermost` when there is none."""
        p = self._p
        version6, transport, outer = (p.label() for _ in range(3))
        p.emit(bpf.STX, bpf.IP)
        p.load(1, 0)
        p.emit(bpf.RSH, 4)
        p.jump_if(bpf.IF_EQUAL, 6, version6)
        p.jump_unless(bpf.IF_EQUAL, 4, self._stop)
        p.behind_ipv4(outer)
        p.jump(transport)
        p.place(version6)
        p.behind_ipv6(outer, EXTENSIONS)
        p.place(transport)
        self._tunnels.write(outer, following)
        p.place(outer)
        p.emit(bpf.LDX_MEMORY, bpf.IP)
        p.jump(self._innermost)

    def _link_headers(self, steps: int, ip: int) -> None:
        for step in range(steps):
            self._link_header(ip, has_rare=not self._is_short and step < _RARE_STEPS)
        self._p.jump_if_any((IPV4, IPV6), ip)
        self._p.jump(self._stop)

    def _link_header(self, ip: int, *, has_rare: bool) -> None:
        p = self._p
        following, snap, typed = p.label(), p.label(), p.label()
        cases: list[tuple[tuple[int, ...], Callable[[], None]]] = [
            *((kinds, partial(p.emit, bpf.LD_IMMEDIATE, before)) for before, kinds in _BEFORE_TYPE.items()),
            ((MPLS, MPLS_M), partial(self._mpls, ip, following)),
            ((PPPOE,), partial(self._ppp, ip, 6, has_rare)),
            ((ITAG,), partial(self._ethernet_behind, 4)),
        ]
        if has_rare:
            cases += [
                ((FABRICPATH,), partial(self._ethernet_behind, 2)),
                ((PPP,), partial(self._ppp, ip, 0, has_rare)),
                ((NSH,), partial(self._nsh, ip)),
                ((MACSEC,), self._macsec),
                ((TRILL,), self._trill),
            ]
        p.jump_if_any((IPV4, IPV6), ip)
        p.jump_unless(bpf.IF_AT_LEAST, 1536, snap)
        bodies = [p.label() for _ in cases]
        for body, (kinds, _) in zip(bodies, cases, strict=True):
            p.jump_if_any(kinds, body)
        p.jump(self._stop)
        for number, (body, (_, write)) in enumerate(zip(bodies, cases, strict=True)):
            p.place(body)
            write()
            p.jump(typed if number < len(_BEFORE_TYPE) else following)
        p.place(snap)
        self._snap()
        p.place(typed)  # A: how far away the next type is
        p.advance_by_a()
        p.load(2, 0)
        p.advance(2)
        p.place(following)

    def _ethernet_behind(self, count: int) -> None:
        self._p.skip(count)
        self._p.emit(bpf.LD_IMMEDIATE, ETHERNET)

    def _snap(self) -> None:
        """A SNAP header of RFC 1042, or of a bridge tunnel."""
        p = self._p
        known = p.label()
        p.load(4, 0)
        p.jump_unless(bpf.IF_EQUAL, 0xAAAA0300, self._stop)
        p.load(2, 4)
        p.jump_if(bpf.IF_EQUAL, 0, known)
        p.jump_unless(bpf.IF_EQUAL, 0xF8, self._stop)
        p.place(known)
        p.emit(bpf.LD_IMMEDIATE, 6)

    def _ppp(self, ip: int, before: int, has_rare: bool) -> None:
        p = self._p
        whole, short = p.label(), p.label()
        if before:
            p.skip(before)
        if has_rare:
            p.load(2, 0)
            p.jump_unless(bpf.IF_EQUAL, 0xFF03, whole)
            p.skip(2)
            p.place(whole)
        p.load(1, 0)
        p.jump_if(bpf.IF_BITS, 1, short)
        p.load(2, 0)
        p.advance(1)
        p.place(short)
        p.advance(1)
        p.jump_if_any((0x21, 0x57), ip)
        p.jump_unless(bpf.IF_EQUAL, 0x281, self._stop)
        p.emit(bpf.LD_IMMEDIATE, MPLS)

    def _nsh(self, ip: int) -> None:
        """RFC 8300, 2.2."""
        p = self._p
        ethernet, known = p.label(), p.label()
        p.load(1, 3)
        p.emit(bpf.ST, bpf.KIND)
        p.load(1, 1)
        p.emit(bpf.AND, 63)
        p.emit(bpf.LSH, 2)
        p.advance_by_a()
        p.emit(bpf.LD_MEMORY, bpf.KIND)
        p.jump_if_any((1, 2), ip)
        p.jump_if(bpf.IF_EQUAL, 3, ethernet)
        p.jump_unless(bpf.IF_EQUAL, 5, self._stop)
        p.emit(bpf.LD_IMMEDIATE, MPLS)
        p.jump(known)
        p.place(ethernet)
        p.emit(bpf.LD_IMMEDIATE, ETHERNET)
        p.place(known)

    def _macsec(self) -> None:
        p = self._p
        short = p.label()
        p.load(1, 0)
        p.jump_if(bpf.IF_BITS, 0x0C, self._stop)
        p.jump_unless(bpf.IF_BITS, 0x20, short)
        p.skip(8)
        p.place(short)
        p.load(2, 6)
        p.advance(8)

    def _trill(self) -> None:
        p = self._p
        p.load(2, 0)
        p.emit(bpf.RSH, 6)
        p.emit(bpf.AND, 31)
        p.emit(bpf.LSH, 2)
        p.emit(bpf.ADD, 6)
        p.advance_by_a()
        p.emit(bpf.LD_IMMEDIATE, ETHERNET)

    def _mpls(self, ip: int, following: int) -> None:
        p = self._p
        bottom, none, digit, ethernet, control_word = (p.label() for _ in range(5))
        p.load(1, 2)
        p.advance(4)
        p.jump_if(bpf.IF_BITS, 1, bottom)
        p.emit(bpf.LD_IMMEDIATE, MPLS)
        p.jump(following)
        p.place(bottom)  # the first digit tells what follows (RFC 4928), or what fits
        p.load(1, 0)
        p.emit(bpf.RSH, 4)
        p.jump_if(bpf.IF_EQUAL, 0, none)
        p.jump_if(bpf.IF_EQUAL, 4, digit)
        p.jump_unless(bpf.IF_EQUAL, 6, ethernet)
        p.place(digit)
        self._ip_unless_ethernet_fits(ip, ethernet)
        p.place(none)
        p.jump_if_type_at(16, control_word)
        p.jump_if_type_at(12, ethernet)
        p.place(control_word)
        p.skip(4)
        p.place(ethernet)
        p.emit(bpf.LD_IMMEDIATE, ETHERNET)

    def _ip_unless_ethernet_fits(self, ip: int, ethernet: int) -> None:
        """A is an IP version, or part of an address: to `ethernet` where a type says so and the length does not."""
        p = self._p
        version6, length, type4, type6 = (p.label() for _ in range(4))
        if self._is_short:
            p.jump(ip)
            return
        p.jump_if(bpf.IF_EQUAL, 6, version6)
        p.load(2, 2)
        p.jump(length)
        p.place(version6)
        p.load(2, 4)
        p.emit(bpf.ADD, 40)
        p.place(length)
        p.emit(bpf.ADD_X)
        p.emit(bpf.STX, bpf.IP)
        p.emit(bpf.TAX)
        p.emit(bpf.LD_LEN)
        p.emit(bpf.SUB_X)
        p.emit(bpf.LDX_MEMORY, bpf.IP)
        p.jump_if(bpf.IF_EQUAL, 0, ip)
        p.load(2, 12)
        p.jump_if_any((VLAN, QINQ), ethernet)
        p.jump_if(bpf.IF_EQUAL, IPV4, type4)
        p.jump_if(bpf.IF_EQUAL, IPV6, type6)
        p.jump(ip)
        for label, version in ((type4, 4), (type6, 6)):
            p.place(label)
            p.load(1, 14)
            p.emit(bpf.RSH, 4)
            p.jump_if(bpf.IF_EQUAL, version, ethernet)
            p.jump(ip)
