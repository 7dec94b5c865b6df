"""Video segments: what the client asks for, and what comes back until it asks again."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    DOWN,
    FIN,
    LATER_FRAGMENT,
    RST,
    SYN,
    TCP,
    Array,
    FeatureClass,
    Histogram,
    Packet,
    Struct,
    array,
    float32,
    int64,
    nan,
    parameter,
    seq_diff,
    seq_lt,
    sqrt,
    uint8,
    uint32,
    uint64,
    up_to,
    when,
)

HOLES = 5
LATEST = 10
UINT32_MAX = 0xFFFFFFFF
WINDOW_MAX = 1 << 30
REQUESTS, COMPLETIONS, ALL_REQUESTS, ALL_COMPLETIONS, ALL_SIZES = 0, 1, 2, 3, 4
"""Which histogram: inter-arrival times in µs of this interval, of the flow, and segment sizes of the flow."""


class VideoSegmentsOutput(NamedTuple):
    requests: int  # upstream packets that ask for something
    segments: int  # completed in this interval
    segment_download_rate: float  # completed segments/s
    segment_bytes: int  # bytes of unique payload, all segments completed in this interval
    segment_bytes_mean: float  # bytes
    segment_bytes_std: float  # bytes
    segment_bytes_min: float  # bytes
    segment_bytes_max: float  # bytes
    segment_sizes: Annotated[list[int], up_to(LATEST)]  # bytes, the latest first
    segments_not_listed: int  # completed in this interval, beyond the list
    small_segments: int  # completed, but no media: below MinBytes, or not asked for
    small_bytes: int  # bytes
    pending_requests: int  # requests whose segment is not complete
    pending_bytes: int  # bytes of the segment that is not complete
    ttfb_s_mean: float  # s, request to first byte
    ttfb_s_min: float  # s
    ttfb_s_max: float  # s
    download_s_mean: float  # s, first to last byte
    download_s_min: float  # s
    download_s_max: float  # s
    response_s_mean: float  # s, request to last byte
    segment_kbps: float  # 1,000 bit/s, all segments over all times from request to last byte
    request_iat_s_mean: float  # s between requests; gaps that end in this interval
    request_iat_s_std: float  # s
    request_iat_s_min: float  # s
    request_iat_s_max: float  # s
    completion_iat_s_mean: float  # s between the last bytes of segments; gaps that end in this interval
    completion_iat_s_std: float  # s
    completion_iat_s_min: float  # s
    completion_iat_s_max: float  # s
    last10_bytes_mean: float  # bytes, of the flow's last ten segments
    last10_bytes_std: float  # bytes
    last10_bytes_min: float  # bytes
    last10_bytes_max: float  # bytes
    last10_bytes_p50: float  # bytes
    last10_bytes_p75: float  # bytes
    last10_bytes_p85: float  # bytes
    last10_bytes_p90: float  # bytes
    last10_bytes_ewma: float  # bytes, weight 0.75 on the latest
    all_requests: int  # since the flow's start, as all that follow
    all_segments: int  # completed
    all_bytes: int  # bytes of completed segments
    all_bytes_mean: float  # bytes
    all_bytes_std: float  # bytes
    all_bytes_min: float  # bytes
    all_bytes_max: float  # bytes
    all_request_iat_s_mean: float  # s
    all_request_iat_s_std: float  # s
    all_request_iat_s_min: float  # s
    all_request_iat_s_max: float  # s
    all_completion_iat_s_mean: float  # s
    all_completion_iat_s_std: float  # s
    all_completion_iat_s_min: float  # s
    all_completion_iat_s_max: float  # s
    request_iat_s_p50: Annotated[float, when("Quantiles")]  # s, within 12.5 % as all that follow; this interval
    request_iat_s_p75: Annotated[float, when("Quantiles")]  # s
    request_iat_s_p85: Annotated[float, when("Quantiles")]  # s
    request_iat_s_p90: Annotated[float, when("Quantiles")]  # s
    completion_iat_s_p50: Annotated[float, when("Quantiles")]  # s
    completion_iat_s_p75: Annotated[float, when("Quantiles")]  # s
    completion_iat_s_p85: Annotated[float, when("Quantiles")]  # s
    completion_iat_s_p90: Annotated[float, when("Quantiles")]  # s
    all_bytes_p50: Annotated[float, when("Quantiles")]  # bytes; since the flow's start, as all that follow
    all_bytes_p75: Annotated[float, when("Quantiles")]  # bytes
    all_bytes_p85: Annotated[float, when("Quantiles")]  # bytes
    all_bytes_p90: Annotated[float, when("Quantiles")]  # bytes
    all_request_iat_s_p50: Annotated[float, when("Quantiles")]  # s
    all_request_iat_s_p75: Annotated[float, when("Quantiles")]  # s
    all_request_iat_s_p85: Annotated[float, when("Quantiles")]  # s
    all_request_iat_s_p90: Annotated[float, when("Quantiles")]  # s
    all_completion_iat_s_p50: Annotated[float, when("Quantiles")]  # s
    all_completion_iat_s_p75: Annotated[float, when("Quantiles")]  # s
    all_completion_iat_s_p85: Annotated[float, when("Quantiles")]  # s
    all_completion_iat_s_p90: Annotated[float, when("Quantiles")]  # s


class Received(Struct):
    """Which bytes of a TCP stream were seen: all below `end` but the holes.

    What lies less than 2^29 before the first byte seen is a hole as well, unless the SYN told where the stream begins.
    A hole is given up, so that what fills it later is not counted, when it is the lowest of more than HOLES, or when
    it begins more than 2^30 below the end: no window is larger (RFC 7323, section 2.3).
    """

    end: uint32  # sequence number
    holes: uint8
    known: uint8  # 0 until a sequence number was seen
    hole_start: Array[int] = array(uint32, HOLES)  # sequence number
    hole_bytes: Array[int] = array(uint32, HOLES)

    def begin(self, seq: int) -> None:
        self.end = seq
        self.holes = 0
        self.known = 1

    def add(self, seq: int, payload_bytes: int) -> int:
        """How many of these bytes were not seen before."""
        if not self.known:
            self.begin(seq)
            self.open_hole(seq - WINDOW_MAX // 2, WINDOW_MAX // 2)
        start = seq_diff(seq, self.end)  # positions are relative to the end from here on
        stop = start + payload_bytes
        new_bytes = payload_bytes
        if start != 0:
            self.give_up_old_holes()
            if start > 0:
                self.open_hole(self.end, start)
            else:
                new_bytes = self.fill(start, min(stop, 0)) + max(stop, 0)
        if stop > 0:
            self.end = seq + payload_bytes
        return new_bytes

    def depth(self, index: int) -> int:
        """How far below the end a hole begins."""
        distance: int = (self.end - self.hole_start[index]) & UINT32_MAX
        return distance

    def fill(self, start: int, stop: int) -> int:
        """Close holes between two positions, and tell how many bytes that were."""
        filled = 0
        i = 0
        while i < self.holes:
            low = -self.depth(i)
            high = low + self.hole_bytes[i]
            left = max(low, start)
            right = min(high, stop)
            if left < right:
                filled = filled + right - left
                if low < left:
                    self.hole_bytes[i] = left - low
                    if right < high:
                        self.open_hole(self.end + right, high - right)
                elif right < high:
                    self.hole_start[i] = self.end + right
                    self.hole_bytes[i] = high - right
                else:
                    self.close_hole(i)
                    i = i - 1
            i = i + 1
        return filled

    def open_hole(self, seq: int, hole_bytes: int) -> None:
        index = self.holes
        if index < HOLES:
            self.holes = index + 1
        else:
            index = 0
            for i in range(1, HOLES):
                if self.depth(i) > self.depth(index):
                    index = i
        self.hole_start[index] = seq
        self.hole_bytes[index] = hole_bytes

    def close_hole(self, index: int) -> None:
        last = self.holes - 1
        self.hole_start[index] = self.hole_start[last]
        self.hole_bytes[index] = self.hole_bytes[last]
        self.holes = last

    def give_up_old_holes(self) -> None:
        """Before their sequence numbers come round again."""
        for i in range(self.holes - 1, -1, -1):
            if self.depth(i) > WINDOW_MAX:
                self.close_hole(i)


class Span(Struct):
    """Sum, minimum and maximum of non-negative integers; minimum and maximum end at 2^32 - 1."""

    total: uint64
    from_top: uint32  # 2^32 - 1 less the minimum, so that zero is no minimum at all
    high: uint32

    def add(self, x: int) -> None:
        bounded = min(x, UINT32_MAX)
        self.total += x
        self.from_top = max(self.from_top, UINT32_MAX - bounded)
        self.high = max(self.high, bounded)

    def low(self) -> int:
        return UINT32_MAX - self.from_top


class Spread(Struct):
    """Span, and with it mean and standard deviation (ddof 0), in 24 bytes. NaN of an empty series.

    The deviation is by Welford's recurrence (Technometrics 4(3), 1962), kept in single precision.
    """

    span: Span
    squares: float32  # of deviations from the mean
    n: uint32

    def add(self, x: int) -> None:
        n = self.n
        total = self.span.total
        if n > 0:
            self.squares += (x - total / n) * (x - (total + x) / (n + 1))
        self.span.add(x)
        self.n = n + 1

    def average(self) -> float:
        return self.span.total / self.n if self.n > 0 else nan

    def std(self) -> float:
        return sqrt(self.squares / self.n) if self.n > 0 else nan

    def minimum(self) -> float:
        return float(self.span.low()) if self.n > 0 else nan

    def maximum(self) -> float:
        return float(self.span.high) if self.n > 0 else nan


class Latest(Struct):
    """The last ten segment sizes, the latest first, and their order by size."""

    sizes: Array[int] = array(uint32, LATEST)  # bytes, at most 2^32 - 1
    order: Array[int] = array(uint8, LATEST)  # which is the smallest, the second smallest, ...
    n: uint8

    def add(self, segment_bytes: int) -> None:
        size = min(segment_bytes, UINT32_MAX)
        kept = min(self.n, LATEST - 1)
        if self.n == LATEST:
            behind = 0
            for i in range(LATEST - 1):
                if self.order[i] == LATEST - 1:
                    behind = 1
                self.order[i] = self.order[i + behind]
        at = kept
        while at > 0 and self.sizes[self.order[at - 1]] > size:
            self.order[at] = self.order[at - 1] + 1
            at = at - 1
        self.order[at] = 0
        for i in range(at):
            self.order[i] = self.order[i] + 1
        for i in range(kept):
            self.sizes[kept - i] = self.sizes[kept - i - 1]
        self.sizes[0] = size
        self.n = kept + 1

    def average(self) -> float:
        """Mean; NaN of an empty series, as the other figures."""
        total = 0
        for i in range(self.n):
            total = total + self.sizes[i]
        return total / self.n if self.n > 0 else nan

    def std(self) -> float:
        mean = self.average()
        squares = 0.0
        for i in range(self.n):
            squares = squares + (self.sizes[i] - mean) * (self.sizes[i] - mean)
        return sqrt(squares / self.n) if self.n > 0 else nan

    def quantile(self, q: float) -> float:
        """Exact, between two sizes linearly interpolated."""
        if self.n == 0:
            return nan
        rank = q * (self.n - 1)
        below = int(rank)
        lower = self.sizes[self.order[below]]
        upper = self.sizes[self.order[min(below + 1, self.n - 1)]]
        return float(lower + (rank - below) * (upper - lower))

    def ewma(self) -> float:
        """Exponentially weighted mean of the ten: each size weighs a quarter of the one after it."""
        weights = 0.0
        total = 0.0
        weight = 1.0
        for i in range(self.n):
            total = total + weight * self.sizes[i]
            weights = weights + weight
            weight = weight * 0.25
        return total / weights if self.n > 0 else nan


class Interval(Struct):
    """What counts for one interval only."""

    sizes: Spread
    request_iat_us: Spread
    completion_iat_us: Spread
    ttfb_us: Span  # one value a segment, as of the next
    download_us: Span
    small_bytes: uint64
    small_segments: uint32
    requests: uint32


class VideoSegments(FeatureClass):
    """Segments of a video flow (paper, section 5.1; after Bronzino et al., doi 10.1145/3366704).

    An upstream packet with payload is a request: with TCP of at least `TCPRequestBytes` bytes, with UDP (QUIC) of at
    least `UDPRequestBytes`. It ends the running segment; downstream payload until the next request is its segment.
    Each segment is reported once, in the interval of the packet that ends it. No timer ends one: the last segment of a
    flow stays pending until the server's FIN or an RST, and where none comes, it is only ever in `pending_bytes`.

    - Requests without downstream payload in between are pipelined: they stay pending together, and the segment that
      follows answers them all. Its first-byte time counts from the latest of them.
    - Payload is counted once. TCP: bytes that come late are told from retransmissions (see `Received` for the limits;
      in 28 recorded sessions they cost no byte), and a request at or below the highest upstream sequence number is a
      retransmission. UDP: all counts.
    - A segment of less than `MinBytes` bytes (handshakes, telemetry), or one that no request preceded, is no media:
      it counts in `small_segments` and `small_bytes` and nowhere else.
    - Over the intervals of a flow, the sum of `segment_bytes` and `small_bytes` plus the last `pending_bytes` is the
      unique downstream payload.
    - A time that lies before the latest one counts as the latest. Gaps and durations are kept in microseconds.

    >>> output = feed(VideoSegments, [
    ...     packet(direction=UP, ts_s=0.0, seq=1, payload_bytes=400),
    ...     packet(direction=DOWN, ts_s=0.1, seq=1, payload_bytes=30_000),
    ...     packet(direction=DOWN, ts_s=0.2, seq=30_001, payload_bytes=20_000),
    ...     packet(direction=DOWN, ts_s=0.3, seq=1, payload_bytes=1_000),
    ...     packet(direction=UP, ts_s=2.0, seq=401, payload_bytes=400),
    ...     packet(direction=DOWN, ts_s=2.1, seq=50_001, payload_bytes=700),
    ... ])
    >>> output.segment_sizes, output.ttfb_s_mean, output.download_s_mean, output.pending_bytes
    ([50000], 0.1, 0.1, 700)
    """

    MinBytes = parameter(30_000, at_least=0, at_most=UINT32_MAX, unit="bytes")
    TCPRequestBytes = parameter(1, at_least=1, at_most=65_535, unit="bytes")
    UDPRequestBytes = parameter(101, at_least=1, at_most=65_535, unit="bytes")
    Quantiles = parameter(False)

    # The first 24 bytes are all that a downstream packet in order changes.
    pending_bytes: uint64
    latest_ns: int64  # time of the latest request or new payload
    received: Received
    first_byte_ns: int64  # of the pending segment
    request_ns: int64  # of the latest request
    up_end: uint32  # highest upstream sequence number, one past the payload
    pending_requests: uint32
    latest: Latest
    up_known: uint8  # 0 until an upstream sequence number was seen
    requested: uint8  # 0 until the first request
    completion_ns: int64  # last byte of the latest segment
    sizes: Spread
    request_iat_us: Spread
    completion_iat_us: Spread
    interval: Interval
    bins: Array[Histogram] = array(Histogram, "5*Quantiles")

    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == DOWN:
            if pkt.tcp_flags & SYN:
                self.received.begin(pkt.seq + 1)
            if pkt.payload_bytes > 0:
                self.add_payload(pkt)
            if pkt.tcp_flags & (FIN | RST):
                self.complete()
        else:
            if pkt.tcp_flags & SYN:
                self.up_end = pkt.seq + 1
                self.up_known = 1
            if pkt.payload_bytes > 0 and pkt.fragment != LATER_FRAGMENT:
                self.add_upstream(pkt)
            if pkt.tcp_flags & RST:
                self.complete()

    def add_payload(self, pkt: Packet) -> None:
        new_bytes = pkt.payload_bytes
        if pkt.fragment == LATER_FRAGMENT:
            self.received.end += new_bytes  # no sequence number: most likely it follows the fragment before
        elif pkt.protocol == TCP:
            new_bytes = self.received.add(pkt.seq + (1 if pkt.tcp_flags & SYN else 0), new_bytes)
        if new_bytes > 0:
            self.latest_ns = max(self.latest_ns, pkt.ts_ns)
            if self.pending_bytes == 0:
                self.first_byte_ns = self.latest_ns
            self.pending_bytes += new_bytes

    def add_upstream(self, pkt: Packet) -> None:
        if pkt.protocol == TCP:
            end = (pkt.seq + pkt.payload_bytes + (1 if pkt.tcp_flags & SYN else 0)) & UINT32_MAX
            if not self.up_known or seq_lt(self.up_end, end):
                self.up_end = end
                self.up_known = 1
                if pkt.payload_bytes >= self.TCPRequestBytes:
                    self.add_request(pkt.ts_ns)
        elif pkt.payload_bytes >= self.UDPRequestBytes:
            self.add_request(pkt.ts_ns)

    def add_request(self, ts_ns: int) -> None:
        self.complete()
        now_ns = max(self.latest_ns, ts_ns)
        if self.requested:
            iat_us = (now_ns - self.request_ns + 500) // 1_000
            self.interval.request_iat_us.add(iat_us)
            self.request_iat_us.add(iat_us)
            if self.Quantiles:
                self.bins[REQUESTS].add(iat_us)
                self.bins[ALL_REQUESTS].add(iat_us)
        self.requested = 1
        self.request_ns = now_ns
        self.latest_ns = now_ns
        self.pending_requests += 1
        self.interval.requests += 1

    def complete(self) -> None:
        """End the running segment, if there is one; its last byte was the latest event."""
        segment_bytes = self.pending_bytes
        if segment_bytes > 0:
            if segment_bytes >= self.MinBytes and self.pending_requests > 0:
                self.add_segment(segment_bytes)
            else:
                self.interval.small_segments += 1
                self.interval.small_bytes += segment_bytes
            self.pending_bytes = 0
            self.pending_requests = 0

    def add_segment(self, segment_bytes: int) -> None:
        if self.sizes.n > 0:
            iat_us = (self.latest_ns - self.completion_ns + 500) // 1_000
            self.interval.completion_iat_us.add(iat_us)
            self.completion_iat_us.add(iat_us)
            if self.Quantiles:
                self.bins[COMPLETIONS].add(iat_us)
                self.bins[ALL_COMPLETIONS].add(iat_us)
        self.completion_ns = self.latest_ns
        self.interval.ttfb_us.add((self.first_byte_ns - self.request_ns + 500) // 1_000)
        self.interval.download_us.add((self.latest_ns - self.first_byte_ns + 500) // 1_000)
        self.interval.sizes.add(segment_bytes)
        self.sizes.add(segment_bytes)
        self.latest.add(segment_bytes)
        if self.Quantiles:
            self.bins[ALL_SIZES].add(segment_bytes)

    def clear(self) -> None:
        self.interval.clear()
        if self.Quantiles:
            self.bins[REQUESTS].clear()
            self.bins[COMPLETIONS].clear()

    def quantile(self, series: int, q: float) -> float:
        value = nan
        if self.Quantiles:
            value = self.bins[series].quantile(q)
        return value

    def collect_features(self, interval_s: float) -> VideoSegmentsOutput:
        interval = self.interval
        segments = interval.sizes.n
        listed = min(segments, LATEST)
        response_us = interval.ttfb_us.total + interval.download_us.total
        return VideoSegmentsOutput(
            requests=interval.requests,
            segments=segments,
            segment_download_rate=segments / interval_s,
            segment_bytes=interval.sizes.span.total,
            segment_bytes_mean=interval.sizes.average(),
            segment_bytes_std=interval.sizes.std(),
            segment_bytes_min=interval.sizes.minimum(),
            segment_bytes_max=interval.sizes.maximum(),
            segment_sizes=self.latest.sizes[:listed],
            segments_not_listed=segments - listed,
            small_segments=interval.small_segments,
            small_bytes=interval.small_bytes,
            pending_requests=self.pending_requests,
            pending_bytes=self.pending_bytes,
            ttfb_s_mean=interval.ttfb_us.total / segments / 1e6 if segments > 0 else nan,
            ttfb_s_min=interval.ttfb_us.low() / 1e6 if segments > 0 else nan,
            ttfb_s_max=interval.ttfb_us.high / 1e6 if segments > 0 else nan,
            download_s_mean=interval.download_us.total / segments / 1e6 if segments > 0 else nan,
            download_s_min=interval.download_us.low() / 1e6 if segments > 0 else nan,
            download_s_max=interval.download_us.high / 1e6 if segments > 0 else nan,
            response_s_mean=response_us / segments / 1e6 if segments > 0 else nan,
            segment_kbps=interval.sizes.span.total * 8_000 / response_us if segments > 0 else nan,
            request_iat_s_mean=interval.request_iat_us.average() / 1e6,
            request_iat_s_std=interval.request_iat_us.std() / 1e6,
            request_iat_s_min=interval.request_iat_us.minimum() / 1e6,
            request_iat_s_max=interval.request_iat_us.maximum() / 1e6,
            completion_iat_s_mean=interval.completion_iat_us.average() / 1e6,
            completion_iat_s_std=interval.completion_iat_us.std() / 1e6,
            completion_iat_s_min=interval.completion_iat_us.minimum() / 1e6,
            completion_iat_s_max=interval.completion_iat_us.maximum() / 1e6,
            last10_bytes_mean=self.latest.average(),
            last10_bytes_std=self.latest.std(),
            last10_bytes_min=self.latest.quantile(0.0),
            last10_bytes_max=self.latest.quantile(1.0),
            last10_bytes_p50=self.latest.quantile(0.5),
            last10_bytes_p75=self.latest.quantile(0.75),
            last10_bytes_p85=self.latest.quantile(0.85),
            last10_bytes_p90=self.latest.quantile(0.9),
            last10_bytes_ewma=self.latest.ewma(),
            all_requests=self.request_iat_us.n + self.requested,
            all_segments=self.sizes.n,
            all_bytes=self.sizes.span.total,
            all_bytes_mean=self.sizes.average(),
            all_bytes_std=self.sizes.std(),
            all_bytes_min=self.sizes.minimum(),
            all_bytes_max=self.sizes.maximum(),
            all_request_iat_s_mean=self.request_iat_us.average() / 1e6,
            all_request_iat_s_std=self.request_iat_us.std() / 1e6,
            all_request_iat_s_min=self.request_iat_us.minimum() / 1e6,
            all_request_iat_s_max=self.request_iat_us.maximum() / 1e6,
            all_completion_iat_s_mean=self.completion_iat_us.average() / 1e6,
            all_completion_iat_s_std=self.completion_iat_us.std() / 1e6,
            all_completion_iat_s_min=self.completion_iat_us.minimum() / 1e6,
            all_completion_iat_s_max=self.completion_iat_us.maximum() / 1e6,
            request_iat_s_p50=self.quantile(REQUESTS, 0.5) / 1e6,
            request_iat_s_p75=self.quantile(REQUESTS, 0.75) / 1e6,
            request_iat_s_p85=self.quantile(REQUESTS, 0.85) / 1e6,
            request_iat_s_p90=self.quantile(REQUESTS, 0.9) / 1e6,
            completion_iat_s_p50=self.quantile(COMPLETIONS, 0.5) / 1e6,
            completion_iat_s_p75=self.quantile(COMPLETIONS, 0.75) / 1e6,
            completion_iat_s_p85=self.quantile(COMPLETIONS, 0.85) / 1e6,
            completion_iat_s_p90=self.quantile(COMPLETIONS, 0.9) / 1e6,
            all_bytes_p50=self.quantile(ALL_SIZES, 0.5),
            all_bytes_p75=self.quantile(ALL_SIZES, 0.75),
            all_bytes_p85=self.quantile(ALL_SIZES, 0.85),
            all_bytes_p90=self.quantile(ALL_SIZES, 0.9),
            all_request_iat_s_p50=self.quantile(ALL_REQUESTS, 0.5) / 1e6,
            all_request_iat_s_p75=self.quantile(ALL_REQUESTS, 0.75) / 1e6,
            all_request_iat_s_p85=self.quantile(ALL_REQUESTS, 0.85) / 1e6,
            all_request_iat_s_p90=self.quantile(ALL_REQUESTS, 0.9) / 1e6,
            all_completion_iat_s_p50=self.quantile(ALL_COMPLETIONS, 0.5) / 1e6,
            all_completion_iat_s_p75=self.quantile(ALL_COMPLETIONS, 0.75) / 1e6,
            all_completion_iat_s_p85=self.quantile(ALL_COMPLETIONS, 0.85) / 1e6,
            all_completion_iat_s_p90=self.quantile(ALL_COMPLETIONS, 0.9) / 1e6,
        )
