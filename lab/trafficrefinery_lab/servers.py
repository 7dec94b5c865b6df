"""The servers: nginx for TLS, and a process of our own for QUIC and DNS."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.processes import end_with_parent

from .certificate import Certificate, make_certificate
from .dns import Zone, serve_dns
from .http3 import serve_http3
from .namespaces import Namespace, command_path, enter, run_at_once
from .network import Addresses, server_addresses
from .profiles import Profile
from .requests import TLS_PORT

NAME_SERVER = server_addresses(53).ipv4
OTHER_HOST = "www.other.example"
"""A site that belongs to no service."""
_OTHER_NUMBER, _FIRST_NUMBER, _NUMBERS_EACH = 60, 70, 5
_BLOB_BYTES = 64 << 20
_READY_WITHIN_S = 20.0


class Site(NamedTuple):
    """What the servers have: hosts, their addresses, and a certificate."""

    profiles: tuple[Profile, ...]
    certificate: Certificate

    def number(self, profile: Profile) -> int:
        """The first of a profile's host numbers: its page, then its media servers."""
        return _FIRST_NUMBER + _NUMBERS_EACH * self.profiles.index(profile)

    def media_addresses(self, profile: Profile) -> list[Addresses]:
        return [server_addresses(self.number(profile) + more) for more in (1, 2)]

    @property
    def zone(self) -> Zone:
        addresses = {OTHER_HOST: [server_addresses(_OTHER_NUMBER)]}
        aliases = {}
        for profile in self.profiles:
            addresses[profile.page_host] = [server_addresses(self.number(profile))]
            edge = f"edge-{profile.name}.delivery.example"  # media come from a network of another name, as they do
            addresses[edge] = self.media_addresses(profile)
            aliases[profile.media_host] = edge
        return Zone(addresses, aliases)


def host_numbers(profiles: Sequence[Profile]) -> list[int]:
    """Of all hosts of a site."""
    return [53, _OTHER_NUMBER, *range(_FIRST_NUMBER, _FIRST_NUMBER + _NUMBERS_EACH * len(profiles))]


def make_site(folder: Path, profiles: Sequence[Profile]) -> Site:
    """The site's files: a certificate, and one file of which every segment is the beginning.

    What is in it does not matter, as nobody sees through the encryption; it takes no room.
    """
    with (folder / "blob").open("wb") as blob:
        blob.truncate(_BLOB_BYTES)
    return Site(tuple(profiles), make_certificate(folder, [OTHER_HOST, *(profile.domain for profile in profiles)]))


def start_nginx(namespace: Namespace, folder: Path, site: Site, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start nginx, and wait until it listens.

    Raises:
        UsageError: there is no nginx.
        TrafficRefineryError: it does not start; with its words.
    """
    program = command_path("nginx", "nginx")
    settings = folder / "nginx.conf"
    tls = f"ssl_certificate {site.certificate.certificate}; ssl_certificate_key {site.certificate.key};"
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings.write_text(f"""
user root; daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; keepalive_timeout 120; root {folder}; {temporary}
    server {{
        listen {TLS_PORT} ssl http2 backlog=512; listen [::]:{TLS_PORT} ssl http2 backlog=512;
        ssl_protocols TLSv1.2 TLSv1.3; {tls}
        location / {{ try_files /blob =404; }}
    }}
}}
""")
    nginx = namespace.start([program, "-c", str(settings), "-e", "stderr"], log)
    wait_until_open(namespace, nginx, Path(log.name))
    return nginx


def wait_until_open(namespace: Namespace, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a server accepts connections.

    Raises:
        TrafficRefineryError: it ended, or does not within 20 s.
    """
    end_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < end_s and process.poll() is None:
        with namespace.inside(), contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", TLS_PORT), timeout=1).close()
            return
        time.sleep(0.02)
    words = " ".join(log.read_text(errors="replace").split())
    raise TrafficRefineryError(f"nginx does not start: {words or 'no word from it'}")


def run_servers(namespace: str, site: Site, ready: Any) -> None:
    """A process: QUIC and DNS, until killed. `ready` is a connection that is told when it serves."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    enter(namespace)
    run_at_once()
    asyncio.run(_serve(site, ready))


async def _serve(site: Site, ready: Any) -> None:
    await serve_dns(NAME_SERVER, site.zone)
    for profile in site.profiles:
        for each in site.media_addresses(profile):
            await serve_http3(each.ipv4, site.certificate)
            await serve_http3(each.ipv6, site.certificate)
    ready.send(None)
    await asyncio.Future()
