"""What the supervisor opens for its workers: capture sockets, which outlive the workers, or recorded traces."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from trafficrefinery.capture.interfaces import interface_runs
from trafficrefinery.capture.live import (
    open_libpcap,
    open_rings_of,
    open_xdp,
    open_xdp_names,
    warm_up_rings,
    warm_up_xdp,
)
from trafficrefinery.capture.rings.sockets import open_ring_for_names, open_rings
from trafficrefinery.capture.rings.xdp_sockets import XdpInterface
from trafficrefinery.capture.sources import Source, open_recorded
from trafficrefinery.capture.traces.discovery import LeftOut, each_once
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config
from trafficrefinery.errors import ConfigError

from .checks import usable_cpus

_LAG_FLOOR_NS = 50_000_000


class Inputs(Protocol):
    """What the workers of a generation read.

    Attributes:
        workers: how many there are.
        partitions: that each worker has to pick its own of; 1: what comes to a worker is its own.
        cpus: that workers are pinned to.
        is_live: whether time goes on without packets.
        has_names: whether a process of its own reads DNS, from what `names_opener` opens; else workers do.
        lag_ns: a packet may be handed over so long after its time; 0 for traces, whose time is their packets'.
        left_out: traces that were named and not read.
    """

    workers: int
    partitions: int
    cpus: tuple[int, ...]
    is_live: bool
    has_names: bool
    lag_ns: int
    left_out: Sequence[LeftOut]

    def opener(self, number: int) -> Callable[[], Source]:
        """What a worker calls to open its source."""

    def names_opener(self) -> Callable[[], Source]:
        """What the DNS process calls."""

    @property
    def warm_up(self) -> Callable[[], None]:
        """What a worker calls to have compiled what a source needs."""

    def cpus_of(self, number: int) -> tuple[int, ...]:
        """The core of a worker."""

    def close(self) -> None:
        """Give everything back."""


def _nothing() -> None:
    """Python code is not compiled."""


class _Pinned:
    """Workers and their cores."""

    left_out: Sequence[LeftOut] = ()

    def __init__(self, config: Config) -> None:
        self.cpus = usable_cpus(config)
        self.workers = config.capture.workers or len(self.cpus)

    def cpus_of(self, number: int) -> tuple[int, ...]:
        """See `Inputs`."""
        return (self.cpus[number % len(self.cpus)],)

    def opener(self, number: int) -> Callable[[], Source]:
        """See `Inputs`."""
        raise NotImplementedError

    def names_opener(self) -> Callable[[], Source]:
        """See `Inputs`: for those that have names."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Inputs`: workers open and close their own."""


class Interfaces(_Pinned):
    """Whether the interfaces that were opened are still there.

    Attributes:
        were_up: those that were ever up.
    """

    partitions, is_live, has_names, warm_up, lag_ns = 1, True, True, staticmethod(warm_up_rings), 0

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._interfaces = wanted_interfaces(config)
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._numbers: dict[str, int] = {}
        self.were_up: set[str] = set()

    def _know_interfaces(self) -> None:
        self._numbers = {name: socket.if_nametoindex(name) for name in self._interfaces}

    def are_stale(self) -> bool:
        """Whether an interface was removed and is there again: then its sockets see nothing any more."""
        known = {name: number for number, name in socket.if_nameindex()}
        return any(known.get(name, number) != number for name, number in self._numbers.items())

    def missing(self) -> set[str]:
        """Interfaces that are not there."""
        return set(self._numbers) - {name for _, name in socket.if_nameindex()}

    def away(self) -> set[str]:
        """Interfaces that nothing can be captured on: removed, there again under another number, or down after they
        were up. One that was down from the start, such as a port without a cable, is none."""
        known = {name: number for number, name in socket.if_nameindex()}
        found = set()
        for name, number in self._numbers.items():
            if known.get(name) != number:
                found.add(name)
            elif interface_runs(self._control, name):
                self.were_up.add(name)
            elif name in self.were_up:
                found.add(name)
        return found

    def close(self) -> None:
        """See `Inputs`."""
        self._control.close()


class Rings(Interfaces):
    """AF_PACKET rings: of each interface, one for each worker, and one for names.

    Raises:
        ConfigError, UsageError: what is missing, or what the kernel refused.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        capture = config.capture
        self.lag_ns = 2 * capture.block_timeout_ns + _LAG_FLOOR_NS
        self._capture, self._decapsulate = capture, config.decapsulate
        interfaces = self._interfaces
        self._rings = [open_rings(name, capture, self.workers, config.decapsulate) for name in interfaces]
        self._names = [open_ring_for_names(name, capture, config.decapsulate) for name in interfaces]
        self._know_interfaces()

    def opener(self, number: int) -> Callable[[], Source]:
        """See `Inputs`."""
        rings = [rings[number] for rings in self._rings]
        return partial(open_rings_of, rings, self._capture.duplicates, self._decapsulate)

    def names_opener(self) -> Callable[[], Source]:
        """See `Inputs`."""
        return partial(open_rings_of, self._names, "keep", self._decapsulate)

    def close(self) -> None:
        """See `Inputs`."""
        super().close()
        for ring in [*(ring for rings in self._rings for ring in rings), *self._names]:
            ring.close()


class Xdp(Interfaces):
    """AF_XDP sockets: of each queue of an interface, one for each worker; and a ring for names.

    Args:
        before: what is captured with until now; interfaces that are the same stay as they are, as nobody can have the
            queues and the program of an interface twice.

    Raises:
        ConfigError, UsageError: what is missing, or what the kernel refused.
    """

    warm_up = staticmethod(warm_up_xdp)

    def __init__(self, config: Config, before: Xdp | None = None) -> None:
        super().__init__(config)
        self.lag_ns = 2 * _LAG_FLOOR_NS
        self._capture, self._decapsulate = config.capture, config.decapsulate
        known = dict(socket.if_nameindex())
        opened = before.opened if before else []
        kept = {one.link.name: one for one in opened if known.get(one.link.number) == one.link.name}
        self.opened: list[XdpInterface] = []
        try:
            for name in self._interfaces:
                self.opened.append(
                    kept[name].shared()
                    if name in kept
                    else XdpInterface(name, config.capture, self.workers, config.decapsulate)
                )
        except BaseException:
            self.close()
            raise
        self._know_interfaces()

    def opener(self, number: int) -> Callable[[], Source]:
        """See `Inputs`."""
        sockets = [one for interface in self.opened for one in interface.sockets[number]]
        return partial(open_xdp, sockets, self._capture.block_timeout_ns, self._capture.duplicates, self._decapsulate)

    def names_opener(self) -> Callable[[], Source]:
        """See `Inputs`."""
        return partial(open_xdp_names, [interface.names for interface in self.opened], self._decapsulate)

    def close(self) -> None:
        """See `Inputs`."""
        super().close()
        for interface in self.opened:
            interface.close()


class Libpcap(Interfaces):
    """libpcap: one worker, which opens its handles itself, and reads DNS as it sees all packets.

    libpcap's expressions cannot say "port 53" for all headers that may come before.
    """

    has_names = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.workers = 1
        self._config = config
        self.lag_ns = 2 * config.capture.block_timeout_ns + 4 * _LAG_FLOOR_NS
        self.opener(0)().close()  # what is refused is told at once
        self._know_interfaces()

    def opener(self, number: int) -> Callable[[], Source]:  # noqa: ARG002
        """See `Inputs`."""
        return partial(open_libpcap, self._interfaces, self._config.capture, self._config.decapsulate)


class Traces(_Pinned):
    """Recorded traces, which each worker reads as a whole to take its share."""

    is_live, has_names, lag_ns, warm_up = False, False, 0, staticmethod(_nothing)

    def __init__(self, config: Config, paths: Sequence[str], speed: float | None) -> None:
        super().__init__(config)
        names, left_out = each_once(paths)
        with TraceReader(names):
            pass  # what is no trace is told at once
        self.left_out = left_out
        self.partitions = self.workers
        self._paths, self._speed, self._config = tuple(names), speed, config

    def opener(self, number: int) -> Callable[[], Source]:
        """See `Inputs`."""
        return partial(open_recorded, self._config, self._paths, self._speed, number == 0)


def wanted_interfaces(config: Config) -> tuple[str, ...]:
    """The configured interfaces.

    Raises:
        ConfigError: none is configured.
    """
    if not config.capture.interfaces:
        raise ConfigError(config.file, "Capture.Interfaces", 'names no interface; set it, such as ["eth1"]')
    return config.capture.interfaces


def live_inputs(config: Config) -> type[Interfaces]:
    """What captures as a configuration says."""
    return {"afxdp": Xdp, "afpacket": Rings, "pcap": Libpcap}[config.capture.source]


def open_inputs(
    config: Config, traces: Sequence[str] = (), speed: float | None = None, before: Inputs | None = None
) -> Inputs:
    """Open what a configuration or the command line asks for, beside what is captured with until now.

    An interface that was up `before` is away when it is down.
    """
    if traces:
        return Traces(config, traces, speed)
    kind = live_inputs(config)
    made = Xdp(config, before) if kind is Xdp and isinstance(before, Xdp) else kind(config)
    if isinstance(before, Interfaces):
        made.were_up |= before.were_up
    return made
