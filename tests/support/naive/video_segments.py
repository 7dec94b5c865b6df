"""Naive twin of VideoSegments: keeps every request, every segment, and every range of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.naive.packets import sdiff

DOWN, TCP = 1, 6
FIN, SYN, RST, ACK = 1, 2, 4, 16
LATER_FRAGMENT = 2
MOST_HOLES = 5
BOTTOM = -(1 << 62)
WINDOW, NEAR = 2**30, 2**26


class Stream:
    """Ranges of positions that were seen in one direction of a TCP connection; the first range has no beginning."""

    def __init__(self, most_holes: int = MOST_HOLES) -> None:
        self.most_holes = most_holes
        self.seen: list[tuple[int, int]] = []
        self.end = 0

    def begin(self, seq: int, unseen: int = 0) -> None:
        self.end = seq % 2**32 + 2**40
        self.seen = [(BOTTOM, self.end - unseen)]

    def position(self, seq: int) -> int:
        """The position nearest to the end so far that has this sequence number; of two, the lower."""
        cycle = self.end // 2**32
        candidates = [(cycle + around) * 2**32 + seq % 2**32 for around in (-1, 0, 1)]
        return min(candidates, key=lambda position: (abs(position - self.end), position))

    def add(self, seq: int, payload_bytes: int) -> int:
        if abs(self.position(seq) - self.end) > WINDOW:
            self.begin(seq)
        start = self.position(seq)
        return self.add_range(start, start + payload_bytes)

    def close_below(self, seq: int) -> int:
        """What lies below was received; how many bytes of it were not seen."""
        return self.add_range(BOTTOM, self.position(seq))

    def near(self, seq: int) -> bool:
        return abs(self.position(seq) - self.end) <= NEAR

    def add_range(self, start: int, stop: int) -> int:
        before = sum(b - a for a, b in self.seen)
        self.seen = merged([*self.seen, (start, stop)])
        new_bytes = sum(b - a for a, b in self.seen) - before
        self.end = max(self.end, stop)
        gaps = [(a[1], b[0]) for a, b in zip(self.seen, [*self.seen[1:], (self.end, self.end)], strict=True)]
        gaps = [gap for gap in gaps if gap[0] < gap[1]]
        given_up = [gap for gap in gaps if gap[0] < self.end - 2**30]
        open_gaps = gaps[len(given_up):]  # fmt: skip
        given_up += open_gaps[: max(len(open_gaps) - self.most_holes, 0)]
        self.seen = merged([*self.seen, *given_up])
        return new_bytes


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


class Watched:
    """A connection as it is seen, from both sides or from one."""

    def __init__(self, parameters: Any, most_holes: int = MOST_HOLES) -> None:
        self.parameters = parameters
        self.stream = Stream(most_holes)
        self.highest: int | None = None  # upstream, seen or acknowledged
        self.acked: int | None = None  # by the client at first
        self.advanced = False  # whether it acknowledged more since
        self.unseen_bytes, self.unseen_end = 0, 0  # upstream, acknowledged since the latest byte of either side
        self.up_seen = self.down_seen = False
        self.usual_bytes = 0

    def events(self, p: Any) -> list[tuple[str, int]]:
        """("request" | "payload" | "end", new bytes), in their order."""
        if p.direction == DOWN:
            has_header = p.protocol == TCP and p.fragment != LATER_FRAGMENT
            self.down_seen |= has_header and bool(p.payload_bytes or p.tcp_flags & SYN)
            found, fits = self.downstream(p, has_header)
        else:
            found = self.upstream(p)
        if p.direction == DOWN:
            ends = has_header and p.tcp_flags & FIN and fits
        else:
            ends = p.tcp_flags & FIN and not self.down_seen
        ends = ends or p.tcp_flags & RST  # all of them count here
        return [*found, ("end", 0)] if ends else found

    def downstream(self, p: Any, has_header: bool) -> tuple[list[tuple[str, int]], bool]:
        """The events, and whether a FIN in the packet would be one of this connection."""
        asked = False
        data_seq = int(p.seq) + (1 if p.tcp_flags & SYN else 0)
        if has_header and p.tcp_flags & SYN:
            self.stream.begin(data_seq)
            self.acked, self.advanced = data_seq % 2**32, True
            sent = None if self.highest is None else sdiff(self.highest, int(p.ack))
            if p.tcp_flags & ACK and not (self.up_seen and sent is not None and 0 <= sent < 2**16):
                self.highest = int(p.ack)
        elif has_header and p.tcp_flags & ACK and not p.tcp_flags & RST:
            asked = self.asked(int(p.ack))
        payload_bytes = new_bytes = int(p.payload_bytes)
        if payload_bytes and has_header:
            if not self.stream.seen:
                self.stream.begin(data_seq, unseen=2**29)
            new_bytes = self.stream.add(data_seq, payload_bytes)
        elif payload_bytes and p.protocol == TCP and self.stream.seen:
            self.stream.add_range(self.stream.end, self.stream.end + payload_bytes)
        is_near = bool(self.stream.seen) and self.stream.near((int(p.seq) + payload_bytes) % 2**32)
        if p.tcp_flags & FIN and is_near:
            self.stream.add(int(p.seq) + payload_bytes, 1)
        found = [("request", 0)] * asked + [("payload", new_bytes)] * (new_bytes > 0)
        return found, is_near or not self.stream.seen

    def asked(self, ack: int) -> bool:
        """Whether what the server acknowledges makes a request of what was not seen."""
        ahead = None if self.highest is None else sdiff(ack, self.highest)
        if ahead is None or (abs(ahead) > NEAR and not self.up_seen):
            self.highest = ack
        elif 0 < ahead <= NEAR:
            self.highest = ack
            before = self.unseen_bytes if self.unseen_end == self.stream.end % 2**16 else 0
            self.unseen_end = self.stream.end % 2**16
            self.unseen_bytes = min(before + ahead, 2**16 - 1)
            return bool(before < self.parameters.TCPRequestBytes <= self.unseen_bytes)
        return False

    def upstream(self, p: Any) -> list[tuple[str, int]]:
        if p.protocol != TCP:
            return [("request", 0)] * self.is_larger(p)
        if p.fragment == LATER_FRAGMENT:
            self.highest = None if self.highest is None else (self.highest + int(p.payload_bytes)) % 2**32
            return []
        self.up_seen = True
        new_bytes = 0
        if p.tcp_flags & SYN:
            self.highest = (int(p.seq) + 1) % 2**32
            if not p.tcp_flags & ACK:
                self.acked, self.advanced = None, False
                if not self.down_seen:
                    self.stream.seen = []
        elif p.tcp_flags & ACK and not p.tcp_flags & RST:
            late = self.highest is not None and abs(sdiff(int(p.seq), self.highest)) > NEAR
            new_bytes = 0 if late else self.received(int(p.ack))
        return [("payload", new_bytes)] * (new_bytes > 0) + [("request", 0)] * self.is_request(p)

    def is_larger(self, p: Any) -> bool:
        """Whether a datagram is no acknowledgement: 16 bytes more than the one before, and 8 for each request since."""
        if not p.payload_bytes or p.fragment == LATER_FRAGMENT:
            return False
        least = self.parameters.OtherUDPRequestBytes if p.record_bytes == 1 else self.parameters.UDPRequestBytes
        asks = p.payload_bytes >= max(least, self.usual_bytes + 16)
        self.usual_bytes = min(self.usual_bytes + 8 if asks else int(p.payload_bytes), 255)
        return bool(asks)

    def received(self, ack: int) -> int:
        """How many bytes the client acknowledges that were not seen; not what it had before the flow was watched."""
        if self.advanced and self.stream.near(ack):
            return self.stream.close_below(ack)
        if self.advanced or self.acked is None or abs(sdiff(ack, self.acked)) > NEAR:
            self.acked, self.advanced = ack, False
        elif sdiff(ack, self.acked) > 0:
            self.advanced = True
            if not self.stream.seen or not self.stream.near(self.acked):
                self.stream.begin(self.acked)
            self.stream.close_below(self.acked)
            return self.stream.close_below(ack)
        return 0

    def is_request(self, p: Any) -> bool:
        if not p.payload_bytes and not p.tcp_flags & FIN:
            return False
        end = (int(p.seq) + int(p.payload_bytes) + (1 if p.tcp_flags & (SYN | FIN) else 0)) % 2**32
        if self.highest is not None and -NEAR <= sdiff(end, self.highest) <= 0:
            return False
        self.highest, self.unseen_bytes = end, 0
        return bool((p.record_bytes or p.payload_bytes) >= self.parameters.TCPRequestBytes)


def events_of(packets: list[Any], parameters: Any) -> list[tuple[str, int, int]]:
    """("request" | "payload" | "end", time of the packet in ns, new bytes) of each packet that matters."""
    watched = Watched(parameters)
    return [(kind, int(p.ts_ns), new_bytes) for p in packets for kind, new_bytes in watched.events(p)]


def video_segments(intervals: list[list[Any]], parameters: Any, interval_s: float = 10.0) -> list[dict[str, Any]]:
    """Outputs of one flow: all is worked out again from the flow's first packet at each interval's end."""
    outputs = []
    for last in range(len(intervals)):
        earlier = [p for packets in intervals[:last] for p in packets]
        now = earlier + intervals[last]
        outputs.append(output(replayed(earlier, parameters), replayed(now, parameters), interval_s))
    return outputs


def replayed(packets: list[Any], parameters: Any) -> dict[str, Any]:
    requests: list[int] = []
    segments: list[dict[str, Any]] = []
    small: list[int] = []
    pending: list[tuple[int, int]] = []  # (time, new bytes)
    waiting = 0
    clock = 0
    for kind, ts_ns, new_bytes in events_of(packets, parameters):
        if kind == "payload":
            clock = max(clock, ts_ns)
            pending.append((clock, new_bytes))
            continue
        if pending:
            size = sum(piece for _, piece in pending)
            if size >= parameters.MinBytes and waiting:
                first, final = pending[0][0], pending[-1][0]
                segments.append({"size": size, "request": requests[-1], "first": first, "last": final})
            else:
                small.append(size)
            pending, waiting = [], 0
        if kind == "request":
            clock = max(clock, ts_ns)
            requests.append(clock)
            waiting += 1
    return {"requests": requests, "segments": segments, "small": small, "waiting": waiting,
            "pending_bytes": sum(piece for _, piece in pending)}  # fmt: skip


def figures(name: str, values: Any, unit: float = 1.0) -> dict[str, float]:
    if len(values) == 0:
        return dict.fromkeys((f"{name}_mean", f"{name}_std", f"{name}_min", f"{name}_max"), float("nan"))
    series = np.asarray(values, float) / unit
    return {f"{name}_mean": series.mean(), f"{name}_std": series.std(), f"{name}_min": series.min(),
            f"{name}_max": series.max()}  # fmt: skip


def without_std(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not name.endswith("_std")}


def output(before: dict[str, Any], after: dict[str, Any], interval_s: float) -> dict[str, Any]:
    segments = after["segments"][len(before["segments"]):]  # fmt: skip
    small = after["small"][len(before["small"]):]  # fmt: skip
    sizes = [s["size"] for s in segments]
    all_sizes = [s["size"] for s in after["segments"]]
    latest = all_sizes[-10:]
    request_iat = np.diff(after["requests"])
    completion_iat = np.diff([s["last"] for s in after["segments"]])
    response_ns = [s["last"] - s["request"] for s in segments]
    weights = 0.25 ** np.arange(len(latest))[::-1]
    total_ns = sum(response_ns)
    return {
        "requests": len(after["requests"]) - len(before["requests"]),
        "segments": len(segments),
        "segment_download_rate": len(segments) / interval_s,
        "segment_bytes": sum(sizes),
        **figures("segment_bytes", sizes),
        "segment_sizes": sizes[::-1][:10],
        "segments_not_listed": max(0, len(sizes) - 10),
        "small_segments": len(small),
        "small_bytes": sum(small),
        "pending_requests": after["waiting"],
        "pending_bytes": after["pending_bytes"],
        **without_std(figures("ttfb_s", [s["first"] - s["request"] for s in segments], 1e9)),
        **without_std(figures("download_s", [s["last"] - s["first"] for s in segments], 1e9)),
        "response_s_mean": np.mean(response_ns) / 1e9 if segments else float("nan"),
        "segment_kbps": (sum(sizes) * 8e6 / total_ns if total_ns else float("inf")) if segments else float("nan"),
        **figures("request_iat_s", request_iat[max(len(before["requests"]) - 1, 0):], 1e9),
        **figures("completion_iat_s", completion_iat[max(len(before["segments"]) - 1, 0):], 1e9),
        **figures("last10_bytes", latest),
        **{f"last10_bytes_p{q}": np.percentile(latest, q) if latest else float("nan") for q in (50, 75, 85, 90)},
        "last10_bytes_ewma": (weights * latest).sum() / weights.sum() if latest else float("nan"),
        "all_requests": len(after["requests"]),
        "all_segments": len(all_sizes),
        "all_bytes": sum(all_sizes),
        **figures("all_bytes", all_sizes),
        **figures("all_request_iat_s", request_iat, 1e9),
        **figures("all_completion_iat_s", completion_iat, 1e9),
        **quantiles("request_iat_s", request_iat[max(len(before["requests"]) - 1, 0):], 1e9),
        **quantiles("completion_iat_s", completion_iat[max(len(before["segments"]) - 1, 0):], 1e9),
        **quantiles("all_bytes", all_sizes),
        **quantiles("all_request_iat_s", request_iat, 1e9),
        **quantiles("all_completion_iat_s", completion_iat, 1e9),
    }  # fmt: skip


def quantiles(name: str, values: Any, unit: float = 1.0) -> dict[str, float]:
    """The value at or below each rank: what the sketch has the bin of."""
    return {
        f"{name}_p{q}": np.percentile(values, q, method="lower") / unit if len(values) else float("nan")
        for q in (50, 75, 85, 90)
    }
