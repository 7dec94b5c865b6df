"""Sizes of what clients send: requests, and the control records and acknowledgements that are none.

Real clients (Chromium, Firefox, curl, Node, aioquic) load a page like a player's and its segments from real servers (nginx,
aioquic) in network namespaces, over HTTP/1.1, HTTP/2 and HTTP/3, with TLS 1.2 and 1.3, with and without loss. What each
upstream packet was is read by tshark with the clients' own session keys. As root, with Debian's packages chromium,
firefox-esr, libnss3-tools, curl, nodejs, nginx and tshark::

    python benchmarks/request_sizes.py /tmp/sizes        # all sessions, and results/request_sizes.md

A session whose folder is there already is not recorded again, but read again.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import measure
import polars as pl
from request_clients import (
    CLIENT,
    PORTS,
    Forked,
    Link,
    Session,
    chromium,
    curl,
    firefox,
    make_certificate,
    node,
    run_aioquic,
    run_http3,
    start_nginx,
)

import trafficrefinery
from trafficrefinery_lab.namespaces import command_path

RESULT = Path(__file__).parent / "results" / "request_sizes.md"
INTRODUCTION = """# What a request is: sizes of upstream packets

{stamp}

Made by `benchmarks/request_sizes.py` from sessions recorded on {recorded}. `hello` and `handshake` precede every
request; `unknown` are first parts of ClientHellos and of requests that span two packets. A path has 10 to 30 characters,
the name of the host 18. Where the transport names a rate, that is the client's uplink, and what waits for it is sent
together.

"""
SIZES = (60_000, 400_000, 4_000_000, 20_000_000)
PAGE = """<!doctype html><script>
const get = (path, headers) => fetch(path, {{cache: 'no-store', headers}}).then(r => r.arrayBuffer());
const pause = ms => new Promise(r => setTimeout(r, ms));
(async () => {{
  for (let i = 0; i < 12; i++) {{
    await Promise.all([get(`/b/400000/video/720/${{i}}.m4s`), get(`/b/60000/audio/${{i}}.m4s`)]); await pause(150);
  }}
  for (let i = 0; i < 6; i++) {{ await get('/b/400000/v', {{Range: `bytes=${{i * 9000}}-${{i * 9000 + 300000}}`}}); await pause(50); }}
  for (let i = 0; i < 6; i++) {{ await get('/b/60000/v'); await pause(50); }}
  await get('/b/4000000/long.m4s'); await get('/b/4000000/long.m4s');
  if ({idle}) {{ await pause(12000); await get('/b/60000/late.m4s'); }}
  await get('/b/60000/done');
}})();
</script>"""
NARROW = "150kbit"
SESSIONS = (
    *(Session(f"{client} http/{http} {tls}", client, http, tls)
      for client in ("curl", "chromium", "firefox") for http in (1, 2) for tls in PORTS),
    *(Session(f"node http/2 {tls}", "node", 2, tls) for tls in PORTS),
    *(Session(f"{client} http/2 tls1.3 {NARROW}", client, 2, uplink=NARROW) for client in ("curl", "node", "chromium", "firefox")),
    *(Session(f"{client} http/3{f' {loss:.0%} loss' if loss else ''}", client, 3, loss=loss)
      for client in ("aioquic", "chromium", "firefox") for loss in (0.0, 0.02, 0.1)),
)  # fmt: skip


# What each packet was

FIELDS = (
    "frame.number", "frame.time_epoch", "ip.src", "tcp.stream", "udp.stream", "tcp.len", "udp.length", "tls.record.content_type",
    "tls.handshake.type", "tls.alert_message.desc", "http.request.method", "http2.type", "http2.headers.method", "quic.long.packet_type",
    "quic.frame_type", "http3.frame_type", "quic.stream.stream_id", "tcp.payload",
)  # fmt: skip
HTTP2 = {
    0: "DATA",
    1: "HEADERS",
    2: "PRIORITY",
    3: "RST_STREAM",
    4: "SETTINGS",
    6: "PING",
    7: "GOAWAY",
    8: "WINDOW_UPDATE",
    16: "PRIORITY_UPDATE",
}
QUIC = {0: "PADDING", 1: "PING", 2: "ACK", 3: "ACK", 4: "RESET_STREAM", 5: "STOP_SENDING", 6: "CRYPTO", 7: "NEW_TOKEN", 16: "MAX_DATA",
        17: "MAX_STREAM_DATA", 18: "MAX_STREAMS", 19: "MAX_STREAMS", 20: "DATA_BLOCKED", 21: "STREAM_DATA_BLOCKED", 24: "NEW_CONNECTION_ID",
        25: "RETIRE_CONNECTION_ID", 26: "PATH_CHALLENGE", 27: "PATH_RESPONSE", 28: "CONNECTION_CLOSE", 29: "CONNECTION_CLOSE",
        30: "HANDSHAKE_DONE", 48: "DATAGRAM", 49: "DATAGRAM"}  # fmt: skip


def read(trace: Path, keys: Path, session: Session) -> list[dict[str, Any]]:
    """Upstream packets with payload: size, kind, and what was in them."""
    command = ["tshark", "-r", str(trace), "-o", f"tls.keylog_file:{keys}", "-T", "fields", "-E", "separator=|",
               "-Y", f"ip.src == {CLIENT} and (tcp.len > 0 or udp)", *(word for name in FIELDS for word in ("-e", name))]  # fmt: skip
    for port in PORTS.values():
        command += ["-d", f"tcp.port=={port},tls"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    packets = []
    for line in lines:
        row = dict(zip(FIELDS, line.split("|"), strict=True))
        kind, inside = quic_kind(row) if row["udp.length"] else tcp_kind(row)
        size = int(row["udp.length"]) - 8 if row["udp.length"] else int(row["tcp.len"])
        records = [] if row["udp.length"] else records_in(bytes.fromhex(row["tcp.payload"]))
        packets.append({"session": session.name, "client": session.client, "transport": "quic" if row["udp.length"] else f"{session.tls} {session.uplink}".strip(),
                        "http": session.http, "loss": session.loss, "number": int(row["frame.number"]), "ts_s": float(row["frame.time_epoch"]), "payload_bytes": size, "records": len(records), "longest_bytes": max(records, default=size),
                        "kind": kind, "inside": " ".join(inside)})  # fmt: skip
    return packets


def records_in(payload: bytes) -> list[int]:
    """Bytes of the TLS records that begin in a payload, their headers included; none if it does not begin with one."""
    records, at = [], 0
    while at + 5 <= len(payload):
        if not (20 <= payload[at] <= 23 and payload[at + 1] == 3 and payload[at + 2] <= 4):
            return []
        records.append(5 + int.from_bytes(payload[at + 3 : at + 5]))
        at += records[-1]
    return records


def numbers(text: str) -> list[int]:
    return [int(each, 0) for each in text.split(",") if each]


def tcp_kind(row: dict[str, str]) -> tuple[str, list[str]]:
    inside = [HTTP2.get(number, str(number)) for number in numbers(row["http2.type"])]
    if 1 in numbers(row["tls.handshake.type"]):
        return "hello", ["ClientHello"]
    if row["http.request.method"]:
        return "request", ["GET"]
    if "HEADERS" in inside:
        return "request", inside
    if inside:
        return "control", inside
    content = numbers(row["tls.record.content_type"])
    if 21 in content or row["tls.alert_message.desc"]:
        return "control", ["alert"]
    return (
        ("handshake", ["Finished"]) if 22 in content or 20 in content or row["tls.handshake.type"] else ("unknown", [])
    )


def quic_kind(row: dict[str, str]) -> tuple[str, list[str]]:
    inside = [
        "STREAM" if 8 <= number <= 15 else QUIC.get(number, hex(number)) for number in numbers(row["quic.frame_type"])
    ]
    inside = [name for i, name in enumerate(inside) if name != "PADDING" or inside[i - 1] != "PADDING"]
    long = numbers(row["quic.long.packet_type"])
    requests = any(number % 4 == 0 for number in numbers(row["quic.stream.stream_id"]))
    if requests:
        return "request", inside
    if 0 in long and "CRYPTO" in inside:
        return "hello", inside
    if long:
        return "handshake", inside
    if not inside:
        return "unknown", inside
    return ("ack" if set(inside) <= {"ACK", "PADDING"} else "control"), inside


# The tables


def record(session: Session, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for size in SIZES:
        with (folder / f"blob{size}").open("wb") as blob:
            blob.truncate(size)
    (folder / "page.html").write_text(PAGE.format(idle="true" if session.http > 1 and not session.loss else "false"))
    (folder / "access.log").write_text("")
    certificate = make_certificate(folder)
    os.environ["SSLKEYLOGFILE"] = str(folder / "keys")
    (folder / "keys").touch()
    link = Link()
    with (folder / "log").open("wb") as log:
        trace = folder / "trace.pcapng"
        started = [
            link.client.start([command_path("dumpcap", "wireshark-common"), "-q", "-i", "eth0", "-w", str(trace)], log)
        ]
        if session.http == 3:
            started.append(Forked(run_http3, link.server.path, certificate, folder, session.loss))
        else:
            started.append(start_nginx(link, folder, certificate, log))
            if session.uplink:
                link.narrow(session.uplink)
        time.sleep(1.5)
        if session.client == "aioquic":
            Forked(run_aioquic, link.client.path, certificate, folder).wait(150)
        else:
            {"curl": curl, "chromium": chromium, "firefox": firefox, "node": node}[session.client](
                link, session, folder, certificate, log
            )
        time.sleep(0.5)
        for process in started:
            process.terminate()
            process.wait(20)
    link.client.close()
    link.server.close()


TCP_THRESHOLDS, UDP_THRESHOLDS = (40, 47, 49, 56, 61, 80, 101), (40, 53, 65, 69, 80, 101)
TCP_LEAST_BYTES, PREFACE_BYTES = 49, 80
"""VideoSegments.TCPRequestBytes, and the size that no control packet has but the preface of HTTP/2 (51 to 99 bytes)."""
MORE_BYTES, RISE_BYTES, LEAST_BYTES = 16, 8, 65
"""As in VideoSegments: a datagram is a request when it exceeds the one before it that was none."""


Rule = Callable[[pl.DataFrame], pl.Series]
"""Which of some packets, all of one client and transport and in their order, are taken for requests."""
WHERE = ["client", "http", "transport", "loss"]


def at_least(least_bytes: int, column: str = "longest_bytes") -> Rule:
    return lambda packets: packets[column] >= least_bytes


def above_acks(packets: pl.DataFrame) -> pl.Series:
    usual, asks = 0, []
    for size in packets["payload_bytes"]:
        asks.append(size >= max(LEAST_BYTES, usual + MORE_BYTES))
        usual = min(usual + RISE_BYTES if asks[-1] else size, 255)
    return pl.Series(asks)


def tables(packets: pl.DataFrame) -> str:
    """Sizes by kind, and for each threshold: requests missed, and others taken for requests."""
    size = pl.col("payload_bytes")
    kinds = packets.group_by(*WHERE, "kind").agg(
        pl.len().alias("packets"), size.min().alias("smallest"), size.median().cast(pl.Int64).alias("median"),
        size.quantile(0.99, "lower").cast(pl.Int64).alias("p99"), size.max().alias("largest"),
    )  # fmt: skip
    counted = packets.filter(pl.col("kind").is_in(["request", "control", "ack"]))
    tcp, quic = (counted.filter((pl.col("transport") == "quic") == is_quic) for is_quic in (False, True))
    quic_rules: dict[str, Rule] = {str(least): at_least(least) for least in UDP_THRESHOLDS}
    quic_rules["above the ACKs"] = above_acks
    tcp_rules = {str(least): at_least(least) for least in TCP_THRESHOLDS}
    tcp_rules |= {f"{least} in all": at_least(least, "payload_bytes") for least in (TCP_LEAST_BYTES, 61)}
    heading = "requests missed / others taken for requests, by the least size of"
    return "\n".join((
        "## Sizes, bytes of TCP or UDP payload\n", markdown(kinds.sort("transport", *WHERE, "kind")),
        f"\n## TCP: {heading} a request's longest TLS record, or of its payload in all\n", errors(tcp, tcp_rules),
        f"\n{choice(tcp)}\n", "## TCP: packets with several TLS records\n", several_records(packets),
        f"\n## QUIC: {heading} a request\n", errors(quic, quic_rules),
    )) + "\n"  # fmt: skip


def errors(packets: pl.DataFrame, rules: dict[str, Rule]) -> str:
    """A row for each client and transport, and their sum."""
    groups = packets.group_by("transport", *WHERE[:2], "loss", maintain_order=True)
    found = [([str(group[name][0]) for name in WHERE], counts(group, rules.values())) for _, group in groups]
    found.sort(key=lambda row: (row[0][2], row[0]))
    found.append((["all", "", "", ""], [sum(column) for column in zip(*(row for _, row in found), strict=True)]))
    cells = [[*where, *map(str, row[:2]), *map("{} / {}".format, row[2::2], row[3::2])] for where, row in found]
    return measure.markdown([*WHERE, "requests", "others", *rules], cells)


def counts(packets: pl.DataFrame, rules: Iterable[Rule]) -> list[int]:
    """Requests, others, and for each rule: requests missed, and others taken for requests."""
    asks = packets["kind"] == "request"
    found = [int(asks.sum()), int((~asks).sum())]
    for rule in rules:
        taken = rule(packets)
        found += [int((asks & ~taken).sum()), int((~asks & taken).sum())]
    return found


def choice(tcp: pl.DataFrame) -> str:
    """The rule that the default follows, and what it gives."""

    def least(packets: pl.DataFrame) -> int:
        taken = [counts(packets, [at_least(size)])[3] for size in range(PREFACE_BYTES + 1)]
        return taken.index(taken[PREFACE_BYTES])

    tls13 = tcp.filter(pl.col("transport").str.starts_with("tls1.3"))
    return (
        f"The least size at which no more of the others are taken for requests than at {PREFACE_BYTES}, where only the\n"
        f"preface of HTTP/2 is left: {least(tls13)} with TLS 1.3, {least(tcp)} with TLS 1.2 as well. The default is "
        f"{TCP_LEAST_BYTES}.\n"
    )


def several_records(packets: pl.DataFrame) -> str:
    """What those are, and how many of them are taken for requests by their payload and by their longest record."""
    several = packets.filter(pl.col("records") > 1).with_columns(
        by_payload=pl.col("payload_bytes") >= TCP_LEAST_BYTES, by_record=pl.col("longest_bytes") >= TCP_LEAST_BYTES
    )
    size = pl.col("payload_bytes")
    found = several.group_by("client", "http", "transport", "kind", "inside").agg(
        pl.len().alias("packets"), pl.col("records").max().alias("most records"), size.min().alias("smallest"),
        size.max().alias("largest"), pl.col("by_payload").sum().alias(f"{TCP_LEAST_BYTES} in all"),
        pl.col("by_record").sum().alias(f"a record of {TCP_LEAST_BYTES}"),
    )  # fmt: skip
    return markdown(found.sort("transport", "client", "http", "kind", "inside"))


SIDES = {"both": "tcp", "the client": f"tcp and ip.src == {CLIENT}", "the server": f"tcp and ip.src != {CLIENT}"}


def segments(folder: Path) -> str:
    """What VideoSegments finds in the sessions over HTTP/2 where both sides are seen, and where one is."""
    rows = []
    for session in SESSIONS:
        if session.http == 2:
            where = folder / folder_name(session)
            responses = sum("/b/" in line for line in (where / "access.log").read_text().splitlines())
            row = [session.client, f"{session.tls} {session.uplink}".strip(), str(responses)]
            for side in SIDES.values():
                half = where / "half.pcap"
                command = ["tshark", "-r", where / "trace.pcapng", "-Y", side, "-F", "pcap", "-w", half]
                subprocess.run(command, check=True, capture_output=True)
                found = trafficrefinery.replay(half, features=["VideoSegments"]).to_polars()
                half.unlink()
                row.append(f"{found['VideoSegments.segments'].sum()} of {found['VideoSegments.segment_bytes'].sum():,}")
            rows.append(row)
    return (
        "\n## Segments over HTTP/2, and their bytes, by which side is seen\n\nResponses that are asked for together are "
        "one segment; Chromium and Firefox ask for two at once.\n\n"
        + measure.markdown(["client", "transport", "responses", *SIDES], rows)
        + "\n"
    )


def markdown(table: pl.DataFrame) -> str:
    return measure.markdown(table.columns, [[str(cell) for cell in row] for row in table.rows()])


def folder_name(session: Session) -> str:
    return session.name.replace(" ", "-").replace("/", "")


def main() -> None:
    folder = Path(sys.argv[1])
    found = []
    for session in SESSIONS:
        where = folder / folder_name(session)
        if not (where / "trace.pcapng").is_file():
            record(session, where)
        found.append(pl.DataFrame(read(where / "trace.pcapng", where / "keys", session)))
        print(session.name, flush=True)
    traces = [(folder / folder_name(session) / "trace.pcapng").stat().st_mtime for session in SESSIONS]
    days = sorted({f"{dt.datetime.fromtimestamp(time_s, dt.UTC):%Y-%m-%d}" for time_s in traces})
    introduction = INTRODUCTION.format(stamp=measure.stamp(), recorded=" and ".join(days))
    RESULT.write_text(introduction + tables(pl.concat(found)) + segments(folder))


if __name__ == "__main__":
    main()
