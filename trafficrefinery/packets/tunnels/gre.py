"""GRE: plain, of PPTP, and of the mirror ports of switches (ERSPAN)."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import TunnelProgram
from trafficrefinery.packets.describing import OverIp, Tunnel
from trafficrefinery.packets.layers import (
    CUT,
    ETHERNET,
    IP_BY_VERSION,
    IPV4,
    LLC,
    NOT_TCP_OR_UDP,
    NOTHING,
    PPP,
    WCCP,
    u8,
    u16,
)

_ERSPAN_2, _ERSPAN_3 = 0x88BE, 0x22EB


@helper
def _behind_options(buffer, i):
    """RFC 2784 and 2890: checksum, key and sequence number are there if their flags are set."""
    flags = u8(buffer, i)
    return i + 4 + (4 if flags & 0xC0 else 0) + (4 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)


@helper
def _gre(buffer, i, end, wire_end):
    """RFC 2784, and PPTP's version 1 (RFC 2637)."""
    if i + 4 > end:
        return i, CUT
    version, kind, inner = u8(buffer, i + 1) & 7, u16(buffer, i + 2), _behind_options(buffer, i)
    if version == 1 and kind == PPP and u8(buffer, i) & 0xE0 == 0x20:
        if i + 6 > end:
            return i, CUT
        return inner + (4 if u8(buffer, i + 1) & 0x80 else 0), PPP if u16(buffer, i + 4) else NOTHING
    if version != 0:
        return i, -NOT_TCP_OR_UDP
    return inner, kind if kind == NOTHING or kind >= 1536 else LLC


@helper
def _is_erspan(buffer, i, end):
    if i + 4 > end or u8(buffer, i + 1) & 7 != 0:
        return False
    return u16(buffer, i + 2) == _ERSPAN_2 or u16(buffer, i + 2) == _ERSPAN_3


@helper
def _erspan(buffer, i, end, wire_end):
    """draft-foschiano-erspan. Type I has no header, and no sequence number; the first digit of the others is their
    version."""
    inner = _behind_options(buffer, i)
    if u16(buffer, i + 2) == _ERSPAN_2 and not u8(buffer, i) & 0x10:
        return inner, ETHERNET
    if inner + 12 > end:
        return i, CUT
    version = u8(buffer, inner) >> 4
    if version == 1:
        return inner + 8, ETHERNET
    if version != 2:
        return inner, NOTHING
    last = u16(buffer, inner + 10)
    return inner + (20 if last & 1 else 12), IP_BY_VERSION if (last >> 10) & 31 == 2 else ETHERNET


def _write_bpf(t: TunnelProgram) -> None:
    p = t.program
    version_1, mirror, numbered = p.label(), p.label(), p.label()
    p.load(2, 2)
    p.emit(bpf.ST, bpf.KIND)
    p.load(1, 0)
    p.emit(bpf.ST, bpf.TWO)
    p.load(1, 1)
    p.jump_if(bpf.IF_BITS, 7, version_1)
    p.emit(bpf.LD_MEMORY, bpf.KIND)
    p.jump_if_any((_ERSPAN_2, _ERSPAN_3), mirror)
    if "gre" not in t.kinds:
        p.jump(t.outer)
    else:
        _write_plain(t)
    p.place(version_1)
    if "gre" not in t.kinds:
        p.jump(t.outer)
    elif t.is_short:
        t.accept()
    else:
        _write_pptp(t)
    p.place(mirror)
    _skip_options(t)
    p.emit(bpf.LD_MEMORY, bpf.KIND)
    p.jump_if(bpf.IF_EQUAL, _ERSPAN_3, numbered)
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.jump_if(bpf.IF_BITS, 0x10, numbered)
    t.then(ETHERNET)
    p.place(numbered)
    _write_erspan(t)


def _skip_options(t: TunnelProgram) -> None:
    t.program.skip(4)
    for bits in (0xC0, 0x20, 0x10):
        t.program.skip_if(bpf.TWO, bits, 4)


def _write_plain(t: TunnelProgram) -> None:
    p = t.program
    wccp, redirected = p.label(), p.label()
    p.jump_if(bpf.IF_EQUAL, WCCP, wccp)
    _skip_options(t)
    p.emit(bpf.LD_MEMORY, bpf.KIND)
    t.then_kind_in_a()
    p.place(wccp)
    _skip_options(t)
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_if(bpf.IF_EQUAL, 4, redirected)
    p.skip(4)
    p.place(redirected)
    t.then(IPV4)


def _write_pptp(t: TunnelProgram) -> None:
    p = t.program
    p.emit(bpf.AND, 7)
    p.jump_unless(bpf.IF_EQUAL, 1, t.outer)
    p.emit(bpf.LD_MEMORY, bpf.KIND)
    p.jump_unless(bpf.IF_EQUAL, PPP, t.outer)
    p.load(1, 1)
    p.emit(bpf.ST, bpf.KIND)
    _skip_options(t)
    p.skip_if(bpf.KIND, 0x80, 4)
    t.then(PPP)


def _write_erspan(t: TunnelProgram) -> None:
    p = t.program
    version_3, ip = p.label(), p.label()
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_if(bpf.IF_EQUAL, 2, version_3)
    p.jump_unless(bpf.IF_EQUAL, 1, t.outer)
    t.then(ETHERNET, 8)
    p.place(version_3)
    p.load(2, 10)
    p.emit(bpf.ST, bpf.TWO)
    p.skip_if(bpf.TWO, 1, 8)
    p.skip(12)
    p.emit(bpf.LD_MEMORY, bpf.TWO)
    p.emit(bpf.RSH, 10)
    p.emit(bpf.AND, 31)
    p.jump_if(bpf.IF_EQUAL, 2, ip)
    t.then(ETHERNET)
    p.place(ip)
    t.then(IPV4)


TUNNELS = (
    Tunnel("gre", "GRE (RFC 2784), with PPTP and ERSPAN", ip=OverIp((47,), _gre, _write_bpf, has_room=True)),
    Tunnel(
        "erspan",
        "ERSPAN alone, the mirrored frames of a switch",
        ip=OverIp((47,), _erspan, _write_bpf, has_room=True, is_one=_is_erspan),
        included_in="gre",
    ),
)
