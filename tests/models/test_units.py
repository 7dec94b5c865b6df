"""Rows of flows and of clients: when a flow has ended, what is aggregated, and when a target of a flow is answered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from support.session_batches import batch_of, plan_of
from trafficrefinery.models.inference.asked import Asked
from trafficrefinery.models.targets import CLASSES, Target, When
from trafficrefinery.models.units import ClientView, FlowView
from trafficrefinery.records.aggregate import Batch

PLAN = plan_of(["PacketCounters", "PacketTimes"], FlowCache={"IdleTimeout": "20s"})


def batch(start_s: int, ends: dict[str, str], service: str = "Video", **figures: object) -> Batch:
    """Records of flows by `flow_id`, and how each has ended so far."""
    made = batch_of(start_s, [figures] * len(ends), PLAN)
    flow = {**made.flow, "flow_id": pl.Series(list(ends)), "end": pl.Series(list(ends.values())),
            "service": pl.Series([service] * len(ends))}  # fmt: skip
    return made._replace(service=service, flow=flow)


def last_rows(view: FlowView, *batches: Batch) -> list[list[tuple[str, float]]]:
    """For each batch the flows whose last row came with it, and where that ends."""
    tables = [view.add(one) for one in batches]
    return [
        [(row["flow_id"], row["ts_end"]) for row in table.to_pylist() if row["is_last"]] if table else []
        for table in tables
    ]


def test_a_flow_has_a_last_row_when_its_packets_say_so_or_after_silence():
    view = FlowView(PLAN, with_last=True)
    found = last_rows(
        view, batch(0, {"a": "open", "b": "open"}), batch(10, {"a": "fin", "c": "open"}), batch(20, {"c": "open"}),
        batch(30, {"c": "open"}), batch(40, {"c": "open"}),
    )  # fmt: skip
    assert found == [[], [("a", 20)], [], [], [("b", 10)]]  # silent for 20 s, in the interval after that
    left = view.finish()
    assert left is not None
    assert [(row["flow_id"], row["ts_end"]) for row in left.to_pylist()] == [("c", 50)]
    assert view.finish().num_rows == 0  # type: ignore[union-attr]


def test_a_service_that_is_silent_does_not_keep_its_flows_open():
    view = FlowView(PLAN, with_last=True)
    found = last_rows(view, batch(0, {"a": "open"}, "One"), *(batch(at, {"b": "open"}, "Two") for at in (0, 30, 40)))
    assert found == [[], [], [], [("a", 10)]]


def test_without_being_asked_nothing_is_kept():
    view = FlowView(PLAN)
    assert last_rows(view, batch(0, {"a": "fin"})) == [[]]
    assert view.finish() is None


def test_only_the_columns_that_are_wanted_are_made():
    view = FlowView(PLAN, ["PacketCounters.bytes_up", "flow.tcp"])
    table = view.add(batch(0, {"a": "open"}))
    assert table is not None
    assert [name for name in table.column_names if "." in name] == ["flow.tcp", "PacketCounters.bytes_up"]


def test_a_client_has_the_sum_the_mean_and_the_greatest_of_its_flows():
    made = batch_of(0, [{"PacketCounters.bytes_up": 4, "PacketTimes.iat_s_mean": 0.5, "protocol": "udp"},
                        {"PacketCounters.bytes_up": 2}, {"client_ip": "10.0.0.2", "flow_start": -3}], PLAN)  # fmt: skip
    made.flow["service"] = pl.Series(["Video"] * 3)
    table = ClientView(PLAN).add(made)
    assert table is not None
    one, two = table.to_pylist()
    assert [one[f"PacketCounters.bytes_up.{how}"] for how in ("sum", "mean", "max")] == [6, 3, 4]
    assert [one[f"PacketTimes.iat_s_mean.{how}"] for how in ("sum", "mean", "max")] == [0.5] * 3  # of one flow
    assert two["PacketTimes.iat_s_mean.sum"] is None  # of none
    assert (one["client.flows"], one["client.tcp_flows"], one["client.new_flows"]) == (2, 1, 2)
    assert (two["client.flows"], two["client.new_flows"]) == (1, 0)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (When(), [0, 1, 2, 3]), (When("packets", 8), [1]), (When("packets", 1), [0]), (When("packets", 99), []),
        (When("seconds", 12), [1]), (When("end"), [4]),
    ],
)  # fmt: skip
def test_a_target_of_a_flow_is_answered_when_it_says(when, expected):
    """One flow with five packets in each of four intervals, and its last row once more."""
    asked = Asked(Target("a", CLASSES, unit="flow", when=when), {"": SimpleNamespace(labels=())})  # type: ignore[dict-item]
    asked.grow(1)
    answered = []
    for number in range(5):
        at = min(number, 3)
        row = pa.table({
            "ts_start": [10.0 * at], "ts_end": [10.0 * at + 10], "flow_start": [1.0], "service": ["Video"],
            "packets": [5], "is_last": [number == 4],
        })  # fmt: skip
        answered += [number] if len(asked.due(row, np.zeros(1, np.intp))) else []
    assert answered == expected
