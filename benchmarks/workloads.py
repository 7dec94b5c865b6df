"""Seeded traces, made with NumPy at some million packets a second.

Clients are in 10.0.0.0/8, servers in 198.18.0.0/15 (RFC 2544, the block for benchmarks). A trace begins on a whole ten
seconds, so that the default interval fits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader
from trafficrefinery.errors import TraceError
from trafficrefinery.jit import records

SERVERS = "198.18.0.0/15"
DOMAIN = "video.example"
START_NS = 1_600_000_000_000_000_000
SNAP_BYTES = 96
_S = 1_000_000_000
_CLIENT, _SERVER = 10 << 24, (198 << 24) | (18 << 16)
_ACK, _PUSH_ACK, _SYN, _SYN_ACK = 16, 24, 2, 18
_CHUNK = 1 << 18

PACKETS = np.dtype(
    [("ts_ns", "i8"), ("source", "u4"), ("destination", "u4"), ("seq", "u4"), ("ack", "u4"), ("tsval", "u4"),
     ("tsecr", "u4"), ("source_port", "u2"), ("destination_port", "u2"), ("payload_bytes", "u2"), ("window", "u2"),
     ("tcp_flags", "u1"), ("protocol", "u1"), ("timestamps", "?")]
)  # fmt: skip
"""What a generator makes: one packet of IPv4 with TCP or UDP, its numbers in host order."""


class Workload(NamedTuple):
    """How a trace is made at full size; `--quick` divides packets and flows by 50."""

    make: Callable[[Path, int, int], None]
    packets: int
    flows: int


def exchanges(path: Path, packets: int, flows: int) -> None:
    """Coherent TCP connections, all open for the whole of ten seconds: a handshake, then requests and responses.

    Packets of a flow lie as far apart as they can, so that caches help as little as they can. Half of the flows have
    timestamps; one response segment in 200 is sent again.
    """
    rng = np.random.default_rng(2)
    group = max(1, min(flows, 2_000_000 * flows // packets))  # flows made at a time
    parts = [
        _connections(rng, np.arange(first, min(first + group, flows)), packets // flows)
        for first in range(0, flows, group)
    ]
    made = np.concatenate(parts)
    write(path, made[np.argsort(made["ts_ns"], kind="stable")])


def _connections(rng: np.random.Generator, flows: NDArray[np.int64], packets_each: int) -> NDArray[np.void]:
    rounds = max(1, round((packets_each - 3) / 25))
    segments = rng.integers(4, 29, (len(flows), rounds))  # of a response; 25 packets a round on average
    counts = np.hstack([np.full((len(flows), 1), 3), 1 + segments + (segments + 1) // 2])
    flow = np.repeat(np.arange(len(flows)), counts.sum(1))
    counts = counts.ravel()
    position = _within(counts)
    handshake = np.repeat(np.arange(len(counts)) % (rounds + 1) == 0, counts)
    last = np.zeros(len(flow), bool)
    last[np.cumsum(counts) - 1] = True
    # A round: the request, then two segments and an ACK again and again, an ACK at the end.
    request = ~handshake & (position == 0)
    data = ~handshake & ~request & ((position - 1) % 3 < 2) & ~last
    syn, syn_ack = handshake & (position == 0), handshake & (position == 1)
    down = data | syn_ack
    ends = data & np.append(last[1:], False)
    payload = np.where(data, 1448, 0)
    payload[request] = rng.integers(200, 700, int(request.sum()))
    payload[ends] = rng.integers(1, 1448, int(ends.sum()))

    made = np.zeros(len(flow), PACKETS)
    firsts = np.searchsorted(flow, np.arange(len(flows)))
    sizes = np.diff(np.append(firsts, len(flow)))
    sent = {
        side: _since(np.cumsum(np.where(down == side, payload + (syn | syn_ack), 0)), firsts, sizes)
        for side in (False, True)
    }
    isn = {side: rng.integers(0, 1 << 32, len(flows))[flow] for side in (False, True)}
    own, other = np.where(down, sent[True], sent[False]), np.where(down, sent[False], sent[True])
    made["seq"] = np.where(down, isn[True], isn[False]) + own - payload - (syn | syn_ack) & 0xFFFFFFFF
    made["ack"] = np.where(syn, 0, np.where(down, isn[False], isn[True]) + other & 0xFFFFFFFF)
    made["payload_bytes"] = payload
    made["tcp_flags"] = np.select([syn, syn_ack, request | ends], [_SYN, _SYN_ACK, _PUSH_ACK], _ACK)
    gaps = rng.exponential(1.0, len(flow))
    elapsed = _since(np.cumsum(gaps), firsts, sizes)
    span_s = rng.uniform(9.0, 9.5, len(flows)) / elapsed[firsts + sizes - 1]
    made["ts_ns"] = START_NS + (elapsed * span_s[flow] * _S).astype(np.int64)
    _address(made, flows[flow], down)
    made["window"] = np.where(down, 500, 2000)
    made["timestamps"] = flows[flow] % 2 == 0
    made["tsval"] = made["ts_ns"] // 1_000_000 & 0xFFFFFFFF
    echoed = {side: np.maximum.accumulate(np.where(down == side, np.arange(len(flow)), 0)) for side in (False, True)}
    made["tsecr"] = np.where(syn, 0, made["tsval"][np.where(down, echoed[False], echoed[True])])
    again = made[np.flatnonzero(data & (rng.random(len(flow)) < 0.005))]
    again["ts_ns"] = np.minimum(again["ts_ns"] + 200_000_000, START_NS + 9_900_000_000)
    return np.concatenate([made, again])


def _within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... again for each count."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


def _since(total: NDArray, firsts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray:
    """A running total, begun again at each flow."""
    before = np.where(firsts > 0, total[firsts - 1], 0)
    return total - np.repeat(before, sizes)


def _address(made: NDArray[np.void], flow: NDArray[np.int64], down: NDArray[np.bool_]) -> None:
    """Addresses and ports of a TCP flow by its number, different for each number below 2^36."""
    client = _CLIENT + (flow * 0x5BD1E9 & 0xFFFFFF)
    server = _SERVER + flow % 4093
    port = 1024 + (flow >> 24) + flow % 53 * 1024
    made["source"], made["destination"] = np.where(down, server, client), np.where(down, client, server)
    made["source_port"], made["destination_port"] = np.where(down, 443, port), np.where(down, port, 443)
    made["protocol"] = 6


def min_size(path: Path, packets: int, flows: int) -> None:
    """The shortest Ethernet frames at the rate of 10 GbE: UDP in both directions, flows in no order."""
    rng = np.random.default_rng(3)
    made = np.zeros(packets, PACKETS)
    made["ts_ns"] = START_NS + np.arange(packets) * 672 // 10
    _address(made, rng.integers(0, flows, packets), rng.random(packets) < 0.5)
    made["protocol"], made["payload_bytes"] = 17, 18
    write(path, made)


def new_flows(path: Path, packets: int, flows: int) -> None:  # noqa: ARG001 - each packet is a flow
    """Each packet a SYN of a flow that was not there before, to a server that a prefix names."""
    made = np.zeros(packets, PACKETS)
    made["ts_ns"] = START_NS + np.arange(packets) * (9 * _S // packets)
    _address(made, np.arange(packets), np.zeros(packets, bool))
    made["tcp_flags"], made["seq"] = _SYN, np.random.default_rng(4).integers(0, 1 << 32, packets)
    write(path, made)


IDLE_S = 600


def active(path: Path, packets: int, flows: int) -> None:
    """All flows send and receive in one interval; then one flow alone goes on, past the grace and past the idle time."""
    flow = np.tile(np.arange(flows), -(-packets // flows))[:packets]
    made = np.zeros(packets, PACKETS)
    made["ts_ns"] = START_NS + np.arange(packets) * (9 * _S // packets)
    down = np.arange(packets) // flows % 2 == 1
    _address(made, flow, down)
    made["payload_bytes"], made["tcp_flags"] = np.where(down, 1448, 300), _PUSH_ACK
    made["seq"] = np.arange(packets) // flows // 2 * 1448
    seconds = np.concatenate([np.linspace(12, 19, packets // 10), np.linspace(IDLE_S + 30, IDLE_S + 50, 2048)])
    alone = np.zeros(len(seconds), PACKETS)
    alone["ts_ns"] = START_NS + (seconds * _S).astype(np.int64)
    _address(alone, np.full(len(seconds), flows), np.zeros(len(seconds), bool))
    write(path, np.concatenate([made, alone]))


def dns_heavy(path: Path, packets: int, flows: int) -> None:
    """A DNS answer for each flow, and then its packets, all in a row."""
    each = packets // flows
    made, position, label = _named(flows, each)
    answer = position == 0
    server, client = made["destination"][1::each], made["source"][1::each]
    made["protocol"][answer] = 17
    made["source"][answer], made["destination"][answer] = _SERVER + 0x1FFFF, client
    made["source_port"][answer] = 53
    name = b"\x07" + b"e000000" + b"".join(bytes([len(part)]) + part.encode() for part in DOMAIN.split(".")) + b"\0"
    head = bytes.fromhex("1234 8180 0001 0001 0000 0000")
    template = head + name + bytes.fromhex("0001 0001 c00c 0001 0001 0000012c 0004 00000000")
    data = np.tile(np.frombuffer(template, np.uint8), (flows, 1))
    data[:, 14:20] = label
    data[:, -4:] = _bytes_of(server, 4)
    made["payload_bytes"][answer] = len(template)
    write(path, made, data, 14 + 20 + 8 + len(template))


def tls_hellos(path: Path, packets: int, flows: int) -> None:
    """A ClientHello at the start of each flow, then more of its packets; nothing else names the service."""
    made, position, label = _named(flows, packets // flows)
    name = f"e000000.{DOMAIN}".encode()
    sni = len(name).to_bytes(2) + name
    sni = b"\0" + sni
    sni = len(sni).to_bytes(2) + sni
    extensions = b"\0\0" + len(sni).to_bytes(2) + sni
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extensions).to_bytes(2) + extensions
    template = b"\x16\x03\x01" + (len(body) + 4).to_bytes(2) + b"\x01" + len(body).to_bytes(3) + body
    data = np.tile(np.frombuffer(template, np.uint8), (flows, 1))
    at = template.index(name)
    data[:, at + 1 : at + 7] = label
    made["payload_bytes"][position == 0] = len(template)
    made["seq"][position > 0] -= 100 - len(template)
    write(path, made, data, 14 + 20 + 20 + len(template))


def _named(flows: int, each: int) -> tuple[NDArray[np.void], NDArray[np.int64], NDArray[np.uint8]]:
    """Flows one after the other with upstream data; the place of each packet in its flow; six digits for each flow."""
    made = np.zeros(flows * each, PACKETS)
    position = np.arange(flows * each) % each
    flow = np.arange(flows * each) // each
    made["ts_ns"] = START_NS + np.arange(flows * each) * (9 * _S // (flows * each))
    _address(made, flow, np.zeros(flows * each, bool))
    made["payload_bytes"], made["tcp_flags"], made["window"], made["seq"] = 100, _PUSH_ACK, 500, position * 100
    label = (np.arange(flows)[:, None] // 10 ** np.arange(5, -1, -1) % 10 + ord("0")).astype(np.uint8)
    return made, position, label


def write(path: Path, packets: NDArray[np.void], data: NDArray[np.uint8] | None = None, snap: int = SNAP_BYTES) -> None:
    """Write packets as Ethernet frames; checksums are zero.

    Args:
        data: payload of the first packets of as many groups of equal size; other payload is zeros.
        snap: snap length, bytes.
    """
    with PcapWriter(path) as out:
        for first in range(0, len(packets), _CHUNK):
            part = packets[first : first + _CHUNK]
            buffer = np.zeros((len(part), snap), np.uint8)
            header_bytes = _fill(buffer, part)
            if data is not None:
                each = len(packets) // len(data)
                rows = np.flatnonzero((first + np.arange(len(part))) % each == 0)
                numbers = (first + rows) // each
                at = 34 + int(header_bytes[rows[0]])
                buffer[rows, at : at + data.shape[1]] = data[numbers]
            frames = np.zeros(len(part), FRAME)
            wire_bytes = np.maximum(34 + header_bytes + part["payload_bytes"], 60)
            frames["ts_ns"], frames["wire_bytes"], frames["link_type"] = part["ts_ns"], wire_bytes, 1
            frames["captured_bytes"] = np.minimum(wire_bytes, snap)
            frames["offset"] = np.arange(len(part)) * snap
            out.write_frames(Block(buffer.ravel(), records(frames)))


def _fill(buffer: NDArray[np.uint8], p: NDArray[np.void]) -> NDArray[np.int64]:
    """Headers of frames, one a row; returns the bytes of their TCP and UDP headers."""
    tcp, syn = p["protocol"] == 6, p["tcp_flags"] & 2 != 0
    stamps = tcp & p["timestamps"]
    header_bytes = np.where(tcp, 20 + 12 * stamps + 8 * syn, 8)
    buffer[:, 0:14] = np.frombuffer(bytes.fromhex("02000000000b 02000000000a 0800"), np.uint8)
    buffer[:, 14], buffer[:, 20], buffer[:, 22], buffer[:, 23] = 0x45, 0x40, 64, p["protocol"]
    for at, size, values in (
        (16, 2, 20 + header_bytes + p["payload_bytes"]), (26, 4, p["source"]), (30, 4, p["destination"]),
        (34, 2, p["source_port"]), (36, 2, p["destination_port"]),
        (38, 4, np.where(tcp, p["seq"], (8 + p["payload_bytes"].astype(np.int64)) << 16)),
    ):  # fmt: skip
        buffer[:, at : at + size] = _bytes_of(values, size)
    for at, size, values in (
        (42, 4, p["ack"]),
        (46, 1, header_bytes << 2),
        (47, 1, p["tcp_flags"]),
        (48, 2, p["window"]),
    ):
        buffer[tcp, at : at + size] = _bytes_of(values[tcp], size)
    option = np.flatnonzero(stamps)
    buffer[option, 54:58] = np.frombuffer(bytes.fromhex("0101080a"), np.uint8)
    buffer[option, 58:62], buffer[option, 62:66] = _bytes_of(p["tsval"][option], 4), _bytes_of(p["tsecr"][option], 4)
    hello = np.frombuffer(bytes.fromhex("020405b4 01030307"), np.uint8)  # MSS 1460, window scale 7
    for shift in (0, 12):
        rows = np.flatnonzero(tcp & syn & (stamps == (shift == 12)))
        buffer[rows, 54 + shift : 62 + shift] = hello
    return header_bytes


def _bytes_of(values: NDArray, size: int) -> NDArray[np.uint8]:
    """Big-endian bytes, a row a value."""
    return values.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - size :]


def shared_data() -> Path | None:
    """The folder of real traces, where it exists."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TRAFFICREFINERY_DATA", default))
    return folder if (folder / "ndpi").is_dir() else None


def real_mix(path: Path, packets: int, flows: int) -> None:  # noqa: ARG001 - real traces have the flows that they have
    """The Ethernet traces of `shared_data` one after the other, again and again until there are enough packets."""
    folder = shared_data()
    assert folder is not None, "ask shared_data first"
    traces = [*sorted((folder / "ndpi").glob("*.pcap*")), folder / "netflix_2018.pcap.zst"]
    now_ns = START_NS
    with PcapWriter(path) as out:
        while out.frames < packets:
            for trace in traces:
                now_ns = _append(out, trace, now_ns)
                if out.frames >= packets:
                    break


def _append(out: PcapWriter, trace: Path, now_ns: int) -> int:
    """Copy a trace, its first packet at `now_ns`; returns when its last one was. Damaged ones are taken as far as they go."""
    shift_ns, latest_ns = None, now_ns
    try:
        with TraceReader([trace]) as reader:
            for block in reader:
                frames = np.array(block.frames)
                if shift_ns is None:
                    shift_ns = now_ns - int(frames["ts_ns"][0])
                frames["ts_ns"] = np.clip(frames["ts_ns"] + shift_ns, now_ns, now_ns + 600 * _S)
                latest_ns = max(latest_ns, int(frames["ts_ns"].max()))
                out.write_frames(Block(block.buffer, records(frames)), frames["captured_bytes"] > 0)
    except TraceError:
        pass
    return latest_ns


WORKLOADS = {
    "flows_100k": Workload(exchanges, 10_400_000, 100_000),
    "flows_1k": Workload(exchanges, 5_000_000, 1_000),
    "min_size": Workload(min_size, 10_000_000, 100_000),
    "new_flows": Workload(new_flows, 3_000_000, 3_000_000),
    "active_1m": Workload(active, 2_000_000, 1_000_000),
    "dns_heavy": Workload(dns_heavy, 1_000_000, 100_000),
    "tls_hellos": Workload(tls_hellos, 1_000_000, 100_000),
    "real_mix": Workload(real_mix, 3_000_000, 0),
}


def trace_of(name: str, directory: Path, divide: int = 1) -> Path:
    """The trace of a workload in `directory`, made when it is not there; `divide` makes it smaller."""
    workload = WORKLOADS[name]
    packets, flows = workload.packets // divide, max(1, workload.flows // divide)
    path = directory / f"{name}-{packets}-{flows}.pcap"
    if not path.exists():
        workload.make(path, packets, flows)
        os.sync()  # later, it would be written while something is measured
    return path
