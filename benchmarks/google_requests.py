"""Sizes of what clients of Google's QUIC send, in the recorded YouTube sessions of 2018 (Requet).

    python benchmarks/google_requests.py DIR    # traces of the Requet dataset; makes results/google_requests.md

Counted are the datagrams that clients send in flows of at least 3 MB, where QUIC's fixed bit (RFC 9000, section 17) is
not set. Gutterman et al., Requet: Real-Time QoE Detection for Encrypted YouTube Traffic (MMSys 2019).
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter, defaultdict
from pathlib import Path

import dpkt
import measure

from trafficrefinery.capture.traces.reader import TraceReader

RESULT = Path(__file__).parent / "results" / "google_requests.md"
INTRODUCTION = """# Requests of Google's QUIC

{stamp}

Made by `benchmarks/google_requests.py` from {traces} sessions of the Requet dataset: datagrams of clients in {flows}
flows of at least 3 MB, without QUIC's fixed bit, by the bytes of their payload.

| bytes | datagrams |
| --- | ---: |
"""
EDGES = (1, 33, 49, 65, 81, 101, 201, 501, 801, 1_101, 1_501)
FIXED_BIT, LARGE_BYTES, PORT = 0x40, 3_000_000, 443


def sizes_of(trace: Path) -> tuple[Counter[int], int]:
    """Datagrams by size, and the number of flows."""
    sent: dict[tuple[bytes, bytes, int], Counter[int]] = defaultdict(Counter)
    received: Counter[tuple[bytes, bytes, int]] = Counter()
    with TraceReader([str(trace)]) as reader:
        for block in reader:
            for frame in block.frames:
                start = int(frame["offset"])
                ip = dpkt.ethernet.Ethernet(bytes(block.buffer[start : start + int(frame["captured_bytes"])])).data
                if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.udp.UDP):
                    continue
                udp, payload_bytes = ip.data, ip.data.ulen - 8
                if udp.sport == PORT:
                    received[ip.dst, ip.src, udp.dport] += payload_bytes
                elif udp.dport == PORT and udp.data and not udp.data[0] & FIXED_BIT:
                    sent[ip.src, ip.dst, udp.sport][payload_bytes] += 1
    large = [flow for flow in sent if received[flow] >= LARGE_BYTES]
    return sum((sent[flow] for flow in large), Counter()), len(large)


def main() -> None:
    traces = sorted(Path(sys.argv[1]).glob("*.pcap*"))
    sizes: Counter[int] = Counter()
    flows = 0
    for trace in traces:
        some, count = sizes_of(trace)
        sizes += some
        flows += count
    lines = [
        f"| {low} to {high - 1} | {sum(count for size, count in sizes.items() if low <= size < high):,} |\n"
        for low, high in itertools.pairwise(EDGES)
    ]
    largest = max((size for size in sizes if size < EDGES[5]), default=0)
    least = min((size for size in sizes if size >= EDGES[5]), default=0)
    end = f"\nBelow {EDGES[5]} bytes the largest has {largest}; from there on the smallest has {least}.\n"
    RESULT.write_text(
        INTRODUCTION.format(stamp=measure.stamp(), traces=len(traces), flows=flows) + "".join(lines) + end
    )


if __name__ == "__main__":
    main()
