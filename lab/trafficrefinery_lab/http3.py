"""HTTP/3 over QUIC, version 1 or 2: a client, and a server that answers with as many bytes as it is asked for."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicProtocolVersion

from .certificate import Certificate
from .requests import TLS_PORT, USER_AGENT, Hello

_VERSIONS = {1: QuicProtocolVersion.VERSION_1, 2: QuicProtocolVersion.VERSION_2}
_DATAGRAM_BYTES = 1350
_WINDOW_BYTES = 6 << 20
_RANGE = re.compile(rb"bytes=0-([0-9]{1,9})")


def _configuration(**options: Any) -> QuicConfiguration:
    return QuicConfiguration(
        max_datagram_size=_DATAGRAM_BYTES, max_data=_WINDOW_BYTES, max_stream_data=_WINDOW_BYTES,
        congestion_control_algorithm="cubic", **options,
    )  # fmt: skip


class _Server(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        for seen in self._http.handle_event(event):
            if isinstance(seen, HeadersReceived):
                self._answer(seen)
        self.transmit()

    def _answer(self, request: HeadersReceived) -> None:
        asked = _RANGE.fullmatch(dict(request.headers).get(b"range", b""))
        body = bytes(int(asked[1]) + 1 if asked else 0)
        headers = [(b":status", b"206" if asked else b"400"), (b"content-length", str(len(body)).encode())]
        self._http.send_headers(request.stream_id, headers)
        self._http.send_data(request.stream_id, body, end_stream=True)


async def serve_http3(address: str, certificate: Certificate) -> None:
    """Serve on an address: an answer from another one of the host would not be understood."""
    options = _configuration(is_client=False, alpn_protocols=["h3"])
    options.load_cert_chain(certificate.certificate, certificate.key)
    await serve(address, TLS_PORT, configuration=options, create_protocol=_Server)


class _Client(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._bytes: dict[int, int] = {}
        self._done: dict[int, asyncio.Future[int]] = {}

    async def get(self, host: str, path: str, size_bytes: int) -> int:
        stream = self._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": host, ":path": path, "user-agent": USER_AGENT,
                  "range": f"bytes=0-{size_bytes - 1}"}  # fmt: skip
        self._bytes[stream], self._done[stream] = 0, asyncio.get_running_loop().create_future()
        self._http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields.items()], end_stream=True)
        self.transmit()
        try:
            return await self._done[stream]
        finally:
            del self._bytes[stream], self._done[stream]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for waiting in self._done.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError(event.reason_phrase or "QUIC connection closed"))
        for seen in self._http.handle_event(event):
            self._take(seen)

    def _take(self, seen: H3Event) -> None:
        if isinstance(seen, DataReceived) and seen.stream_id in self._done:
            self._bytes[seen.stream_id] += len(seen.data)
            if seen.stream_ended and not self._done[seen.stream_id].done():
                self._done[seen.stream_id].set_result(self._bytes[seen.stream_id])


class Http3Connection:
    """A connection; requests at the same time share it."""

    def __init__(self, host: str, hello: Hello) -> None:
        self._host, self._hello = host, hello

    async def open(self, address: str) -> None:
        version = _VERSIONS[self._hello.quic]
        options = _configuration(
            alpn_protocols=["h3", *self._hello.more_protocols], server_name=self._host,
            cafile=str(self._hello.authority), original_version=version, supported_versions=[version],
        )  # fmt: skip
        self._context = connect(address, TLS_PORT, configuration=options, create_protocol=_Client)
        self._client: Any = await self._context.__aenter__()  # aioquic types it as its base class

    async def get(self, path: str, size_bytes: int) -> int:
        return int(await self._client.get(self._host, path, size_bytes))

    async def close(self) -> None:
        await self._context.__aexit__(None, None, None)
