"""Which times of a trace are believed: one damaged timestamp must not move everybody's clock.

A frame whose time is more than an hour ahead of the latest one, or more than an interval behind it, is held until the
frames that follow tell: several flows that agree move the clock; frames of the time before show that it was a stray.
The decision follows from the order of frames alone, never from how they come in blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import Block
from trafficrefinery.jit import kernel, records
from trafficrefinery.memory import table
from trafficrefinery.wire import ATTRIBUTED, PACKET, parse

HOUR_NS = 3_600_000_000_000
_PLAUSIBLE_PAUSE_NS = 7 * 24 * HOUR_NS
"""A trace may be silent for so long, and go on with one flow."""
LATEST_NS = 1 << 62
"""The year 2116; what is later, or before 1970, is no time of a packet."""
_SEVERAL = 2  # flows
_START_FRAMES = 16  # of one flow, from which a trace is begun
_LONG_RUN = 32  # frames of several flows, before the clock goes back
_MAX_HELD = 1024


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

    def doubts(self, ts_ns: int, latest_ns: int | None) -> bool:
        """Whether a frame's time needs the agreement of others, when the latest believed time is `latest_ns`."""
        return latest_ns is None or not -self._behind_ns <= ts_ns - latest_ns <= HOUR_NS

    @property
    def is_holding(self) -> bool:
        """Whether frames are held."""
        return bool(self._held)

    def take(self, block: Block, first: int, latest_ns: int | None, frames_before: int) -> tuple[int, Judgement | None]:
        """Take frames of a block from `first` on, until it is clear what they are.

        Args:
            frames_before: frames of the trace before the block.

        Returns:
            Number of the frame to go on with, and the judgement; None: all frames of the block are held.
        """
        self._latest_ns = latest_ns
        for number in range(first, len(block.frames)):
            ts_ns = int(block.frames["ts_ns"][number])
            if not self.doubts(ts_ns, latest_ns):
                return number, self._contradicted()
            self._hold(block, number, frames_before)
            agreed = self._agreed()
            if agreed is not None:
                return number + 1, agreed
        return len(block.frames), None

    def finish(self, latest_ns: int | None) -> Judgement:
        """The trace has ended, and nothing contradicts what is held."""
        self._latest_ns = latest_ns
        return self._at_the_end()

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

    def _agreed(self) -> Judgement | None:
        """Judgement when the latest frame makes enough that agree."""
        times = self._times()
        ts_ns = times[-1]
        if not 0 <= ts_ns < LATEST_NS:
            return self._contradicted() if len(times) >= _MAX_HELD else None
        group = np.abs(times - ts_ns) <= HOUR_NS
        flows = {frame.flow for frame, same in zip(self._held, group, strict=True) if same and frame.flow is not None}
        count = int(group.sum())
        if self._latest_ns is None:
            believed = len(flows) >= _SEVERAL or count >= _START_FRAMES
        elif ts_ns < self._latest_ns:
            believed = len(flows) >= _SEVERAL and count >= _LONG_RUN
        else:
            believed = len(flows) >= _SEVERAL
        if believed:
            return self._judge(group | self._leads_to(times, group))
        return self._at_the_end() if len(times) >= _MAX_HELD else None

    def _leads_to(self, times: NDArray[np.int64], group: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What came before what is believed, and only a pause before."""
        believed_ns = int(times[group].min())
        earliest_ns = max(believed_ns - _PLAUSIBLE_PAUSE_NS, 0 if self._latest_ns is None else self._latest_ns)
        before = np.arange(len(times)) < int(group.argmax())
        leads: NDArray[np.bool_] = before & (times >= earliest_ns) & (times <= believed_ns)
        return leads

    def _at_the_end(self) -> Judgement:
        """A pause is believed also of one flow; of a clock that goes back, only a longer run."""
        times, latest_ns = self._times(), self._latest_ns
        believed = np.zeros(len(times), bool)
        in_range = (times >= 0) & (times < LATEST_NS)
        if latest_ns is None and in_range.any():
            same = (np.abs(times[:, None] - times) <= HOUR_NS) & in_range
            believed = same[int((same.sum(1) * in_range).argmax())]
            believed |= self._leads_to(times, believed)
            latest_ns = int(times[believed].max())
        elif latest_ns is not None and len(times) >= _START_FRAMES and (in_range & (times < latest_ns)).all():
            return self._judge(in_range)
        for number, ts_ns in enumerate(times.tolist()):
            if latest_ns is not None and latest_ns <= ts_ns <= latest_ns + _PLAUSIBLE_PAUSE_NS:
                believed[number] = True
                latest_ns = ts_ns
        return self._judge(believed)

    def _contradicted(self) -> Judgement:
        return self._judge(np.zeros(len(self._held), bool))

    def _judge(self, believed: NDArray[np.bool_]) -> Judgement:
        times = self._times()
        late = np.zeros(len(times), bool)
        goes_back = False
        if self._latest_ns is not None:
            late = ~believed & (times < self._latest_ns) & (times >= self._latest_ns - HOUR_NS)
            goes_back = bool((times[believed] < self._latest_ns - self._behind_ns).any())
        bad = self._chosen(~believed & ~late)
        wire_bytes = sum(int(frame.block.frames["wire_bytes"][0]) for frame in bad)
        judged = Judgement(self._chosen(believed), self._chosen(late), len(bad), wire_bytes, goes_back)
        self._held = []
        return judged

    def _chosen(self, chosen: NDArray[np.bool_]) -> list[HeldFrame]:
        return [frame for frame, one in zip(self._held, chosen, strict=True) if one]


@kernel
def _read_frame(buffer: NDArray[np.uint8], frames: Any, tunnels: NDArray[np.int64], packet: Any) -> int:
    """`wire.parse` of the one frame into the one PACKET."""
    return parse(buffer, frames[0], tunnels, 0, packet[0])  # type: ignore[no-any-return]
