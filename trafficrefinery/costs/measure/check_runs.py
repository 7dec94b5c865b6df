"""A class run over the generated traffic, in the mode of this process."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME
from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.jit import address_of, records
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET
from trafficrefinery.packets.tunnels import tunnel_table

from . import check_loop
from .generated_traffic import INTERVAL_NS, Frame, traffic

INTERVAL_S = INTERVAL_NS * 1e-9
_DIRTY = 0xA5  # what memory holds before it becomes a state


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
    actions, rows = np.full(len(kept), check_loop.ADD), np.zeros(len(kept), np.int64)
    is_open: dict[int, tuple[int, int]] = {}  # flow: start and row of its interval
    row_count = 0
    for i, frame in enumerate(frames):
        start_ns, row = is_open.get(frame.flow, (-1, -1))
        own_ns = frame.ts_ns // INTERVAL_NS * INTERVAL_NS
        if own_ns > start_ns:
            actions[i] |= check_loop.START if row < 0 else check_loop.COLLECT
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
        np.concatenate([actions, closing + check_loop.COLLECT]),
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
    check_loop.parse_all(buffer, where, tunnel_table(()), packets, reasons)
    return buffer, np.asarray(packets), reasons


class Memory:
    """States and rows of a class, and runs of parts of a script on them."""

    def __init__(self, profile: Profile, slots: int, script: Script) -> None:
        self._step = np.array(fuse([profile]).profiles[0])
        self._script = script
        self.states = np.asarray(table(slots, profile.state_dtype()))
        self.rows = np.asarray(table(int(script.rows.max()) + 1, profile.row_dtype()))
        self.bytes = self.states.view(np.uint8).reshape(slots, -1)
        self.bytes[:] = _DIRTY

    def run(self, part: slice, slots: NDArray[np.int64]) -> None:
        """Run a part of the script; `slots` says where the state of each packet lies."""
        script = self._script
        packets, rows = addresses(script.packets)[part], addresses(self.rows)[script.rows[part]]
        todo = tasks(script.actions[part], packets, addresses(self.states)[slots], rows)
        check_loop.run(self._step, script.buffer, todo, INTERVAL_S)


def tasks(actions: Any, packets: Any, states: Any, rows: Any) -> NDArray[Any]:
    """TASK records of what to do and of addresses: arrays, or a number for all."""
    made = np.zeros(len(states), check_loop.TASK)
    made["action"], made["packet"], made["state"], made["row"] = actions, packets, states, rows
    return records(made)


def addresses(table: NDArray[Any]) -> NDArray[np.int64]:
    """Where the elements of a table lie."""
    return address_of(table) + np.arange(len(table)) * table.itemsize


def whole(profile: Profile, script: Script) -> Memory:
    """All flows at once, in the order of the trace; the states are those before the last rows."""
    memory = Memory(profile, int(script.flows.max()) + 1, script)
    memory.run(slice(0, script.closing), script.flows[: script.closing])
    states = memory.states.copy()
    memory.run(slice(script.closing, None), script.flows[script.closing :])
    memory.states = states
    return memory


def split(profile: Profile, script: Script) -> Memory:
    """Flow after flow, packet by packet, and the state moves between any two packets."""
    flows = int(script.flows.max()) + 1
    memory, places = Memory(profile, flows, script), Memory(profile, 7, script)
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
