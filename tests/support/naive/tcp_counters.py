"""Naive twin of TCPCounters: keeps every value of an interval, and every range of bytes of a connection."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.naive.packets import ACK, FIN, LATER_FRAGMENT, RST, SYN, TCP, P, sdiff

MOST_HOLES = 3
FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}


@dataclass
class Values:
    """What one side sent in one interval."""

    windows: list[int] = field(default_factory=list)
    payloads: list[int] = field(default_factory=list)
    in_flights: list[int] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    gaps_ns: list[int] = field(default_factory=list)
    unique_bytes: int = 0


@dataclass
class Connection:
    """What one side sent since its connection began. Positions are sequence numbers without the wrap."""

    end: int | None = None
    end_ns: int = 0
    seen: list[tuple[int, int]] = field(default_factory=list)
    isn: int | None = None
    scale: int = -1
    acked: int | None = None
    duplicates: int = 0
    window: int | None = None
    keep_alive: bool = False
    fragmented: bool = False

    def position(self, seq: int) -> int:
        return self.end + sdiff(seq, self.end % 2**32)

    def start(self, seq: int, reach: int) -> None:
        self.end = seq + 2**40
        self.seen = [(-(2**62), self.end - reach)]

    def know(self, acked: int | None) -> None:
        """What the other side acknowledged counts as seen."""
        if self.end is not None and acked is not None:
            self.seen = merged([*self.seen, (-(2**62), min(self.position(acked), self.end))])

    def holes(self) -> int:
        return len(merged([*self.seen, (self.end, self.end)])) - 1


class Twin:
    """A flow: `intervals` tells the outputs; `crowded`, whether there were ever more holes than the class keeps."""

    def __init__(self, idle_after_ms: int = 1_000) -> None:
        self.idle_after_ns = idle_after_ms * 1_000_000
        self.sides = [Connection(), Connection()]
        self.latest_ns: list[int | None] = [None, None]
        self.syn_ns: int | None = None
        self.initial_rtt_ns: int | None = None
        self.crowded = False

    def interval(self, packets: list[P], interval_s: float = 10.0) -> dict[str, Any]:
        values = [Values(), Values()]
        start_ns = 0
        for p in packets:
            if p.protocol == TCP and p.fragment != LATER_FRAGMENT:
                start_ns = p.interval_start_ns
                self.add(p, values)
        for side in range(2):
            self.pause(side, start_ns + int(interval_s * 1e9), start_ns, values[side])
        return self.output(values, interval_s)

    def add(self, p: P, values: list[Values]) -> None:
        mine, other, kept = self.sides[p.direction], self.sides[1 - p.direction], values[p.direction]
        for name, bit in FLAGS.items():
            kept.events[name] += bool(p.tcp_flags & bit)
        if p.tcp_flags & SYN:
            mine, other = self.begin(p)
        elif self.syn_ns and not p.tcp_flags & ~(ACK | 8) and p.tcp_flags & ACK and not p.payload_bytes:
            self.initial_rtt_ns = self.initial_rtt_ns or max(p.ts_ns - self.syn_ns, 1)
        answered = other.keep_alive
        mine.keep_alive = False
        kind = self.kind(p, mine, other, answered)
        if kind:
            kept.events[kind] += 1
        if kind in ("spurious", "fast", "retransmission"):
            kept.events["retransmissions"] += 1
            kept.events["retransmitted_bytes"] += p.payload_bytes
        mine.keep_alive = kind == "keep-alive"
        mine.duplicates += kind == "duplicate"
        if kind not in ("keep-alive", "probe"):
            kept.unique_bytes += self.place(p, mine, other)
        if p.tcp_flags & ACK and (mine.acked is None or sdiff(p.ack, mine.acked) > 0):
            mine.acked, mine.duplicates = p.ack, 0
        if p.payload_bytes and kind not in ("keep-alive", "probe") and other.acked is not None:
            kept.in_flights.append(max(sdiff(mine.end % 2**32, other.acked), 0))
        mine.fragmented |= p.fragment == 1
        mine.know(other.acked)
        other.know(mine.acked)
        self.crowded |= mine.holes() > MOST_HOLES
        self.pause(p.direction, p.ts_ns, p.interval_start_ns, kept)
        self.latest_ns[p.direction] = max(self.latest_ns[p.direction] or 0, p.ts_ns)
        kept.payloads.append(p.payload_bytes)
        if not p.tcp_flags & (SYN | RST):
            kept.windows.append(p.window << self.shift(p.direction))
            kept.events["zero_window"] += p.window == 0 and not p.tcp_flags & FIN
            mine.window = p.window

    def shift(self, side: int) -> int:
        """By how much the windows of one side are scaled at this moment."""
        agreed = all(each.isn is not None and each.scale >= 0 for each in self.sides)
        return min(self.sides[side].scale, 14) if agreed else 0

    def begin(self, p: P) -> tuple[Connection, Connection]:
        mine = self.sides[p.direction]
        opening = not p.tcp_flags & ACK
        if mine.isn != p.seq:
            if opening and mine.end is not None:
                self.sides[1 - p.direction] = Connection()
            if opening:
                self.syn_ns = self.initial_rtt_ns = None
            mine = self.sides[p.direction] = Connection(isn=p.seq, scale=p.window_scale)
            mine.start(p.seq, 0)
        if opening and self.initial_rtt_ns is None:
            self.syn_ns = p.ts_ns
        return mine, self.sides[1 - p.direction]

    def kind(self, p: P, mine: Connection, other: Connection, answered: bool) -> str | None:
        """What tshark would call a packet, by where it starts."""
        if mine.end is None:
            mine.start(p.seq, 2**20)
            mine.end_ns = p.ts_ns
        length = p.payload_bytes + bool(p.tcp_flags & (SYN | FIN))
        begin, stop = mine.position(p.seq), mine.position(p.seq) + length
        if begin > mine.end:
            return None if p.tcp_flags & RST or mine.fragmented else "lost"
        if begin == mine.end:
            if p.payload_bytes == 1 and other.window == 0:
                return "probe"
            same = p.ack == mine.acked and p.window == mine.window and p.window > 0
            return "duplicate" if length == 0 and same and not answered and p.tcp_flags & (ACK | RST) == ACK else None
        if begin == mine.end - 1 and p.payload_bytes <= 1 and not p.tcp_flags & (SYN | FIN | RST):
            return "keep-alive"
        return self.repetition(p, mine, other, stop) if length else None

    def repetition(self, p: P, mine: Connection, other: Connection, stop: int) -> str | None:
        if p.payload_bytes and other.acked is not None and mine.position(other.acked) >= stop:
            return "spurious"
        if mine.position(p.seq) == mine.end - 1 and p.payload_bytes > 1:
            return None  # its first byte was a window probe
        since_ns = p.ts_ns - (self.latest_ns[1 - p.direction] or 0)
        if other.duplicates >= 2 and other.acked == p.seq and 0 <= since_ns < 20_000_000:
            return "fast"
        if stop != mine.end and 0 <= p.ts_ns - mine.end_ns < (self.initial_rtt_ns or 3_000_000):
            return "out of order"
        return "retransmission"

    def place(self, p: P, mine: Connection, other: Connection) -> int:
        """Extend what was seen; tells how many bytes had been neither seen nor acknowledged."""
        data = mine.position(p.seq) + bool(p.tcp_flags & SYN)
        stop = data + p.payload_bytes + bool(p.tcp_flags & FIN and not p.tcp_flags & SYN)
        if data - bool(p.tcp_flags & SYN) > mine.end:
            if p.tcp_flags & RST:
                return p.payload_bytes
            if mine.fragmented:
                mine.seen = merged([*mine.seen, (mine.end, data)])
            mine.fragmented = False
        mine.know(other.acked)
        new_bytes = p.payload_bytes - overlap(mine.seen, data, data + p.payload_bytes)
        mine.seen = merged([*mine.seen, (mine.position(p.seq), stop)])
        if stop > mine.end:
            if other.acked is not None and stop - mine.position(other.acked) >= 2**31:
                other.acked = None  # too far back to be told from what is yet to come
            mine.end, mine.end_ns = stop, p.ts_ns
        return new_bytes

    def pause(self, side: int, ts_ns: int, start_ns: int, kept: Values) -> None:
        if self.latest_ns[side] is not None:
            gap_ns = ts_ns - max(self.latest_ns[side], start_ns)
            if gap_ns > self.idle_after_ns:
                kept.gaps_ns.append(gap_ns // 1_000 * 1_000)

    def output(self, values: list[Values], interval_s: float) -> dict[str, Any]:
        up, down = self.sides
        scaled = up.isn is not None and down.isn is not None
        out: dict[str, Any] = {"window_scaled": int(scaled)}
        tcp = bool(values[0].payloads or values[1].payloads)
        for side, suffix in enumerate(("_up", "_down")):
            kept = values[side]
            windows = kept.windows
            found = {name: kept.events[name] for name in FLAGS}
            found |= spread("window_bytes", windows) | spread("payload_bytes", kept.payloads)
            found |= spread("in_flight_bytes", kept.in_flights)
            found["window_bytes_first"] = float(windows[0]) if windows else np.nan
            found["window_bytes_last"] = float(windows[-1]) if windows else np.nan
            found["in_flight_bytes_last"] = float(kept.in_flights[-1]) if kept.in_flights else np.nan
            found["retransmissions"] = kept.events["retransmissions"]
            found["retransmitted_bytes"] = kept.events["retransmitted_bytes"]
            found["fast_retransmissions"] = kept.events["fast"]
            found["spurious_retransmissions"] = kept.events["spurious"]
            found["out_of_order"] = kept.events["out of order"]
            found["lost_segments"] = kept.events["lost"]
            found["duplicate_acks"] = kept.events["duplicate"]
            found["zero_windows"] = kept.events["zero_window"]
            found["unique_bytes"] = kept.unique_bytes
            found["goodput_kbps"] = kept.unique_bytes * 8 / 1_000 / interval_s if tcp else np.nan
            idle = tcp and self.latest_ns[side] is not None
            found["idle_s"] = sum(kept.gaps_ns) / 1e9 if idle else np.nan
            out |= {name + suffix: value for name, value in found.items()}
        return out


def tcp_counters(intervals: list[list[P]], idle_after_ms: int = 1_000) -> tuple[list[dict[str, Any]], bool]:
    """Outputs of one flow, and whether more holes were open at once than the class remembers."""
    twin = Twin(idle_after_ms)
    return [twin.interval(packets) for packets in intervals], twin.crowded


def spread(name: str, values: list[int]) -> dict[str, float]:
    names = [f"{name}_{part}" for part in ("mean", "std", "min", "max")]
    if not values:
        return dict.fromkeys(names, np.nan)
    return dict(zip(names, (np.mean(values), np.std(values), min(values), max(values)), strict=True))


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def overlap(ranges: list[tuple[int, int]], start: int, stop: int) -> int:
    return sum(max(min(b, stop) - max(a, start), 0) for a, b in merged(ranges))
