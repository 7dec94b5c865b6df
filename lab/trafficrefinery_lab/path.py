"""The path between router and servers: a link in user space that delays, loses and reorders, for each client apart.

For kernels without netem, and so that it is the same everywhere.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import selectors
import signal
import socket
import time
from typing import Any

import numpy as np

from trafficrefinery.jit.shared_memory import Shared
from trafficrefinery.system.processes import end_with_parent

from .links import Link
from .namespaces import enter, run_at_once
from .network import PATH_LEFT, PATH_RIGHT, client_number

CONDITIONS = np.dtype(
    [
        ("delay_s", "f8"), ("jitter_s", "f8"), ("loss_down", "f8"), ("loss_up", "f8"), ("reordered", "f8"),
        ("seed", "i8"),
        ("overflows", "i8"),  # packets that found too many waiting: written by the path
    ]
)  # fmt: skip
"""What the path does to a client's packets; a table of one for each client, in shared memory."""
_USED = ["delay_s", "jitter_s", "loss_down", "loss_up", "reordered", "seed"]
_READ_EACH_S = 0.05
_ETH_P_ALL, _SO_RCVBUFFORCE = 3, 33
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_CLIENT_AT = {(_IPV4, False): 26, (_IPV4, True): 30, (_IPV6, False): 22, (_IPV6, True): 38}
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}
_OVERTAKEN_S = 0.006
_BUFFER_BYTES = 8 << 20
_MOST_WAITING = 50_000


def set_conditions(table: Shared, client: int, link: Link, seed: int) -> None:
    """From now on, a client's packets travel as its link says."""
    table.array[client] = (link.delay_s, link.jitter_s, link.loss_down, link.loss_up, link.reordered, seed, 0)


def client_of(frame: bytes, down: bool) -> int:
    """The number of the client that a frame goes to or comes from; negative for none."""
    kind = frame[12:14]
    at = _CLIENT_AT.get((kind, down))
    return -1 if at is None else client_number(frame[at : at + _ADDRESS_BYTES[kind]])


def _opened(interface: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    found.bind((interface, 0))
    return found


class Path:
    """Forwards between the two interfaces."""

    def __init__(self, table: Shared) -> None:
        self._table = table.array
        self._rows: list[tuple[float, ...]] = []
        self._read_at_s = 0.0
        self._ends = (_opened(PATH_LEFT), _opened(PATH_RIGHT))
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._last_s: dict[tuple[int, int], float] = {}
        self._chances: dict[int, tuple[float, random.Random]] = {}
        self._number = 0

    def run(self) -> None:
        """Until killed."""
        selector = selectors.DefaultSelector()
        for side, end in enumerate(self._ends):
            end.setblocking(False)
            selector.register(end, selectors.EVENT_READ, side)
        while True:
            timeout_s = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready = selector.select(timeout_s)
            self._read_conditions()
            for key, _ in ready:
                self._take(key.data)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, side, frame = heapq.heappop(self._waiting)
                with contextlib.suppress(BlockingIOError):
                    self._ends[side].send(frame)

    def _read_conditions(self) -> None:
        """Now and then: a row of the table costs as much as the rest of what a packet needs."""
        if time.monotonic() >= self._read_at_s:
            self._rows = self._table[_USED].tolist()
            self._read_at_s = time.monotonic() + _READ_EACH_S

    def _take(self, side: int) -> None:
        """Some packets that came in at an end; those from the servers' side go down."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                self._forward(self._ends[side].recv(65536), side)

    def _forward(self, frame: bytes, side: int) -> None:
        client = client_of(frame, side == 0)
        due_s = time.monotonic()
        if 0 <= client < len(self._rows):
            if len(self._waiting) >= _MOST_WAITING:
                self._table[client]["overflows"] += 1
                return
            delay_s, jitter_s, loss_down, loss_up, reordered, seed = self._rows[client]
            chance = self._chance(client, seed)
            if chance.random() < (loss_down if side == 0 else loss_up):
                return
            due_s += delay_s + chance.random() * jitter_s
            if chance.random() < reordered:
                due_s += _OVERTAKEN_S
            else:
                due_s = self._last_s[client, side] = max(due_s, self._last_s.get((client, side), 0.0))
        self._number += 1
        heapq.heappush(self._waiting, (due_s, self._number, 1 - side, frame))

    def _chance(self, client: int, seed: float) -> random.Random:
        known = self._chances.get(client)
        if known is None or known[0] != seed:
            known = self._chances[client] = seed, random.Random(seed)
        return known[1]


def run_path(namespace: str, table: Shared, ready: Any) -> None:
    """A process: the path, until killed. `ready` is a connection that is told when it forwards."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    enter(namespace)
    run_at_once()
    path = Path(table)
    ready.send(None)
    path.run()
