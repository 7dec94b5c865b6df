"""One way to run a class, in a process of its own, since `TRAFFICREFINERY_JIT` holds for a process.

`python -m trafficrefinery.checking.way JSON`, with `file`, `name`, `params` and `out` in the JSON, writes what came
out to the file `out`, for `trafficrefinery.checking` to compare; or prints what went wrong and ends with WRONG.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass
from trafficrefinery.capture.frames import FRAME
from trafficrefinery.checking import loop
from trafficrefinery.checking.traffic import INTERVAL_NS, Frame, traffic
from trafficrefinery.errors import FeatureError
from trafficrefinery.fuse import Profile, fuse
from trafficrefinery.jit import COMPILED, MODE, address_of, records
from trafficrefinery.registry import load_file, specialise
from trafficrefinery.wire import ATTRIBUTED, PACKET

WRONG = 3
"""Exit status when the class is wrong; then a line of JSON is printed, with `where` and `message`."""
CPU_LIMIT_S = 240
"""For everything; nine tenths of it are the compiler's."""
INTERPRETED_LIMIT_S = 60
_INTERVAL_S = INTERVAL_NS * 1e-9
_DIRTY = 0xA5  # what memory holds before it becomes a state
_PASSES, _COLLECTED = 100, 2_000


class Script(NamedTuple):
    """Packets, and what to do with each: see `loop.run`. The last ones only collect what is open.

    Args:
        flows: of each packet.
        rows: number of the row that a COLLECT writes.
        closing: where the last ones begin.
    """

    buffer: NDArray[np.uint8]
    packets: NDArray[Any]  # of PACKET
    flows: NDArray[np.int64]
    actions: NDArray[np.int64]
    rows: NDArray[np.int64]
    closing: int


def script() -> Script:
    """The generated traffic as a worker would hand it to the classes, with direction and interval."""
    frames = traffic()
    buffer, packets, reasons = _parsed(frames)
    kept = np.flatnonzero(reasons == ATTRIBUTED)
    frames, packets = [frames[i] for i in kept], packets[kept]
    actions, rows = np.full(len(kept), loop.ADD), np.zeros(len(kept), np.int64)
    is_open: dict[int, tuple[int, int]] = {}  # flow: start and row of its interval
    row_count = 0
    for i, frame in enumerate(frames):
        start_ns, row = is_open.get(frame.flow, (-1, -1))
        own_ns = frame.ts_ns // INTERVAL_NS * INTERVAL_NS
        if own_ns > start_ns:
            actions[i] |= loop.START if row < 0 else loop.COLLECT
            rows[i] = row
            start_ns = own_ns
            is_open[frame.flow] = own_ns, row_count
            row_count += 1
        packets[i]["interval_start_ns"], packets[i]["direction"] = start_ns, frame.direction
        client, server = 50_000 + frame.flow, 443  # a later fragment has the ports of the first
        packets[i]["src_port"], packets[i]["dst_port"] = (server, client) if frame.direction else (client, server)
    closing = np.arange(len(is_open)) * 0
    return Script(
        buffer,
        records(np.concatenate([packets, packets[closing]])),
        np.array([*(frame.flow for frame in frames), *is_open]),
        np.concatenate([actions, closing + loop.COLLECT]),
        np.array([*rows, *(row for _, row in is_open.values())]),
        len(kept),
    )


def _parsed(frames: list[Frame]) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.int64]]:
    buffer = np.frombuffer(b"".join(frame.data for frame in frames), np.uint8).copy()
    where = records(np.zeros(len(frames), FRAME))
    captured = np.array([len(frame.data) for frame in frames])
    where["ts_ns"] = [frame.ts_ns for frame in frames]
    where["offset"] = np.cumsum(captured) - captured
    where["captured_bytes"] = captured
    where["wire_bytes"] = [frame.wire_bytes for frame in frames]
    where["link_type"] = 1
    packets, reasons = records(np.zeros(len(frames), PACKET)), np.zeros(len(frames), np.int64)
    loop.parse_all(buffer, where, packets, reasons)
    return buffer, np.asarray(packets), reasons


class _Memory:
    """States and rows of a class, and runs of parts of a script on them."""

    def __init__(self, profile: Profile, slots: int, script: Script) -> None:
        self._step = np.array(fuse([profile]).profiles[0])
        self._script = script
        self.states = np.zeros(slots, profile.state_dtype())
        self.rows = np.zeros(int(script.rows.max()) + 1, profile.row_dtype())
        self.bytes = self.states.view(np.uint8).reshape(slots, -1)
        self.bytes[:] = _DIRTY

    def run(self, part: slice, slots: NDArray[np.int64]) -> None:
        """Run a part of the script; `slots` says where the state of each packet lies."""
        script = self._script
        states = address_of(self.states) + slots * self.states.itemsize
        rows = address_of(self.rows) + script.rows[part] * self.rows.itemsize
        with _silent_failures():
            loop.run(
                self._step, script.buffer, script.packets[part], script.actions[part], states, rows, _INTERVAL_S
            )


@contextlib.contextmanager
def _silent_failures() -> Iterator[None]:
    """Raise what compiled functions that are called by address can only report."""
    found: list[BaseException | None] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda report: found.append(report.exc_value)
    try:
        yield
    finally:
        sys.unraisablehook = before
    for error in found:
        if error is not None:
            raise error


def whole(profile: Profile, script: Script) -> _Memory:
    """All flows at once, in the order of the trace; the states are those before the last rows."""
    memory = _Memory(profile, int(script.flows.max()) + 1, script)
    memory.run(slice(0, script.closing), script.flows[: script.closing])
    states = memory.states.copy()
    memory.run(slice(script.closing, None), script.flows[script.closing :])
    memory.states = states
    return memory


def split(profile: Profile, script: Script) -> _Memory:
    """Flow after flow, packet by packet, and the state moves between any two packets."""
    flows = int(script.flows.max()) + 1
    memory, places = _Memory(profile, flows, script), _Memory(profile, 7, script)
    places.rows = memory.rows
    for flow in range(flows):
        place = 0
        for i in np.flatnonzero(script.flows == flow):
            if i >= script.closing:
                memory.bytes[flow] = places.bytes[place]
            places.run(slice(i, i + 1), np.array([place]))
            before, place = place, (place + 3) % 7
            places.bytes[place] = places.bytes[before]
            places.bytes[before] = _DIRTY
    return memory


def costs(profile: Profile, script: Script) -> dict[str, float]:
    """Nanoseconds a packet and a row, without what a class costs that does nothing."""
    step = fuse([profile]).profiles[0]
    nothing = np.array([step.start, loop.ADD_NOTHING, loop.COLLECT_NOTHING])
    memory = _Memory(profile, int(script.flows.max()) + 1, script)
    packets, actions = script.packets[: script.closing], script.actions[: script.closing] & ~loop.COLLECT
    states = address_of(memory.states) + script.flows[: script.closing] * memory.states.itemsize

    def add_ns(functions: NDArray[np.int64]) -> float:
        return _best_ns(functions, script.buffer, packets, actions, states, states) / len(packets)

    add_packet_ns = add_ns(np.array(step)) - add_ns(nothing)
    fed = memory.bytes.copy()
    some = np.arange(_COLLECTED) % script.closing
    copies = np.zeros((_COLLECTED, fed.shape[1]), np.uint8)
    places = address_of(copies) + np.arange(_COLLECTED) * copies.shape[1]
    row = np.full(_COLLECTED, address_of(memory.rows))

    def collect_ns(functions: NDArray[np.int64]) -> float:
        fill = fed[script.flows[some] % len(fed)]
        return _best_ns(
            functions, script.buffer, script.packets[some], some * 0 + loop.COLLECT, places, row, (copies, fill)
        ) / len(some)

    return {"add_packet_ns": add_packet_ns, "collect_ns": collect_ns(np.array(step)) - collect_ns(nothing)}


def _best_ns(functions: NDArray[np.int64], buffer: Any, packets: Any, actions: Any, states: Any, rows: Any,
             fresh: tuple[Any, Any] | None = None) -> float:  # fmt: skip
    best = float("inf")
    for _ in range(_PASSES):
        if fresh is not None:
            fresh[0][:] = fresh[1]
        before = time.perf_counter_ns()
        loop.run(functions, buffer, packets, actions, states, rows, _INTERVAL_S)
        best = min(best, time.perf_counter_ns() - before)
    return best


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not through {_PACKETS} packets after {INTERPRETED_LIMIT_S} s")


def main(argument: str) -> int:
    task = json.loads(argument)
    if COMPILED:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    else:
        signal.signal(signal.SIGVTALRM, _too_long)
        signal.setitimer(signal.ITIMER_VIRTUAL, INTERPRETED_LIMIT_S)
    try:
        cls: type[FeatureClass] = getattr(load_file(Path(task["file"])), task["name"])
        profile = Profile((specialise(cls, task["params"]),), INTERVAL_NS)
        told = script()
        results = {"whole": whole(profile, told), "again": whole(profile, told), "split": split(profile, told)}
        found = costs(profile, told) if MODE == "on" else {}
    except FeatureError as error:
        print(json.dumps({"where": error.where, "message": error.message}))
        return WRONG
    except IndexError:  # bounds-checked; only plain Python knows where
        print(json.dumps({"where": task["file"], "message": "an index is out of bounds"}))
        return WRONG
    arrays = {f"{name}_{kind}": getattr(memory, kind) for name, memory in results.items() for kind in ("rows", "states")}
    with Path(task["out"]).open("wb") as out:
        np.savez(out, **arrays, packets=told.closing, flows=told.flows.max() + 1, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
