"""Requests over TLS, HTTP/1.1 or HTTP/2: what is received is counted and thrown away."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from trafficrefinery.errors import UsageError

try:
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
    from h2.settings import SettingCodes, Settings
except ImportError:
    raise UsageError('the lab needs the package h2; install trafficrefinery with the extra "lab"') from None

TLS_PORT = 443
USER_AGENT = "trafficrefinery-lab"
_READ_BYTES = 1 << 16
_STREAM_WINDOW_BYTES, _CONNECTION_WINDOW_BYTES = 6 << 20, 15 << 20  # as Chrome's: updates are few
_SETTINGS = {SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES, SettingCodes.ENABLE_PUSH: 0}
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
# As long as a ClientHello with post-quantum key shares: more than one packet holds.
_LONG_PROTOCOLS = tuple(f"x-lab-{number:02}-" + "abcdefgh" * 15 for number in range(14))


class Hello(NamedTuple):
    """How a client opens its connections.

    Args:
        authority: the certificate that it trusts.
        tls: version of TLS over TCP.
        quic: version of QUIC.
        is_long: the ClientHello takes more than one packet.
    """

    authority: Path
    tls: str = "1.3"
    quic: int = 1
    is_long: bool = False

    @property
    def more_protocols(self) -> Sequence[str]:
        """Names of protocols that nobody speaks, to make the ClientHello longer."""
        return _LONG_PROTOCOLS if self.is_long else ()


class Connection(Protocol):
    """To one server name."""

    async def open(self, address: str) -> None:
        """Connect to an address of the server."""

    async def get(self, path: str, size_bytes: int) -> int:
        """The first so many bytes of a file; how many came."""

    async def close(self) -> None: ...


async def _open_tls(
    address: str, host: str, hello: Hello, protocols: Sequence[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=hello.authority)
    context.set_alpn_protocols([*protocols, *hello.more_protocols])
    if hello.tls == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return await asyncio.open_connection(address, TLS_PORT, ssl=context, server_hostname=host)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), 2.0)
    except (OSError, TimeoutError):  # the server was faster, or does not answer
        writer.transport.abort()


class Http1Connection:
    """HTTP/1.1: one request after the other."""

    def __init__(self, host: str, hello: Hello) -> None:
        self._host, self._hello = host, hello
        self._lock = asyncio.Lock()

    async def open(self, address: str) -> None:
        self._reader, self._writer = await _open_tls(address, self._host, self._hello, ["http/1.1"])

    async def get(self, path: str, size_bytes: int) -> int:
        async with self._lock:
            request = (
                f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n"
                f"Range: bytes=0-{size_bytes - 1}\r\n\r\n"
            )
            self._writer.write(request.encode())
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _CONTENT_LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 206") or length is None:
                status, _, _ = head.partition(b"\r\n")
                raise ConnectionError(f"{self._host}: {status.decode(errors='replace')}")
            left_bytes = int(length[1])
            while left_bytes:
                data = await self._reader.read(min(left_bytes, _READ_BYTES))
                if not data:
                    raise ConnectionError(f"{self._host}: closed with {left_bytes} bytes to come")
                left_bytes -= len(data)
            return int(length[1])

    async def close(self) -> None:
        await _close(self._writer)


class Http2Connection:
    """HTTP/2: requests at the same time share the connection."""

    def __init__(self, host: str, hello: Hello) -> None:
        self._host, self._hello = host, hello
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.local_settings = Settings(client=True, initial_values=_SETTINGS)
        self._bytes: dict[int, int] = {}
        self._done: dict[int, asyncio.Future[int]] = {}

    async def open(self, address: str) -> None:
        self._reader, self._writer = await _open_tls(address, self._host, self._hello, ["h2", "http/1.1"])
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        self._writer.write(self._http.data_to_send())
        self._reading = asyncio.create_task(self._read())

    async def get(self, path: str, size_bytes: int) -> int:
        stream = self._http.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": self._host, ":path": path, "accept": "*/*",
                  "user-agent": USER_AGENT, "range": f"bytes=0-{size_bytes - 1}"}  # fmt: skip
        self._bytes[stream], self._done[stream] = 0, asyncio.get_running_loop().create_future()
        self._http.send_headers(stream, list(fields.items()), end_stream=True)
        self._writer.write(self._http.data_to_send())
        try:
            return await self._done[stream]
        finally:
            del self._bytes[stream], self._done[stream]

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for event in self._http.receive_data(data):
                    if isinstance(event, ConnectionTerminated):
                        raise ConnectionError(f"{self._host}: HTTP/2 error {event.error_code}")
                    if isinstance(event, DataReceived):
                        self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        self._bytes[event.stream_id] += len(event.data)
                    elif isinstance(event, StreamEnded):
                        self._done[event.stream_id].set_result(self._bytes[event.stream_id])
                    elif isinstance(event, StreamReset):
                        raise ConnectionError(f"{self._host}: HTTP/2 stream reset, error {event.error_code}")
                self._writer.write(self._http.data_to_send())
            raise ConnectionError(f"{self._host}: closed by the server")
        except OSError as error:
            for waiting in self._done.values():
                if not waiting.done():
                    waiting.set_exception(error)

    async def close(self) -> None:
        self._reading.cancel()
        await _close(self._writer)
