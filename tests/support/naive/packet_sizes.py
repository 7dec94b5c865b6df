"""Naive twin of PacketSizes."""

from __future__ import annotations

from typing import Any


def packet_sizes(packets: list[Any], most: int, signed: bool) -> dict[str, Any]:
    """Output of one interval."""
    sizes = [-p.ip_bytes if signed and p.direction == 1 else p.ip_bytes for p in packets]
    return {"sizes": sizes[:most], "packets_not_listed": len(sizes[most:])}
