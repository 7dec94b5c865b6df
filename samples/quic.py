"""HTTP/3 over QUIC, version 1 or 2: a server of the files of a folder, and a client.

Usage as a server: quic.py FOLDER CERTIFICATE KEY ADDRESS...
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

VERSIONS = {"quic-v1": QuicProtocolVersion.VERSION_1, "quic-v2": QuicProtocolVersion.VERSION_2}
DATAGRAM_BYTES = 1350
WINDOW_BYTES = 4 << 20


def configuration(**options: Any) -> QuicConfiguration:
    return QuicConfiguration(
        max_datagram_size=DATAGRAM_BYTES, max_data=WINDOW_BYTES, max_stream_data=WINDOW_BYTES,
        congestion_control_algorithm="cubic", **options,
    )  # fmt: skip


class Server(QuicConnectionProtocol):
    """Answers each request with the file of its path."""

    folder: Path

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)

    def quic_event_received(self, event: Any) -> None:
        for seen in self._http.handle_event(event):
            if isinstance(seen, HeadersReceived):
                path = dict(seen.headers)[b":path"].decode().lstrip("/")
                body = (self.folder / path).read_bytes()
                headers = [(b":status", b"200"), (b"content-length", str(len(body)).encode())]
                self._http.send_headers(seen.stream_id, headers)
                self._http.send_data(seen.stream_id, body, end_stream=True)
        self.transmit()


class Client(QuicConnectionProtocol):
    """Fetches files, several at a time if asked to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._bytes: dict[int, int] = {}
        self._done: dict[int, asyncio.Future[int]] = {}

    async def get(self, name: str, path: str) -> int:
        stream = self._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": name, ":path": path, "user-agent": "sample"}
        self._bytes[stream], self._done[stream] = 0, self._loop.create_future()
        self._http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields.items()], end_stream=True)
        self.transmit()
        return await self._done[stream]

    def quic_event_received(self, event: Any) -> None:
        for seen in self._http.handle_event(event):
            if isinstance(seen, DataReceived):
                self._bytes[seen.stream_id] += len(seen.data)
                if seen.stream_ended and not self._done[seen.stream_id].done():
                    self._done[seen.stream_id].set_result(self._bytes[seen.stream_id])


class QuicConnection:
    """A connection for callers that wait: its event loop runs in a thread, so that it acknowledges meanwhile."""

    def __init__(self, name: str, address: str, transport: str, protocols: list[str]) -> None:
        self.name, self.port, self.server = name, 0, (address, 443)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        version = VERSIONS[transport]
        options = configuration(
            alpn_protocols=["h3", *protocols], server_name=name, verify_mode=0,
            original_version=version, supported_versions=[version],
        )  # fmt: skip
        self._context = connect(address, 443, configuration=options, create_protocol=Client)
        self._client: Any = self._wait(self._context.__aenter__())
        self.port = self._client._transport.get_extra_info("sockname")[1]  # noqa: SLF001 (there is no other way)

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=120)

    def get(self, path: str) -> int:
        return int(self._wait(self._client.get(self.name, path)))

    def close(self) -> None:
        self._wait(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)


async def run_server(folder: Path, certificate: str, key: str, addresses: list[str]) -> None:
    """Serve until killed; bound to addresses, as an answer from another one of the host would not be understood."""
    Server.folder = folder
    options = configuration(is_client=False, alpn_protocols=["h3"])
    options.load_cert_chain(certificate, key)
    for address in addresses:
        await serve(address, 443, configuration=options, create_protocol=Server)
    await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(run_server(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
