"""One session, in a process of its own: a client that plays over its link, the capture of it, and the truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.daemon import bug_report
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.jit.shared_memory import Shared
from trafficrefinery.system.processes import end_with_parent
from trafficrefinery.system.writing import write_file

from .client import Client, play
from .ladders import Title
from .namespaces import enter, run_at_once, run_when_idle
from .network import ACCESS, client_addresses
from .path import set_conditions
from .plan import SITE, SessionPlan
from .player import Player
from .recording import Recording
from .shaping import Shaper, limit_upstream
from .truth import as_csv, intervals

TRACE_SUFFIX, LABELS_SUFFIX, TRUTH_SUFFIX = ".pcap.zst", ".labels.csv", ".truth.json"
_AFTER_S = 0.6


class Place(NamedTuple):
    """Where a session runs: its client, the namespaces as paths, the table of the path, and where files go."""

    client: int
    client_namespace: str
    router_namespace: str
    conditions: Shared
    authority: Path
    folder: Path


class Played(NamedTuple):
    """What came of a session that was played."""

    plan: SessionPlan
    player: Player
    stopped_s: float
    client_ip: str
    lag_s: float

    @property
    def startup_s(self) -> float | None:
        """From play to the first picture; None where there was none."""
        started_s = self.player.playback.started_s
        return None if started_s is None else started_s - self.player.start_s

    def truth(self) -> dict[str, Any]:
        """All that is known of it, for JSON."""
        player, plan = self.player, self.plan
        return {
            "session": plan.session, "profile": plan.profile.name, "video_id": player.title.video_id,
            "client_ip": self.client_ip, "start_s": player.start_s, "end_s": self.stopped_s,
            "startup_s": self.startup_s, "link": plan.link._asdict(), "tls": plan.tls, "quic": plan.quic,
            "ladder_kbps": player.title.ladder_kbps, "longest_lag_s": round(self.lag_s, 4),
            "stalls": player.playback.stalls, "downloads": player.downloads,
        }  # fmt: skip


async def _run(plan: SessionPlan, client: Client, shaper: Shaper, beside: list[Coroutine[Any, Any, None]]) -> Played:
    start_s = time.time()
    player = Player(Title(plan.profile, plan.seed, plan.title), start_s)
    running = [*beside, shaper.run(start_s), client.watch_lag(), *([client.visit()] if plan.visits else [])]
    tasks = [asyncio.create_task(each) for each in running]
    try:
        playing = asyncio.create_task(play(client, player, start_s + plan.duration_s))
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
    return Played(plan, player, stopped_s, "", client.lag_s)


def play_session(plan: SessionPlan, place: Place, recording: Recording | None = None) -> Played:
    """Run a session in real time, from the namespace of its client; `recording` is of its link.

    Raises:
        TrafficRefineryError: something failed.
        OSError: a connection failed.
    """
    enter(place.router_namespace)
    shaper = Shaper(plan.link, f"{ACCESS}{place.client}")
    enter(place.client_namespace)
    limit_upstream(plan.link, "eth0")
    set_conditions(place.conditions, place.client, plan.link, plan.number + 1)
    client = Client(plan, place.authority)
    played = asyncio.run(_run(plan, client, shaper, [] if recording is None else [recording.run()]))
    shaper.close()
    if overflows := int(place.conditions.array[place.client]["overflows"]):
        raise TrafficRefineryError(f"the path dropped {overflows} packets; run fewer sessions side by side")
    return played._replace(client_ip=client_addresses(place.client).of(plan.family))


def record_session(plan: SessionPlan, place: Place) -> dict[str, str]:
    """Run a session and write its files, complete; the row of labels.

    Raises:
        TrafficRefineryError, OSError: as `play_session`.
    """
    run_at_once()
    enter(place.router_namespace)
    recording = Recording(f"{ACCESS}{place.client}")
    played = play_session(plan, place, recording)
    run_when_idle()
    recording.finish()
    return _write(played, place.folder, recording)


def _write(played: Played, folder: Path, recording: Recording) -> dict[str, str]:
    player, plan = played.player, played.plan
    rows = intervals(player.playback, player.downloads, player.start_s, played.stopped_s)
    contents = {LABELS_SUFFIX: as_csv(rows), TRUTH_SUFFIX: json.dumps(played.truth()) + "\n"}
    for suffix, content in contents.items():
        write_file(folder / (plan.stem + suffix), content)
    trace = folder / (plan.stem + TRACE_SUFFIX)
    recording.write(trace)  # last: without it, the session is not complete
    startup_s = played.startup_s
    return {
        "file": trace.name, "session": plan.session, "video_id": player.title.video_id, "resolution": "",
        "site": SITE, "service": plan.profile.name, "startup_s": "" if startup_s is None else f"{startup_s:.3f}",
        "session_start_s": f"{player.start_s:.3f}",
    }  # fmt: skip


def run_session(plan: SessionPlan, place: Place, told: Any) -> None:
    """A process: one session; `told` is a connection that gets its row of labels, or the words of an error."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    try:
        told.send(record_session(plan, place))
    except (TrafficRefineryError, OSError, LookupError) as error:
        told.send(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 (nobody expected it)
        told.send(bug_report.one_line(error))
    finally:
        with contextlib.suppress(OSError):
            told.close()
