"""Classic BPF programs of our own: which worker a frame goes to, and which frames carry DNS."""

from __future__ import annotations

from collections.abc import Collection

from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import Program

from .headers import EXTENSIONS, Walk

_TCP, _UDP, _DNS_PORT = 6, 17, 53
FANOUT_STEPS = (7, 4, 4)
# The kernel charges a socket filter to net.core.optmem_max, 20 KiB before Linux 6.8.
DNS_STEPS = (4, 2)


def address_hash(has_ethernet_header: bool, decapsulate: Collection[str] = ()) -> bytes:
    """The fanout program: a hash of the unordered pair of the innermost IP addresses, 0 for what is no IP.

    It sees incoming frames from the network header on, and outgoing ones from the link header.
    """
    p = Program()
    ready, incoming = p.label(), p.label()
    if has_ethernet_header:
        p.emit(bpf.LD_WORD_AT, bpf.PACKET_TYPE)
        p.jump_unless(bpf.IF_EQUAL, bpf.OUTGOING, incoming)
        _begin_at_ethernet_header(p)
        p.jump(ready)
        p.place(incoming)
    _begin_at_network_header(p)
    p.place(ready)
    Walk(p, decapsulate, FANOUT_STEPS, _hash_addresses).write()
    return p.assembled()


def dns_filter(has_ethernet_header: bool, decapsulate: Collection[str] = ()) -> bytes:
    """The socket filter for UDP and TCP of port 53 above the innermost IP header."""
    p = Program()
    if has_ethernet_header:
        _begin_at_ethernet_header(p)
    else:
        _begin_at_network_header(p)
    Walk(p, decapsulate, DNS_STEPS, _accept_dns, is_short=True).write()
    return p.assembled()


def _begin_at_ethernet_header(p: Program) -> None:
    p.emit(bpf.LD_HALF_AT, 12)
    p.emit(bpf.LDX_IMMEDIATE, 14)


def _begin_at_network_header(p: Program) -> None:
    p.emit(bpf.LD_WORD_AT, bpf.PROTOCOL)
    p.emit(bpf.LDX_IMMEDIATE, 0)


def _hash_addresses(p: Program) -> None:
    version6, finish = p.label(), p.label()
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_if(bpf.IF_EQUAL, 6, version6)
    _mix_words(p, [(12, 16)])
    p.jump(finish)
    p.place(version6)
    _mix_words(p, [(8 + word, 24 + word) for word in (0, 4, 8, 12)])
    p.place(finish)
    p.emit(bpf.LD_MEMORY, bpf.THREE)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the last steps of MurmurHash3
        _fold(p, shift)
        p.emit(bpf.MUL, factor)
    _fold(p, 16)
    p.emit(bpf.RETURN_A)


def _mix_words(p: Program, pairs: list[tuple[int, int]]) -> None:
    """Hash pairs of words at X into memory THREE; which one of a pair comes first makes no difference."""
    p.emit(bpf.STX, bpf.IP)
    p.emit(bpf.LD_IMMEDIATE, 0)
    p.emit(bpf.ST, bpf.THREE)
    for first, second in pairs:
        p.emit(bpf.LDX_MEMORY, bpf.IP)
        p.load(4, first)
        p.emit(bpf.ST, bpf.ONE)
        p.load(4, second)
        p.emit(bpf.ST, bpf.TWO)
        p.emit(bpf.LDX_MEMORY, bpf.ONE)
        _mix(p, bpf.ADD_X, bpf.XOR_X, 0x9E3779B1)
        p.emit(bpf.LD_MEMORY, bpf.TWO)
        p.emit(bpf.LDX_MEMORY, bpf.ONE)
        _mix(p, bpf.XOR_X, bpf.ADD_X, 0xC2B2AE3D)


def _mix(p: Program, join: int, enter: int, factor: int) -> None:
    """THREE = (THREE enter (A join X)) * factor"""
    p.emit(join)
    p.emit(bpf.LDX_MEMORY, bpf.THREE)
    p.emit(enter)
    p.emit(bpf.MUL, factor)
    p.emit(bpf.ST, bpf.THREE)


def _fold(p: Program, shift: int) -> None:
    """A ^= A >> shift"""
    p.emit(bpf.TAX)
    p.emit(bpf.RSH, shift)
    p.emit(bpf.XOR_X)


def _accept_dns(p: Program) -> None:
    version6, transport, ports, accept, reject = (p.label() for _ in range(5))
    p.load(1, 0)
    p.emit(bpf.RSH, 4)
    p.jump_if(bpf.IF_EQUAL, 6, version6)
    p.behind_ipv4(reject)
    p.jump(transport)
    p.place(version6)
    p.behind_ipv6(reject, EXTENSIONS)
    p.place(transport)
    p.jump_if(bpf.IF_EQUAL, _UDP, ports)
    p.jump_unless(bpf.IF_EQUAL, _TCP, reject)
    p.place(ports)
    for offset in (0, 2):
        p.load(2, offset)
        p.jump_if(bpf.IF_EQUAL, _DNS_PORT, accept)
    p.place(reject)
    p.emit(bpf.RETURN, 0)
    p.place(accept)
    p.emit(bpf.RETURN, bpf.WHOLE_FRAME)
