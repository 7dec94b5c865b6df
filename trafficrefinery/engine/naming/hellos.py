"""Answers to what `handshakes` asks Python: hellos of several segments, and datagrams that a Python reader takes."""

from __future__ import annotations

from typing import Any

from trafficrefinery.engine.flow_cache import NAME_DONE
from trafficrefinery.services import FlowNames, Told
from trafficrefinery.services.names import HAS_ECH, Status

from .handshakes import (
    BEGUN,
    ECH_OFFERED,
    ECH_PUBLIC,
    HELLOS_UNFINISHED,
    PASSED_LIMIT,
    READY_UNIT_BYTES,
    SIDE,
    TO_BE_READ,
)


def read_asked(flow_names: FlowNames, partition: Any, header: Any, r: Any, buffer: Any) -> Told:
    """The name in a packet that `handshakes.look_for_name` asked about; FOUND as well when it had read it itself.

    Args:
        partition: a record with NAMING as `naming`, and `counters`.
        header: of the packet's flow, which gets NAME_DONE when no other packet is to be looked at.
        r: the packet.
    """
    naming = partition["naming"]
    if naming["name_bytes"] != TO_BE_READ:
        name_at = int(naming["name_at"])
        name = buffer[name_at : name_at + int(naming["name_bytes"])].tobytes().decode("ascii").lower()
        told = Told(Status.FOUND, name, int(naming["by"]), int(naming["ech"]))
    else:
        told = _read(flow_names, naming, header, r, buffer)
    naming["by"], naming["ech"] = told.by, told.ech
    if told.status is Status.NEED_MORE:
        if told.has_begun:
            header["hello"] |= BEGUN
        return told
    header["hello"] &= 255 - SIDE - BEGUN
    if told.status is not Status.OTHER:
        partition["counters"][HELLOS_UNFINISHED] += told.status is Status.NOT_FOUND and told.has_begun
        header["marks"] |= NAME_DONE
    elif header["passed"] >= PASSED_LIMIT:
        header["marks"] |= NAME_DONE
    return told


def _read(flow_names: FlowNames, naming: Any, header: Any, r: Any, buffer: Any) -> Told:
    start = int(r["payload_offset"])
    payload = buffer[start : start + int(r["captured_payload"])].tobytes()
    key = int(r["slot"]) << 64 | int(header["first_ns"])
    side = "a" if r["source_is_a"] else "b"
    if r["protocol"] == 6:
        seq = int(r["seq"]) + (1 if r["tcp_flags"] & 2 else 0)
        start_seq = (int(header[f"base_{side}"]) + int(header[f"hello_{side}"])) & 0xFFFFFFFF
        truncated = int(r["captured_payload"]) < int(r["payload_bytes"])
        told = flow_names.segment((key, side), start_seq, seq, payload, truncated)
        header[f"hello_{side}"] = min(int(header[f"hello_{side}"]) + told.passed_bytes, 0x7FFF)
        header["passed"] = min(int(header["passed"]) + told.passed_bytes, 0xFFFF)
        header["hello_ready"] = min(told.ready_bytes // READY_UNIT_BYTES, 0xFF)
        spend_more(naming["names"], told.units, int(r["watermark_ns"]))
        return told
    told = flow_names.datagram(key, payload, int(naming["by"]))
    if told.has_begun:
        header["hello"] = int(header["hello"]) & 255 - SIDE | (1 if side == "a" else 2)
    spend_more(naming["quic"], told.units, int(r["watermark_ns"]))
    return told


def count_hello(counters: Any, ech: int, is_public: bool) -> None:
    """Count a hello that was read, as `handshakes.count_hello` does."""
    counters[ECH_OFFERED] += ech == HAS_ECH
    counters[ECH_PUBLIC] += is_public


def spend_more(budget: Any, units: int, now_ns: int) -> None:
    """Spend work that turned out to be more than was asked for: it is missing later, see `budget.may_spend`."""
    period_ns = int(budget["period_ns"])
    latest_ns = now_ns + 2 * int(budget["burst_ns"]) + period_ns
    if units and period_ns:
        budget["busy_until_ns"] = min(int(budget["busy_until_ns"]) + units * period_ns, latest_ns)
