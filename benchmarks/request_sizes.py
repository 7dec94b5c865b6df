"""Sizes of what clients send: requests, and the control records and acknowledgements that are none.

Real clients (Chromium, Firefox, curl, aioquic) load a page like a player's and its segments from real servers (nginx,
aioquic) in network namespaces, over HTTP/1.1, HTTP/2 and HTTP/3, with TLS 1.2 and 1.3, with and without loss. What each
upstream packet was is read by tshark with the clients' own session keys. As root, with Debian's packages chromium,
firefox-esr, libnss3-tools, curl, nginx and tshark::

    python benchmarks/request_sizes.py /tmp/sizes        # all sessions, and results/request_sizes.md
    python benchmarks/request_sizes.py /tmp/sizes curl   # the sessions whose name begins so
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
    run_aioquic,
    run_http3,
    start_nginx,
)

from trafficrefinery_lab.namespaces import command_path

RESULT = Path(__file__).parent / "results" / "request_sizes.md"
INTRODUCTION = """# What a request is: sizes of upstream packets

Made by `benchmarks/request_sizes.py`. `hello` and `handshake` precede every request; `unknown` are first parts of
ClientHellos and of requests that span two packets. A path has 10 to 30 characters, the name of the host 18.

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
SESSIONS = (
    *(Session(f"{client} http/{http} {tls}", client, http, tls)
      for client in ("curl", "chromium", "firefox") for http in (1, 2) for tls in PORTS),
    *(Session(f"{client} http/3{f' {loss:.0%} loss' if loss else ''}", client, 3, loss=loss)
      for client in ("aioquic", "chromium", "firefox") for loss in (0.0, 0.02, 0.1)),
)  # fmt: skip


# What each packet was

FIELDS = (
    "frame.number", "frame.time_epoch", "ip.src", "tcp.stream", "udp.stream", "tcp.len", "udp.length", "tls.record.content_type",
    "tls.handshake.type", "tls.alert_message.desc", "http.request.method", "http2.type", "http2.headers.method", "quic.long.packet_type",
    "quic.frame_type", "http3.frame_type", "quic.stream.stream_id",
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
               "-Y", "tcp.len > 0 or udp", *(word for name in FIELDS for word in ("-e", name))]  # fmt: skip
    for port in PORTS.values():
        command += ["-d", f"tcp.port=={port},tls"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    packets = []
    for line in lines:
        row = dict(zip(FIELDS, line.split("|"), strict=True))
        if row["ip.src"] != CLIENT:
            continue
        kind, inside = quic_kind(row) if row["udp.length"] else tcp_kind(row)
        size = int(row["udp.length"]) - 8 if row["udp.length"] else int(row["tcp.len"])
        packets.append({"session": session.name, "client": session.client, "transport": "quic" if row["udp.length"] else session.tls,
                        "http": session.http, "loss": session.loss, "number": int(row["frame.number"]), "ts_s": float(row["frame.time_epoch"]), "payload_bytes": size,
                        "kind": kind, "inside": " ".join(inside)})  # fmt: skip
    return packets


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


def recorded(session: Session, folder: Path) -> list[dict[str, Any]]:
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
        time.sleep(1.5)
        if session.client == "aioquic":
            Forked(run_aioquic, link.client.path, certificate, folder).wait(150)
        else:
            {"curl": curl, "chromium": chromium, "firefox": firefox}[session.client](
                link, session, folder, certificate, log
            )
        time.sleep(0.5)
        for process in started:
            process.terminate()
            process.wait(20)
    link.client.close()
    link.server.close()
    return read(trace, folder / "keys", session)


TCP_THRESHOLDS, UDP_THRESHOLDS = (40, 47, 61, 64, 80, 101), (40, 53, 65, 69, 80, 101)
MORE_BYTES, RISE_BYTES, LEAST_BYTES = 16, 8, 65
"""As in VideoSegments: a datagram is a request when it exceeds the one before it that was none."""


def above_acks(sizes: list[int]) -> list[bool]:
    usual, asks = 0, []
    for size in sizes:
        asks.append(size >= max(LEAST_BYTES, usual + MORE_BYTES))
        usual = min(usual + RISE_BYTES if asks[-1] else size, 255)
    return asks


def tables(packets: pl.DataFrame) -> str:
    """Sizes by kind, and for each threshold: requests missed, and others taken for requests."""
    where = ["client", "http", "transport", "loss"]
    size = pl.col("payload_bytes")
    kinds = packets.group_by(*where, "kind").agg(
        pl.len().alias("packets"), size.min().alias("smallest"), size.median().cast(pl.Int64).alias("median"),
        size.quantile(0.99, "lower").cast(pl.Int64).alias("p99"), size.max().alias("largest"),
    )  # fmt: skip
    text = ["## Sizes, bytes of TCP or UDP payload", "", markdown(kinds.sort("transport", *where, "kind"))]
    counted = packets.filter(pl.col("kind").is_in(["request", "control", "ack"]))
    for title, thresholds, these in (
        ("TCP", TCP_THRESHOLDS, counted.filter(pl.col("transport") != "quic")),
        ("QUIC", UDP_THRESHOLDS, counted.filter(pl.col("transport") == "quic")),
    ):
        rows = []
        for key, group in these.group_by(*where, maintain_order=True):
            sizes, asks = group["payload_bytes"].to_list(), (group["kind"] == "request").to_list()
            rules = {str(least): [size >= least for size in sizes] for least in thresholds}
            if title == "QUIC":
                rules["above the ACKs"] = above_acks(sizes)
            row = dict(zip(where, key, strict=True)) | {"requests": sum(asks), "others": len(asks) - sum(asks)}
            for name, taken in rules.items():
                missed = sum(ask and not one for ask, one in zip(asks, taken, strict=True))
                row[name] = f"{missed} / {sum(one and not ask for ask, one in zip(asks, taken, strict=True))}"
            rows.append(row)
        text += ["", f"## {title}: requests missed / others taken for requests, by the least size of a request", ""]
        text.append(markdown(pl.DataFrame(rows).sort("transport", *where)))
    return "\n".join(text) + "\n"


def markdown(table: pl.DataFrame) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows()]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def main() -> None:
    folder, wanted = Path(sys.argv[1]), "".join(sys.argv[2:3])
    for session in SESSIONS:
        if session.name.startswith(wanted):
            where = folder / session.name.replace(" ", "-").replace("/", "")
            pl.DataFrame(recorded(session, where)).write_parquet(where / "packets.parquet")
            print(session.name, flush=True)
    packets = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*/packets.parquet"))])
    RESULT.write_text(INTRODUCTION + tables(packets))


if __name__ == "__main__":
    main()
