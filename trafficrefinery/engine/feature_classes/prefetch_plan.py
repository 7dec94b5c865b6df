"""Which cache lines of a flow's state its packets touch: tried out at start, on connections that are made up.

The packet loop asks for these lines before it needs them. Each line that it asks for in vain costs as much as one
that it misses, and no class has to say which ones it needs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import ACK, DOWN, PSH, SYN, TCP, UDP, UP
from trafficrefinery.jit import MODE, address_of, call_from_python
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import PACKET

from .fuse import CACHE_LINE_BYTES, Profile, ProfileStep

_ROUNDS = 8
_PAYLOAD_BYTES = 1448
_OFTEN = 0.25  # of the packets of one direction


def touched_lines(profile: Profile, step: ProfileStep) -> tuple[list[int], list[int]]:
    """Offsets of the cache lines that packets often write, upstream and downstream; of each class the first one too."""
    return _touched_lines(profile, step._replace(errors=0))


@functools.cache
def _touched_lines(profile: Profile, step: ProfileStep) -> tuple[list[int], list[int]]:
    dtype = profile.state_dtype()
    starts = {dtype.fields[name][1] // CACHE_LINE_BYTES for name in dtype.names}  # type: ignore[index, union-attr]
    lines = {UP: set(starts), DOWN: set(starts)}
    if MODE == "on":  # elsewhere there is nothing to be fast for
        for protocol in (TCP, UDP):
            for direction, often in _written(dtype, step, protocol).items():
                lines[direction] |= often
    up, down = ([line * CACHE_LINE_BYTES for line in sorted(lines[direction])] for direction in (UP, DOWN))
    return up, down


def _written(dtype: np.dtype, step: ProfileStep, protocol: int) -> dict[int, set[int]]:
    raw, state = table(256, np.uint8), table(dtype.itemsize, np.uint8)
    packets = {UP: 0, DOWN: 0}
    counts = {direction: np.zeros(-(-dtype.itemsize // CACHE_LINE_BYTES), np.int64) for direction in (UP, DOWN)}
    raised = np.zeros(len(dtype.names or ()), np.int64)
    errors = address_of(raised)
    call_from_python(step.start, address_of(state), errors)
    for packet in _connection(protocol):
        direction = int(packet["direction"][0])
        packets[direction] += 1
        before = state.copy()
        call_from_python(step.add_packet, address_of(state), address_of(packet), address_of(raw), len(raw), errors)
        changed = np.flatnonzero(state != before) // CACHE_LINE_BYTES
        counts[direction][np.unique(changed)] += 1
    return {
        direction: set(np.flatnonzero(count > _OFTEN * packets[direction]).tolist())
        for direction, count in counts.items()
    }


def _connection(protocol: int) -> Iterator[NDArray[np.void]]:
    """Requests, each answered by many packets, every second of which is acknowledged."""
    seq = {UP: 1_000, DOWN: 5_000}
    ts_ns = 1_600_000_000_000_000_000

    def packet(direction: int, payload_bytes: int, flags: int) -> NDArray[np.void]:
        nonlocal ts_ns
        ts_ns += 1_000_003
        r = np.zeros(1, PACKET)
        r["ts_ns"], r["interval_start_ns"], r["direction"] = ts_ns, ts_ns - ts_ns % 10_000_000_000, direction
        r["protocol"], r["ip_version"], r["ttl"], r["window_scale"] = protocol, 4, 64, -1
        r["payload_bytes"], r["ip_bytes"] = payload_bytes, payload_bytes + 40
        r["wire_bytes"] = r["captured_bytes"] = payload_bytes + 54
        r["src_port"], r["dst_port"] = (50_000, 443) if direction == UP else (443, 50_000)
        r["raw_bytes"], r["payload_offset"] = 40, 40
        if protocol == TCP:
            r["tcp_flags"], r["tcp_header_bytes"], r["window"] = flags, 20, 500 + ts_ns % 7
            r["seq"], r["ack"] = seq[direction], seq[1 - direction]
            r["has_timestamps"], r["tsval"], r["tsecr"] = 1, ts_ns // 1_000_000 % 2**32, ts_ns // 1_000_000 % 2**32 - 1
        seq[direction] += payload_bytes + (1 if flags & SYN else 0)
        return r

    if protocol == TCP:
        yield packet(UP, 0, SYN)
        yield packet(DOWN, 0, SYN | ACK)
        yield packet(UP, 0, ACK)
    for _ in range(_ROUNDS):
        yield packet(UP, 400, PSH | ACK)
        for _ in range(10):
            yield packet(DOWN, _PAYLOAD_BYTES, ACK)
            yield packet(DOWN, _PAYLOAD_BYTES, ACK)
            yield packet(UP, 0, ACK)
