"""What a user would write with dpkt: packets and bytes of each flow and direction every 10 seconds, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections import defaultdict

import dpkt

INTERVAL_S = 10


def main(trace: str, records: str) -> None:
    with open(trace, "rb") as file, open(records, "w") as out:  # noqa: PTH123 - as a user would
        flows: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        end_s = 0.0
        for time, data in dpkt.pcap.Reader(file):
            ts_s = float(time)
            if ts_s >= end_s:
                write(flows, end_s, out)
                end_s = ts_s // INTERVAL_S * INTERVAL_S + INTERVAL_S
            try:
                ip = dpkt.ethernet.Ethernet(data).data
                transport = ip.data
                source, destination = (ip.src, transport.sport), (ip.dst, transport.dport)
            except (AttributeError, dpkt.UnpackError):
                continue
            first, second = min(source, destination), max(source, destination)
            flow = flows[ip.p, first, second]
            side = 0 if source == first else 2
            flow[side] += 1
            flow[side + 1] += ip.len if isinstance(ip, dpkt.ip.IP) else ip.plen + 40
        write(flows, end_s, out)


def write(flows: dict[tuple[object, ...], list[int]], end_s: float, out: object) -> None:
    for (protocol, first, second), counts in flows.items():
        record = {"ts_end": end_s, "protocol": protocol, "a": str(first), "b": str(second), "counts": counts}
        print(json.dumps(record), file=out)
    flows.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
