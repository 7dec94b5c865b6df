"""The inference worker: a process that runs models on the sessions, flows or clients of each interval."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trafficrefinery.config import Config
from trafficrefinery.daemon import logs
from trafficrefinery.daemon.channels.channel import Message, Reader, Writer
from trafficrefinery.daemon.channels.sessions import END, INFERENCES, InferenceChannels, Parcel
from trafficrefinery.daemon.process import beat, begin, ready
from trafficrefinery.daemon.query.latest import publish
from trafficrefinery.daemon.status import CONFIDENCE_BUCKETS, LATENCY_BUCKETS_S, STOPPED, Board
from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.inferences import NOT_PLAYING, SESSION

if TYPE_CHECKING:
    import pyarrow as pa

_IDLE_S = 0.05


class InferencePost(NamedTuple):
    """What the inference worker is given.

    Args:
        latest: where the inferences of the last interval go for the query interface.
    """

    config: Config
    board: Board
    channels: InferenceChannels
    latest: socket.socket
    cpus: tuple[int, ...] = ()


def infer_sessions(post: InferencePost) -> None:
    """Body of the process."""
    begin("inference", post.board.inference, post.cpus)
    InferenceProcess(post).run()


class InferenceProcess:
    """The inference worker, after its process was set up."""

    def __init__(self, post: InferencePost) -> None:
        self._post, self._board, self._record = post, post.board, post.board.inference
        from trafficrefinery.models.inference import Predictor  # which the supervisor does without
        from trafficrefinery.models.stream import load_models
        from trafficrefinery.models.units.flow_columns import unit_name

        models = load_models(Plan.of(post.config), post.config.inference.models)
        self._predictor = Predictor(models, smoothing=post.config.inference.smoothing)
        self._unit_name = unit_name
        self._reader = Reader(post.channels.there, post.board.to_inference)
        self._writer = Writer(post.channels.back, post.board.from_inference, int(self._record["pid"]))
        self._services = {service.name: number for number, service in enumerate(post.config.services)}

    def run(self) -> None:
        """Until the aggregator says that no more comes, or has ended."""
        ready(self._record)
        while not self._take():
            beat(self._record)
            if self._board.aggregator["state"] == STOPPED:
                break
            time.sleep(_IDLE_S)
        self._record["state"] = STOPPED

    def _take(self) -> bool:
        """What has come; whether that was all that will."""
        for message in self._reader.messages():
            beat(self._record)
            if message.kind == END:
                return True
            self._infer(message)
        return False

    def _infer(self, message: Message) -> None:
        parcel = Parcel.of(message)
        if parcel.number <= self._record["working_on"]:
            return  # a worker before was killed at it
        self._record["working_on"] = parcel.number
        tables = {self._unit_name(table.schema, SESSION): table for table in parcel.tables}
        made = self._predictor.predict_all(tables)
        self._send(Parcel(parcel.number, parcel.end_ns, (made,)))
        self._tell(parcel.end_ns, made)

    def _send(self, parcel: Parcel) -> None:
        parts = parcel.parts()
        while not self._writer.send(INFERENCES, parts):
            if not self._writer.waiting_bytes:
                rows = len(parcel.tables[0])
                logs.error("inferences of an interval are larger than Daemon.MaxWaiting allows", rows=rows)
                return
            beat(self._record)
            time.sleep(_IDLE_S)

    def _tell(self, end_ns: int, table: pa.Table) -> None:
        record, supervisor = self._record, self._board.supervisor
        if not publish(self._post.latest, table if len(table) else None, [{"ts_end": end_ns / 1e9}]):
            record["unpublished_total"] += 1
        latency_s = max(int(supervisor["wall_ns"]) - end_ns - self._post.config.grace_ns, 0) / 1e9
        record["latency"][np.searchsorted(LATENCY_BUCKETS_S, latency_s)] += 1
        record["latency_sum_s"] += latency_s
        confidence = table["confidence"].drop_null().to_numpy()
        record["inferences_total"] += len(table)
        abstained = table["why"].is_valid().to_numpy() & table["model"].is_valid().to_numpy()
        record["abstained_total"] += (abstained & (table["why"].to_numpy() != NOT_PLAYING)).sum()
        record["confidence"] += np.bincount(
            np.searchsorted(CONFIDENCE_BUCKETS, confidence), minlength=len(CONFIDENCE_BUCKETS) + 1
        )
        record["confidence_sum"] += float(confidence.sum())
        record["drift"] = self._predictor.drift()
        self._tell_services(table)

    def _tell_services(self, table: pa.Table) -> None:
        """How many sessions have which label, or none, and what quantities are in the mean."""
        answers = self._board.answers
        labels, targets = ({one: number for number, one in enumerate(some)} for some in answers)
        told: Any = np.zeros_like(self._board.inferred)
        told["quantity"] = np.nan
        grouped = table.group_by(["service", "target", "value", "why"])
        for row in grouped.aggregate([([], "count_all"), ("quantity", "mean")]).to_pylist():
            of_service, target = told[self._services[row["service"]]], row["target"]
            if row["why"] == NOT_PLAYING:
                of_service["not_playing"][targets[target]] += row["count_all"]
            elif row["why"] is not None:
                of_service["abstained"][targets[target]] += row["count_all"]
            elif row["value"] is None:
                of_service["quantity"][targets[target]] = row["quantity_mean"]
            else:
                of_service["sessions"][labels[target, row["value"]]] = row["count_all"]
        self._board.inferred[:] = told
