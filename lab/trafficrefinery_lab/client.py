"""The host of a session: its name lookups, connections and requests."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from trafficrefinery.errors import TrafficRefineryError

from .dns import Resolver
from .http3 import Http3Connection
from .ladders import Title
from .plan import SessionPlan
from .player import Player, Wanted
from .requests import Connection, Hello, Http1Connection, Http2Connection
from .servers import NAME_SERVER, OTHER_HOST

_Kind = type[Http1Connection] | type[Http2Connection] | type[Http3Connection]
_KINDS: dict[str, _Kind] = {"h1": Http1Connection, "h2": Http2Connection, "h3": Http3Connection}
_REQUEST_WITHIN_S = 180.0
_LAG_EACH_S = 0.05
_SIGNATURE_BYTES = 160, 280
_VISIT_KB = (5, 20, 60, 150)


class Client:
    """Fetches what a session needs.

    Attributes:
        lag_s: the longest that this process was late: how starved the machine is.
    """

    def __init__(self, plan: SessionPlan, authority: Path) -> None:
        self.plan = plan
        self._hello = Hello(authority, plan.tls, plan.quic, plan.long_hello)
        self._chance = plan.chance
        self._resolver = Resolver(NAME_SERVER, random.Random(self._chance.random()), tcp=plan.dns_over_tcp)
        self._open: dict[str, Connection] = {}
        self.lag_s = 0.0

    async def _connect(self, host: str, kind: _Kind) -> Connection:
        made = kind(host, self._hello)
        await made.open(await self._resolver.address(host, self.plan.family))
        return made

    async def _media(self, name: str) -> Connection:
        """The connection of a name; with a transport that multiplexes there is one for all."""
        profile = self.plan.profile
        name = name if profile.transport == "h1" else "media"
        if profile.transport == "h1" and not self.plan.keeps_connections and name in self._open:
            await self._open.pop(name).close()
        if name not in self._open:
            self._open[name] = await self._connect(profile.media_host, _KINDS[profile.transport])
        return self._open[name]

    async def start(self, title: Title) -> None:
        """The page and its manifest, then what is read before the first segment."""
        page = await self._connect(self.plan.profile.page_host, Http2Connection)
        await page.get(f"/watch/{title.video_id}", title.page_bytes)
        await page.close()
        await asyncio.sleep(self.plan.think_s)
        await (await self._media("video0")).get(f"/{title.video_id}/index", title.index_bytes)

    async def fetch(self, title: Title, wanted: Wanted) -> None:
        """Both parts of a segment.

        Raises:
            TrafficRefineryError: not as many bytes came as were asked for, or not in time.
        """
        profile = self.plan.profile
        folder, number = f"/{title.video_id}", wanted.number
        audio = "audio", f"{folder}/audio/{number}.m4s", wanted.audio_bytes
        video = f"video{number % profile.connections}", f"{folder}/{wanted.resolution}/{number}.m4s", wanted.video_bytes
        if profile.together:
            await asyncio.gather(self._get(*audio), self._get(*video))
        else:
            await self._get(*audio)
            await self._get(*video)

    async def _get(self, name: str, path: str, size_bytes: int) -> None:
        connection = await self._media(name)
        # Real requests for media are signed: long, and no two alike, so that header compression does not shrink them.
        signed = f"{path}?signature={self._chance.randbytes(self._chance.randint(*_SIGNATURE_BYTES)).hex()}"
        try:
            came_bytes = await asyncio.wait_for(connection.get(signed, size_bytes), _REQUEST_WITHIN_S)
        except TimeoutError:
            raise TrafficRefineryError(f"{path}: has not come within {_REQUEST_WITHIN_S:g} s") from None
        if came_bytes != size_bytes:
            raise TrafficRefineryError(f"{path}: {came_bytes} bytes came in place of {size_bytes}")

    async def visit(self) -> None:
        """Now and then, something of another site."""
        while True:
            await asyncio.sleep(self._chance.uniform(5, 40))
            other = await self._connect(OTHER_HOST, Http2Connection)
            for _ in range(self._chance.randint(1, 4)):
                size_kb = self._chance.choices(_VISIT_KB, (4, 3, 2, 1))[0]
                await asyncio.wait_for(other.get(f"/{size_kb}.bin", size_kb * 1000), _REQUEST_WITHIN_S)
            await other.close()

    async def watch_lag(self) -> None:
        """Measure `lag_s`."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_LAG_EACH_S)
            self.lag_s = max(self.lag_s, time.monotonic() - before_s - _LAG_EACH_S)

    async def close(self) -> None:
        """Close what is open."""
        await asyncio.gather(*(connection.close() for connection in self._open.values()))


async def play(client: Client, player: Player, end_s: float) -> None:
    """Play until the viewer leaves, at a wall-clock time in s."""
    await client.start(player.title)
    while (now_s := time.time()) < end_s:
        if pause_s := player.pause_s(now_s):
            await asyncio.sleep(min(pause_s, max(0.0, end_s - now_s)) + 1e-3)
            continue
        wanted = player.wanted(now_s)
        await client.fetch(player.title, wanted)
        player.fetched(wanted, now_s, time.time())
