"""An adaptive video player: fetches segments over TLS or QUIC, at the resolution that buffer and throughput allow.

Usage: player.py SESSION.json TRUTH.json; it plays for the given time and then writes what it did.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from names import Resolver

SEGMENT_S = 4.0
BUFFER_S = 24.0
LOW_BUFFER_S = 8.0
BIN_S = 10
LADDER_KBPS = {240: 120, 360: 240, 480: 450, 720: 900, 1080: 1600}
AUDIO_KBPS = 64
# As long as a ClientHello with post-quantum key shares: more than one segment holds.
LONG_PROTOCOLS = [f"x-sample-{number:02}-" + "abcdefgh" * 15 for number in range(14)]


class TlsConnection:
    """One HTTPS connection to a given address."""

    def __init__(self, name: str, address: str, transport: str, protocols: list[str]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate was made on the spot
        context.set_alpn_protocols(["http/1.1", *protocols])
        if transport == "tls1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.server = (address, 443)
        self._http = http.client.HTTPConnection(name)
        plain = socket.create_connection(self.server, timeout=120)
        self.port = plain.getsockname()[1]
        self._http.sock = context.wrap_socket(plain, server_hostname=name)

    def get(self, path: str) -> int:
        self._http.request("GET", path, headers={"User-Agent": "sample"})
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise LookupError(path)
        return len(body)

    def close(self) -> None:
        self._http.close()


@dataclass
class Session:
    """What to play, and how; `address` is set for a client that knows the server without asking DNS."""

    client: str
    video: str
    host: str
    start_s: float
    duration_s: float
    transport: str = "tls1.3"
    family: int = 4
    address: str | None = None
    long_hello: bool = False
    keep_alive: bool = True
    dns_over_tcp: bool = False
    seed: int = 0


@dataclass
class Player:
    """State of one session; `played` has (start, end, resolution) of every segment on the wall clock."""

    session: Session
    segments: list[dict[str, Any]] = field(default_factory=list)
    played: list[tuple[float, float, int]] = field(default_factory=list)
    throughput_kbps: list[float] = field(default_factory=list)
    connections: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resolver = Resolver(self.session.seed)

    def connection(self, kind: str) -> Any:
        """The connection for audio or video; a new one for each segment where connections are not kept."""
        made = self.connections.get(kind)
        if made is not None and (self.session.keep_alive or self.session.transport.startswith("quic")):
            return made
        if made is not None:
            made.close()
        session = self.session
        address = session.address or self.resolver.address(session.host, session.family, tcp=session.dns_over_tcp)
        protocols = LONG_PROTOCOLS if session.long_hello else []
        self.connections[kind] = open_connection(session.host, address, session.transport, protocols)
        return self.connections[kind]

    def fetch(self, kind: str, resolution: int | None, number: int) -> None:
        connection = self.connection(kind)
        start = time.time()
        size_bytes = connection.get(f"/{self.session.video}/{resolution or kind}/{number:03}.m4s")
        end = time.time()
        if kind == "video":
            self.throughput_kbps.append(size_bytes * 8e-3 / (end - start))
        self.segments.append({
            "kind": kind, "number": number, "resolution": resolution, "bytes": size_bytes,
            "start": round(start, 3), "end": round(end, 3),
            "client_port": connection.port, "server_ip": connection.server[0],
        })  # fmt: skip

    def next_resolution(self) -> int:
        """At most one step up, only with throughput to spare; the lowest while the buffer is low."""
        if not self.played:
            return 240
        levels = list(LADDER_KBPS)
        estimate_kbps = statistics.harmonic_mean(self.throughput_kbps[-3:])
        fitting = [r for r in levels if LADDER_KBPS[r] * 1.3 + AUDIO_KBPS < estimate_kbps]
        target = fitting[-1] if fitting else levels[0]
        if len(self.played) > 3 and self.buffer_s() < LOW_BUFFER_S:
            target = min(target, levels[max(0, levels.index(self.played[-1][2]) - 1)])
        return min(target, levels[min(levels.index(self.played[-1][2]) + 1, len(levels) - 1)])

    def buffer_s(self) -> float:
        return max(0.0, self.played[-1][1] - time.time()) if self.played else 0.0

    def play(self) -> None:
        self.started = time.time()
        if not self.session.address:
            self.browse()
        number = 0
        while time.time() < self.started + self.session.duration_s:
            resolution = self.next_resolution()
            self.fetch("audio", None, number)
            self.fetch("video", resolution, number)
            start = max(self.played[-1][1] if self.played else 0.0, time.time())
            self.played.append((start, start + SEGMENT_S, resolution))
            number += 1
            time.sleep(max(0.0, self.buffer_s() - BUFFER_S + SEGMENT_S))
        self.stopped = time.time()
        for connection in self.connections.values():
            connection.close()

    def browse(self) -> None:
        """The page before the video, and its pictures without encryption."""
        family = self.session.family
        page = TlsConnection("www.video.example", self.resolver.address("www.video.example", family), "tls1.3", [])
        for path in ("/page.html", "/player.js", f"/{self.session.video}/manifest.mpd"):
            page.get(path)
        pictures = http.client.HTTPConnection(self.resolver.address("img.video.example", family), 80, timeout=120)
        for number in range(3):
            pictures.request("GET", f"/{number}.jpg", headers={"Host": "img.video.example", "User-Agent": "sample"})
            pictures.getresponse().read()
        pictures.close()
        page.close()

    def truth(self) -> dict[str, Any]:
        gaps = [b[0] - a[1] for a, b in zip(self.played, self.played[1:], strict=False)]
        return {
            "client_ip": self.session.client, "host": self.session.host, "transport": self.session.transport,
            "video": self.session.video, "start": round(self.started, 3), "end": round(self.stopped, 3),
            "startup_delay_s": round(self.played[0][0] - self.started, 3),
            "stalls": sum(gap > 0.001 for gap in gaps), "stalled_s": round(sum(gaps), 3),
            "resolution_per_10_s": self.resolution_per_bin(), "segments": self.segments,
        }  # fmt: skip

    def resolution_per_bin(self) -> dict[str, int | None]:
        """For each multiple of 10 s, the resolution that was on the screen for most of it; null where none was."""
        found: dict[str, int | None] = {}
        for start in range(int(self.started) // BIN_S * BIN_S, int(self.stopped), BIN_S):
            shown: Counter[int] = Counter()
            for begin, end, resolution in self.played:
                shown[resolution] += max(0.0, min(end, start + BIN_S, self.stopped) - max(begin, start))  # type: ignore[assignment]
            resolution, seconds = shown.most_common(1)[0]
            found[str(start)] = resolution if seconds > 0 else None
        return found


def open_connection(name: str, address: str, transport: str, protocols: list[str]) -> Any:
    if transport.startswith("quic"):
        from quic import QuicConnection

        return QuicConnection(name, address, transport, protocols)
    return TlsConnection(name, address, transport, protocols)


def main() -> None:
    session = Session(**json.loads(Path(sys.argv[1]).read_text()))
    time.sleep(session.start_s)
    player = Player(session)
    player.play()
    Path(sys.argv[2]).write_text(json.dumps(player.truth()))


if __name__ == "__main__":
    main()
