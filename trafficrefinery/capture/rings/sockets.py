"""Packet sockets with a TPACKET_V3 ring: how they are made and joined, so that no frame is seen by half of them.

A socket is made with protocol 0, given its ring and a filter that accepts nothing, and only then bound and joined to
its group. When all of them are there, the filter goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from trafficrefinery.capture.bpf.filters import compile_filter
from trafficrefinery.capture.bpf.programs import address_hash, dns_filter
from trafficrefinery.capture.interfaces import (
    Link,
    available_memory_bytes,
    find_link,
    interface_runs,
    no_such_interface,
)
from trafficrefinery.config.daemon import Capture
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.errors import UsageError
from trafficrefinery.packets.bpf import NOTHING

from .card_clocks import start_card_clock

SOL_PACKET = 263
PACKET_STATISTICS = 6
_ADD_MEMBERSHIP, _RX_RING, _VERSION, _TIMESTAMP, _FANOUT, _FANOUT_DATA, _IGNORE_OUTGOING = 1, 5, 10, 17, 18, 22, 23
_TPACKET_V3, _PROMISCUOUS, _RAW_HARDWARE = 2, 1, 1 << 6
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_ALL_PROTOCOLS = 0x0003
_FANOUT_KINDS = {"hash": 0, "cpu": 2, "queue": 5, "addresses": 6}
_UNIQUE_ID = 0x2000

_FRAME_SLOT_BYTES = 2048  # TPACKET_V3 packs frames; the kernel only checks that blocks are divided evenly
_BLOCK_OVERHEAD_BYTES = 256  # headers of a block and of its first frame
_NAMES_RING_BYTES, _NAMES_BLOCK_BYTES = 8 << 20, 32 << 10
_MEMORY_SHARE = 0.9  # of what is available; beyond it the kernel would stop other programs to make room

_ETHERNET, _LOOPBACK = 1, 772
# ARPHRD_ numbers of links with IP packets. Where there may be a link header, the kernel takes it off.
_RAW_IP = {65534, 519}  # none (tun), rawip
_COOKED_IP = {512, 32, 768, 769, 776, 778, 823}  # ppp, infiniband, ipip, ip6tnl, sit, gre, ip6gre

log = logging.getLogger(__name__)


class Frames(NamedTuple):
    """What the frames of a link look like."""

    link_type: int  # LINKTYPE_ number of pcap
    header_bytes: int
    socket_kind: int


@dataclass(frozen=True)
class RingSocket:
    """A bound socket with its ring, which a worker maps. A child process gets it as an argument of its `Process`.

    Attributes:
        frame_bytes: the most that a frame of the link has, without VLAN tags.
    """

    socket: socket.socket
    interface: str
    link_type: int
    frame_bytes: int
    block_bytes: int
    block_count: int

    def state(self) -> str:
        """`up`, `down`, or `removed`: then the socket is bound to nothing any more and a new one is needed."""
        if not self.socket.getsockname()[0]:
            return "removed"
        runs = interface_runs(self.socket, self.socket.getsockname()[0])
        return "removed" if runs is None else "up" if runs else "down"

    def close(self) -> None:
        self.socket.close()


def open_rings(interface: str, capture: Capture, members: int, decapsulate: Collection[str] = ()) -> list[RingSocket]:
    """One ring for each worker; with several, they share the interface's frames out.

    Args:
        members: how many; no group is made for one.
        decapsulate: tunnels whose inner addresses count, as in the configuration.

    Raises:
        UsageError: what the kernel refuses, why, and what to do.
    """
    link = find_link(interface)
    frames = _frames_of(link)
    _check_blocks(link, frames, capture)
    check_memory(capture, members)
    program = compile_filter(capture.filter, frames.link_type, interface) if capture.filter else None
    rings: list[RingSocket] = []
    with _closing_on_error(rings):
        for _ in range(members):
            rings.append(_open(link, frames, capture))  # noqa: PERF401 (those before it are closed when one fails)
        if members > 1:
            _share_out(rings, link, capture, address_hash(frames.header_bytes > 0, decapsulate))
        for ring in rings:
            _admit(ring, program)
    if not link.is_up:
        log.warning("%s is down or has no carrier; capture starts when it comes up", interface)
    return rings


def open_ring_for_names(interface: str, capture: Capture, decapsulate: Collection[str] = ()) -> RingSocket:
    """A small ring of its own for DNS: UDP and TCP of port 53, also behind tags and in tunnels that are decapsulated.

    `Capture.Filter` does not apply: it says which traffic is counted, and names tell of it.

    Raises:
        UsageError: as `open_rings`.
    """
    link = find_link(interface)
    frames = _frames_of(link)
    # Small blocks, as each lasts for BlockTimeout at most, however little is in it.
    block_bytes = max(_NAMES_BLOCK_BYTES, mmap.PAGESIZE, _power_of_two(_needed_block_bytes(link, frames)))
    small = capture.model_copy(update={"ring_bytes": _NAMES_RING_BYTES, "block_bytes": block_bytes})
    check_memory(small, 1)
    rings: list[RingSocket] = []
    with _closing_on_error(rings):
        rings.append(_open(link, frames, small))
        _admit(rings[0], dns_filter(frames.header_bytes > 0, decapsulate))
    return rings[0]


@contextlib.contextmanager
def _closing_on_error(rings: list[RingSocket]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for ring in rings:
            ring.close()
        raise


def _frames_of(link: Link) -> Frames:
    if link.hardware_type in (_ETHERNET, _LOOPBACK):
        return Frames(1, 14, socket.SOCK_RAW)
    if link.hardware_type in _RAW_IP:
        return Frames(101, 0, socket.SOCK_RAW)
    if link.hardware_type in _COOKED_IP:
        return Frames(101, 0, socket.SOCK_DGRAM)
    raise UsageError(
        f"Capture.Interfaces: {link.name} is of a kind that is not supported (ARPHRD number {link.hardware_type}); "
        "supported are Ethernet, loopback, and links with plain IP packets, such as tun and ppp"
    )


def link_type_of(interface: str) -> int:
    """The LINKTYPE_ number of the frames that an interface shows.

    Raises:
        UsageError: there is no such interface, or it is of a kind that is not supported.
    """
    return _frames_of(find_link(interface)).link_type


def _needed_block_bytes(link: Link, frames: Frames) -> int:
    return link.mtu_bytes + frames.header_bytes + _BLOCK_OVERHEAD_BYTES


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()


def _check_blocks(link: Link, frames: Frames, capture: Capture) -> None:
    needed = _needed_block_bytes(link, frames)
    if capture.block_bytes < needed:
        raise UsageError(
            f"Capture.BlockSize: a frame of {link.name} (MTU {link.mtu_bytes}) needs {needed} bytes, a block has "
            f"{capture.block_bytes}; set it to {_power_of_two(needed)}B or more"
        )
    if capture.block_bytes % mmap.PAGESIZE:
        raise UsageError(
            f"Capture.BlockSize: {capture.block_bytes} bytes are not a multiple of this machine's pages of "
            f"{mmap.PAGESIZE} bytes; set it to {mmap.PAGESIZE}B or more"
        )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f} MiB"


def check_memory(capture: Capture, members: int) -> None:
    """Asked for more than there is, the kernel stops other programs before it refuses."""
    wanted, available = members * capture.ring_bytes, available_memory_bytes()
    if wanted > _MEMORY_SHARE * available:
        raise UsageError(
            f"Capture.RingSize: {members} rings of {_mib(capture.ring_bytes)} need {_mib(wanted)} of memory for each "
            f"interface, and {_mib(available)} are available; lower RingSize or Workers"
        )


def _open(link: Link, frames: Frames, capture: Capture) -> RingSocket:
    """A socket that is bound, with a ring and a filter that accepts nothing."""
    try:
        packet_socket = socket.socket(socket.AF_PACKET, frames.socket_kind, 0)
    except PermissionError:
        raise UsageError(
            f"Capture.Interfaces: capturing on {link.name} needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN; the "
            "systemd unit grants them (AmbientCapabilities), else run as root"
        ) from None
    ring = RingSocket(
        packet_socket,
        link.name,
        frames.link_type,
        link.mtu_bytes + frames.header_bytes,
        capture.block_bytes,
        capture.ring_bytes // capture.block_bytes,
    )
    with _closing_on_error([ring]):
        _attach(packet_socket, NOTHING)
        _make_ring(ring, capture)
        # Loopback shows each frame on its way out and on its way in.
        if capture.ignore_outgoing or link.hardware_type == _LOOPBACK:
            _set(ring, _IGNORE_OUTGOING, struct.pack("i", 1), "IgnoreOutgoing")
        if start_card_clock(packet_socket, link.name):
            _set(ring, _TIMESTAMP, struct.pack("i", _RAW_HARDWARE), "Interfaces")
        _bind(ring)
        if capture.promiscuous:
            _set(ring, _ADD_MEMBERSHIP, _promiscuous(link), "Promiscuous")
    return ring


def _promiscuous(link: Link) -> bytes:
    """struct packet_mreq"""
    return struct.pack("iHH8x", link.number, _PROMISCUOUS, 0)


def promiscuous_socket(link: Link) -> socket.socket:
    """A socket that gets no packets and keeps an interface in promiscuous mode until it is closed. Raises OSError."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        made.setsockopt(SOL_PACKET, _ADD_MEMBERSHIP, _promiscuous(link))
    except OSError:
        made.close()
        raise
    return made


def _make_ring(ring: RingSocket, capture: Capture) -> None:
    timeout_ms = max(1, capture.block_timeout_ns // NS_PER_UNIT["ms"])
    slots = ring.block_bytes // _FRAME_SLOT_BYTES * ring.block_count
    geometry = (ring.block_bytes, ring.block_count, _FRAME_SLOT_BYTES, slots, timeout_ms, 0, 0)
    _set(ring, _VERSION, struct.pack("i", _TPACKET_V3), "Source")
    try:
        ring.socket.setsockopt(SOL_PACKET, _RX_RING, struct.pack("7I", *geometry))
    except OSError as error:
        lower = "; lower RingSize or Workers" if error.errno == errno.ENOMEM else "; lower RingSize or BlockSize"
        raise UsageError(
            f"Capture.RingSize: {ring.interface}: the kernel refuses a ring of {_mib(capture.ring_bytes)} in blocks of "
            f"{capture.block_bytes} bytes ({error.strerror}){lower}"
        ) from None


def _set(ring: RingSocket, option: int, value: bytes, key: str) -> None:
    try:
        ring.socket.setsockopt(SOL_PACKET, option, value)
    except OSError as error:
        raise UsageError(
            f"Capture.{key}: {ring.interface}: the kernel refuses this ({error.strerror}); Linux 4.20 or newer is "
            "needed, or another value"
        ) from None


def _bind(ring: RingSocket) -> None:
    try:
        ring.socket.bind((ring.interface, _ALL_PROTOCOLS))
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise no_such_interface(ring.interface) from None
        raise UsageError(
            f"Capture.Interfaces: {ring.interface}: the kernel refuses to capture on it ({error.strerror})"
        ) from None
    ring.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that it is down


def _share_out(rings: list[RingSocket], link: Link, capture: Capture, program: bytes) -> None:
    """Join the sockets to one group; the first gets it a number that no other group has."""
    kind, number, flags = _FANOUT_KINDS[capture.fanout], 0, _UNIQUE_ID
    for ring in rings:
        try:
            ring.socket.setsockopt(SOL_PACKET, _FANOUT, struct.pack("I", (kind | flags) << 16 | number))
        except OSError as error:
            hint = ""
            if not link.is_up:
                hint = f"; before Linux 6.13 the interface must be up for several workers: `ip link set {link.name} up`"
            raise UsageError(
                f'Capture.Fanout: {link.name}: the kernel refuses to share frames out by "{capture.fanout}" to '
                f"{len(rings)} workers ({error.strerror}){hint or '; set Workers to 1'}"
            ) from None
        if flags:
            number = ring.socket.getsockopt(SOL_PACKET, _FANOUT) & 0xFFFF
            flags = 0
    if capture.fanout == "addresses":
        with _kernel_program(program) as pointer:
            _set(rings[0], _FANOUT_DATA, pointer, "Fanout")


def _admit(ring: RingSocket, program: bytes | None) -> None:
    """Exchange the filter that accepts nothing for the real one, or for none."""
    if program is not None:
        _attach(ring.socket, program)
    else:
        ring.socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


@contextlib.contextmanager
def _kernel_program(program: bytes) -> Iterator[bytes]:
    """struct sock_fprog; the instructions live as long as the block."""
    instructions = ctypes.create_string_buffer(program, len(program))
    yield struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))


def _attach(packet_socket: socket.socket, program: bytes) -> None:
    with _kernel_program(program) as pointer:
        try:
            packet_socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        except OSError as error:
            raise UsageError(
                f"Capture.Filter: the kernel refuses a filter of {len(program) // 8} instructions ({error.strerror}); "
                "shorten it, or raise net.core.optmem_max"
            ) from None
