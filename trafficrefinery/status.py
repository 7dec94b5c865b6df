"""What the daemon's processes tell of themselves while they run: shared memory, one writer for each record.

Totals count from the start of a process; after a restart its successor goes on from what it finds.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.kernel import COUNTERS
from trafficrefinery.shm import Shared
from trafficrefinery.worker import Plan

STARTING, READY, STOPPED = 0, 1, 2
WAIT, RUN, STOP_AT, STOP = 0, 1, 2, 3
"""SUPERVISOR.wanted: WAIT before the first packet; STOP_AT when stop_at_ns is reached."""
LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the histogram of interval latency; one more bucket holds the rest."""

_PROCESS = [
    ("pid", "i8"),
    ("state", "i8"),  # STARTING, READY, STOPPED
    ("beat_ns", "i8"),  # CLOCK_MONOTONIC at the last sign of life
    ("restarts_total", "i8"),  # written by the supervisor
]
SINKS = ("jsonl", "parquet", "stdout", "nats")
SINK = np.dtype([("records_total", "i8"), ("dropped_total", "i8"), ("waiting_bytes", "i8"), ("failing", "i8")])
SUPERVISOR = np.dtype(
    [
        *_PROCESS,
        ("wanted", "i8"),  # WAIT, RUN, STOP_AT, STOP
        ("stop_at_ns", "i8"),
        ("from_ns", "i8"),  # packets of before were the last configuration's
        ("rotations_total", "i8"),  # of the files, by signal
        ("wall_ns", "i8"),  # time of day, for intervals that end on an idle queue
        ("clock_steps_total", "i8"),  # times that the time of day was set back
        ("reloads_total", "i8"),
        ("reload_failures_total", "i8"),
        ("last_reload_ok", "i8"),
        ("last_reload_ns", "i8"),  # time of day
    ]
)
NAMES = np.dtype(
    [
        *_PROCESS,
        ("packets_total", "i8"),
        ("drops_total", "i8"),
        ("messages_total", "i8"),  # readable DNS messages
        ("malformed_total", "i8"),
        ("entries", "i8"),  # addresses known
        ("forgotten_total", "i8"),  # addresses that held, for want of room to tell them to new workers
    ]
)
AGGREGATOR = np.dtype(
    [
        *_PROCESS,
        ("intervals_total", "i8"),
        ("incomplete_total", "i8"),  # intervals with lost packets, a restarted worker or dropped rows
        ("records_total", "i8"),
        ("marked_restarts", "i8"),  # of workers, that a summary has told of
        ("marked_dropped_rows", "i8"),
        ("unpublished_total", "i8"),  # intervals that the query interface did not take
        ("latency", "i8", (len(LATENCY_BUCKETS_S) + 1,)),  # close of an interval to written, by LATENCY_BUCKETS_S
        ("latency_sum_s", "f8"),
        ("sinks", SINK, (len(SINKS),)),
    ]
)


def worker_dtype(plan: Plan) -> np.dtype:
    """One capture worker."""
    services, classes = len(plan.config.services), len(class_names(plan))
    return np.dtype(
        [
            *_PROCESS,
            ("counters", "i8", (len(COUNTERS),)),  # kernel.COUNTERS
            ("flows_active", "i8"),
            ("flow_bytes", "i8"),  # headers and states of active flows
            ("names", "i8"),  # addresses known
            ("received_total", "i8"),  # by the kernel for this worker: tp_packets - tp_drops
            ("kernel_drops_total", "i8"),
            ("ring_freezes_total", "i8"),
            ("oversized_total", "i8"),  # frames larger than the link's
            ("duplicates_total", "i8"),
            ("cpu_ns", "i8"),  # user and system time of the process
            ("service_packets", "i8", (services,)),
            ("service_bytes", "i8", (services,)),
            ("class_ns", "f8", (classes,)),  # sampled cost of a packet; NaN: none; written by the aggregator
            ("dropped_rows_total", "i8"),  # because too much waited for the aggregator
            ("sent_bytes", "i8"),  # positions in the channel to the aggregator
            ("taken_bytes", "i8"),  # written by the aggregator
        ]
    )


SERVICE = np.dtype([("flows_active", "i8"), ("records_total", "i8"), ("bits_per_s", "f8"), ("names", "i8")])


def class_names(plan: Plan) -> list[str]:
    """The feature classes of all profiles, once each."""
    return list(dict.fromkeys(cls.__name__ for profile in plan.profiles for cls in profile.classes))


class Board:
    """The records of all processes of one configuration.

    Attributes:
        supervisor, names, aggregator: a record each.
        workers: a record each, of `worker_dtype`.
        services: of SERVICE, in the configuration's order; what the last closed interval says. The aggregator writes.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self._parts = [
            Shared(1, SUPERVISOR), Shared(1, NAMES), Shared(1, AGGREGATOR), Shared(workers, worker_dtype(plan)),
            Shared(len(plan.config.services), SERVICE),
        ]  # fmt: skip
        self._place()
        self.workers["class_ns"] = np.nan

    def _place(self) -> None:
        supervisor, names, aggregator, workers, services = (part.array for part in self._parts)
        self.supervisor, self.names, self.aggregator = supervisor[0], names[0], aggregator[0]
        self.workers, self.services = workers, services

    def __getstate__(self) -> list[Shared]:
        return self._parts

    def __setstate__(self, parts: list[Shared]) -> None:
        self._parts = parts
        self._place()

    def close(self) -> None:
        """Give the descriptors back."""
        for part in self._parts:
            part.close()
