"""AF_XDP sockets: how they are made, share memory, and get the frames of an interface from its XDP program.

Each queue of an interface has one fill ring, from which the kernel takes memory for frames, and a socket of each worker
that it has frames for: only a socket on the queue where a frame came in can have it. So the workers of a queue share
its fill ring (`afxdp` says how). Sockets are bound and known to the program before that is attached: no frame is seen
before all are ready. The link that attaches it is the supervisor's: the program goes when that ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from trafficrefinery.capture.bpf import calls
from trafficrefinery.capture.bpf.xdp_program import STAMP_BYTES, Maps, xdp_program
from trafficrefinery.capture.interfaces import find_link
from trafficrefinery.config.daemon import Capture
from trafficrefinery.errors import UsageError
from trafficrefinery.jit.memory import HUGE_PAGE
from trafficrefinery.jit.shared_memory import Inherited, Shared

from .sockets import check_memory, promiscuous_socket
from .xdp_layout import XdpLayout, layout_of

AF_XDP, SOL_XDP = 44, 283
STATISTICS, FILL_OFFSET = 7, 1 << 32
_MMAP_OFFSETS, _RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _OPTIONS = 1, 2, 4, 5, 6, 8
_SHARED_UMEM, _IS_ZERO_COPY = 1, 1
_NAMES_RING_BYTES = 8 << 20
_BUSY_S = 2.0
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")

STATE = np.dtype(
    [
        ("done", "u4"),  # frames of the socket whose memory was given back, as its ring counts them: without end
        ("told_received", "u4"),  # what `losses` said of the socket, by whichever worker
        ("told_dropped", "u8"),
        ("told_full", "u8"),
        ("told_empty", "u8"),
        ("told_unclaimed", "u8"),  # of the interface, with its first socket; and the next
        ("told_names_lost", "u8"),
        ("giving", "u4"),  # of a queue, with its first socket: so many frames are being given back
        ("giver", "u4"),  # by the socket of this number
        ("from_frame", "u4"),  # from this one of its frames on
        ("at_fill", "u4"),  # to this place of the fill ring
    ]
)
"""What a worker needs to go on where another one was killed; an element for each place in the map of sockets."""

log = logging.getLogger(__name__)


class Places(NamedTuple):
    """Offsets in a mapped ring."""

    producer: int
    consumer: int
    entries: int


class XdpSocket(NamedTuple):
    """A bound socket, which a worker maps. A child process gets it as an argument of its `Process`.

    Args:
        queue: of the interface.
        number, first: its place in `state`, and that of its queue's first socket.
        leads: whether it is the first one of the interface.
        entries, fill_entries: of its ring, and of its queue's fill ring.
        frame_bytes: the most that a frame of the link has.
        memory: where the frames are.
        counts: of the program.
    """

    socket: socket.socket
    queue: int
    number: int
    first: int
    leads: bool
    entries: int
    fill_entries: int
    rx: Places
    fill: Places
    chunk_bytes: int
    frame_bytes: int
    memory: Shared
    state: Shared
    counts: Inherited


class NamesRing(NamedTuple):
    """The ring into which the program copies frames with DNS, and its counts; `state` has what was reported of them."""

    ring: Inherited
    ring_bytes: int
    counts: Inherited
    state: Shared
    number: int


def why_not_here() -> str | None:
    """Why the user who runs this cannot use AF_XDP, as far as it can be checked without an interface, or None."""
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
        os.close(calls.make_map(calls.SOCKETS, 4, 4, 1))
    except OSError as error:
        return _refusal("an interface", error)
    return None


class XdpInterface:
    """All that captures on an interface, until `close`.

    Args:
        workers: how many there are.
        decapsulate: tunnels whose inner addresses count, as in the configuration.

    Attributes:
        sockets: of each worker.
        names: the ring for names.
        maps: of the program.

    Raises:
        UsageError: what the kernel refuses, why, and what to do.
    """

    def __init__(self, interface: str, capture: Capture, workers: int, decapsulate: Collection[str] = ()) -> None:
        self.link = find_link(interface)
        layout = layout_of(self.link, capture, workers)
        check_memory(capture, workers)
        self._closing = contextlib.ExitStack()
        self._users = 1
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._closing.close)
            with _refusals(interface):
                self.maps = self._make_maps(layout)
                self.sockets = self._open(layout, self.maps)
                program = xdp_program(self.maps, workers, capture.fanout, capture.filter, decapsulate)
                self.mode = self._attach(program)
                if capture.promiscuous:
                    self._closing.enter_context(promiscuous_socket(self.link))
            on_error.pop_all()
        first = next(found for found in self.sockets if found)[0].socket
        (options,) = struct.unpack("I", first.getsockopt(SOL_XDP, _OPTIONS, 4))
        copies = "zero-copy" if options & _IS_ZERO_COPY else "copy mode"
        log.info("%s: XDP in %s mode, %s, %d queues", interface, self.mode, copies, layout.queues)
        if not self.link.is_up:
            log.warning("%s is down or has no carrier; capture starts when it comes up", interface)

    def shared(self) -> XdpInterface:
        """The same, for somebody else who will close it."""
        self._users += 1
        return self

    def close(self) -> None:
        """Detach the program and close the sockets, when nobody else has them."""
        self._users -= 1
        if not self._users:
            self._closing.close()

    def _make_maps(self, layout: XdpLayout) -> Maps:
        sockets = self._keep(calls.make_map(calls.SOCKETS, 4, 4, layout.queues * layout.workers))
        counts = self._keep(calls.make_map(calls.ARRAY, 4, 16, 1))
        names = self._keep(calls.make_map(calls.RING, 0, 0, _NAMES_RING_BYTES))
        self._counts, self._state = counts, Shared(layout.queues * layout.workers, STATE)
        self.names = NamesRing(names, _NAMES_RING_BYTES, counts, self._state, 0)
        return Maps(sockets.fileno(), counts.fileno(), names.fileno())

    def _keep(self, fd: int) -> Inherited:
        kept = Inherited(fd)
        self._closing.callback(_close, kept)
        return kept

    def _open(self, layout: XdpLayout, maps: Maps) -> list[list[XdpSocket]]:
        """The sockets of each worker."""
        pages = -(-layout.queues * layout.frames * layout.chunk_bytes // HUGE_PAGE)
        memory = Shared(pages * HUGE_PAGE, np.dtype(np.uint8), huge=True)
        for shared in (memory, self._state):
            self._closing.callback(_close, shared)
        found: list[list[XdpSocket]] = [[] for _ in range(layout.workers)]
        made: socket.socket | None = None
        for queue, owners in enumerate(layout.owners):
            leader: socket.socket | None = None
            for worker in owners:
                one = self._closing.enter_context(socket.socket(AF_XDP, socket.SOCK_RAW, 0))
                if made is None:
                    registered = (memory.array.ctypes.data, memory.array.nbytes, layout.chunk_bytes, STAMP_BYTES, 0, 0)
                    one.setsockopt(SOL_XDP, _UMEM_REG, struct.pack("QQIIII", *registered))
                one.setsockopt(SOL_XDP, _RX_RING, layout.entries)
                if leader is None:
                    one.setsockopt(SOL_XDP, _FILL_RING, layout.fill_entries)
                    one.setsockopt(SOL_XDP, _COMPLETION_RING, layout.fill_entries)
                    _fill(one, queue, layout)
                _bind(one, self.link.number, queue, leader or made)
                made, leader = made or one, leader or one
                number = queue * layout.workers + worker
                calls.set_in_map(maps.sockets, number, one.fileno())
                found[worker].append(XdpSocket(
                    one, queue, number, queue * layout.workers + owners[0],
                    one is made, layout.entries, layout.fill_entries, *_places(one), layout.chunk_bytes,
                    layout.frame_bytes, memory, self._state, self._counts,
                ))  # fmt: skip
        return found

    def _attach(self, instructions: bytes) -> str:
        program = self._keep(calls.load_program(instructions))
        modes = [("native", calls.NATIVE), ("generic", calls.GENERIC)]
        for name, mode in modes:
            try:
                self._keep(_patiently(partial(calls.attach, program.fileno(), self.link.number, mode)))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise UsageError(
                        f"Capture.Interfaces: another XDP program is attached to {self.link.name}; end what attached "
                        f"it, or remove it: ip link set dev {self.link.name} xdp off"
                    ) from None
                if name == modes[-1][0]:
                    raise
                log.info("%s: the driver does not take the XDP program (%s)", self.link.name, error.strerror)
            else:
                return name
        raise AssertionError("there is a last mode")


def _close(kept: Inherited) -> None:
    """As an argument it is kept until then: what nobody has is closed at once."""
    kept.close()


@contextlib.contextmanager
def _refusals(interface: str) -> Iterator[None]:
    """What the kernel refuses, as one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(_refusal(interface, error)) from None


def _refusal(interface: str, error: OSError) -> str:
    use = 'set Capture.Source to "afpacket"'
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"Capture.Interfaces: AF_XDP on {interface} needs the capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF "
            f"({error.strerror}); with systemd, add systemd/afxdp.conf to the unit, else run as root, or {use}"
        )
    if error.errno in (errno.EAFNOSUPPORT, errno.ENOSYS):
        return (
            "Capture.Source: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS, CONFIG_BPF_SYSCALL) or the unit forbids it "
            f"({error.strerror}); {use}"
        )
    if error.errno == errno.EBUSY:
        return f"Capture.Interfaces: a queue of {interface} has an AF_XDP socket of another program; end that, or {use}"
    if error.errno in (errno.ENOMEM, errno.ENOBUFS):
        return (
            f"Capture.RingSize: {interface}: the kernel refuses the memory of AF_XDP ({error.strerror}); lower "
            "RingSize or Workers, or raise the limit of locked memory (ulimit -l)"
        )
    return f"Capture.Interfaces: {interface}: the kernel refuses AF_XDP ({error.strerror}); use Linux 5.18, or {use}"


def _fill(one: socket.socket, queue: int, layout: XdpLayout) -> None:
    """Give the kernel all memory of a queue."""
    offset = _places(one)[1]
    with mmap.mmap(one.fileno(), offset.entries + 8 * layout.fill_entries, offset=FILL_OFFSET) as ring:
        entries = np.arange(queue * layout.frames, (queue + 1) * layout.frames, dtype=np.uint64) * layout.chunk_bytes
        ring[offset.entries : offset.entries + entries.nbytes] = entries.tobytes()
        ring[offset.producer : offset.producer + 4] = struct.pack("I", layout.frames)


def _places(one: socket.socket) -> tuple[Places, Places]:
    """struct xdp_mmap_offsets: of the ring of received frames, and of the fill ring."""
    words = struct.unpack("16Q", one.getsockopt(SOL_XDP, _MMAP_OFFSETS, 128))
    return Places(*words[:3]), Places(*words[8:11])


def _bind(one: socket.socket, index: int, queue: int, shared: socket.socket | None) -> None:
    """In zero-copy mode where the driver has it: without flags the kernel tries that first."""
    flags, fd = (0, 0) if shared is None else (_SHARED_UMEM, shared.fileno())
    address = struct.pack("HHIII", AF_XDP, flags, index, queue, fd)

    def bind() -> None:
        if _libc.bind(one.fileno(), address, len(address)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    _patiently(bind)


def _patiently(call: Callable[[], T]) -> T:
    """A daemon that was ended has not given back its queues and its link at once."""
    until_s = time.monotonic() + _BUSY_S
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until_s:
                raise
            time.sleep(_BUSY_S / 100)
