"""One session, in a process of its own: a client that plays over its link, the capture of it, and the truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.shm import Shared

from .dns import Resolver
from .http3 import Http3Connection
from .ladders import Title
from .namespaces import command_path, end_with_parent, enter, run_at_once, run_when_idle
from .network import ACCESS, client_addresses
from .path import set_conditions
from .plan import SessionPlan
from .player import Player, Wanted
from .recording import Recording
from .requests import Connection, Hello, Http1Connection, Http2Connection
from .servers import NAME_SERVER, OTHER_HOST
from .truth import as_csv, intervals

TRACE_SUFFIX, LABELS_SUFFIX, TRUTH_SUFFIX, PARTIAL = ".pcap.zst", ".labels.csv", ".truth.json", ".partial"
_KINDS = {"h1": Http1Connection, "h2": Http2Connection, "h3": Http3Connection}
_BURST_BYTES = 8192
_REQUEST_WITHIN_S = 180.0
_AFTER_S = 0.6
_LAG_EACH_S = 0.05
_SIGNATURE_BYTES = 160, 280
_VISIT_KB = (5, 20, 60, 150)


class Place(NamedTuple):
    """Where a session runs: its client, the namespaces as paths, the table of the path, and where files go."""

    client: int
    client_namespace: str
    router_namespace: str
    conditions: Shared
    authority: Path
    folder: Path


class Shaper:
    """Sets the rate of an access link as its plan says: one `tc` that reads its commands."""

    def __init__(self, client: int, plan: SessionPlan) -> None:
        self._link, self._device = plan.link, f"{ACCESS}{client}"
        program = command_path("tc", "iproute2")
        self._tc = subprocess.Popen(
            [program, "-force", "-batch", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, preexec_fn=end_with_parent,  # noqa: PLW1509 (no other thread)
        )  # fmt: skip
        self._set(self._link.rates[0][1])

    def _set(self, rate_kbps: int) -> None:
        assert self._tc.stdin is not None, "it is a pipe"
        self._tc.stdin.write(
            f"qdisc replace dev {self._device} root tbf rate {rate_kbps}kbit burst {_BURST_BYTES} "
            f"latency {self._link.queue_s * 1e3:.0f}ms\n"
        )
        self._tc.stdin.flush()

    async def run(self, started_s: float) -> None:
        for at_s, rate_kbps in self._link.rates[1:]:
            await asyncio.sleep(max(0.0, started_s + at_s - time.time()))
            self._set(rate_kbps)

    def close(self) -> None:
        """Wait for its end.

        Raises:
            TrafficRefineryError: a rate could not be set.
        """
        _, words = self._tc.communicate()
        if words:
            raise TrafficRefineryError(f"tc: {' '.join(words.split())}")


class Client:
    """The host that plays: its name lookups, connections and requests."""

    def __init__(self, plan: SessionPlan, authority: Path) -> None:
        self.plan = plan
        self._hello = Hello(authority, plan.tls, plan.quic, plan.long_hello)
        self._chance = plan.chance
        self._resolver = Resolver(NAME_SERVER, random.Random(self._chance.random()))
        self._open: dict[str, Connection] = {}
        self.lag_s = 0.0
        """The longest that this process was late: how starved the machine is."""

    async def connect(self, host: str, kind: type[Connection]) -> Connection:
        made = kind(host, self._hello)  # type: ignore[call-arg]  # the protocol says nothing of construction
        await made.open(await self._resolver.address(host, self.plan.family))
        return made

    async def media(self, name: str) -> Connection:
        """The connection of a name; with a transport that multiplexes there is one for all."""
        profile = self.plan.profile
        name = name if profile.transport == "h1" else "media"
        if name not in self._open:
            self._open[name] = await self.connect(profile.media_host, _KINDS[profile.transport])
        return self._open[name]

    async def start(self, title: Title) -> None:
        """The page and its manifest, then what is read before the first segment."""
        page = await self.connect(self.plan.profile.page_host, Http2Connection)
        await page.get(f"/watch/{title.video_id}", title.page_bytes)
        await page.close()
        await asyncio.sleep(self.plan.think_s)
        await (await self.media("video0")).get(f"/{title.video_id}/index", title.index_bytes)

    async def fetch(self, title: Title, wanted: Wanted) -> None:
        """Both parts of a segment."""
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
        connection = await self.media(name)
        # Real requests for media are signed: long, and no two alike, so that header compression does not shrink them.
        signed = f"{path}?signature={self._chance.randbytes(self._chance.randint(*_SIGNATURE_BYTES)).hex()}"
        came_bytes = await asyncio.wait_for(connection.get(signed, size_bytes), _REQUEST_WITHIN_S)
        if came_bytes != size_bytes:
            raise TrafficRefineryError(f"{path}: {came_bytes} bytes came in place of {size_bytes}")

    async def visit(self) -> None:
        """Now and then, something of another site."""
        while True:
            await asyncio.sleep(self._chance.uniform(5, 40))
            other = await self.connect(OTHER_HOST, Http2Connection)
            for _ in range(self._chance.randint(1, 4)):
                size_kb = self._chance.choices(_VISIT_KB, (4, 3, 2, 1))[0]
                await asyncio.wait_for(other.get(f"/{size_kb}.bin", size_kb * 1000), _REQUEST_WITHIN_S)
            await other.close()

    async def watch_lag(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_LAG_EACH_S)
            self.lag_s = max(self.lag_s, time.monotonic() - before_s - _LAG_EACH_S)

    async def close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._open.values()))


async def play(client: Client, player: Player, end_s: float) -> None:
    """Play until the viewer leaves."""
    await client.start(player.title)
    while (now_s := time.time()) < end_s:
        if pause_s := player.pause_s(now_s):
            await asyncio.sleep(min(pause_s, max(0.0, end_s - now_s)) + 1e-3)
            continue
        wanted = player.wanted(now_s)
        await client.fetch(player.title, wanted)
        player.fetched(wanted, now_s, time.time())


async def _run(plan: SessionPlan, place: Place, recording: Recording, shaper: Shaper) -> tuple[Player, Client, float]:
    client = Client(plan, place.authority)
    start_s = time.time()
    player = Player(Title(plan.profile, plan.seed, plan.title), start_s)
    end_s = start_s + plan.duration_s
    beside = [recording.run(), shaper.run(start_s), client.watch_lag(), *([client.visit()] if plan.visits else [])]
    tasks = [asyncio.create_task(each) for each in beside]
    try:
        playing = asyncio.create_task(play(client, player, end_s))
        tasks.append(playing)
        await asyncio.wait(tasks, timeout=plan.duration_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()  # the error of one that failed
        stopped_s = time.time()
        player.playback.stop(stopped_s)
        playing.cancel()
        await client.close()
        await asyncio.sleep(_AFTER_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return player, client, stopped_s


def record_session(plan: SessionPlan, place: Place) -> dict[str, str]:
    """Run a session and write its files, complete; the row of labels.

    Raises:
        TrafficRefineryError: something failed.
        OSError: a connection failed.
    """
    run_at_once()
    enter(place.router_namespace)
    shaper = Shaper(place.client, plan)
    recording = Recording(f"{ACCESS}{place.client}")
    enter(place.client_namespace)
    _limit_upstream(plan.link.up_kbps)
    set_conditions(place.conditions, place.client, plan.link, plan.number + 1)
    player, client, stopped_s = asyncio.run(_run(plan, place, recording, shaper))
    run_when_idle()
    recording.finish()
    shaper.close()
    if overflows := int(place.conditions.array[place.client]["overflows"]):
        raise TrafficRefineryError(f"the path dropped {overflows} packets; run fewer sessions side by side")
    return _write(plan, place, recording, (player, client, stopped_s))


def _limit_upstream(rate_kbps: int) -> None:
    command = f"qdisc replace dev eth0 root tbf rate {rate_kbps}kbit burst {_BURST_BYTES} latency 200ms"
    done = subprocess.run([command_path("tc", "iproute2"), *command.split()], check=False, capture_output=True)
    if done.returncode:
        raise TrafficRefineryError(f"tc: {done.stderr.decode(errors='replace').strip()}")


def _write(plan: SessionPlan, place: Place, recording: Recording, done: tuple[Player, Client, float]) -> dict[str, str]:
    player, client, stopped_s = done
    rows = intervals(player.playback, player.downloads, player.start_s, stopped_s)
    startup_s = None if player.playback.started_s is None else player.playback.started_s - player.start_s
    truth = {
        "session": plan.session, "profile": plan.profile.name, "video_id": player.title.video_id,
        "client_ip": client_addresses(place.client).of(plan.family), "start_s": player.start_s, "end_s": stopped_s,
        "startup_s": startup_s, "link": plan.link._asdict(), "tls": plan.tls, "quic": plan.quic,
        "ladder_kbps": player.title.ladder_kbps, "longest_lag_s": round(client.lag_s, 4),
        "stalls": player.playback.stalls, "downloads": player.downloads,
    }  # fmt: skip
    contents = {LABELS_SUFFIX: as_csv(rows), TRUTH_SUFFIX: json.dumps(truth) + "\n"}
    paths = {suffix: place.folder / (plan.stem + suffix) for suffix in (*contents, TRACE_SUFFIX)}
    partial = {suffix: path.with_name(path.name + PARTIAL) for suffix, path in paths.items()}
    recording.write(partial[TRACE_SUFFIX])
    for suffix, content in contents.items():
        partial[suffix].write_text(content)
    for suffix, path in paths.items():  # the trace comes last
        partial[suffix].replace(path)
    return {
        "file": paths[TRACE_SUFFIX].name, "session": plan.session, "video_id": player.title.video_id, "resolution": "",
        "site": "lab", "service": plan.profile.name, "startup_s": "" if startup_s is None else f"{startup_s:.3f}",
        "session_start_s": f"{player.start_s:.3f}",
    }  # fmt: skip


def run_session(plan: SessionPlan, place: Place, told: Any) -> None:
    """A process: one session; `told` is a connection that gets its row of labels, or the words of an error."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    try:
        told.send(record_session(plan, place))
    except (TrafficRefineryError, OSError, LookupError, TimeoutError, socket.gaierror) as error:
        told.send(f"{type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(OSError):
            told.close()
