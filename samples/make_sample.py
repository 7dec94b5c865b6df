"""Makes the sample trace: a few sessions of the lab by four clients, captured where their traffic comes together.

Usage: sudo python samples/make_sample.py OUT.pcap.zst

It takes five minutes, and writes OUT.truth.json, OUT.labels.csv and labels.csv beside the trace.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.models.dataset.intervals import CLIENT, COLUMNS
from trafficrefinery_lab.links import Link
from trafficrefinery_lab.namespaces import end_with_parent, enter, run_at_once
from trafficrefinery_lab.network import WAN
from trafficrefinery_lab.plan import SessionPlan
from trafficrefinery_lab.profiles import PROFILES, RESOLUTIONS
from trafficrefinery_lab.recording import Recording
from trafficrefinery_lab.session import Place, Played, play_session
from trafficrefinery_lab.truth import as_csv, intervals
from trafficrefinery_lab.world import CONTEXT, check_system, end_process, world

SEED = 20
EACH_S = 0.2
VIDEO, OVER_QUIC = (replace(PROFILES[name], name="video") for name in ("alder", "cedar"))
RATES_KBPS: list[list[tuple[float, int]]] = [  # of each client: from when on, which access rate
    [(0, 6000), (60, 1400), (95, 600), (135, 2800), (180, 6500), (235, 1800)],
    [(0, 2400), (50, 5200), (110, 900), (145, 100), (195, 3400), (230, 5500)],
    [(0, 3500), (55, 1000), (90, 2800), (140, 5000), (200, 800)],
    [(0, 2800), (60, 1500), (115, 4500), (160, 1900), (205, 650), (240, 3600)],
]


class Turn(NamedTuple):
    """A session of the sample: which client plays, when, and how."""

    client: int
    start_s: float
    plan: SessionPlan


def turn(number: int, client: int, start_s: float, duration_s: float, **more: Any) -> Turn:
    """A session whose link has the rates of its client from its start on."""
    rates = [(at_s - start_s, kbps) for at_s, kbps in RATES_KBPS[client]]
    begun = [kbps for at_s, kbps in rates if at_s <= 0][-1]
    link = Link("steps", ((0.0, begun), *((at_s, kbps) for at_s, kbps in rates if at_s > 0)), 2000, 0.012, 0.0,
                0.0015, 0.0005, 0.002, 0.15)  # fmt: skip
    usual = SessionPlan(number, SEED, VIDEO, number, duration_s, link, 4, "1.3", 1, False, False, 0.1)
    return Turn(client, start_s, usual._replace(**more))


TURNS = [
    turn(0, 0, 2, 265, long_hello=True, visits=True),
    turn(1, 1, 8, 250, family=6, visits=True),
    turn(2, 2, 15, 110, profile=OVER_QUIC),
    turn(3, 2, 200, 75, profile=OVER_QUIC, quic=2, long_hello=True),
    turn(4, 3, 25, 70, tls="1.2", keeps_connections=False),
    turn(5, 3, 120, 60, profile=OVER_QUIC, family=6),
    turn(6, 3, 200, 70, keeps_connections=False, dns_over_tcp=True),
]


def run_turn(mine: Turn, place: Place, begun_s: float, told: Connection) -> None:
    """A process: one session when its time has come; its outcome, or the words of an error."""
    end_with_parent()
    time.sleep(max(0.0, begun_s + mine.start_s - time.time()))
    run_at_once()
    try:
        told.send(play_session(mine.plan, place))
    except (TrafficRefineryError, OSError, LookupError) as error:
        told.send(f"session {mine.plan.number}: {type(error).__name__}: {error}")


def record(places: list[Place]) -> tuple[Recording, list[Played]]:
    """Run everything once: what was captured, and what was played."""
    enter(places[0].router_namespace)
    recording = Recording(WAN)
    processes, waiting = [], []
    for mine in TURNS:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        processes.append(CONTEXT.Process(target=run_turn, args=(mine, places[mine.client], time.time(), theirs)))
        processes[-1].start()
        theirs.close()
        waiting.append(ours)
    found: list[Played] = []
    try:
        while waiting:
            recording.take()
            for ready in wait(waiting, EACH_S):
                waiting.remove(ready)  # type: ignore[arg-type]  # only connections were waited for
                outcome = ready.recv()  # type: ignore[union-attr]
                if isinstance(outcome, str):
                    raise TrafficRefineryError(outcome)
                found.append(outcome)
    finally:
        for process in processes:
            end_process(process)
    recording.finish()
    return recording, sorted(found, key=lambda played: played.plan.number)


def truth_of(played: Played) -> dict[str, Any]:
    """What a session's player did."""
    player, plan = played.player, played.plan
    rows = intervals(player.playback, player.downloads, player.start_s, played.stopped_s)
    return {
        "client_ip": played.client_ip, "host": plan.profile.media_host,
        "transport": f"quic-v{plan.quic}" if plan.profile.transport == "h3" else f"tls{plan.tls}",
        "video": player.title.video_id,
        "ladder_kbps": dict(zip(map(str, RESOLUTIONS), player.title.ladder_kbps, strict=True)),
        "start": round(player.start_s, 3), "end": round(played.stopped_s, 3),
        "startup_delay_s": None if played.startup_s is None else round(played.startup_s, 3),
        "stalls": len(player.playback.stalls),
        "stalled_s": round(sum(stall.end_s - stall.start_s for stall in player.playback.stalls), 3),
        "resolution_per_10_s": {str(row.ts_start): row.resolution for row in rows},
        "segments": [one._asdict() for one in player.downloads],
    }  # fmt: skip


def labels_of(sessions: list[Played], file: str) -> str:
    """A line for each session, for `trafficrefinery dataset build`."""
    lines = ["file,session,video_id,resolution,startup_s,session_start_s,client_ip"]
    for one in sessions:
        startup = "" if one.startup_s is None else f"{one.startup_s:.3f}"
        video = one.player.title.video_id
        lines.append(f"{file},{one.plan.number},{video},,{startup},{one.player.start_s:.3f},{one.client_ip}")
    return "\n".join(lines) + "\n"


def intervals_of(sessions: list[Played]) -> str:
    """What was played in each interval: lines of all sessions, with their client."""
    lines = [",".join((CLIENT, *COLUMNS))]
    for one in sessions:
        rows = intervals(one.player.playback, one.player.downloads, one.player.start_s, one.stopped_s)
        lines += [f"{one.client_ip},{line}" for line in as_csv(rows).splitlines()[1:]]
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUT.pcap.zst")
    target = Path(sys.argv[1])
    try:
        check_system()
        with world(len(RATES_KBPS), [VIDEO]) as places:
            recording, sessions = record(places)
    except TrafficRefineryError as error:
        sys.exit(f"error: {error}")
    recording.write(target)
    stem = target.name.removesuffix(".pcap.zst")
    lines = ",\n".join(json.dumps(truth_of(session)) for session in sessions)
    target.with_name(f"{stem}.truth.json").write_text(f'{{"sessions": [\n{lines}\n]}}\n')
    target.with_name(f"{stem}.labels.csv").write_text(intervals_of(sessions))
    target.with_name("labels.csv").write_text(labels_of(sessions, target.name))
    print(f"{target}: {len(recording.packets):,} packets, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
