"""Frames through the parser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from support.naive.frames import Frame
from support.replays import blocks_of
from support.traces import (
    DECAPSULATE,
)  # fmt: skip
from trafficrefinery.jit import kernel, records
from trafficrefinery.packets.tls_records import note_record
from trafficrefinery.packets.tunnels import TUNNELS, tunnel_table
from trafficrefinery.packets.wire import PACKET, REASONS, parse

ALL_TUNNELS = tuple(dict.fromkeys([*TUNNELS, *DECAPSULATE]))


@kernel
def parse_all(buffer, frames, tunnels, mac, packets, reasons):
    for i in range(len(frames)):
        reasons[i] = parse(buffer, frames[i], tunnels, mac, packets[i])
        if reasons[i] == 0:
            note_record(packets[i], buffer)


def parsed(frames: Sequence[Frame], decapsulate: Sequence[str] = ALL_TUNNELS, mac: int = 0):
    """(reason, packet record or None, its payload) of each frame."""
    found = []
    for block in blocks_of(frames):
        packets = records(np.zeros(len(block.frames), PACKET))
        reasons = np.zeros(len(block.frames), np.int64)
        parse_all(block.buffer, block.frames, tunnel_table(decapsulate), mac, packets, reasons)
        for reason, packet in zip(reasons.tolist(), packets, strict=True):
            start = int(packet["payload_offset"])
            payload = block.buffer[start : start + int(packet["captured_payload"])].tobytes() if reason == 0 else b""
            found.append((REASONS[reason], packet if reason == 0 else None, payload))
    return found


def one(data: bytes, link_type: int = 1, wire_bytes: int | None = None, **options):
    ((reason, packet, _),) = parsed([Frame(1, data, wire_bytes or len(data), link_type)], **options)
    return reason if packet is None else packet
