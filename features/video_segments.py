"""Video segments: what the client asks for, and what comes back until it asks again."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    ACK,
    DOWN,
    ENDED_RST,
    FIN,
    LATER_FRAGMENT,
    NOT_QUIC,
    RST,
    SYN,
    TCP,
    Array,
    FeatureClass,
    Histogram,
    MomentsOutput,
    Packet,
    Struct,
    array,
    float32,
    int64,
    named,
    nan,
    parameter,
    seq_diff,
    sqrt,
    uint8,
    uint16,
    uint32,
    uint64,
    up_to,
    when,
)

HOLES = 5
LATEST = 10
UINT8_MAX, UINT16_MAX, UINT32_MAX = 0xFF, 0xFFFF, 0xFFFFFFFF
ABOVE_ACK_BYTES, RISE_BYTES = 16, 8
WINDOW_MAX = 1 << 30
NEAR = 1 << 26
"""Bytes between two numbers of one side that belong together: 64 MiB. Further apart they are of two connections."""
STREAM, DOWN_SEEN, UP_SEEN, UP_END, ACKED, ADVANCED, REQUESTED = 1, 2, 4, 8, 16, 32, 64
"""Bits of Received.known, of the whole class, as this is the line that each packet needs.

STREAM: where the server's bytes are. UP_END: where the client's are. ACKED: a number that the client acknowledged;
ADVANCED: and a higher one, so that what lies below it was received.
"""
REQUESTS, COMPLETIONS, ALL_REQUESTS, ALL_COMPLETIONS, ALL_SIZES = 0, 1, 2, 3, 4
"""Which histogram: inter-arrival times in µs of this interval, of the flow, and segment sizes of the flow."""


class QuantilesOutput(NamedTuple):
    p50: float
    p75: float
    p85: float
    p90: float


class DurationsOutput(NamedTuple):
    mean: float
    min: float
    max: float


class GapsOutput(NamedTuple):
    s: MomentsOutput  # s
    quantiles: Annotated[QuantilesOutput, named("s_*"), when("Quantiles")]  # s, within 12.5 %


class LatestOutput(NamedTuple):
    moments: Annotated[MomentsOutput, named("*")]
    quantiles: Annotated[QuantilesOutput, named("*")]
    ewma: float  # weight 0.75 on the latest


class AllOutput(NamedTuple):
    requests: int  # requests
    segments: int  # completed segments
    bytes: int  # bytes of completed segments
    sizes: Annotated[MomentsOutput, named("bytes_*")]  # bytes
    quantiles: Annotated[QuantilesOutput, named("bytes_*"), when("Quantiles")]  # bytes, within 12.5 %
    request_iat: GapsOutput
    completion_iat: GapsOutput


class VideoSegmentsOutput(NamedTuple):
    requests: int  # upstream packets that ask for something; where only the server is seen, see below
    segments: int  # completed in this interval
    segment_download_rate: float  # completed segments/s
    segment_bytes: int  # bytes of unique payload, all segments completed in this interval
    sizes: Annotated[MomentsOutput, named("segment_bytes_*")]  # bytes, of the segments completed in this interval
    segment_sizes: Annotated[list[int], up_to(LATEST)]  # bytes, the latest first
    segments_not_listed: int  # completed in this interval, beyond the list
    small_segments: int  # completed, but no media: below MinBytes, or not asked for
    small_bytes: int  # bytes
    pending_requests: int  # requests whose segment is not complete
    pending_bytes: int  # bytes of the segment that is not complete
    ttfb_s: DurationsOutput  # s, request to first byte
    download_s: DurationsOutput  # s, first to last byte
    response_s_mean: float  # s, request to last byte
    segment_kbps: float  # 1,000 bit/s, all segments over all times from request to last byte
    request_iat: GapsOutput  # between requests; gaps that end in this interval
    completion_iat: GapsOutput  # between the last bytes of segments; gaps that end in this interval
    last10_bytes: LatestOutput  # bytes, of the flow's last ten segments
    all: AllOutput  # since the flow's start


class Received(Struct):
    """Which bytes of a TCP stream were seen: all below `end` but the holes.

    What lies less than 2^29 before the first byte seen is a hole as well, unless the SYN told where the stream begins.
    A hole is given up, so that what fills it later is not counted, when it is the lowest of more than HOLES, or when
    it begins more than 2^30 below the end: no window is larger (RFC 7323, section 2.3). What lies further from the end
    than that belongs to another connection, and is a beginning.
    """

    end: uint32  # sequence number
    holes: uint8
    known: uint8  # bits, see above
    unseen_bytes: uint16  # of the whole class, too, see `unseen_end`
    hole_start: Array[int] = array(uint32, HOLES)  # sequence number
    hole_bytes: Array[int] = array(uint32, HOLES)

    def begin(self, seq: int) -> None:
        self.end = seq
        self.holes = 0
        self.known |= STREAM

    def begin_within(self, seq: int) -> None:
        """Begin in the middle of a connection: nothing before this position was seen."""
        self.begin(seq)
        self.open_hole((seq - WINDOW_MAX // 2) & UINT32_MAX, WINDOW_MAX // 2)

    def add(self, seq: int, payload_bytes: int) -> int:
        """How many of these bytes were not seen before."""
        start = seq_diff(seq, self.end)  # positions are relative to the end from here on
        if start > WINDOW_MAX or start < -WINDOW_MAX:
            self.begin(seq)
            start = 0
        stop = start + payload_bytes
        new_bytes = payload_bytes
        if start != 0:
            self.give_up_old_holes()
            if start > 0:
                self.open_hole(self.end, start)
            else:
                new_bytes = self.fill(start, min(stop, 0)) + max(stop, 0)
        if stop > 0:
            self.end = (seq + payload_bytes) & UINT32_MAX
        return new_bytes

    def close_below(self, seq: int) -> int:
        """What lies before a sequence number was received; how many bytes of it were not seen."""
        stop = seq_diff(seq, self.end)
        new_bytes = max(stop, 0)
        if self.holes > 0:
            self.give_up_old_holes()
            new_bytes = new_bytes + self.fill(-UINT32_MAX, min(stop, 0))
        if stop > 0:
            self.end = seq
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

    def durations_s(self, n: int) -> DurationsOutput:
        """Statistics of `n` durations in µs; NaN if there are none."""
        seen = 1.0 if n > 0 else nan
        return DurationsOutput(
            mean=self.total / n / 1e6 * seen, min=self.low() / 1e6 * seen, max=self.high / 1e6 * seen
        )


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

    def output(self, unit: float) -> MomentsOutput:
        seen = 1.0 if self.n > 0 else nan
        return MomentsOutput(
            mean=self.span.total / self.n / unit * seen,
            std=sqrt(self.squares / self.n) / unit * seen,
            min=self.span.low() / unit * seen,
            max=self.span.high / unit * seen,
        )


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

    def output(self) -> LatestOutput:
        return LatestOutput(
            moments=MomentsOutput(mean=self.average(), std=self.std(), min=self.quantile(0.0), max=self.quantile(1.0)),
            quantiles=QuantilesOutput(
                p50=self.quantile(0.5), p75=self.quantile(0.75), p85=self.quantile(0.85), p90=self.quantile(0.9)
            ),
            ewma=self.ewma(),
        )


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

    A request ends the running segment; downstream payload until the next request is its segment. With TCP it is an
    upstream packet in which a TLS record of at least `TCPRequestBytes` bytes begins, or, where its payload does not
    begin with a record, with as many bytes of payload: over TLS 1.3, control records of HTTP/2 (WINDOW_UPDATE, PING,
    SETTINGS acknowledged) and alerts have 24 to 48, and several may be sent together. With UDP (QUIC) it has at least
    `UDPRequestBytes` bytes and 16 more than the latest datagram that was no request: acknowledgements grow step by step
    where packets are lost. Datagrams without QUIC's fixed bit are taken for Google's QUIC before version 46, whose
    acknowledgements are larger: they are requests from `OtherUDPRequestBytes` bytes on. Each segment is reported once,
    in the interval of the packet that ends it. No timer ends one: the last segment of a flow stays pending until the
    server's FIN or an RST, and where none comes, it is only ever in `pending_bytes`.

    Measured (`benchmarks/results/request_sizes.md`), the least size at which nothing but the preface of HTTP/2 was
    taken for a request over TLS 1.3: of 671 requests of Chromium and Firefox over HTTP/1.1, HTTP/2 and HTTP/3 none was
    missed. Bare clients ask for a short path again in less: 14 of curl's 99 requests over HTTP/2 were missed, 12 of
    Node's 102, and 85 of aioquic's 93 over HTTP/3. Over TLS 1.2 a record has 7 bytes more: 571 of Node's 735 control
    records, with two WINDOW_UPDATEs in each, were taken for requests; 56 would tell them apart. Of 33,824 QUIC packets
    that ask for nothing 9 were taken for requests, where the size alone would take 785 (Firefox at a loss of 10 %).
    What comes before the first request counts as requests: the handshake, and the preface of HTTP/2 (51 to 99 bytes).
    So does a QUIC datagram that is padded to probe a path or its MTU (1,200 bytes and more), which none of these sent.
    In 219 flows of Google's QUIC of 2018 (`benchmarks/results/google_requests.md`), 8,080 of 532,998 datagrams below
    101 bytes had 65 or more; 5,456 had 501 and more, and 49 were in between.

    - One direction is enough with TCP. Where only the client is seen, the bytes of its segments are what it
      acknowledges; the server's FIN counts as a byte, and the client's ends the last segment. Where only the server is
      seen, a request is what it acknowledges, in one step or several, before it sends more payload: those that it
      acknowledges together count as one, and so do control records of together 49 bytes or more, as these numbers show
      no records: 50 segments of a download by Node in place of 28, none more with curl and Chromium. The same finds
      what a lossy tap missed; nothing counts twice. Half of a recorded session each (`netflix_2018`, 183 segments): 183
      and 181 segments, bytes within 0.2 %.
    - Requests without downstream payload in between are pipelined: they stay pending together, and the segment that
      follows answers them all. Its first-byte time counts from the latest of them.
    - A SYN begins the numbers of its side anew. What lies more than 64 MiB from the numbers of its side is taken for
      another connection's.
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
    TCPRequestBytes = parameter(49, at_least=1, at_most=65_535, unit="bytes")
    UDPRequestBytes = parameter(65, at_least=1, at_most=65_535, unit="bytes")
    OtherUDPRequestBytes = parameter(101, at_least=1, at_most=65_535, unit="bytes")
    Quantiles = parameter(False)

    # The first 24 bytes are all that most packets need.
    pending_low: uint32  # bytes modulo 2^32
    up_end: uint32  # highest upstream sequence number, one past the payload, that was seen or acknowledged
    latest_ns: int64  # time of the latest request or new payload
    received: Received
    first_byte_ns: int64  # of the pending segment
    request_ns: int64  # of the latest request
    latest: Latest
    down_acked: uint32  # the client's acknowledgement number, until it advances
    pending_high: uint16  # 2^32 bytes
    pending_requests: uint16  # at most 2^16 - 1
    # Where the server's bytes ended, modulo 2^16, when it acknowledged bytes that were not seen. How many these are is
    # in `received.unseen_bytes`; with UDP, that is the size of the latest datagram that was no request, and a little
    # more.
    unseen_end: uint16
    completion_ns: int64  # last byte of the latest segment
    sizes: Spread
    request_iat_us: Spread
    completion_iat_us: Spread
    interval: Interval
    bins: Array[Histogram] = array(Histogram, "5*Quantiles")

    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == DOWN:
            self.add_downstream(pkt)
        else:
            self.add_upstream(pkt)

    def end_flow(self, how: int) -> None:
        """A RST ends the running segment; whether it is of this connection, the flow knows."""
        if how == ENDED_RST:
            self.complete()

    def add_downstream(self, pkt: Packet) -> None:
        if pkt.protocol == TCP and pkt.fragment != LATER_FRAGMENT:
            self.add_server_segment(pkt)
        elif pkt.payload_bytes > 0:
            if pkt.fragment == LATER_FRAGMENT:
                self.received.end += pkt.payload_bytes  # no sequence number: most likely it follows the one before
            self.add_bytes(pkt.ts_ns, pkt.payload_bytes)

    def add_server_segment(self, pkt: Packet) -> None:
        flags = pkt.tcp_flags
        if flags & SYN:
            self.begin_downstream(pkt)
        elif flags & ACK and not flags & RST:
            ahead = seq_diff(pkt.ack, self.up_end)
            if ahead > 0 or ahead < -NEAR or not self.received.known & UP_END:
                self.add_server_ack(pkt, ahead)
        if pkt.payload_bytes > 0:
            seq = (pkt.seq + (1 if flags & SYN else 0)) & UINT32_MAX
            if not self.received.known & STREAM:
                self.received.begin_within(seq)
            self.received.known |= DOWN_SEEN
            self.add_bytes(pkt.ts_ns, self.received.add(seq, pkt.payload_bytes))
        if flags & FIN:
            end = (pkt.seq + pkt.payload_bytes) & UINT32_MAX
            if not self.received.known & STREAM:
                self.complete()
            elif abs(seq_diff(end, self.received.end)) <= NEAR:  # else it is of another connection
                self.received.add(end, 1)
                self.complete()

    def begin_downstream(self, pkt: Packet) -> None:
        """A SYN of the server. The upstream begins at what it acknowledges, unless the client's SYN was seen, perhaps
        with payload."""
        self.received.begin((pkt.seq + 1) & UINT32_MAX)
        self.received.known |= ACKED | ADVANCED | DOWN_SEEN
        sent = seq_diff(self.up_end, pkt.ack)
        seen = self.received.known & UP_SEEN and self.received.known & UP_END and 0 <= sent <= UINT16_MAX
        if pkt.tcp_flags & ACK and not seen:
            self.up_end = pkt.ack
            self.received.known |= UP_END

    def add_server_ack(self, pkt: Packet, ahead: int) -> None:
        """What the server acknowledges and was not seen is a request, if it is large enough."""
        near = -NEAR <= ahead <= NEAR
        if not self.received.known & UP_END or (not near and not self.received.known & UP_SEEN):
            self.received.known |= UP_END
            self.up_end = pkt.ack
        elif ahead > 0 and near:
            self.up_end = pkt.ack
            before = self.received.unseen_bytes if self.unseen_end == self.received.end & UINT16_MAX else 0
            self.unseen_end = self.received.end & UINT16_MAX
            self.received.unseen_bytes = min(before + ahead, UINT16_MAX)
            if before < self.TCPRequestBytes <= self.received.unseen_bytes:
                self.add_request(pkt.ts_ns)

    def add_bytes(self, ts_ns: int, new_bytes: int) -> None:
        if new_bytes > 0:
            self.latest_ns = max(self.latest_ns, ts_ns)
            low = self.pending_low + new_bytes
            if self.pending_low == 0 and self.pending_high == 0:
                self.first_byte_ns = self.latest_ns
            if low > UINT32_MAX:
                self.pending_high += 1
            self.pending_low = low & UINT32_MAX

    def pending_bytes(self) -> int:
        return self.pending_low + (self.pending_high << 32)

    def add_upstream(self, pkt: Packet) -> None:
        if pkt.protocol != TCP:
            if pkt.payload_bytes > 0 and pkt.fragment != LATER_FRAGMENT:
                self.add_datagram(pkt)
        elif pkt.fragment == LATER_FRAGMENT:
            self.up_end += pkt.payload_bytes
        else:
            if pkt.tcp_flags & SYN:
                self.begin_upstream(pkt)
            elif pkt.tcp_flags & ACK and not pkt.tcp_flags & RST:
                ahead = seq_diff(pkt.ack, self.received.end)
                in_order = self.received.known & ADVANCED and self.received.holes == 0
                if not in_order or ahead > 0 or ahead < -NEAR:
                    late = self.received.known & UP_END and abs(seq_diff(pkt.seq, self.up_end)) > NEAR
                    if not late:  # of the connection before
                        self.add_client_ack(pkt)
            self.received.known |= UP_SEEN
            if pkt.payload_bytes > 0 or pkt.tcp_flags & FIN:
                self.add_upstream_bytes(pkt)
            if pkt.tcp_flags & FIN and not self.received.known & DOWN_SEEN:
                self.complete()

    def add_datagram(self, pkt: Packet) -> None:
        """A request is larger than the acknowledgements around it, which grow step by step where packets are lost."""
        usual_bytes = self.received.unseen_bytes
        least_bytes = self.OtherUDPRequestBytes if pkt.record_bytes == NOT_QUIC else self.UDPRequestBytes
        if pkt.payload_bytes >= max(least_bytes, usual_bytes + ABOVE_ACK_BYTES):
            self.received.unseen_bytes = min(usual_bytes + RISE_BYTES, UINT8_MAX)
            self.add_request(pkt.ts_ns)
        else:
            self.received.unseen_bytes = min(pkt.payload_bytes, UINT8_MAX)

    def begin_upstream(self, pkt: Packet) -> None:
        """A SYN of the client: what it acknowledges from here on is of this connection."""
        self.up_end = pkt.seq + 1
        self.received.known |= UP_END
        if not pkt.tcp_flags & ACK:
            self.received.known = self.received.known & ~(ACKED | ADVANCED)
            if not self.received.known & DOWN_SEEN:
                self.received.known = self.received.known & ~STREAM

    def add_client_ack(self, pkt: Packet) -> None:
        """What the client acknowledges was received, whether it was seen or not; but what it acknowledged at first
        may have come before the flow was watched."""
        if not self.received.known & ADVANCED:
            ahead = seq_diff(pkt.ack, self.down_acked)
            if not self.received.known & ACKED or ahead > NEAR or ahead < -NEAR:
                self.received.known |= ACKED
                self.down_acked = pkt.ack
            elif ahead > 0:
                self.received.known |= ADVANCED
                before = seq_diff(self.down_acked, self.received.end)
                if not self.received.known & STREAM or before > NEAR or before < -NEAR:
                    self.received.begin(self.down_acked)
                self.received.close_below(self.down_acked)
                self.add_bytes(pkt.ts_ns, self.received.close_below(pkt.ack))
        elif -NEAR <= seq_diff(pkt.ack, self.received.end) <= NEAR:
            self.add_bytes(pkt.ts_ns, self.received.close_below(pkt.ack))
        else:
            self.received.known = self.received.known & ~ADVANCED
            self.down_acked = pkt.ack

    def add_upstream_bytes(self, pkt: Packet) -> None:
        """Count a request, unless it is too small or was sent before. A FIN carries no byte."""
        length = pkt.payload_bytes + (1 if pkt.tcp_flags & (SYN | FIN) else 0)
        end = (pkt.seq + length) & UINT32_MAX
        ahead = seq_diff(end, self.up_end)
        if not self.received.known & UP_END or ahead > 0 or ahead < -NEAR:
            self.received.known |= UP_END
            self.up_end = end
            self.received.unseen_bytes = 0
            asked_bytes = pkt.record_bytes if pkt.record_bytes > 0 else pkt.payload_bytes
            if asked_bytes >= self.TCPRequestBytes:
                self.add_request(pkt.ts_ns)

    def add_request(self, ts_ns: int) -> None:
        self.complete()
        now_ns = max(self.latest_ns, ts_ns)
        if self.received.known & REQUESTED:
            iat_us = (now_ns - self.request_ns + 500) // 1_000
            self.interval.request_iat_us.add(iat_us)
            self.request_iat_us.add(iat_us)
            if self.Quantiles:
                self.bins[REQUESTS].add(iat_us)
                self.bins[ALL_REQUESTS].add(iat_us)
        self.received.known |= REQUESTED
        self.request_ns = now_ns
        self.latest_ns = now_ns
        self.pending_requests = min(self.pending_requests + 1, UINT16_MAX)
        self.interval.requests += 1

    def complete(self) -> None:
        """End the running segment, if there is one; its last byte was the latest event."""
        segment_bytes = self.pending_bytes()
        if segment_bytes > 0:
            if segment_bytes >= self.MinBytes and self.pending_requests > 0:
                self.add_segment(segment_bytes)
            else:
                self.interval.small_segments += 1
                self.interval.small_bytes += segment_bytes
            self.pending_low = 0
            self.pending_high = 0
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

    def quantiles(self, series: int, unit: float) -> QuantilesOutput:
        p50 = nan
        p75 = nan
        p85 = nan
        p90 = nan
        if self.Quantiles:
            p50 = self.bins[series].quantile(0.5) / unit
            p75 = self.bins[series].quantile(0.75) / unit
            p85 = self.bins[series].quantile(0.85) / unit
            p90 = self.bins[series].quantile(0.9) / unit
        return QuantilesOutput(p50=p50, p75=p75, p85=p85, p90=p90)

    def gaps(self, gaps_us: Spread, series: int) -> GapsOutput:
        return GapsOutput(s=gaps_us.output(1e6), quantiles=self.quantiles(series, 1e6))

    def since_start(self) -> AllOutput:
        return AllOutput(
            requests=self.request_iat_us.n + (1 if self.received.known & REQUESTED else 0),
            segments=self.sizes.n,
            bytes=self.sizes.span.total,
            sizes=self.sizes.output(1.0),
            quantiles=self.quantiles(ALL_SIZES, 1.0),
            request_iat=self.gaps(self.request_iat_us, ALL_REQUESTS),
            completion_iat=self.gaps(self.completion_iat_us, ALL_COMPLETIONS),
        )

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
            sizes=interval.sizes.output(1.0),
            segment_sizes=self.latest.sizes[:listed],
            segments_not_listed=segments - listed,
            small_segments=interval.small_segments,
            small_bytes=interval.small_bytes,
            pending_requests=self.pending_requests,
            pending_bytes=self.pending_bytes(),
            ttfb_s=interval.ttfb_us.durations_s(segments),
            download_s=interval.download_us.durations_s(segments),
            response_s_mean=response_us / segments / 1e6 if segments > 0 else nan,
            segment_kbps=interval.sizes.span.total * 8_000 / response_us if segments > 0 else nan,
            request_iat=self.gaps(interval.request_iat_us, REQUESTS),
            completion_iat=self.gaps(interval.completion_iat_us, COMPLETIONS),
            last10_bytes=self.latest.output(),
            all=self.since_start(),
        )
