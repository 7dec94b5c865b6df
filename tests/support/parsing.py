"""Frames through the parser: whose plain path must say what the general one, the authority, says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from support.naive.frames import Frame
from support.replays import blocks_of
from support.traces import DECAPSULATE
from trafficrefinery.jit import kernel, records
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET, REASONS, parse, parse_any
from trafficrefinery.packets.tls_records import note_record
from trafficrefinery.packets.tunnels import TUNNELS, tunnel_table

ALL_TUNNELS = tuple(dict.fromkeys([*TUNNELS, *DECAPSULATE]))


@kernel
def _parse_all(buffer, frames, tunnels, mac, packets, reasons, in_general):
    for i in range(len(frames)):
        if in_general:
            reasons[i] = parse_any(buffer, frames[i], tunnels, mac, packets[i])
        else:
            reasons[i] = parse(buffer, frames[i], tunnels, mac, packets[i])
        if reasons[i] == 0:
            note_record(packets[i], buffer)


def parse_block(buffer: np.ndarray, frames: Any, tunnels: np.ndarray, mac: int = 0) -> tuple[Any, np.ndarray]:
    """PACKET records and reasons of all frames, which both paths of the parser agree on."""
    results = []
    for in_general in (0, 1):
        packets, reasons = records(np.zeros(len(frames), PACKET)), np.zeros(len(frames), np.int64)
        _parse_all(buffer, frames, tunnels, mac, packets, reasons, in_general)
        results.append((packets, reasons))
    (packets, reasons), (expected, expected_reasons) = results
    np.testing.assert_array_equal(reasons, expected_reasons)
    attributed = reasons == ATTRIBUTED
    np.testing.assert_array_equal(np.asarray(packets)[attributed], np.asarray(expected)[attributed])
    return packets, reasons


def parsed(frames: Sequence[Frame], decapsulate: Sequence[str] = ALL_TUNNELS, mac: int = 0):
    """(reason, packet record or None, its payload) of each frame."""
    found = []
    for block in blocks_of(frames):
        packets, reasons = parse_block(block.buffer, block.frames, tunnel_table(decapsulate), mac)
        for reason, packet in zip(reasons.tolist(), packets, strict=True):
            start = int(packet["payload_offset"])
            payload = block.buffer[start : start + int(packet["captured_payload"])].tobytes() if reason == 0 else b""
            found.append((REASONS[reason], packet if reason == 0 else None, payload))
    return found


def one(data: bytes, link_type: int = 1, wire_bytes: int | None = None, **options):
    ((reason, packet, _),) = parsed([Frame(1, data, wire_bytes or len(data), link_type)], **options)
    return reason if packet is None else packet
