"""A real NATS server with JetStream, which tests start, stop and start again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.aio.client import Client


class Stored(NamedTuple):
    """A message of a stream."""

    subject: str
    message_id: str
    data: bytes


class NatsServer:
    """`nats-server` on a port and folder of its own."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        folder.mkdir()
        self._settings, self._log = folder / "server.conf", folder / "log"
        self._settings.write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{store_dir: "{folder / "store"}"}}\n{extra}\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([executable(), "-c", self._settings], stdout=log, stderr=log)
        for _ in range(500):
            if self.process.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    return
            time.sleep(0.02)
        self.stop()
        pytest.fail(f"nats-server does not answer: {self._log.read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def asked(self, question: Callable[[Client], Any], **options: Any) -> Any:
        async def ask() -> Any:
            client = Client()
            await client.connect([self.url], allow_reconnect=False, **options)
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(ask())

    def stored(self, stream: str = "TRAFFICREFINERY", **options: Any) -> list[Stored]:
        """All messages of a stream, in its order."""

        async def read(client: Client) -> list[Stored]:
            context = client.jetstream()
            state = (await context.stream_info(stream)).state
            found = [await context.get_msg(stream, seq=number + 1) for number in range(state.last_seq)]
            return [Stored(message.subject, message.headers["Nats-Msg-Id"], message.data) for message in found]

        return self.asked(read, **options)


def executable() -> str:
    path = shutil.which("nats-server", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if path is None:
        reason = "nats-server is not installed (Debian: apt-get install nats-server)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
