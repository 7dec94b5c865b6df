"""Sessions to the inference worker and inferences back: nothing twice, and what is missing is counted."""

from __future__ import annotations

import pyarrow as pa
import pytest

from support.session_batches import batch_of, media, plan_of
from trafficrefinery.daemon.channels.channel import Channel, Reader, Writer
from trafficrefinery.daemon.channels.sessions import (
    INFERENCES,
    SESSIONS,
    InferenceChannels,
    Models,
    Parcel,
    SessionFeed,
)
from trafficrefinery.daemon.status import Answers, Board
from trafficrefinery.models.units.views import Wanted
from trafficrefinery.records.sinks.base import Interval

SECOND = 10**9
PLAN = plan_of(["PacketCounters", "VideoSegments"])
MODELS = Models(Answers.of({"resolution": ("480", "720")}), {"session": Wanted(("application.segment_bytes",))})


class House:
    """A feed, and the worker's end of its channels."""

    def __init__(self, limit_bytes: int = 1 << 20) -> None:
        self.board = Board(PLAN, 1, MODELS.answers)
        self.channels = InferenceChannels(Channel(limit_bytes), Channel(limit_bytes))
        self.feed = self.new_feed()
        self.reader = Reader(self.channels.there, self.board.to_inference)
        self.writer = Writer(self.channels.back, self.board.from_inference, 1)

    def new_feed(self) -> SessionFeed:
        return SessionFeed(PLAN, self.board, self.channels, MODELS)

    def send(self, start_s: int, flows: list[dict]) -> None:
        batches = [batch_of(start_s, flows, PLAN)] if flows else []
        self.feed.send(Interval((start_s + 10) * SECOND, batches, [{"ts_end": start_s + 10.0}]))

    def parcels(self) -> list[Parcel]:
        return [Parcel.of(message) for message in self.reader.messages() if message.kind == SESSIONS]

    def answer(self, parcel: Parcel) -> None:
        assert self.writer.send(INFERENCES, Parcel(parcel.number, parcel.end_ns, parcel.tables).parts())

    def counted(self, name: str) -> int:
        return int(self.board.aggregator[name])


@pytest.fixture
def house():
    made = House()
    yield made
    made.channels.close()
    made.board.close()


def test_the_sessions_of_each_interval_arrive_with_what_models_need(house):
    house.send(100, [media(), media(client_ip="10.0.0.2")])
    house.send(110, [])
    house.send(120, [media()])
    parcels = house.parcels()
    assert [(one.number, one.end_ns, len(one.tables[0])) for one in parcels] == [
        (1, 110 * SECOND, 2), (2, 120 * SECOND, 0), (3, 130 * SECOND, 1),
    ]  # fmt: skip
    assert parcels[0].tables[0]["application.segment_bytes"].to_pylist() == [50_000, 50_000]
    assert "application.segments" not in parcels[0].tables[0].column_names
    assert house.counted("sessions_started_total") == house.counted("sessions_open") == 2


def test_a_summary_that_comes_after_its_records_is_no_interval_of_its_own(house):
    house.feed.send(Interval(110 * SECOND, [batch_of(100, [media()], PLAN)], []))
    house.feed.send(Interval(110 * SECOND, [], [{"ts_end": 110.0}]))
    assert [(one.end_ns, len(one.tables[0])) for one in house.parcels()] == [(110 * SECOND, 1)]


def test_what_comes_back_is_to_be_written_once(house):
    for start_s in (100, 110):
        house.send(start_s, [media()])
    for parcel in house.parcels():
        house.answer(parcel)
        house.answer(parcel)  # of a worker that was killed before it could say that it was done
    found = list(house.feed.take())
    assert [one.end_ns for one in found] == [110 * SECOND, 120 * SECOND]
    assert [one.inferences["ts_end"].to_pylist() for one in found] == [[110.0], [120.0]]
    assert house.feed.waiting == house.counted("inference_dropped_total") == 0


def test_an_interval_at_which_a_worker_died_is_counted_when_the_next_one_comes(house):
    for start_s in (100, 110, 120):
        house.send(start_s, [media()])
    parcels = house.parcels()
    house.answer(parcels[0])
    house.answer(parcels[2])
    assert [one.end_ns for one in house.feed.take()] == [110 * SECOND, 130 * SECOND]
    assert house.counted("inference_dropped_total") == 1


def test_an_interval_without_sessions_is_nothing_to_be_written(house):
    house.send(100, [])
    (parcel,) = house.parcels()
    house.answer(parcel)
    assert list(house.feed.take()) == []
    assert house.feed.waiting == 0


def test_what_finds_no_room_is_dropped_and_counted_and_the_rest_goes_on(house):
    small = House(16 << 10)
    sent = 0
    while not small.counted("inference_dropped_total"):
        small.send(100 + 10 * sent, [media(client_ip=f"10.0.0.{client}") for client in range(20)])
        sent += 1
    assert [one.number for one in small.parcels()] == list(range(1, sent))
    small.send(100 + 10 * sent, [media()])
    (parcel,) = small.parcels()
    assert parcel.number == sent
    assert small.counted("inference_dropped_total") == 1


def test_an_aggregator_that_was_restarted_goes_on_counting(house):
    house.send(100, [media()])
    house.feed = house.new_feed()
    house.send(110, [media()])
    assert [one.number for one in house.parcels()] == [1, 2]
    assert house.counted("sessions_started_total") == 2


def test_a_session_feature_that_fails_costs_an_interval_and_nothing_else(house, monkeypatch):
    monkeypatch.setattr("trafficrefinery.models.sessions.view.SessionView.add", lambda *_: 1 / 0)
    house.send(100, [media()])
    monkeypatch.undo()
    house.send(110, [media()])
    assert [one.end_ns for one in house.parcels()] == [120 * SECOND]
    assert house.counted("inference_dropped_total") == 1


def test_what_never_comes_back_is_counted_at_the_end(house):
    for start_s in (100, 110):
        house.send(start_s, [media()])
    house.feed.give_up()
    assert house.counted("inference_dropped_total") == 2
    assert house.feed.waiting == 0


def test_a_parcel_arrives_as_it_was_sent(house):
    table = pa.table({"a": [1, 2, None], "b": ["x", None, "z"]})
    assert house.writer.send(INFERENCES, Parcel(7, 8, (table, table[:2])).parts())
    (message,) = Reader(house.channels.back, house.board.from_inference).messages()
    parcel = Parcel.of(message)
    assert (parcel.number, parcel.end_ns) == (7, 8)
    assert [one.to_pylist() for one in parcel.tables] == [table.to_pylist(), table[:2].to_pylist()]
