"""A network link between two interfaces that delays, loses and reorders frames; for kernels without netem.

Usage: link.py LEFT RIGHT SEED
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import sys
import time

ETH_P_ALL = 3
DELAY_S = 0.012
LOSS = {"left": 0.0015, "right": 0.0005}  # of frames that came in there; left is the servers' side
REORDERED = 0.002
REORDERING_DELAY_S = 0.006


def opened(interface: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    found.bind((interface, 0))
    return found


def run(left: str, right: str, seed: int) -> None:
    """Forward between the two interfaces until killed; a frame is at most one MTU, as offloads are off."""
    chance = random.Random(seed)
    ends = {"left": opened(left), "right": opened(right)}
    selector = selectors.DefaultSelector()
    for side, end in ends.items():
        selector.register(end, selectors.EVENT_READ, side)
    waiting: list[tuple[float, int, str, bytes]] = []
    number = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for key, _ in selector.select(timeout):
            frame, address = key.fileobj.recvfrom(65536)  # type: ignore[union-attr]
            if address[2] == socket.PACKET_OUTGOING or chance.random() < LOSS[key.data]:
                continue
            late_s = REORDERING_DELAY_S if chance.random() < REORDERED else 0.0
            number += 1
            other = "right" if key.data == "left" else "left"
            heapq.heappush(waiting, (time.monotonic() + DELAY_S + late_s, number, other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, side, frame = heapq.heappop(waiting)
            ends[side].send(frame)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
