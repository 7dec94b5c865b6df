"""Naive twin of FirstSeconds: all packets of the flow, each put into the step that it is in."""

from __future__ import annotations

from typing import Any

UP, DOWN = 0, 1


def first_seconds(intervals: list[list[Any]], steps: int, step_ms: int) -> list[dict[str, Any]]:
    """Output of each interval of one flow."""
    outputs = []
    start_ns = None
    since_start_ms = 0
    for packets in intervals:
        if start_ns is None and packets:
            start_ns = packets[0].ts_ns
        if packets:
            since_start_ms = (packets[-1].interval_start_ns - start_ns) // 1_000_000
        by_step: dict[str, list[list[int]]] = {"down": [[] for _ in range(steps)], "up": [[] for _ in range(steps)]}
        for packet in packets:
            step = max(packet.ts_ns - start_ns, 0) // (step_ms * 1_000_000)
            if step < steps and packet.payload_bytes > (0 if packet.direction == DOWN else 100):
                by_step["down" if packet.direction == DOWN else "up"][step].append(packet.payload_bytes)
        some = [step for step in range(steps) if by_step["down"][step] or by_step["up"][step]]
        count = max(some) + 1 if some else 0
        outputs.append({
            "payload_bytes_down": [sum(one) for one in by_step["down"][:count]],
            "requests": [len(one) for one in by_step["up"][:count]],
            "since_start_ms": since_start_ms,
        })  # fmt: skip
    return outputs
