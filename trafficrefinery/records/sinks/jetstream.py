"""Records to NATS JetStream, at least once and in order, by way of a spool on the disk."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Awaitable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, StrictBool

from trafficrefinery.config import Config
from trafficrefinery.config.fields import Size
from trafficrefinery.config.sinks import SinkSettings
from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.storage.spool import Spool, SpooledMessage

from .base import Health, Interval, Place, Sink

if TYPE_CHECKING:
    import asyncio

    import nats.aio.client
    import nats.js.errors
    from nats.js.client import JetStreamContext
else:
    asyncio, nats = Late("asyncio"), Late("nats")

MAX_MESSAGE_BYTES = 256 << 10
"""Of whole records; one that is larger is a message by itself."""
_TIMEOUT_S = 5.0
_PAUSES_S = (0.25, 0.5, 1.0, 2.0, 5.0)
_CLOSE_WAIT_S, _CANCEL_WAIT_S = 2.0, 1.0
_REPEATS_KNOWN_S = 3600.0
"""How long a stream that we make remembers messages' ids."""
_NOT_IN_TOKENS = re.compile(r"[^A-Za-z0-9_-]")
T = TypeVar("T")


class NatsSettings(SinkSettings):
    """Records to NATS JetStream, at least once; spooled to StateFolder while the server is away."""

    enabled: StrictBool = Field(default=False, alias="Enabled", description="Send records there.")
    servers: tuple[str, ...] = Field(
        default=("nats://127.0.0.1:4222",), alias="Servers", min_length=1, description="URLs of a cluster's servers."
    )
    subject: str = Field(
        default="trafficrefinery.records",
        alias="Subject",
        pattern=r"^[^\s.*>]+(\.[^\s.*>]+)*$",
        description="Subject to which records are sent, followed by the sensor's name.",
    )
    stream: str = Field(
        default="TRAFFICREFINERY",
        alias="Stream",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Stream that stores them; created if missing.",
    )
    credentials: Path | None = Field(default=None, alias="CredentialsFile", description="Credentials file of NATS.")
    spool_bytes: Size = Field(
        default=1 << 30,
        alias="SpoolSize",
        description="Maximum size of the spool; the oldest records are dropped and counted.",
    )


def subject_of(settings: NatsSettings, sensor: str) -> str:
    """The subject of a sensor's records: one token more than the configured one."""
    return f"{settings.subject}.{_NOT_IN_TOKENS.sub('_', sensor)}"


def messages_of(interval: Interval) -> Iterator[tuple[int, bytes]]:
    """An interval's records, then its summaries, in messages of whole lines, each with its number of records."""
    summaries = b"".join(interval.summary_lines)
    held: tuple[int, bytes] | None = None
    for records, chunk in _chunks(chain(interval.record_lines, interval.inference_lines)):
        if held is not None:
            yield held
        held = records, chunk
    if held is not None and len(held[1]) + len(summaries) <= MAX_MESSAGE_BYTES:
        yield held[0], held[1] + summaries
        return
    if held is not None:
        yield held
    for _, chunk in _chunks([summaries]):
        yield 0, chunk


def _chunks(parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number of lines, and the lines: whole ones, up to MAX_MESSAGE_BYTES, from as many parts as it takes."""
    rest = b""
    for part in parts:
        rest += part
        start = 0
        while len(rest) - start > MAX_MESSAGE_BYTES:
            end = rest.rfind(b"\n", start, start + MAX_MESSAGE_BYTES) + 1 or rest.index(b"\n", start) + 1
            yield rest.count(b"\n", start, end), rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest.count(b"\n"), rest


class JetStream(Sink):
    """`take` only appends to the spool; a thread sends what is there, one message after another.

    A message leaves the spool when the server has acknowledged it. One that is sent again has the same `Nats-Msg-Id`,
    by which the stream drops repeats.
    """

    name = "nats"
    Settings = NatsSettings

    def __init__(self, settings: NatsSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._settings, self._sensor = settings, place.plan.config.sensor
        self._subject = subject_of(settings, self._sensor)
        self._spool = Spool(place.state_folder / "nats", settings.spool_bytes, "Daemon.StateFolder")
        self._writing = Health("nats: cannot write to the spool")
        self._sending = Health(f"nats: cannot send to {', '.join(settings.servers)}")
        self._refused_there = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()

    @classmethod
    def check(cls, settings: NatsSettings, config: Config, key: str) -> None:
        """See `Sink`."""
        if importlib.util.find_spec("nats") is None:
            message = "needs the package nats-py, which is not installed; install the extra nats of this program"
            raise config.error(f"{key}.Enabled", message)
        if settings.credentials is not None and not os.access(settings.credentials, os.R_OK):
            raise config.error(f"{key}.CredentialsFile", f"{settings.credentials} cannot be read, or is not there")

    @property
    def dropped_total(self) -> int:
        """Flow records that found no room, could not be read back, or are too large for the server."""
        return super().dropped_total + self._refused_there + self._spool.lost_records

    @property
    def waiting_bytes(self) -> int:
        """In the spool, not acknowledged."""
        return self._spool.waiting_bytes

    @property
    def error(self) -> Exception | None:
        """Why the last attempt to spool or to send failed, if it did."""
        return self._writing.error or self._sending.error

    def take(self, interval: Interval) -> int:
        """See `Sink`: in the spool, on the disk, when this returns."""
        self._spool.append(messages_of(interval))
        self._loop.call_soon_threadsafe(self._wake.set)
        return 0

    def close(self) -> None:
        """See `Sink`: what the server does not take within two seconds stays in the spool."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join(_CLOSE_WAIT_S)
        if self._thread.is_alive() and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it ended just now
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(_CANCEL_WAIT_S)
        self._spool.close()

    # The thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self) -> None:
        attempt = 0
        while True:
            sent_before = self.records_total
            try:
                await self._send()
            except Exception as error:  # noqa: BLE001 - whatever a client library raises, the spool is to be sent
                self._sending.fails(_told(error))
            if self._closing:
                return
            attempt = attempt + 1 if self.records_total == sent_before else 0
            await self._pause(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])

    async def _pause(self, pause_s: float) -> None:
        end_s = self._loop.time() + pause_s
        while not self._closing and (rest_s := end_s - self._loop.time()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), rest_s)

    async def _send(self) -> None:
        """Send over one connection until it is lost."""
        client, lost = nats.aio.client.Client(), asyncio.Event()

        async def closed() -> None:
            lost.set()

        async def failed(error: Exception) -> None:
            self._sending.fails(_told(error))

        options: dict[str, Any] = {}  # Any: as of nats-py
        if self._settings.credentials is not None:
            options["user_credentials"] = str(self._settings.credentials)
        try:
            await client.connect(
                list(self._settings.servers), name=f"trafficrefinery {self._sensor}", connect_timeout=2,
                # Each server is tried, then a pause is ours: a lost connection is not waited for inside the client.
                ping_interval=20, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0,
                closed_cb=closed, disconnected_cb=closed, error_cb=failed, **options,
            )  # fmt: skip
            stream = client.jetstream(timeout=_TIMEOUT_S)
            await _unless(lost, self._make_stream(stream))
            while not lost.is_set():
                self._wake.clear()
                message = self._spool.first()
                if message is not None:
                    await _unless(lost, self._publish(stream, message))
                    continue
                self._sending.works()
                if self._closing:
                    return
                await _first_of(lost.wait(), self._wake.wait())
            raise ConnectionError("the connection was lost")
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await asyncio.wait_for(client.close(), _TIMEOUT_S)

    async def _make_stream(self, stream: JetStreamContext) -> None:
        try:
            await stream.stream_info(self._settings.stream)
        except nats.js.errors.NotFoundError:
            await stream.add_stream(
                name=self._settings.stream,
                subjects=[f"{self._settings.subject}.>"],
                duplicate_window=_REPEATS_KNOWN_S,
            )

    async def _publish(self, stream: JetStreamContext, message: SpooledMessage) -> None:
        try:
            await stream.publish(
                self._subject,
                message.payload,
                timeout=_TIMEOUT_S,
                headers={"Nats-Msg-Id": f"{message.run:016x}-{message.sequence}"},
            )
        except nats.errors.MaxPayloadError:
            if self._spool.acknowledge(message):
                self._refused_there += message.records
            return
        except nats.js.errors.NoStreamResponseError:
            name = self._settings.stream
            raise ConnectionError(f"no stream is bound to {self._subject}; add it to the subjects of {name}") from None
        if self._spool.acknowledge(message):
            self.records_total += message.records
        self._sending.works()


def _told(error: Exception) -> OSError:
    """An error of the client library in words; some have none."""
    return OSError(str(error).removeprefix("nats: ") or type(error).__name__)


async def _unless(lost: asyncio.Event, work: Awaitable[T]) -> T:
    """What `work` gives, unless the connection is lost first."""
    task = asyncio.ensure_future(work)
    await _first_of(lost.wait(), task)
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        raise ConnectionError("the connection was lost")
    return task.result()


async def _first_of(*awaitables: Awaitable[Any]) -> None:  # Any: what they give does not matter
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, awaitable in zip(tasks, awaitables, strict=True):
            if task is not awaitable:
                task.cancel()
