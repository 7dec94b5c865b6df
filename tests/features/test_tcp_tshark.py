"""TCPCounters and LatencyCounters against tshark's `tcp.analysis` on recorded traces."""

from __future__ import annotations

import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import zstandard

from support.naive.compiled import compiled
from support.naive.packets import ACK, DOWN, FIN, SYN, TCP, UP, Flow, in_intervals, read_flows
from support.naive.running import load
from trafficrefinery.api.testing import new_state
from trafficrefinery.engine.feature_classes.fields import output_fields

TCPCounters: Any = load("tcp_counters").TCPCounters
LatencyCounters: Any = load("latency_counters").LatencyCounters

NDPI = ["1kxun.pcap", "alexa-app.pcapng", "dnp3.pcap", "fix2.pcap", "gnutella.pcap", "rtsp.pcap", "ultrasurf.pcap",
        "webex.pcap", "wechat.pcap", "weibo.pcap", "whatsappfiles.pcap"]  # fmt: skip
REQUET = ["A_Mar05_41", "A_Mar06_121", "A_Mar15_165", "A_Mar15_180"]
CLIENT = "192.168.43.72"  # of netflix_2018

# Ours → tshark's.
EVENTS = {
    "retransmissions": "retransmission", "fast_retransmissions": "fast_retransmission",
    "spurious_retransmissions": "spurious_retransmission", "out_of_order": "out_of_order",
    "lost_segments": "lost_segment", "duplicate_acks": "duplicate_ack", "zero_windows": "zero_window",
}  # fmt: skip
TRUTH = {
    "retransmissions": "retrans", "fast_retransmissions": "fast_retrans",
    "spurious_retransmissions": "spurious_retrans", "out_of_order": "ooo", "lost_segments": "lost_segment", "duplicate_acks": "dup_ack",
}  # fmt: skip
FIELDS = ["frame.number", "ip.src", "tcp.srcport", "ip.dst", "tcp.dstport", "tcp.stream", "tcp.seq_raw", "tcp.len",
          "tcp.flags", "tcp.analysis.acks_frame", "tcp.analysis.ack_rtt"]  # fmt: skip


class Row(NamedTuple):
    """One packet, as tshark sees it."""

    number: int
    source: tuple[str, int]
    destination: tuple[str, int]
    stream: int
    seq: int
    length: int
    flags: int
    acked_frame: int
    rtt_s: float | None
    events: frozenset[str]


def analysed(tshark: str, trace: Path) -> list[Row]:
    """The TCP packets of a trace."""
    names = [*FIELDS, *(f"tcp.analysis.{name}" for name in EVENTS.values())]
    command = [tshark, "-r", str(trace), "-Y", "tcp", "-T", "fields", "-E", "occurrence=f"]
    command += [part for name in names for part in ("-e", name)]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = []
    for line in made.splitlines():
        number, src, sport, dst, dport, stream, seq, length, flags, acked, rtt, *events = line.split("\t")
        if src and seq and length:
            found = frozenset(name for name, value in zip(EVENTS, events, strict=True) if value)
            rows.append(Row(int(number), (src, int(sport)), (dst, int(dport)), int(stream), int(seq), int(length),
                            int(flags, 16), int(acked or 0), float(rtt) if rtt else None, found))  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def netflix(shared_data: Path) -> list[Flow]:
    flows = read_flows(shared_data / "netflix_2018.pcap.zst", frozenset({CLIENT}))
    return [flow for flow in flows if flow.protocol == TCP]


@pytest.fixture(scope="module")
def netflix_truth(shared_data: Path) -> pl.DataFrame:
    return pl.read_parquet(shared_data / "netflix_2018_truth.parquet").filter(pl.col("proto") == TCP)


@cache
def runner(cls: Any) -> Any:
    return compiled(cls)


def outputs(cls: Any, flows: list[Flow]) -> Iterator[dict[str, Any]]:
    run = runner(cls)
    for flow in flows:
        yield from run(in_intervals(flow.packets))


def totals(flows: list[Flow]) -> Counter[str]:
    """Sums of all counts over all flows and intervals."""
    found: Counter[str] = Counter()
    for output in outputs(TCPCounters, flows):
        found.update({name: value for name, value in output.items() if isinstance(value, int)})
    return found


def weighted_means(flows: list[Flow]) -> dict[str, tuple[int, float]]:
    """Number and mean of all samples of each series."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for output in outputs(LatencyCounters, flows):
        for name in [name for name in output if name.endswith("_samples")]:
            n, series = output[name], name.removesuffix("_samples")
            sums[series][0] += n
            sums[series][1] += n * output[f"{series}_s_mean"] if n else 0.0
    return {series: (int(n), total / n) for series, (n, total) in sums.items() if n}


def test_counts_of_each_connection_of_netflix_2018_are_those_of_tshark(
    netflix: list[Flow], netflix_truth: pl.DataFrame
) -> None:
    columns = [f"{column}_{side}" for column in TRUTH.values() for side in ("up", "down")]
    ends = ["client_ip", "client_port", "server_ip", "server_port"]
    truth = {row[:4]: row[4:] for row in netflix_truth.group_by(ends).agg(pl.col(columns).sum()).iter_rows()}
    assert sum(values[columns.index("retrans_down")] for values in truth.values()) == 472
    for flow in netflix:
        ours = totals([flow])
        found = tuple(ours[f"{name}_{side}"] for name in TRUTH for side in ("up", "down"))
        assert found == truth[*flow.client, *flow.server]


def test_mean_ack_rtt_of_netflix_2018_is_that_of_tshark(netflix: list[Flow], netflix_truth: pl.DataFrame) -> None:
    ours = weighted_means(netflix)
    for side, name in (("down", "ack_rtt_server"), ("up", "ack_rtt_client")):
        samples = np.concatenate(netflix_truth[f"ack_rtt_samples_{side}"].drop_nulls().to_list())
        n, mean = ours[name]
        assert mean == pytest.approx(samples.mean(), rel=0.05)
        assert n == pytest.approx(len(samples), rel=0.05)


@pytest.mark.parametrize("name", NDPI)
def test_counts_are_those_of_tshark(tshark: str, shared_data: Path, name: str) -> None:
    flows = read_flows(shared_data / "ndpi" / name)
    truth = Counter(event for row in analysed(tshark, shared_data / "ndpi" / name) for event in row.events)
    ours = totals([flow for flow in flows if flow.protocol == TCP])
    for event in EVENTS:
        tolerance = 0.03 if event == "duplicate_acks" else 0.02  # tshark compares with the latest ACK, not the highest
        assert ours[f"{event}_up"] + ours[f"{event}_down"] == pytest.approx(truth[event], rel=tolerance, abs=1), event


@pytest.mark.parametrize("name", REQUET)
def test_counts_are_those_of_tshark_where_it_sees_the_whole_header(
    tshark: str, shared_data: Path, tmp_path: Path, name: str
) -> None:
    """The snap length of 72 bytes cuts options; tshark then says nothing about the packet."""
    packed = shared_data / "youtube_requet" / f"{name}.pcap.zst"
    truth = Counter(event for row in analysed(tshark, unpacked(packed, tmp_path)) for event in row.events)
    ours: Counter[str] = Counter()
    for flow in read_flows(packed):
        if flow.protocol == TCP:
            ours += events_of_whole_headers(flow)
    for event in EVENTS:
        assert ours[event] == pytest.approx(truth[event], rel=0.02, abs=1), event


def unpacked(packed: Path, folder: Path) -> Path:
    plain = folder / packed.stem
    with packed.open("rb") as source, plain.open("wb") as target:
        zstandard.ZstdDecompressor().copy_stream(source, target)
    return plain


def events_of_whole_headers(flow: Flow) -> Counter[str]:
    """What is counted at the packets whose TCP header was captured; in plain Python."""
    state = new_state(TCPCounters)
    found: Counter[str] = Counter()
    with np.errstate(all="ignore"):
        for p, whole in zip(flow.packets, flow.whole_header, strict=True):
            if not whole:
                found += counted(state)
                state.add_packet(p)
                state.clear()
            else:
                state.add_packet(p)
        return found + counted(state)


def counted(state: Any) -> Counter[str]:
    """The events so far, which are cleared."""
    made = state.collect_features(10.0)
    output = {field.name: field.column.value(made) for field in output_fields(TCPCounters)}
    state.clear()
    return Counter({event: int(output[f"{event}_up"] + output[f"{event}_down"]) for event in EVENTS})


@pytest.mark.parametrize("name", ["netflix.pcap", "opera-vpn.pcapng", "webex.pcap", "wechat.pcap", "alexa-app.pcapng"])
def test_rtt_is_that_of_tshark_where_karns_rule_allows(tshark: str, shared_data: Path, name: str) -> None:
    trace = shared_data / "ndpi" / name
    flows = [flow for flow in read_flows(trace) if flow.protocol == TCP]
    clients = {(flow.client, flow.server) for flow in flows}
    truth = samples_sent_once(analysed(tshark, trace), clients)
    ours = weighted_means(flows)
    for side, series in ((DOWN, "rtt_server"), (UP, "rtt_client")):
        n, mean = ours[series]
        assert mean == pytest.approx(np.mean(truth[side]), rel=0.05), series
        assert n == pytest.approx(len(truth[side]), rel=0.05, abs=2), series


def samples_sent_once(rows: list[Row], clients: set[Any]) -> dict[int, list[float]]:
    """tshark's RTTs by the direction of the ACK, without those of segments whose last byte was sent twice before."""
    samples: dict[int, list[float]] = {UP: [], DOWN: []}
    ends: dict[int, int] = {}
    copies: Counter[tuple[int, tuple[str, int], int]] = Counter()
    sent: dict[tuple[int, tuple[str, int]], list[int]] = defaultdict(list)
    for row in rows:
        key = (row.stream, row.source)
        length = row.length + bool(row.flags & (SYN | FIN))
        if length:
            end = (row.seq + length) % 2**32
            ends[row.number] = end
            for earlier in sent[key]:
                copies[*key, earlier] += 0 < (earlier - row.seq) % 2**32 <= length
            if end not in sent[key]:
                sent[key].append(end)
                copies[*key, end] += 1
        if row.rtt_s is not None and row.flags & ACK:
            acked = (row.stream, row.destination, ends[row.acked_frame])
            if copies[acked] == 1:
                samples[UP if (row.source, row.destination) in clients else DOWN].append(row.rtt_s)
    return samples
