"""Which times of a trace are believed: one damaged timestamp must not move everybody's clock.

A frame whose time is more than an hour ahead of the latest one, or more than an interval behind it, is held until the
frames that follow tell: several flows that agree move the clock; frames of the time before show that it was a stray.
The decision follows from the order of frames alone, never from how they come in blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.jit import kernel, prepare, records
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.wire import ATTRIBUTED, PACKET, parse

_DAY_NS = 24 * NS_PER_UNIT["h"]
FAR_NS = NS_PER_UNIT["h"]
"""Times that are further apart do not agree: a frame that is later by more is doubted."""
_PLAUSIBLE_PAUSE_NS = 7 * _DAY_NS
"""A trace may be silent for so long, and go on with one flow."""
LATEST_NS = (1 << 62) - 366 * _DAY_NS
"""In the year 2115. A packet's time lies between 1970 and this; an interval of up to a year still ends before 2^62."""
_SEVERAL = 2  # flows
_START_FRAMES = 16  # of one flow, from which a trace is begun
_LONG_RUN = 32  # frames of several flows, before the clock goes back
_PIECE_FRAMES = 4  # of one flow, that no other frame contradicts: captures that were put together
_MAX_HELD = 1024


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
    """A frame that waits, with its number in the trace and its flow (None: of no flow)."""

    number: int
    block: Block
    flow: tuple[int, ...] | None

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
        tunnels: see `wire.parse`.
    """

    def __init__(self, behind_ns: int, tunnels: NDArray[np.int64]) -> None:
        self._behind_ns, self._tunnels = behind_ns, tunnels
        self._held: list[HeldFrame] = []
        self._latest_ns: int | None = None
        self._packet = table(1, PACKET)

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first frames would wait for."""
        prepare(_read_frame, np.empty(0, np.uint8), records(np.zeros(1, FRAME)), self._tunnels, self._packet)

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
        for number in range(first, len(block.frames)):
            ts_ns = int(block.frames["ts_ns"][number])
            if not self.doubts(ts_ns, latest_ns):
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

    def _hold(self, block: Block, number: int, frames_before: int) -> None:
        frames = records(np.asarray(block.frames[number : number + 1]).copy())
        start, size = int(frames["offset"][0]), int(frames["captured_bytes"][0])
        frames["offset"] = 0
        held = Block(block.buffer[start : start + size].copy(), frames)
        flow = None
        if _read_frame(held.buffer, held.frames, self._tunnels, self._packet) == ATTRIBUTED:
            r = self._packet[0]
            flow = tuple(int(r[name]) for name in ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol"))
        self._held.append(HeldFrame(frames_before + number, held, flow))

    def _times(self) -> NDArray[np.int64]:
        return np.array([frame.ts_ns for frame in self._held], np.int64)

    def _agrees(self) -> bool:
        """Whether enough agrees with the latest frame."""
        times = self._times()
        ts_ns = int(times[-1])
        if not 0 <= ts_ns < LATEST_NS:
            return False
        same = np.abs(times.astype(np.float64) - ts_ns) <= FAR_NS
        flows = {frame.flow for frame, one in zip(self._held, same, strict=True) if one and frame.flow is not None}
        if self._latest_ns is None:
            return len(flows) >= _SEVERAL or int(same.sum()) >= _START_FRAMES
        return len(flows) >= _SEVERAL and (ts_ns > self._latest_ns or int(same.sum()) >= _LONG_RUN)

    def _contradicted(self) -> list[Judgement]:
        """The clock is where it was: what is not far behind it comes late, the rest are strays."""
        return [self._refused(frame, self._latest_ns) for frame in self._let_go()]

    def _judge(self, *, agreed: bool) -> list[Judgement]:
        """Nothing contradicts what is held: each run of frames of one time is believed, or not.

        Args:
            agreed: others agree with the latest frame.
        """
        times = self._times()
        in_range = (times >= 0) & (times < LATEST_NS)
        counts = ((np.abs(times[:, None] - times) <= FAR_NS) & in_range).sum(1) * in_range
        steps_ns = np.diff(times.astype(np.float64))  # may not fit into 64 bits
        runs = np.split(np.arange(len(times)), np.flatnonzero(np.abs(steps_ns) > FAR_NS) + 1)
        believed = [bool(counts[run[0]] >= _PIECE_FRAMES) for run in runs]
        if agreed:
            believed[-1] = True
        if self._latest_ns is None and counts.any() and not any(believed):
            believed = [bool(int(counts.argmax()) in run) for run in runs]
        held, judged, latest_ns = self._let_go(), list[Judgement](), self._latest_ns
        for number, run in enumerate(runs):
            first_ns = int(times[run[0]])
            following = [
                int(times[other[0]]) for other, one in zip(runs, believed, strict=True) if one and other[0] > run[0]
            ]
            until_ns = following[0] if following else LATEST_NS
            since_ns = until_ns - _PLAUSIBLE_PAUSE_NS if latest_ns is None else latest_ns
            pause = bool(in_range[run[0]]) and since_ns <= first_ns <= min(since_ns + _PLAUSIBLE_PAUSE_NS, until_ns)
            is_near = latest_ns is not None and latest_ns - FAR_NS <= first_ns < latest_ns
            enough = not is_near or counts[run[0]] >= _START_FRAMES or (agreed and number == len(runs) - 1)
            if pause or (believed[number] and enough):
                goes_back = latest_ns is not None and first_ns < latest_ns - self._behind_ns
                judged.append(Judgement([held[i] for i in run], [], 0, 0, goes_back))
                latest_ns = int(times[run].max())
            else:
                judged += [self._refused(held[i], latest_ns) for i in run]
        return judged

    def _refused(self, frame: HeldFrame, latest_ns: int | None) -> Judgement:
        if latest_ns is not None and latest_ns - FAR_NS <= frame.ts_ns < latest_ns:
            return Judgement([], [frame], 0, 0, goes_back=False)
        return Judgement([], [], 1, int(frame.block.frames["wire_bytes"][0]), goes_back=False)

    def _let_go(self) -> list[HeldFrame]:
        held, self._held = self._held, []
        return held


@kernel
def _read_frame(buffer: NDArray[np.uint8], frames: Any, tunnels: NDArray[np.int64], packet: Any) -> int:
    """`wire.parse` of the one frame into the one PACKET."""
    return parse(buffer, frames[0], tunnels, 0, packet[0])  # type: ignore[no-any-return]
