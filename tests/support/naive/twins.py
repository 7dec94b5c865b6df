"""Twins of the feature classes that the replay tests use, by class name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.naive.frames import Packet
from support.naive.reference import packet_counters

FIELDS = (
    "ip_bytes", "payload_bytes", "wire_bytes", "captured_bytes", "seq", "ack", "tsval", "tsecr", "sack_left",
    "sack_right", "src_port", "dst_port", "window", "mss", "raw_bytes", "record_bytes", "direction", "protocol", "ip_version", "ttl",
    "dscp", "ecn", "tcp_flags", "tcp_header_bytes", "window_scale", "has_timestamps", "sack_blocks", "fragment",
)  # fmt: skip


def packet_log(intervals: Sequence[Sequence[Packet]], _parameters: Any, _interval_s: float) -> list[dict[str, Any]]:
    """Twin of PacketLog."""
    outputs = []
    for packets in intervals:
        values = []
        for p in packets:
            raw = 0
            for byte in p.raw[:24].ljust(24, b"\0"):
                raw = (raw * 31 + byte) % 2**44
            times = (p.ts_ns % 2**48, p.interval_start_ns % 2**48)
            values += [*times, *(getattr(p, name) for name in FIELDS), raw, 0]
        digest = 0
        for value in values:
            digest = (digest * 31 + value) % 2**44
        outputs.append({"packets": len(packets), "digest": digest, "first": values[: 3 * 32]})
    return outputs


TWINS = {"PacketCounters": packet_counters, "PacketLog": packet_log}
