"""The order in which the processes of a daemon start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from trafficrefinery.daemon.process_group import Generation
from trafficrefinery.daemon.status import READY, STARTING


class Post(NamedTuple):
    ends_compiled: bool


class Child:
    """A process that compiles whenever it starts, as where nothing can be kept in a cache."""

    def __init__(self, *, ends_compiled: bool) -> None:
        self.post, self.process, self.record = Post(ends_compiled), None, {"state": STARTING}
        self.starts: list[bool] = []
        self.has_stopped = False

    def start(self) -> None:
        self.process: Any = self
        self.starts.append(self.post.ends_compiled)
        self.has_stopped = self.post.ends_compiled
        self.record["state"] = STARTING if self.has_stopped else READY

    def close(self) -> None:
        self.process, self.has_stopped = None, False


def test_the_first_worker_starts_anew_once_where_each_process_compiles():
    first, second = Child(ends_compiled=True), Child(ends_compiled=False)
    group: Any = SimpleNamespace(_readers=[first, second], _inferring=[])
    turns = [Generation.starting(group) for _ in range(4)]
    assert (first.starts, second.starts) == ([True, False], [False])
    assert not turns[-1]
