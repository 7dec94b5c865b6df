"""Makes the sample trace: real video sessions over TLS and QUIC between network namespaces of this machine.

Usage: sudo python samples/make_sample.py OUT.pcap.zst (takes about five minutes; writes OUT.truth.json beside it)

                  access links                       link.py
    client1 ───┐ (tc tbf: varying rates)      (delay, loss, reordering)
    client2 ───┼──── router ────────────────────────── link ──────────────── servers
    client3 ───┤             `- here tcpdump looks                    nginx, aioquic, dnsmasq
    client4 ───┘
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cut import cut
from names import SERVER as NAME_SERVER
from network import Lab
from player import AUDIO_KBPS, LADDER_KBPS, SEGMENT_S, Session

HERE = Path(__file__).resolve().parent
SEED = 20
DURATION_S = 285.0
TOOLS = {"ip": "iproute2", "tc": "iproute2", "ethtool": "ethtool", "tcpdump": "tcpdump", "nginx": "nginx-light",
         "dnsmasq": "dnsmasq-base"}  # fmt: skip

NAMES = {  # name → addresses; each gets ::N in IPv6 where it is .N in IPv4
    "www.video.example": [10], "img.video.example": [11], "edge1.cdn.example": [21, 22], "edge2.cdn.example": [25],
    "quic.video.example": [30], "other.example": [40],
}  # fmt: skip
ALIASES = {"cdn1.video.example": "edge1.cdn.example", "cdn2.video.example": "any.video.example",
           "any.video.example": "edge2.cdn.example"}  # fmt: skip
TTL_S = 60
SERVER_NUMBERS = sorted({number for numbers in NAMES.values() for number in numbers})

SESSIONS = [
    Session("192.168.20.11", "sunrise", "cdn1.video.example", 2, 265, long_hello=True, seed=1),
    Session("2001:db8:20::12", "harbour", "cdn2.video.example", 8, 250, family=6, seed=2),
    Session("192.168.20.13", "forest", "quic.video.example", 15, 110, transport="quic-v1", seed=3),
    Session("192.168.20.13", "market", "quic.video.example", 145, 90, transport="quic-v2", long_hello=True, seed=4),
    Session("192.168.20.14", "desert", "cdn1.video.example", 25, 70, transport="tls1.2", address="203.0.113.22",
            keep_alive=False, seed=5),
    Session("2001:db8:20::14", "glacier", "quic.video.example", 120, 60, transport="quic-v1", family=6, seed=6),
    Session("192.168.20.14", "island", "cdn2.video.example", 200, 70, dns_over_tcp=True,
            keep_alive=False, seed=7),
]  # fmt: skip
VISITORS = [("client1", 4, 11), ("client2", 6, 12)]  # namespace, IP version, seed

RATES_KBPS: dict[str, list[tuple[float, int]]] = {  # client → from when on, which access rate
    "client1": [(0, 3000), (60, 700), (95, 300), (135, 1400), (180, 3500), (235, 900)],
    "client2": [(0, 1200), (50, 2600), (110, 500), (145, 60), (195, 1800), (230, 3000)],
    "client3": [(0, 2000), (55, 600), (90, 1500), (140, 3000), (190, 450)],
    "client4": [(0, 1500), (60, 800), (115, 2500), (160, 1000), (205, 350), (240, 2000)],
}


class Client(NamedTuple):
    """A process of a client host; a player writes the truth of its session at its end."""

    process: subprocess.Popen[bytes]
    truth: Path | None


def make_certificate(folder: Path) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "video.example")])
    names = ["video.example", "*.video.example", "other.example"]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return str(paths[0]), str(paths[1])


def make_site(folder: Path) -> None:
    """Files of the right sizes; what is in them does not matter, as nobody can see through the encryption."""

    def make(path: str, size_bytes: float) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as made:
            made.truncate(int(size_bytes))

    for video in {session.video for session in SESSIONS}:
        chance = random.Random(f"{SEED}/{video}")
        for number in range(int(DURATION_S / SEGMENT_S) + 20):
            complexity = min(chance.lognormvariate(0.0, 0.25), 1.8)
            make(f"{video}/audio/{number:03}.m4s", AUDIO_KBPS * 125 * SEGMENT_S * chance.uniform(0.97, 1.03))
            for resolution, kbps in LADDER_KBPS.items():
                size_bytes = kbps * 125 * SEGMENT_S * complexity * chance.uniform(0.95, 1.05)
                make(f"{video}/{resolution}/{number:03}.m4s", size_bytes)
        make(f"{video}/manifest.mpd", 5200)
    make("page.html", 31_000)
    make("player.js", 88_000)
    for number in range(3):
        make(f"{number}.jpg", 12_000 + 1_500 * number)
    for size_kb in (5, 20, 60, 150):
        make(f"other/{size_kb}.bin", size_kb * 1000)


def start_servers(lab: Lab) -> None:
    certificate, key = make_certificate(lab.folder)
    site = lab.folder / "site"
    make_site(site)
    settings = lab.folder / "nginx.conf"
    settings.write_text(f"""
user root; daemon off; worker_processes 1; pid {lab.folder}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; keepalive_requests 10000; keepalive_timeout 75; root {site};
    server {{ listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
              ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; }}
}}
""")
    lab.start("servers", "nginx", "-c", str(settings), log="nginx")
    (number,) = NAMES["quic.video.example"]
    addresses = (f"203.0.113.{number}", f"2001:db8:113::{number}")
    lab.start("servers", sys.executable, str(HERE / "quic.py"), str(site), certificate, key, *addresses,
              log="quic")  # fmt: skip
    records = [
        f"--host-record={name},203.0.113.{number},2001:db8:113::{number}"
        for name, numbers in NAMES.items() for number in numbers
    ]  # fmt: skip
    aliases = [f"--cname={alias},{name}" for alias, name in ALIASES.items()]
    lab.start("servers", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv",
              "--user=root", f"--local-ttl={TTL_S}", "--local=/example/", *records, *aliases,
              log="dnsmasq")  # fmt: skip
    lab.start("link", sys.executable, str(HERE / "link.py"), "left", "right", str(SEED), log="link")


def start_clients(lab: Lab) -> list[Client]:
    found = []
    for number, session in enumerate(SESSIONS):
        order, truth = lab.folder / f"session{number}.json", lab.folder / f"truth{number}.json"
        order.write_text(json.dumps(asdict(session)))
        host = int(session.client.replace(":", ".").rsplit(".", 1)[1]) - 10
        command = (sys.executable, str(HERE / "player.py"), str(order), str(truth))
        found.append(Client(lab.start(f"client{host}", *command, log=f"player{number}"), truth))
    for namespace, version, seed in VISITORS:
        command = (sys.executable, str(HERE / "visitor.py"), str(DURATION_S - 20), str(version), str(seed))
        found.append(Client(lab.start(namespace, *command, log=f"visitor-{namespace}"), None))
    return found


def shape(lab: Lab, clients: list[Client]) -> None:
    """Change the access rates when their times come, until all clients have ended; RuntimeError when one failed."""
    steps = sorted((at_s, client, rate) for client, rates in RATES_KBPS.items() for at_s, rate in rates if at_s)
    started = time.monotonic()
    while any(client.process.poll() is None for client in clients):
        while steps and time.monotonic() >= started + steps[0][0]:
            _, client_name, rate_kbps = steps.pop(0)
            lab.limit(client_name, rate_kbps)
        if any(client.process.poll() for client in clients) or time.monotonic() > started + 2 * DURATION_S:
            raise RuntimeError(f"a client failed\n{logs(lab)}")
        time.sleep(0.1)


@contextlib.contextmanager
def laboratory() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            lab.create(len(RATES_KBPS), [int(NAME_SERVER.rsplit(".", 1)[1]), *SERVER_NUMBERS])
            yield lab
        finally:
            lab.close()


def record(lab: Lab) -> tuple[Path, list[dict[str, object]]]:
    """Run everything once: the trace as captured, and the truth of each session."""
    for client, rates in RATES_KBPS.items():
        lab.limit(client, rates[0][1], first=True)
    start_servers(lab)
    trace = lab.folder / "raw.pcap"
    capture = lab.start("router", "tcpdump", "-i", "wan", "-w", str(trace), "-Z", "root", "-B", "16384",
                        "--time-stamp-precision=nano", "-s", "0", log="tcpdump")  # fmt: skip
    time.sleep(2)
    clients = start_clients(lab)
    shape(lab, clients)
    time.sleep(1)
    capture.terminate()
    capture.wait(timeout=10)
    if "0 packets dropped by kernel" not in (lab.folder / "tcpdump.log").read_text():
        raise RuntimeError(f"the capture is not whole\n{logs(lab)}")
    return trace, [json.loads(client.truth.read_text()) for client in clients if client.truth]


def logs(lab: Lab) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(lab.folder.glob("*.log")))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUT.pcap.zst")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing or os.geteuid() != 0:
        sys.exit(f"error: needs root, and Debian's {', '.join(missing) or 'packages (all there)'}")
    target = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces are taken away
    with laboratory() as lab:
        trace, sessions = record(lab)
        packets = cut(trace, target)
    truth_path = target.with_name(target.name.removesuffix(".pcap.zst") + ".truth.json")
    lines = ",\n".join(json.dumps(session) for session in sessions)
    truth_path.write_text(f'{{"ladder_kbps": {json.dumps(LADDER_KBPS)}, "sessions": [\n{lines}\n]}}\n')
    print(f"{target}: {packets:,} packets, {target.stat().st_size:,} bytes; {truth_path}")


if __name__ == "__main__":
    main()
