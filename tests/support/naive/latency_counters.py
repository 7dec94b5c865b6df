"""Naive twin of LatencyCounters: remembers every segment and every TSval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.naive.packets import ACK, FIN, LATER_FRAGMENT, RST, SYN, TCP, P, sdiff

MOST_SEGMENTS, MOST_TIMESTAMPS = 16, 4


@dataclass
class Segment:
    end: int
    sent_us: int
    copies: int = 1
    is_syn: bool = False


@dataclass
class Sender:
    """One side of a connection; positions are sequence numbers without the wrap."""

    isn: int | None = None
    end: int | None = None
    acked: int | None = None
    segments: list[Segment] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    latest_stamp: int | None = None
    latest_us: int | None = None

    def position(self, seq: int) -> int:
        return self.end + sdiff(seq, self.end % 2**32)

    def send(self, p: P, now_us: int) -> None:
        if self.end is None:
            self.end = p.seq + 2**40
        start = self.position(p.seq)
        stop = start + p.payload_bytes + bool(p.tcp_flags & (SYN | FIN))
        if start == self.end - 1 and p.payload_bytes <= 1 and not p.tcp_flags & (SYN | FIN | RST):
            return  # keep-alive
        for segment in self.segments:
            segment.copies += start < segment.end <= stop
        if stop > self.end:
            self.segments = [s for s in self.segments if stop - s.end < 2**31]  # an ACK could mean either
            first = bool(p.tcp_flags & SYN) and start == self.end
            self.segments.append(Segment(stop, now_us, is_syn=first))
            self.end = stop
        if p.has_timestamps and (self.latest_stamp is None or sdiff(p.tsval, self.latest_stamp) > 0):
            self.latest_stamp = p.tsval
            self.stamps.append((p.tsval, now_us))


@dataclass
class Samples:
    rtt: list[int] = field(default_factory=list)
    ack_rtt: list[int] = field(default_factory=list)
    ts_rtt: list[int] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)
    handshake: int | None = None


class Twin:
    def __init__(self) -> None:
        self.senders = [Sender(), Sender()]
        self.crowded = False

    def interval(self, packets: list[P]) -> dict[str, Any]:
        samples = [Samples(), Samples()]
        for p in packets:
            if p.protocol == TCP and p.fragment != LATER_FRAGMENT:
                self.add(p, samples[1 - p.direction])
        out: dict[str, Any] = {}
        for name, found in zip(("server", "client"), samples, strict=True):
            out[f"handshake_{name}_s"] = np.nan if found.handshake is None else found.handshake / 1e6
            out[f"rtt_{name}_jitter_s"] = np.mean(found.jumps) / 1e6 if found.jumps else np.nan
            for kind in ("rtt", "ack_rtt", "ts_rtt"):
                values = np.array(getattr(found, kind)) / 1e6
                out[f"{kind}_{name}_samples"] = len(values)
                for part, figure in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
                    out[f"{kind}_{name}_s_{part}"] = figure(values) if len(values) else np.nan
        return out

    def add(self, p: P, samples: Samples) -> None:
        now_us = p.ts_ns // 1_000
        if p.tcp_flags & SYN and self.senders[p.direction].isn != p.seq:
            if self.senders[p.direction].end is not None and not p.tcp_flags & ACK:
                self.senders[1 - p.direction] = Sender()
            self.senders[p.direction] = Sender(isn=p.seq)
        mine, other = self.senders[p.direction], self.senders[1 - p.direction]
        if p.tcp_flags & ACK and (other.acked is None or sdiff(p.ack, other.acked) > 0):
            other.acked = p.ack
            self.acknowledge(p, other, now_us, samples)
        if p.payload_bytes or p.tcp_flags & (SYN | FIN):
            mine.send(p, now_us)
        self.crowded |= len(mine.segments) > MOST_SEGMENTS or len(mine.stamps) > MOST_TIMESTAMPS

    def acknowledge(self, p: P, sender: Sender, now_us: int, samples: Samples) -> None:
        for segment in sender.segments:
            us = now_us - segment.sent_us
            if segment.end % 2**32 == p.ack and us >= 0:
                samples.ack_rtt.append(us)
                if segment.copies == 1:
                    samples.rtt.append(us)
                    if sender.latest_us is not None:
                        samples.jumps.append(abs(us - sender.latest_us))
                    sender.latest_us = us
                    if segment.is_syn:
                        samples.handshake = us
        sender.segments = [s for s in sender.segments if s.end > sender.position(p.ack)]
        if p.has_timestamps:
            samples.ts_rtt += [now_us - us for tsval, us in sender.stamps if tsval == p.tsecr and now_us >= us]
            sender.stamps = [(tsval, us) for tsval, us in sender.stamps if sdiff(p.tsecr, tsval) < 0]


def latency_counters(intervals: list[list[P]]) -> tuple[list[dict[str, Any]], bool]:
    """Outputs of one flow, and whether more waited for an ACK than the class remembers."""
    twin = Twin()
    return [twin.interval(packets) for packets in intervals], twin.crowded
