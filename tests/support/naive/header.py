"""Naive twin of HeaderBytes and HeaderImage."""

from __future__ import annotations


def rows(packets: list[bytes], most: int, width: int) -> tuple[bytes, list[int], int]:
    """Rows of the first packets side by side, how much of each is from the packet, and packets that found no row."""
    kept = packets[:most]
    return (
        b"".join(raw[:width].ljust(width, b"\0") for raw in kept),
        [len(raw[:width]) for raw in kept],
        len(packets[most:]),
    )
