"""What the daemon's processes tell of themselves while they run: shared memory, one writer for each record.

Totals count from the start of a process; after a restart its successor goes on from what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.engine.counters import COUNTED_BESIDE
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.shared_memory import Shared

STARTING, READY, STOPPED = 0, 1, 2
WAIT, RUN, STOP_AT, STOP = 0, 1, 2, 3
"""SUPERVISOR.wanted: WAIT before the first packet; STOP_AT when stop_at_ns is reached."""
LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the histograms of latency; one more bucket holds the rest."""
CONFIDENCE_BUCKETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Upper ends of the histogram of confidence."""

_PROCESS = [
    ("pid", "i8"),
    ("state", "i8"),  # STARTING, READY, STOPPED
    ("beat_ns", "i8"),  # CLOCK_MONOTONIC at the last sign of life
    ("restarts_total", "i8"),  # written by the supervisor
]
SINK = np.dtype([("records_total", "i8"), ("dropped_total", "i8"), ("waiting_bytes", "i8"), ("failing", "i8")])
SUPERVISOR = np.dtype(
    [
        *_PROCESS,
        ("wanted", "i8"),  # WAIT, RUN, STOP_AT, STOP
        ("stop_at_ns", "i8"),
        ("from_ns", "i8"),  # packets of before were the last configuration's
        ("away_from_ns", "i8"),  # time of day; an interface was away from then on; 0: none was
        ("away_until_ns", "i8"),  # until then; 0: still
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
        ("counts", "i8"),  # 1: what was lost before it was ready is left out
        ("packets_total", "i8"),
        ("drops_total", "i8"),
        ("counted_beside", "i8", (len(COUNTED_BESIDE),)),  # counting.COUNTED_BESIDE
        ("messages_total", "i8"),  # readable DNS messages
        ("malformed_total", "i8"),
        ("unasked_total", "i8"),  # answers without a query, where queries are seen
        ("one_sided_total", "i8"),  # answers taken without a query, as none are seen
        ("over_budget_total", "i8"),  # packets that compiled code could not finish when the budget for that was used
        ("entries", "i8"),  # addresses known
        ("forgotten_total", "i8"),  # addresses that held, for want of room to tell them to new workers
    ]
)
INFERENCE = np.dtype(
    [
        *_PROCESS,
        ("working_on", "i8"),  # number of an interval; one at which a worker was killed is not tried again
        ("inferences_total", "i8"),
        ("abstained_total", "i8"),  # without an answer
        ("confidence", "i8", (len(CONFIDENCE_BUCKETS) + 1,)),  # by CONFIDENCE_BUCKETS
        ("confidence_sum", "f8"),
        ("latency", "i8", (len(LATENCY_BUCKETS_S) + 1,)),  # close of an interval to its inferences
        ("latency_sum_s", "f8"),
        ("drift", "f8"),  # of the features from the training data; NaN: not known yet
        ("unpublished_total", "i8"),  # intervals that the query interface did not take
    ]
)
POSITIONS = np.dtype([("sent_bytes", "i8"), ("taken_bytes", "i8")])
"""In a channel between the aggregator and the inference worker."""


DNS_COUNTED = ("messages", "malformed", "unasked", "one_sided", "over_budget")
"""Fields of the DNS process, without `_total`: counters of its packet loop, whose names begin with `dns_`."""


def aggregator_dtype(sinks: int) -> np.dtype:
    """The aggregator, with so many sinks."""
    return np.dtype(
        [
            *_PROCESS,
            ("intervals_total", "i8"),
            ("incomplete_total", "i8"),  # intervals with lost packets, a restarted worker or dropped rows
            ("records_total", "i8"),
            ("whole_from_ns", "i8"),  # intervals that begin before are not free of losses: a process was lost
            ("marked_restarts", "i8"),  # of workers, that a summary has told of
            ("marked_dropped_rows", "i8"),
            ("errors", "i8"),  # of the summary at the end: kinds of reasons why records are wrong or missing
            ("unpublished_total", "i8"),  # intervals that the query interface did not take
            ("latency", "i8", (len(LATENCY_BUCKETS_S) + 1,)),  # close of an interval to written, by LATENCY_BUCKETS_S
            ("latency_sum_s", "f8"),
            ("sinks", SINK, (sinks,)),
            ("sessions_started_total", "i8"),
            ("sessions_ended_total", "i8"),
            ("sessions_refused_total", "i8"),
            ("sessions_open", "i8"),
            ("inference_sent", "i8"),  # number of the last interval that the inference worker was given
            ("inference_answered", "i8"),  # the last of these whose inferences came back
            ("inference_dropped_total", "i8"),  # intervals without: too much waited, or the worker was killed
        ]
    )


def counted(record: Any) -> dict[str, int]:  # Any: a record of a worker, or of the DNS process
    """The counters of a process that reads packets, by name."""
    beside = zip((one.name for one in COUNTED_BESIDE), record["counted_beside"].tolist(), strict=True)
    if "counters" in record.dtype.names:
        return {**dict(zip(COUNTERS, record["counters"].tolist(), strict=True)), **dict(beside)}
    return {**{f"dns_{name}": int(record[f"{name}_total"]) for name in DNS_COUNTED}, **dict(beside)}


def worker_dtype(plan: Plan) -> np.dtype:
    """One capture worker."""
    services, classes = len(plan.config.services), len(class_names(plan))
    return np.dtype(
        [
            *_PROCESS,
            ("compiled", "i8"),  # functions that the compiler has begun with; 0: all comes from the cache
            ("counters", "i8", (len(COUNTERS),)),  # kernel.COUNTERS
            ("counted_beside", "i8", (len(COUNTED_BESIDE),)),  # counting.COUNTED_BESIDE
            ("counts", "i8"),  # 1: what came before it was ready is left out
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
            ("class_errors", "i8", (classes,)),  # calls that raised
            ("dropped_rows_total", "i8"),  # because too much waited for the aggregator
            ("refused_rows_total", "i8"),  # because too much waited in the aggregator, which writes this
            ("sent_bytes", "i8"),  # positions in the channel to the aggregator
            ("taken_bytes", "i8"),  # written by the aggregator
        ]
    )


SERVICE = np.dtype([("flows_active", "i8"), ("records_total", "i8"), ("bits_per_s", "f8"), ("names", "i8")])


def class_names(plan: Plan) -> list[str]:
    """The feature classes of all profiles, once each."""
    return list(dict.fromkeys(cls.__name__ for profile in plan.profiles for cls in profile.classes))


class Answers(NamedTuple):
    """What models can say.

    Args:
        labels: pairs of a target and one of its labels.
        targets: names of all targets.
    """

    labels: tuple[tuple[str, str], ...] = ()
    targets: tuple[str, ...] = ()

    @classmethod
    def of(cls, labels: Mapping[str, Sequence[str]]) -> Answers:
        """From the labels of each target; a quantity has none."""
        return cls(tuple((name, label) for name, some in labels.items() for label in some), tuple(labels))


class Board:
    """The records of all processes of one configuration.

    Args:
        answers: that models can give.

    Attributes:
        sinks: names of the sinks, in the order of the aggregator's `sinks`.
        supervisor, names, aggregator, inference: a record each; that of a process that there is not has no `pid`.
        workers: a record each, of `worker_dtype`.
        services: of SERVICE, in the configuration's order; what the last closed interval says. The aggregator writes.
        inferred: of each service what was inferred in the last interval: session-intervals by `answers.labels`, by
            `answers.targets` those without an answer, those that play nothing, and the means of quantities. The
            inference worker writes.
        to_inference, from_inference: of POSITIONS.
    """

    def __init__(self, plan: Plan, workers: int, answers: Answers = Answers()) -> None:  # noqa: B008 (immutable)
        self.answers, self.sinks = answers, plan.config.sinks.names
        services = len(plan.config.services)
        labels, targets = len(answers.labels), len(answers.targets)
        inferred = np.dtype([
            ("sessions", "i8", (labels,)), ("abstained", "i8", (targets,)), ("not_playing", "i8", (targets,)),
            ("quantity", "f8", (targets,)),
        ])  # fmt: skip
        self._parts = [
            Shared(1, SUPERVISOR), Shared(1, NAMES), Shared(1, aggregator_dtype(len(self.sinks))), Shared(1, INFERENCE),
            Shared(workers, worker_dtype(plan)), Shared(services, SERVICE), Shared(services, inferred),
            Shared(2, POSITIONS),
        ]  # fmt: skip
        self._place()
        self.workers["class_ns"] = np.nan
        self.inference["drift"] = np.nan

    def _place(self) -> None:
        supervisor, names, aggregator, inference, workers, services, inferred, positions = (
            part.array for part in self._parts
        )
        self.supervisor, self.names = supervisor[0], names[0]
        self.aggregator, self.inference = aggregator[0], inference[0]
        self.workers, self.services, self.inferred = workers, services, inferred
        self.to_inference, self.from_inference = positions[0], positions[1]

    def __getstate__(self) -> tuple[Answers, tuple[str, ...], list[Shared]]:
        return self.answers, self.sinks, self._parts

    def __setstate__(self, state: tuple[Answers, tuple[str, ...], list[Shared]]) -> None:
        self.answers, self.sinks, self._parts = state
        self._place()

    def close(self) -> None:
        """Give the descriptors back."""
        for part in self._parts:
            part.close()
