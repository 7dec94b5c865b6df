"""What is on the screen: media that plays while there is some, and stalls while there is none."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Shown(NamedTuple):
    """Media that was on the screen, at wall-clock times in s."""

    start_s: float
    end_s: float
    resolution: int


class Stall(NamedTuple):
    """A time in which a picture stood still."""

    start_s: float
    end_s: float


class Playback:
    """Plays segments in their order; all times are those of one clock, and never go back.

    Args:
        startup_s: media that has to be there before the first picture.
        resume_s: media that has to be there to go on after a stall.
    """

    def __init__(self, startup_s: float, resume_s: float) -> None:
        self._threshold_s, self._resume_s = startup_s, resume_s
        self._waiting: deque[tuple[float, int]] = deque()  # seconds that are left to show, resolution
        self._since_s: float | None = None  # shown up to this time; None while nothing plays
        self._stalled_at_s: float | None = None
        self.shown: list[Shown] = []
        self.stalls: list[Stall] = []
        self.filled: list[tuple[float, float]] = []
        """When how many seconds of media came."""

    @property
    def started_s(self) -> float | None:
        """The time of the first picture."""
        return self.shown[0].start_s if self.shown else self._since_s

    def append(self, now_s: float, media_s: float, resolution: int) -> None:
        """A segment has come."""
        self.advance(now_s)
        self._waiting.append((media_s, resolution))
        self.filled.append((now_s, media_s))
        if self._since_s is None and self._waiting_s() >= self._threshold_s - 1e-6:
            if self._stalled_at_s is not None:
                self.stalls.append(Stall(self._stalled_at_s, now_s))
                self._stalled_at_s = None
            self._since_s, self._threshold_s = now_s, self._resume_s

    def advance(self, now_s: float) -> None:
        """Show what there is until now."""
        while self._since_s is not None and self._since_s < now_s:
            if not self._waiting:
                self._stalled_at_s, self._since_s = self._since_s, None
                return
            left_s, resolution = self._waiting.popleft()
            end_s = min(self._since_s + left_s, now_s)
            self._show(self._since_s, end_s, resolution)
            if (rest_s := left_s - (end_s - self._since_s)) > 1e-9:
                self._waiting.appendleft((rest_s, resolution))
            self._since_s = end_s

    def _show(self, start_s: float, end_s: float, resolution: int) -> None:
        last = self.shown[-1] if self.shown else None
        if last is not None and last.resolution == resolution and last.end_s == start_s:
            self.shown[-1] = Shown(last.start_s, end_s, resolution)
        else:
            self.shown.append(Shown(start_s, end_s, resolution))

    def stop(self, now_s: float) -> None:
        """The viewer leaves."""
        self.advance(now_s)
        if self._stalled_at_s is not None:
            self.stalls.append(Stall(self._stalled_at_s, now_s))
            self._stalled_at_s = None

    def buffer_s(self, now_s: float) -> float:
        """Media that has come and was not shown yet."""
        self.advance(now_s)
        return self._waiting_s()

    def _waiting_s(self) -> float:
        return sum(left_s for left_s, _ in self._waiting)
