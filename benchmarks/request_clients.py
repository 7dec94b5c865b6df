"""Real clients and servers in network namespaces, for `request_sizes.py`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import json
import multiprocessing
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from trafficrefinery_lab.namespaces import Namespace, command_path, end_with_parent, enter

HOST, CLIENT, SERVER = "media.example.test", "10.81.0.2", "10.81.0.1"
PORTS = {"tls1.3": 443, "tls1.2": 444}
RATE = "40mbit"


class Session(NamedTuple):
    name: str
    client: str  # chromium, firefox, curl, aioquic
    http: int  # 1, 2, 3
    tls: str = "tls1.3"
    loss: float = 0.0  # of the server's datagrams
    uplink: str = ""  # rate of what the client sends, as tc writes it


class Link:
    """A client's and a server's namespace, and a cable without offloads between them."""

    def __init__(self) -> None:
        self.client, self.server = Namespace(), Namespace()
        for each in (self.client, self.server):
            each.ip("link set lo up")
        self.server.ip(f"link add eth0 type veth peer name eth0 netns {self.client.path}")
        for each, address in ((self.client, CLIENT), (self.server, SERVER)):
            each.ip(f"address add {address}/24 dev eth0", "link set eth0 up")
            off = [word for name in ("rx", "tx", "sg", "tso", "gso", "gro") for word in (name, "off")]
            each.run(command_path("ethtool", "ethtool"), "-K", "eth0", *off)
        tbf = f"qdisc add dev eth0 root tbf rate {RATE} burst 16kb latency 60ms".split()
        self.server.run(command_path("tc", "iproute2"), *tbf)

    def narrow(self, rate: str) -> None:
        """Where the uplink is busy, what waits is sent together: several records in a segment."""
        tbf = f"qdisc add dev eth0 root tbf rate {rate} burst 4kb latency 400ms".split()
        self.client.run(command_path("tc", "iproute2"), *tbf)


# Servers


class Certificate(NamedTuple):
    """PEM files; Firefox takes no server's certificate that is its own authority."""

    authority: Path
    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", HOST)]
    now = dt.datetime.now(dt.UTC)
    found = Certificate(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    for number, path in enumerate((found.authority, found.certificate)):
        made = (
            x509.CertificateBuilder(names[0], names[number], keys[number].public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=7))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .sign(keys[0], hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(Encoding.PEM))
    found.key.write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return found


def start_nginx(link: Link, folder: Path, certificate: Certificate, log: Any) -> subprocess.Popen[bytes]:
    servers = "".join(
        f"server {{ listen {port} ssl http2; ssl_protocols TLSv{tls[3:]}; "
        f"ssl_certificate {certificate.certificate}; ssl_certificate_key {certificate.key}; "
        f"location ~ ^/b/(\\d+)/ {{ try_files /blob$1 =404; }} location / {{ try_files $uri /page.html; }} }}\n"
        for tls, port in PORTS.items()
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ types {{ text/html html; }} access_log {folder}/access.log; keepalive_timeout 120; root {folder};\n"
        f"{temporary} {servers} }}"
    )
    return link.server.start([command_path("nginx", "nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"], log)


class Answering(QuicConnectionProtocol):
    """Answers /b/N/... with N bytes, everything else with the page; loses datagrams on purpose."""

    loss, page, log = 0.0, b"", Path()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)

    def quic_event_received(self, event: Any) -> None:
        for seen in self._http.handle_event(event):
            if isinstance(seen, HeadersReceived):
                path = dict(seen.headers)[b":path"].decode()
                with self.log.open("a") as log:
                    log.write(path + "\n")
                parts = path.split("/")
                body = bytes(int(parts[2])) if parts[1] == "b" else self.page
                headers = {b":status": b"200", b"content-type": b"text/html", b"content-length": b"%d" % len(body)}
                self._http.send_headers(seen.stream_id, list(headers.items()))
                self._http.send_data(seen.stream_id, body, end_stream=True)
        self.transmit()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(Lossy(transport, self.loss))


class Lossy:
    def __init__(self, transport: Any, loss: float) -> None:
        self._transport, self._loss = transport, loss

    def sendto(self, data: bytes, *address: Any) -> None:
        if random.random() >= self._loss:
            self._transport.sendto(data, *address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def run_http3(path: str, certificate: Certificate, folder: Path, loss: float) -> None:
    """A process: serve until killed."""
    end_with_parent()
    enter(path)
    Answering.loss, Answering.page, Answering.log = loss, (folder / "page.html").read_bytes(), folder / "access.log"

    async def run() -> None:
        options = QuicConfiguration(is_client=False, alpn_protocols=["h3"], max_datagram_size=1350)
        options.load_cert_chain(certificate.certificate, certificate.key)
        await serve(SERVER, 443, configuration=options, create_protocol=Answering)
        await asyncio.Future()

    asyncio.run(run())


# Clients


def curl(link: Link, session: Session, _folder: Path, certificate: Certificate, log: Any) -> None:
    base = f"https://{HOST}:{PORTS[session.tls]}"
    urls = [f"{base}/b/{kind}/{i}.m4s" for i in range(12) for kind in ("400000/video/720", "60000/audio")]
    urls += [f"{base}/b/60000/v"] * 6 + [f"{base}/b/20000000/long"] * 2 + [f"{base}/b/60000/done"]
    command = ["curl", "-s", "--cacert", str(certificate.authority), "--resolve", f"{HOST}:{PORTS[session.tls]}:{SERVER}",
               "--http1.1" if session.http == 1 else "--http2", "--rate", "600/m"]  # fmt: skip
    link.client.start([*command, *(part for url in urls for part in ("-o", "/dev/null", url))], log).wait(120)


NODE = """
const http2 = require('http2'), [url, host, authority, ...paths] = process.argv.slice(1);
const session = http2.connect(url, {ca: require('fs').readFileSync(authority), host, lookup: (_name, options, done) =>
  options.all ? done(null, [{address: host, family: 4}]) : done(null, host, 4)});
const get = path => new Promise((done, failed) =>
  session.request({':path': path}).on('error', failed).on('data', () => {}).on('end', done).end());
const pause = ms => new Promise(done => setTimeout(done, ms));
(async () => { for (const path of paths) { await get(path); await pause(50); } session.close(); })();
"""


def node(link: Link, session: Session, folder: Path, certificate: Certificate, log: Any) -> None:
    """Node's own client of HTTP/2 (nghttp2), as a plain program uses it."""
    paths = [f"/b/{kind}/{i}.m4s" for i in range(12) for kind in ("400000/video/720", "60000/audio")]
    paths += ["/b/60000/v"] * 6 + ["/b/4000000/long.m4s"] * 4
    base = f"https://{HOST}:{PORTS[session.tls]}"
    words = [f"--tls-keylog={folder / 'keys'}", "-e", NODE, base, SERVER, str(certificate.authority), *paths]
    link.client.start([command_path("node", "nodejs"), *words], log).wait(120)


def chromium(link: Link, session: Session, folder: Path, certificate: Certificate, log: Any) -> None:
    key = x509.load_pem_x509_certificate(certificate.certificate.read_bytes()).public_key()
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    spki = base64.b64encode(hashlib.sha256(encoded).digest()).decode()
    port = PORTS[session.tls]
    options = {1: ["--disable-http2"], 2: [], 3: [f"--origin-to-force-quic-on={HOST}:{port}"]}[session.http]
    until_done(link, folder, log, [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
        f"--host-resolver-rules=MAP {HOST} {SERVER}", f"--user-data-dir={folder / 'profile'}",
        f"--ignore-certificate-errors-spki-list={spki}", *options, f"https://{HOST}:{port}/page.html",
    ])  # fmt: skip


def firefox(link: Link, session: Session, folder: Path, certificate: Certificate, log: Any) -> None:
    profile = folder / "profile"
    profile.mkdir()
    settings = {
        "network.http.http2.enabled": session.http == 2,
        "network.http.http3.enable": session.http == 3, "network.dns.forceResolve": SERVER,
        "network.http.http3.alt-svc-mapping-for-testing": f"{HOST};h3=:443" if session.http == 3 else "",
        "network.http.http3.disable_when_third_party_roots_found": False, "network.trr.mode": 5,
        "toolkit.telemetry.reportingpolicy.firstRun": False, "app.update.enabled": False,
        "browser.safebrowsing.downloads.enabled": False, "network.captive-portal-service.enabled": False,
        "network.connectivity-service.enabled": False, "datareporting.policy.dataSubmissionEnabled": False,
        "browser.aboutwelcome.enabled": False, "security.OCSP.enabled": 0,
    }  # fmt: skip
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items()]
    (profile / "user.js").write_text("".join(lines))
    certutil = command_path("certutil", "libnss3-tools")
    for words in (["-N", "--empty-password"], ["-A", "-n", "lab", "-t", "CT,,", "-i", str(certificate.authority)]):
        subprocess.run([certutil, "-d", f"sql:{profile}", *words], check=True)
    until_done(link, folder, log, [
        "firefox-esr", "--headless", "--no-remote", "--profile", str(profile),
        f"https://{HOST}:{PORTS[session.tls]}/page.html",
    ])  # fmt: skip


def until_done(link: Link, folder: Path, log: Any, command: list[str]) -> None:
    """Run a browser until it has asked for the last thing, and a little longer."""
    browser = link.client.start(command, log)
    end_s = time.monotonic() + 120
    with contextlib.suppress(FileNotFoundError):
        while time.monotonic() < end_s and "/done" not in (folder / "access.log").read_text():
            time.sleep(0.2)
    time.sleep(1.0)
    browser.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        browser.wait(20)
    browser.kill()


class Asking(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def get(self, path: str) -> None:
        stream = self._quic.get_next_available_stream_id()
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        fields = {":method": "GET", ":scheme": "https", ":authority": HOST, ":path": path, "user-agent": "aioquic"}
        self._http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields.items()], end_stream=True)
        self.transmit()
        await self._waiting[stream]

    def quic_event_received(self, event: Any) -> None:
        for seen in self._http.handle_event(event):
            if isinstance(seen, DataReceived) and seen.stream_ended:
                self._waiting[seen.stream_id].set_result(None)


def run_aioquic(path: str, certificate: Certificate, folder: Path) -> None:
    """A process: all that a client can send, key updates and changes of the connection ID as well."""
    end_with_parent()
    enter(path)

    async def run() -> None:
        with (folder / "keys").open("a") as keys:
            options = QuicConfiguration(alpn_protocols=["h3"], server_name=HOST, cafile=str(certificate.authority),
                                        secrets_log_file=keys, max_datagram_size=1350)  # fmt: skip
            async with connect(SERVER, 443, configuration=options, create_protocol=Asking) as any_client:
                client: Any = any_client
                for i in range(12):
                    paths = (f"/b/400000/video/720/{i}.m4s", f"/b/60000/audio/{i}.m4s")
                    await asyncio.gather(*(client.get(path) for path in paths))
                    await asyncio.sleep(0.1)
                    if i % 3 == 1:
                        client.request_key_update()
                        await client.ping()
                    if i % 3 == 2:
                        client.change_connection_id()
                for _ in range(6):
                    await client.get("/b/60000/v")
                await client.get("/b/4000000/long.m4s")

    asyncio.run(asyncio.wait_for(run(), 120))


class Forked:
    """A function in a process of its own."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
        self._process.start()

    def wait(self, timeout_s: float) -> None:
        self._process.join(timeout_s)

    def terminate(self) -> None:
        self._process.kill()
