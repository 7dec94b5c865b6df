"""Round-trip times of a TCP flow on both sides of the sensor, and how much they vary."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import (
    ACK,
    FIN,
    LATER_FRAGMENT,
    RST,
    SYN,
    TCP,
    UP,
    Array,
    FeatureClass,
    MomentsOutput,
    Packet,
    Struct,
    array,
    float64,
    nan,
    seq_diff,
    sqrt,
    uint8,
    uint16,
    uint32,
    uint64,
)

SEGMENTS = 16
TIMESTAMPS = 4
UINT32_MAX = 0xFFFFFFFF
REACH = 1 << 31  # bytes within which the order of two sequence numbers is known

# Bits of Path.known.
END_KNOWN, ACKED_KNOWN, BEGAN, SYN_WAITS, HANDSHAKE, SAMPLED, TIMESTAMPED = 1, 2, 4, 8, 16, 32, 64


class TimesOutput(NamedTuple):
    samples: int  # samples
    s: MomentsOutput  # s


class RoundTripsOutput(NamedTuple):
    samples: int  # samples
    s: MomentsOutput  # s
    jitter_s: float  # s, mean absolute difference of consecutive samples; null before the second


class LatencyCountersOutput(NamedTuple):
    handshake_server_s: float  # s, SYN to SYN-ACK; in the interval of the latter, as the next
    handshake_client_s: float  # s, SYN-ACK to ACK
    rtt_server: RoundTripsOutput  # client's packet to server's ACK, none of a segment that was sent twice
    rtt_client: RoundTripsOutput  # server's packet to client's ACK, none of a segment that was sent twice
    ack_rtt_server: TimesOutput  # from a segment's first copy, sent again or not, to the server's ACK
    ack_rtt_client: TimesOutput  # from a segment's first copy, sent again or not, to the client's ACK
    ts_rtt_server: TimesOutput  # client's TSval to the server's ACK that echoes it
    ts_rtt_client: TimesOutput  # server's TSval to the client's ACK that echoes it


class Times(Struct):
    """Number, mean, standard deviation (ddof 0), minimum and maximum of times; kept in µs, reported in s."""

    total_us: uint64
    squares: float64
    n: uint32
    low_us: uint32
    high_us: uint32

    def add(self, us: int) -> None:
        if self.n == 0 or us < self.low_us:
            self.low_us = us
        if self.n == 0 or us > self.high_us:
            self.high_us = us
        self.n += 1
        self.total_us += us
        self.squares += float(us) * us

    def std_us(self) -> float:
        mean_us = self.total_us / self.n
        return sqrt(max(self.squares / self.n - mean_us * mean_us, 0.0))

    def output(self) -> TimesOutput:
        return TimesOutput(samples=self.n, s=self.moments())

    def moments(self) -> MomentsOutput:
        """NaN of an empty series."""
        seen = 1.0 if self.n > 0 else nan
        return MomentsOutput(
            mean=self.total_us / self.n / 1e6 * seen,
            std=self.std_us() / 1e6 * seen,
            min=self.low_us / 1e6 * seen,
            max=self.high_us / 1e6 * seen,
        )


class Interval(Struct):
    """What counts for one interval only."""

    rtt: Times
    ack_rtt: Times
    ts_rtt: Times
    jitter_us: uint64  # sum of absolute differences
    jitters: uint32  # how many
    handshake_us: uint32


class Path(Struct):
    """What one side sends, until the other acknowledges it. Times are µs modulo 2^32.

    Two rings of what waits for an ACK, the oldest at `head`: ends of segments, and TSvals. A segment that finds its
    ring full takes the place of the latest; a TSval is left out.
    """

    end: uint32  # one past the highest sequence number sent
    acked: uint32  # highest acknowledgement number of the other side
    isn: uint32
    latest_tsval: uint32
    latest_us: uint32  # sample before, for the jitter
    resent: uint16  # bit i: the last byte of segment i was sent again
    known: uint8  # bits, see above
    head: uint8
    waiting: uint8
    ts_head: uint8
    ts_waiting: uint8
    ends: Array[int] = array(uint32, SEGMENTS)
    sent_us: Array[int] = array(uint32, SEGMENTS)
    tsvals: Array[int] = array(uint32, TIMESTAMPS)
    ts_sent_us: Array[int] = array(uint32, TIMESTAMPS)
    interval: Interval

    def forget(self) -> None:
        """An earlier connection on the same addresses and ports."""
        self.known = self.known & HANDSHAKE
        self.waiting = 0
        self.ts_waiting = 0

    def send(self, pkt: Packet, now_us: int) -> None:
        """A packet with payload, SYN or FIN."""
        if not self.known & END_KNOWN:
            self.end = pkt.seq
            self.known |= END_KNOWN
        ahead = seq_diff(pkt.seq, self.end)
        new_bytes = ahead + pkt.payload_bytes + (1 if pkt.tcp_flags & (SYN | FIN) else 0)
        keep_alive = ahead == -1 and pkt.payload_bytes <= 1 and not pkt.tcp_flags & (SYN | FIN | RST)
        if not keep_alive:
            if ahead < 0:
                self.send_again(ahead, new_bytes)
            if new_bytes > 0:
                self.give_up(new_bytes)
                self.end = (self.end + new_bytes) & UINT32_MAX
                self.wait(self.end, now_us)
            if pkt.has_timestamps:
                self.stamp(pkt.tsval, now_us)

    def send_again(self, start: int, stop: int) -> None:
        """Positions are relative to the end."""
        for i in range(self.waiting):
            index = (self.head + i) % SEGMENTS
            if start < -((self.end - self.ends[index]) & UINT32_MAX) <= stop:
                self.resent = self.resent | (1 << index)

    def give_up(self, new_bytes: int) -> None:
        """Segments that will lie 2^31 bytes below the end: their order to an ACK would not be known."""
        while self.waiting > 0 and ((self.end - self.ends[self.head]) & UINT32_MAX) + new_bytes >= REACH:
            self.head = (self.head + 1) % SEGMENTS
            self.waiting = self.waiting - 1
            self.known = self.known & ~SYN_WAITS

    def wait(self, end: int, now_us: int) -> None:
        if self.waiting < SEGMENTS:
            self.waiting += 1
        index = (self.head + self.waiting - 1) % SEGMENTS
        self.ends[index] = end
        self.sent_us[index] = now_us
        self.resent = self.resent & ~(1 << index)

    def stamp(self, tsval: int, now_us: int) -> None:
        """Note when a TSval was first sent with data."""
        if not self.known & TIMESTAMPED or seq_diff(tsval, self.latest_tsval) > 0:
            self.known |= TIMESTAMPED
            self.latest_tsval = tsval
            if self.ts_waiting < TIMESTAMPS:
                index = (self.ts_head + self.ts_waiting) % TIMESTAMPS
                self.tsvals[index] = tsval
                self.ts_sent_us[index] = now_us
                self.ts_waiting += 1

    def acknowledge(self, pkt: Packet, now_us: int) -> None:
        """An ACK of the other side; only one that acknowledges more than before tells a time."""
        if not self.known & ACKED_KNOWN or seq_diff(pkt.ack, self.acked) > 0:
            self.known |= ACKED_KNOWN
            self.acked = pkt.ack
            reach = seq_diff(pkt.ack, self.end)
            while self.waiting > 0 and -((self.end - self.ends[self.head]) & UINT32_MAX) <= reach:
                if self.ends[self.head] == pkt.ack:
                    self.sample(seq_diff(now_us, self.sent_us[self.head]), (self.resent >> self.head) & 1)
                self.head = (self.head + 1) % SEGMENTS
                self.waiting = self.waiting - 1
                self.known = self.known & ~SYN_WAITS  # the SYN comes first
            if pkt.has_timestamps:
                self.echo(pkt.tsecr, now_us)

    def echo(self, tsecr: int, now_us: int) -> None:
        while self.ts_waiting > 0 and seq_diff(tsecr, self.tsvals[self.ts_head]) >= 0:
            us = seq_diff(now_us, self.ts_sent_us[self.ts_head])
            if self.tsvals[self.ts_head] == tsecr and us >= 0:
                self.interval.ts_rtt.add(us)
            self.ts_head = (self.ts_head + 1) % TIMESTAMPS
            self.ts_waiting = self.ts_waiting - 1

    def sample(self, us: int, resent: int) -> None:
        interval = self.interval
        if us >= 0:
            interval.ack_rtt.add(us)
            if resent == 0:
                interval.rtt.add(us)
                if self.known & SAMPLED:
                    interval.jitter_us += abs(us - self.latest_us)
                    interval.jitters += 1
                self.known |= SAMPLED
                self.latest_us = us
                if self.known & SYN_WAITS:
                    self.known |= HANDSHAKE
                    interval.handshake_us = us

    def handshake_s(self) -> float:
        return self.interval.handshake_us / 1e6 if self.known & HANDSHAKE else nan

    def round_trips(self) -> RoundTripsOutput:
        interval = self.interval
        jitter_s = interval.jitter_us / interval.jitters / 1e6 if interval.jitters > 0 else nan
        return RoundTripsOutput(samples=interval.rtt.n, s=interval.rtt.moments(), jitter_s=jitter_s)


class LatencyCounters(FeatureClass):
    """Latency and jitter on both sides of the sensor (paper, Table 1); TCP only, as QUIC hides its ACKs.

    `_server`: from a packet of the client to the server's ACK, the round trip beyond the sensor. `_client`: from a
    packet of the server to the client's ACK, the round trip between sensor and client. Delayed ACKs are part of it.

    - `rtt`: from a segment with payload, SYN or FIN that is sent for the first time to the ACK of exactly its end;
      none when its last byte was sent again before the ACK (Karn's rule; RFC 6298, section 3).
    - `ack_rtt`: the same, but also for segments that were sent again, from the first copy: tshark's
      `tcp.analysis.ack_rtt`. Where packets are lost it is much longer than the network's round trip.
    - `ts_rtt`: from the first packet with data of a TSval to the first ACK of new data that echoes it (RFC 7323,
      section 4.1). It is right for retransmissions too, and too long by the sender's clock tick at most.
    - `jitter`: mean absolute difference of each `rtt` sample to the one before (as D in RFC 3550, section 6.4.1).
    - `handshake`: SYN to SYN-ACK (server) and SYN-ACK to ACK (client), where none was sent twice.

    At most 16 segments and 4 TSvals wait for their ACK in each direction (see `Path`), so long bursts are sampled.
    Times are in whole µs. A SYN with another initial sequence number starts anew. A SYN or keep-alive that is
    acknowledged once more is not timed again, other than in tshark. Measured against tshark 4.0.17 on a video session
    with 630 retransmissions: mean `ack_rtt` equal (server) and 1.2 % more (client); mean `rtt` within 1 % of its
    samples without segments that were sent again (five other traces).

    >>> request = packet(direction=UP, ts_s=1.0, seq=1, ack=1, payload_bytes=100, tcp_flags=ACK)
    >>> response = [
    ...     packet(direction=DOWN, ts_s=1.01 + i / 100, seq=1 + i * 10, ack=101, payload_bytes=10, tcp_flags=ACK)
    ...     for i in range(100)
    ... ]
    >>> output = feed(LatencyCounters, [request, *response])
    >>> output.rtt_server_samples, output.rtt_server_s_mean, output.rtt_server_jitter_s
    (1, 0.01, nan)
    """

    server: Path
    client: Path

    def add_packet(self, pkt: Packet) -> None:
        if pkt.protocol == TCP and pkt.fragment != LATER_FRAGMENT:
            if pkt.direction == UP:
                self.add_segment(pkt, self.server, self.client)
            else:
                self.add_segment(pkt, self.client, self.server)

    def add_segment(self, pkt: Packet, mine: Path, other: Path) -> None:
        now_us = (pkt.ts_ns // 1_000) & UINT32_MAX
        if pkt.tcp_flags & SYN:
            self.begin(pkt, mine, other)
        if pkt.tcp_flags & ACK:
            other.acknowledge(pkt, now_us)
        if pkt.payload_bytes > 0 or pkt.tcp_flags & (SYN | FIN):
            mine.send(pkt, now_us)

    def begin(self, pkt: Packet, mine: Path, other: Path) -> None:
        """A SYN: unless it is sent again, a connection begins."""
        if not mine.known & BEGAN or mine.isn != pkt.seq:
            if mine.known & END_KNOWN and not pkt.tcp_flags & ACK:
                other.forget()
            mine.forget()
            mine.known |= BEGAN | SYN_WAITS
            mine.isn = pkt.seq

    def clear(self) -> None:
        self.server.interval.clear()
        self.client.interval.clear()
        self.server.known = self.server.known & ~HANDSHAKE
        self.client.known = self.client.known & ~HANDSHAKE

    def collect_features(self, interval_s: float) -> LatencyCountersOutput:
        server = self.server.interval
        client = self.client.interval
        return LatencyCountersOutput(
            handshake_server_s=self.server.handshake_s(),
            handshake_client_s=self.client.handshake_s(),
            rtt_server=self.server.round_trips(),
            rtt_client=self.client.round_trips(),
            ack_rtt_server=server.ack_rtt.output(),
            ack_rtt_client=client.ack_rtt.output(),
            ts_rtt_server=server.ts_rtt.output(),
            ts_rtt_client=client.ts_rtt.output(),
        )
