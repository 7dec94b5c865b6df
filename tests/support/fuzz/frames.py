"""Frames that nobody would send, by the hundred thousand: made traces, changed where a header's fields are.

All is done on matrices of bytes with NumPy, from a seed: the same seed gives the same frames everywhere.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from support import traces
from trafficrefinery.capture.frames import FRAME
from trafficrefinery.jit import kernel, records
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.link_types import LINK_TYPES
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET, parse
from trafficrefinery.packets.tunnels import TUNNELS, tunnel_table

SHORT_BYTES, LONG_BYTES = 224, 1536
EVERY_TUNNEL = tunnel_table(TUNNELS)
LINKS = np.array([*LINK_TYPES, 9, 147, 2**31])
# Values that a length, an offset or a number stands or falls with.
BYTES = np.array([0, 1, 4, 5, 6, 15, 17, 41, 43, 44, 45, 46, 47, 50, 51, 60, 63, 64, 69, 96, 127, 128, 132, 135, 137,
                  192, 240, 255], np.uint8)  # fmt: skip
WORDS = np.array([0, 1, 3, 4, 7, 8, 19, 20, 21, 28, 39, 40, 41, 46, 53, 80, 255, 256, 443, 1460, 1500, 2048, 2152, 4789,
                  6081, 0x7FFF, 0x8000, 0x8100, 0x8847, 0x8864, 0x88A8, 0x88BE, 0x86DD, 0x6558, 0x22EB, 0xFFFE,
                  0xFFFF])  # fmt: skip
STRAY_NS = np.array([-(2**63), -(2**62), -1, 0, 2**31 * 10**9, 4_000_000_000 * 10**9, 2**62, 2**63 - 1])


class Frames(NamedTuple):
    """Some frames: `table` is of FRAME, in the order of capture."""

    buffer: np.ndarray
    table: Any

    def block(self, first: int, stop: int) -> tuple[Any, Any]:
        """A part of them, in a buffer that ends where its last frame does: no byte behind a frame is another's."""
        part = self.table[first:stop].copy()
        ends = part["offset"] + part["captured_bytes"].astype(np.int64)
        low, high = int(part["offset"].min()), int(ends.max())
        buffer = table(high - low, np.uint8)
        buffer[:] = self.buffer[low:high]
        part["offset"] -= low
        return np.asarray(buffer), records(part)

    def chosen(self, selection: Any) -> Frames:
        """Those of a mask or of a slice."""
        return Frames(self.buffer, self.table[selection])


class _Corpus(NamedTuple):
    """Frames to start from, of about one length.

    Args:
        data: uint8[frames, bytes].
        bounds: int64[frames, 4]: where the IP header, the header behind it and the payload begin, and the end.
    """

    data: np.ndarray
    lengths: np.ndarray
    links: np.ndarray
    bounds: np.ndarray


@kernel
def _find_bounds(buffer: Any, frames: Any, packet: Any, decapsulated: int, bounds: Any) -> None:
    r = packet[0]
    for i in range(len(frames)):
        frame = frames[i]
        bounds[i, 3] = np.int64(frame.captured_bytes)
        if parse(buffer, frame, decapsulated, 0, r) == ATTRIBUTED:
            bounds[i, 0] = r.raw_offset - frame.offset
            bounds[i, 1] = r.payload_offset - frame.offset - (r.tcp_header_bytes if r.protocol == 6 else 8)
            bounds[i, 2] = r.payload_offset - frame.offset


@functools.cache
def corpora() -> tuple[_Corpus, _Corpus]:
    """Of short and of long frames: every wrapping, alone and in one another, with every kind of conversation."""
    r = random.Random(1)
    wrapped: list[tuple[int, bytes]] = []
    wrappings = list(traces.WRAPPINGS.items())
    for name, (link_type, wrap) in wrappings:
        for kind, make in traces.KINDS.items():
            for seed in range(3 if kind == "quic" else 8):
                for _, packet, up in make(random.Random(f"{name} {kind} {seed}"))[:12]:
                    inner = packet
                    if r.random() < 0.15:  # a tunnel in a tunnel
                        outer = wrap_as_ip(r, packet, up)
                        inner = packet if outer is None else outer
                    wrapped.append((link_type, wrap(inner, up)))
    wrapped = [(link, data) for link, data in wrapped if len(data) <= LONG_BYTES]
    short = [pair for pair in wrapped if len(pair[1]) <= SHORT_BYTES]
    return _corpus(short, SHORT_BYTES), _corpus([pair for pair in wrapped if len(pair[1]) > SHORT_BYTES], LONG_BYTES)


def wrap_as_ip(r: random.Random, packet: bytes, up: bool) -> bytes | None:
    """The packet in one of the Ethernet wrappings that begin with IP, without their link layer."""
    candidates = []
    for link_type, wrap in traces.WRAPPINGS.values():
        data = wrap(packet, up)
        if link_type == 1 and data[12:14] == b"\x08\0" and data[14:] != packet:
            candidates.append(data[14:])
    return r.choice(candidates) if candidates else None


def _corpus(frames: list[tuple[int, bytes]], width: int) -> _Corpus:
    data = np.zeros((len(frames), width), np.uint8)
    where = records(np.zeros(len(frames), FRAME))
    for i, (link_type, frame) in enumerate(frames):
        data[i, : len(frame)] = np.frombuffer(frame, np.uint8)
        where[i] = (0, i * width, len(frame), len(frame), link_type, 0)
    bounds = np.zeros((len(frames), 4), np.int64)
    _find_bounds(data.reshape(-1), where, records(np.zeros(1, PACKET)), EVERY_TUNNEL, bounds)
    return _Corpus(data, bounds[:, 3].copy(), np.asarray(where["link_type"]).astype(np.int64), bounds)


def mutated(rng: np.random.Generator, count: int, start_ns: int) -> Frames:
    """Frames of both corpora, most of them with something wrong, at times that mostly go on."""
    short, long = corpora()
    long_count = count // 32
    parts = [_mutate(rng, short, count - long_count), _mutate(rng, long, long_count)]
    frames = joined(parts)
    order = rng.permutation(count)
    frames = frames.chosen(order)
    frames.table["ts_ns"] = times(rng, count, start_ns)
    return packed(frames)


def _mutate(rng: np.random.Generator, corpus: _Corpus, count: int) -> Frames:
    pick = rng.integers(len(corpus.lengths), size=count)
    data, lengths, links = corpus.data[pick], corpus.lengths[pick], corpus.links[pick]
    bounds, rows = corpus.bounds[pick], np.arange(count)
    width = data.shape[1]

    def some(share: float) -> np.ndarray:
        return np.flatnonzero(rng.random(count) < share)

    def places(which: np.ndarray) -> np.ndarray:
        """An offset in each frame: in the link layer, in IP, in TCP or UDP, or in the payload, as likely as each other."""
        region = rng.integers(4, size=len(which))
        begins = np.where(region == 0, 0, bounds[which, np.maximum(region - 1, 0)])
        room = np.maximum(np.minimum(bounds[which, region] - begins, 48), 1)
        return np.minimum(begins + (rng.random(len(which)) * room).astype(np.int64), width - 4)

    for _ in range(3):
        which = some(0.2)
        data[which, places(which)] = rng.choice(BYTES, len(which))
        which = some(0.1)
        data[which, places(which)] ^= (1 << rng.integers(8, size=len(which))).astype(np.uint8)
        which = some(0.15)
        values = np.where(
            rng.random(len(which)) < 0.7, rng.choice(WORDS, len(which)),
            lengths[which] - rng.integers(-2, 60, len(which)),
        )  # fmt: skip
        at = places(which)
        data[which, at], data[which, at + 1] = values >> 8 & 255, values & 255
    which = some(0.1)  # a sequence number, or anything else of 32 bits, goes a little or far away
    at = np.minimum(bounds[which, 1] + rng.choice([4, 8], len(which)), width - 4)
    data[which[:, None], at[:, None] + np.arange(4)] += rng.choice([0, 1, 127, 255], (len(which), 4)).astype(np.uint8)
    which = some(0.15)  # other ends
    at = np.minimum(bounds[which, 0] + rng.choice([15, 19, 23, 39], len(which)), width - 4)
    data[which, at] = rng.integers(256, size=len(which))
    which = some(0.05)  # bytes taken out or put in
    at, shift = places(which), rng.integers(-9, 10, len(which))
    columns = np.arange(width)
    source = np.where(columns >= at[:, None], columns + shift[:, None], columns).clip(0, width - 1)
    data[which] = data[which[:, None], source]
    lengths[which] = (lengths[which] - shift).clip(1, width)
    which = some(0.05)  # the beginning of one frame, the end of another
    data[which] = np.where(columns < places(which)[:, None], data[which], data[rng.integers(count, size=len(which))])
    which = some(0.04)
    links[which] = rng.choice(LINKS, len(which))

    captured = lengths.copy()
    which = some(0.1)
    captured[which] = (rng.random(len(which)) * (lengths[which] + 1)).astype(np.int64)
    wire = np.maximum(lengths, captured)
    which = some(0.03)
    wire[which] = np.maximum(captured[which], rng.choice([0, 1, 60, 1514, 65_535, 2**31, 2**32 - 1], len(which)))
    where = records(np.zeros(count, FRAME))
    where["offset"], where["captured_bytes"], where["wire_bytes"] = rows * width, captured, wire
    where["link_type"] = links
    return Frames(data.reshape(-1), where)


def times(rng: np.random.Generator, count: int, start_ns: int) -> np.ndarray:
    """Times of capture: mostly on, by microseconds; some pauses, some longer than a flow may be idle,
    some steps back, and some times that cannot be."""
    steps = rng.exponential(200_000, count)
    pauses = rng.random(count)
    steps[pauses < 0.0005] += 1.5e9
    steps[pauses < 0.00005] += 45e9
    late = np.where(rng.random(count) < 0.01, rng.choice([1_000, 900_000_000, 7_000_000_000], count), 0)
    made = start_ns + np.cumsum(steps).astype(np.int64) - late
    stray = rng.random(count) < 0.0002
    made[stray] = rng.choice(STRAY_NS, int(stray.sum()))
    return made


def flood(rng: np.random.Generator, count: int, start_ns: int, every_ns: int, server: str = "192.0.2.5") -> Frames:
    """SYNs of `count` flows, each of an end of its own."""
    template = np.frombuffer(
        traces.ethernet(traces.ip("10.0.0.0", server, 6, traces.tcp(0, 443, 1, 0, traces.SYN))), np.uint8
    )
    data = np.tile(template, (count, 1))
    flows = rng.permutation(count) + (int(rng.integers(200)) << 24)
    data[:, 26:30] = flows[:, None] >> np.array([24, 16, 8, 0]) & 255
    data[:, 34:36] = rng.integers(1024, 65_536, count)[:, None] >> np.array([8, 0]) & 255
    where = records(np.zeros(count, FRAME))
    where["ts_ns"], where["offset"] = start_ns + np.arange(count) * every_ns, np.arange(count) * len(template)
    where["captured_bytes"] = where["wire_bytes"] = len(template)
    where["link_type"] = 1
    return Frames(data.reshape(-1), where)


def long_flows(count: int, packets: int, start_ns: int, every_ns: int, server: str = "192.0.2.6") -> Frames:
    """`count` flows that have a packet each every `every_ns`."""
    template = np.frombuffer(
        traces.ethernet(traces.ip("10.9.0.0", server, 17, traces.udp(0, 3478, bytes(20)))), np.uint8
    )
    flows = np.tile(np.arange(count), packets)
    data = np.tile(template, (len(flows), 1))
    data[:, 34:36] = (2000 + flows)[:, None] >> np.array([8, 0]) & 255
    where = records(np.zeros(len(flows), FRAME))
    where["ts_ns"] = start_ns + np.repeat(np.arange(packets), count) * every_ns + flows
    where["offset"] = np.arange(len(flows)) * len(template)
    where["captured_bytes"] = where["wire_bytes"] = len(template)
    where["link_type"] = 1
    return Frames(data.reshape(-1), where)


def joined(parts: list[Frames]) -> Frames:
    """One after the other."""
    offsets = np.cumsum([0, *(len(part.buffer) for part in parts)])
    tables = []
    for part, offset in zip(parts, offsets, strict=False):
        moved = np.asarray(part.table).copy()
        moved["offset"] += offset
        tables.append(moved)
    return Frames(np.concatenate([part.buffer for part in parts]), records(np.concatenate(tables)))


def by_time(frames: Frames) -> Frames:
    return packed(frames.chosen(np.argsort(frames.table["ts_ns"], kind="stable")))


def packed(frames: Frames) -> Frames:
    """Each frame behind the one before it, with no byte between them."""
    captured = frames.table["captured_bytes"].astype(np.int64)
    begins = np.cumsum(captured) - captured
    source = np.repeat(frames.table["offset"] - begins, captured) + np.arange(int(captured.sum()))
    where = records(np.asarray(frames.table).copy())
    where["offset"] = begins
    return Frames(frames.buffer[source], where)


Maker = Callable[[np.random.Generator, int], Frames]


def mixed(rng: np.random.Generator, count: int) -> Frames:
    """Mutated frames."""
    return mutated(rng, count, traces.START_NS)


def floods(rng: np.random.Generator, count: int) -> Frames:
    """A flood, silence but for some flows, and a flood again; frames of all kinds between."""
    now, every_ns = traces.START_NS, int(rng.choice([100, 1_000, 20_000]))
    again_ns = now + int(rng.choice([20, 41, 100])) * traces.SECOND
    long = long_flows(20, min(25, count // 100), now, 5 * traces.SECOND)
    share = (count - len(long.table)) // 3
    rest = mutated(rng, count - len(long.table) - 2 * share, now + traces.SECOND)
    return by_time(joined([flood(rng, share, now, every_ns), flood(rng, share, again_ns, every_ns), long, rest]))
