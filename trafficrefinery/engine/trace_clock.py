"""Which times of a trace are believed: one damaged timestamp must not move everybody's clock.

A frame whose time is more than an hour ahead of the latest one, or more than an interval behind it, is held until it is
clear what it is. Frames of the time before show that it was a stray. Where none comes, the clock moves

- when packets of several flows agree;
- for one flow, when it is the only one of the trace: after a pause of up to a week, or further when it goes on;
- for one flow that was not seen shortly before: captures of one connection each that were put together;
- for any flow that goes on alone for a thousand frames.

The end of the trace does not count as agreement: a few packets of one flow among others, at another time, are strays
there too.
The decision follows from the order of frames alone, never from how they come in blocks.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.jit import kernel, prepare, records
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET, parse

_DAY_NS = 24 * NS_PER_UNIT["h"]
FAR_NS = NS_PER_UNIT["h"]
"""Times that are further apart do not agree: a frame that is later by more is doubted."""
_PLAUSIBLE_PAUSE_NS = 7 * _DAY_NS
"""A trace may be silent for so long, and go on with one flow."""
LATEST_NS = (1 << 62) - 366 * _DAY_NS
"""In the year 2115. A packet's time lies between 1970 and this; an interval of up to a year still ends before 2^62."""
_PIECE_LATEST_NS = (80 * 365 + 20) * _DAY_NS
"""The year 2050. What one flow says of a later time is a damaged clock rather than another capture."""
_SEVERAL = 2  # flows
_START_FRAMES = 16  # of one flow, from which a trace is begun
_LONG_RUN = 32  # frames of several flows, before the clock goes back
_AGREEING = 4  # frames: a few may agree by accident
_MAX_HELD = 1024
_SHORTLY_BEFORE = 64  # frames
_LOOKED_AT = 1 << 16  # first frames, for another flow than the first
_KEY = ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol")


class Whose(Enum):
    """Whose time a doubtful one is."""

    SEVERAL_FLOWS = auto()
    THE_ONLY_FLOW = auto()
    A_NEW_FLOW = auto()
    A_KNOWN_FLOW = auto()  # among others, and at another time shortly before or after


_FRAMES_NEEDED = {
    Whose.SEVERAL_FLOWS: _AGREEING, Whose.THE_ONLY_FLOW: _START_FRAMES, Whose.A_NEW_FLOW: _AGREEING,
    Whose.A_KNOWN_FLOW: _MAX_HELD,
}  # fmt: skip
"""Frames that have to agree for any time to be believed, while nothing contradicts them."""


class StepBack(NamedTuple):
    """The clock was set back, and the intervals began again: from the latest time to that of the next packet."""

    from_ns: int
    to_ns: int


class Times(NamedTuple):
    """What was decided of the times of all packets; the same for every worker that walks through the same traces.

    Args:
        first_ns, latest_ns: the time of the first packet that was believed, and the latest one; None without any.
        most_behind_ns: by how much a packet was older than the latest one before it, where that is more than Grace.
        steps_back: the first of them; the counter `clock_set_back` has the number of all.
    """

    first_ns: int | None = None
    latest_ns: int | None = None
    most_behind_ns: int = 0
    steps_back: tuple[StepBack, ...] = ()


class HeldFrame(NamedTuple):
    """A frame that waits, with its number in the trace and its flow (empty: of none)."""

    number: int
    block: Block
    flow: bytes

    @property
    def ts_ns(self) -> int:
        """Capture time."""
        return int(self.block.frames["ts_ns"][0])


class Judgement(NamedTuple):
    """What became of the frames that were held, in the order of the trace.

    Args:
        believed: their times move the clock.
        late: they count as late.
        bad_frames, bad_wire_bytes: strays.
        goes_back: the clock was set back before the believed frames.
    """

    believed: list[HeldFrame]
    late: list[HeldFrame]
    bad_frames: int
    bad_wire_bytes: int
    goes_back: bool


class TraceClock:
    """Holds frames with doubtful times until it is clear what they are.

    Args:
        behind_ns: how far behind the latest time a frame may lie without being doubted.
        tunnels: see `parser.parse`.
    """

    def __init__(self, behind_ns: int, tunnels: NDArray[np.int64]) -> None:
        self._behind_ns, self._tunnels = behind_ns, tunnels
        self._held: list[HeldFrame] = []
        self._latest_ns: int | None = None
        self._packet = table(1, PACKET)
        self._passed = 0  # frames of the block that are in what follows
        self._keys = table((_SHORTLY_BEFORE, len(_KEY)), np.uint64)
        self._recent = np.zeros((_SHORTLY_BEFORE, len(_KEY)), np.uint64)  # flows of the last frames
        self._first_flow: NDArray[np.uint64] | None = None
        self._is_alone = True  # no other flow was in the first frames
        self._looked_at = 0

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first frames would wait for."""
        frames = records(np.zeros(0, FRAME))
        prepare(_read_flows, np.empty(0, np.uint8), frames, self._tunnels, self._packet, self._keys)

    def doubts(self, ts_ns: int, latest_ns: int | None) -> bool:
        """Whether a frame's time needs the agreement of others, when the latest believed time is `latest_ns`."""
        return latest_ns is None or not -self._behind_ns <= ts_ns - latest_ns <= FAR_NS

    @property
    def is_holding(self) -> bool:
        """Whether frames are held."""
        return bool(self._held)

    def take(self, block: Block, first: int, latest_ns: int | None, frames_before: int) -> tuple[int, list[Judgement]]:
        """Take frames of a block from `first` on, until it is clear what they are.

        Args:
            frames_before: frames of the trace before the block.

        Returns:
            Number of the frame to go on with, and what became of the frames so far; nothing while they are held.
        """
        self._latest_ns = latest_ns
        self._pass(block, first)
        at, judged = self._take(block, first, frames_before)
        self._passed = at
        return at, judged

    def _take(self, block: Block, first: int, frames_before: int) -> tuple[int, list[Judgement]]:
        for number in range(first, len(block.frames)):
            ts_ns = int(block.frames["ts_ns"][number])
            if not self.doubts(ts_ns, self._latest_ns) and not self._continues(ts_ns):
                return number, self._contradicted()
            self._hold(block, number, frames_before)
            if self._agrees():
                return number + 1, self._judge(agreed=True)
            if len(self._held) >= _MAX_HELD:
                return number + 1, self._judge(agreed=False)
        return len(block.frames), []

    def finish(self, latest_ns: int | None) -> list[Judgement]:
        """The trace has ended, and nothing contradicts what is held."""
        self._latest_ns = latest_ns
        return self._judge(agreed=False)

    def end_block(self, block: Block) -> None:
        """The next block follows: know the flows of this one, of which few are looked at unless all are the same."""
        self._pass(block, len(block.frames))
        self._passed = 0

    def _pass(self, block: Block, until: int) -> None:
        while self._passed < until:
            if not self._looks_at_all:
                self._passed = max(self._passed, until - _SHORTLY_BEFORE)
            end = min(self._passed + _SHORTLY_BEFORE, until)
            if self._looks_at_all:
                end = min(end, self._passed + _LOOKED_AT - self._looked_at)
            self._know(self._flows(block.buffer, block.frames[self._passed : end]))
            self._passed = end

    @property
    def _looks_at_all(self) -> bool:
        return self._is_alone and self._looked_at < _LOOKED_AT

    def _know(self, flows: NDArray[np.uint64]) -> None:
        count = len(flows)
        self._recent[:-count], self._recent[-count:] = self._recent[count:].copy(), flows
        if self._looks_at_all:
            self._looked_at += count
            flows = flows[flows[:, -1] != 0]
            if len(flows):
                if self._first_flow is None:
                    self._first_flow = flows[0].copy()
                self._is_alone = bool((flows == self._first_flow).all())

    def _flows(self, buffer: NDArray[np.uint8], frames: NDArray[Any]) -> NDArray[np.uint64]:
        """The flow of each of a few frames, until this is called again; the protocol is 0 where there is none."""
        _read_flows(buffer, frames, self._tunnels, self._packet, self._keys)
        return np.asarray(self._keys)[: len(frames)]

    def _hold(self, block: Block, number: int, frames_before: int) -> None:
        frames = records(np.asarray(block.frames[number : number + 1]).copy())
        start, size = int(frames["offset"][0]), int(frames["captured_bytes"][0])
        frames["offset"] = 0
        held = Block(block.buffer[start : start + size].copy(), frames)
        row = self._flows(*held)[0]
        self._held.append(HeldFrame(frames_before + number, held, row.tobytes() if row[-1] else b""))

    def _times(self) -> NDArray[np.int64]:
        return np.array([frame.ts_ns for frame in self._held], np.int64)

    def _agrees(self) -> bool:
        """Whether enough agrees with the latest frame."""
        times = self._times()
        ts_ns = int(times[-1])
        if not 0 <= ts_ns < LATEST_NS:
            return False
        same = np.abs(times.astype(np.float64) - ts_ns) <= FAR_NS
        whose, count = self._whose(same), int(same.sum())
        if self._latest_ns is None and count >= _START_FRAMES:
            return True
        if whose not in (Whose.SEVERAL_FLOWS, Whose.THE_ONLY_FLOW):
            return False
        goes_back = self._latest_ns is not None and ts_ns < self._latest_ns
        return count >= (_LONG_RUN if goes_back else _FRAMES_NEEDED[whose])

    def _continues(self, ts_ns: int) -> bool:
        """Whether a frame, not far behind the latest time, is nearer to the frames that are held: they are of a clock
        that was set back."""
        if not self._held or self._latest_ns is None or ts_ns >= self._latest_ns:
            return False
        return abs(ts_ns - self._held[-1].ts_ns) < self._latest_ns - ts_ns

    def _contradicted(self) -> list[Judgement]:
        """The clock is where it was: what is not far behind it comes late, the rest are strays."""
        return [self._refused(frame, self._latest_ns) for frame in self._let_go()]

    def _judge(self, *, agreed: bool) -> list[Judgement]:
        """Nothing contradicts what is held: each stretch, without a step back or a long pause, is believed, or not.

        Args:
            agreed: others agree with the latest frame.
        """
        times = self._times()
        stretches = _stretches(times)
        in_range = (times >= 0) & (times < LATEST_NS)
        near = (np.abs(times[:, None] - times) <= FAR_NS) & in_range & in_range[:, None]
        pools = [near[one].any(0) | np.isin(np.arange(len(times)), one) & in_range for one in stretches]
        counts = [int(pool.sum()) if in_range[one].all() else 0 for one, pool in zip(stretches, pools, strict=True)]
        whose = [self._whose(pool) for pool in pools]
        all_agree = [
            count >= _FRAMES_NEEDED[who] and (who is not Whose.A_NEW_FLOW or int(times[one].max()) < _PIECE_LATEST_NS)
            for one, who, count in zip(stretches, whose, counts, strict=True)
        ]
        all_agree[-1] |= agreed
        if self._latest_ns is None and any(counts) and not any(all_agree):
            all_agree[counts.index(max(counts))] = True
        held, judged, latest_ns = self._let_go(), list[Judgement](), self._latest_ns
        for number, stretch in enumerate(stretches):
            first_ns = int(times[stretch[0]])
            following = [int(times[other[0]]) for other in compress(stretches[number + 1 :], all_agree[number + 1 :])]
            until_ns = following[0] if following else LATEST_NS
            since_ns = until_ns - _PLAUSIBLE_PAUSE_NS if latest_ns is None else latest_ns
            is_pause = counts[number] > 0 and since_ns <= first_ns <= min(since_ns + _PLAUSIBLE_PAUSE_NS, until_ns)
            is_near = latest_ns is not None and latest_ns - FAR_NS <= first_ns < latest_ns
            enough = not is_near or counts[number] >= _START_FRAMES or (agreed and number == len(stretches) - 1)
            if (is_pause and (following or whose[number] is not Whose.A_KNOWN_FLOW)) or (all_agree[number] and enough):
                goes_back = latest_ns is not None and first_ns < latest_ns - self._behind_ns
                judged.append(Judgement([held[i] for i in stretch], [], 0, 0, goes_back))
                latest_ns = int(times[stretch].max())
            else:
                judged += [self._refused(held[i], latest_ns) for i in stretch]
        return judged

    def _whose(self, pool: NDArray[np.bool_]) -> Whose:
        """Whose times those of some frames are, of those that are held."""
        flows = {frame.flow for frame in compress(self._held, pool) if frame.flow}
        others = {frame.flow for frame in compress(self._held, ~pool) if frame.flow}
        if len(flows) >= _SEVERAL:
            return Whose.SEVERAL_FLOWS
        before = {row.tobytes() for row in self._recent if row[-1]}
        first = set() if self._first_flow is None else {self._first_flow.tobytes()}
        if self._is_alone and len(flows | others | before | first) <= 1:
            return Whose.THE_ONLY_FLOW
        return Whose.A_KNOWN_FLOW if flows & (others | before) else Whose.A_NEW_FLOW

    def _refused(self, frame: HeldFrame, latest_ns: int | None) -> Judgement:
        if latest_ns is not None and latest_ns - FAR_NS <= frame.ts_ns < latest_ns:
            return Judgement([], [frame], 0, 0, goes_back=False)
        return Judgement([], [], 1, int(frame.block.frames["wire_bytes"][0]), goes_back=False)

    def _let_go(self) -> list[HeldFrame]:
        held, self._held = self._held, []
        for frame in held:
            self._know(np.frombuffer(frame.flow or bytes(self._recent[0].nbytes), np.uint64)[None])
        return held


def _stretches(times: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Numbers of frames without a step back or a long pause between them. One that is next to a step back is not put
    together with others: it may be a stray."""
    steps_ns = np.diff(times.astype(np.float64))  # may not fit into 64 bits
    borders = np.flatnonzero(np.abs(steps_ns) > FAR_NS)
    goes_on = (steps_ns[borders] > 0) & (steps_ns[borders] <= _PLAUSIBLE_PAUSE_NS)
    goes_on[:-1] &= steps_ns[borders[1:]] > 0
    goes_on[1:] &= steps_ns[borders[:-1]] > 0
    return np.split(np.arange(len(times)), borders[~goes_on] + 1)


@kernel
def _read_flows(buffer: NDArray[np.uint8], frames: Any, tunnels: NDArray[np.int64], packet: Any, keys: Any) -> None:
    """The flow of each frame, in the order of _KEY; the protocol is 0 where there is none."""
    r = packet[0]
    for i in range(min(len(frames), len(keys))):
        key = keys[i]
        key[6] = 0
        if parse(buffer, frames[i], tunnels, 0, r) == ATTRIBUTED:
            key[0] = r.a_hi
            key[1] = r.a_lo
            key[2] = r.b_hi
            key[3] = r.b_lo
            key[4] = r.a_port
            key[5] = r.b_port
            key[6] = r.protocol
