"""Sessions: when they start and end, and what their features say."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive import sessions as naive
from support.session_batches import COLLECT, PLAN, batch_of, media, plan_of
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.cli.ui.describe import sessions_page
from trafficrefinery.config import Sessions, load_config, parse_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings
from trafficrefinery.errors import ConfigError, FeatureError, UsageError
from trafficrefinery.models.sessions import SessionRegistry, SessionView, session_fields
from trafficrefinery.models.sessions.boundaries import OpenSessions
from trafficrefinery.models.units.views import open_sessions
from trafficrefinery.records.aggregate import Aggregator, Batch
from trafficrefinery.replaying.job import Job, Result
from trafficrefinery.replaying.single import replay_here
from trafficrefinery.services.matching import NameMatcher, ServiceFilter, in_domains

SECOND = 1_000_000_000
TEN = 10 * SECOND


def rows(view: SessionView, *batches: Batch) -> list[dict]:
    made = [view.add(batch) for batch in batches]
    return [row for batch in made if batch is not None for row in batch.to_pylist()]


# When a session starts and ends


def opened_by(rule: str, collect: list[object]) -> Plan:
    return plan_of(collect, Sessions={"OpenedBy": rule, "StartGap": "30s", "EndGap": "20s"})


def test_any_packet_opens_a_session_where_the_configuration_says_so():
    plan = opened_by("packet", ["PacketCounters"])
    view = SessionView(plan)
    made = rows(view, *(batch_of(start, [{"client_ip": "10.0.0.2"}, {}], plan) for start in (0, 10)))
    made += rows(view, *(batch_of(start, [{}], plan) for start in (60, 70)))
    assert [one["client_ip"] for one in made] == ["10.0.0.2", "10.0.0.1"] * 2 + ["10.0.0.1"] * 2 or len(made) == 6
    ids = [one["session_id"] for one in made if one["client_ip"] == "10.0.0.1"]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert {one["session_start"] for one in made} == {0, 60}
    assert view.services == ["Video"]


def test_an_output_of_a_feature_class_opens_a_session_where_the_configuration_says_so():
    plan = opened_by("PacketCounters.bytes_down", ["PacketCounters"])
    view = SessionView(plan)
    silent, busy = {"client_ip": "10.0.0.2"}, {"client_ip": "10.0.0.2", "PacketCounters.bytes_down": 1}
    assert rows(view, batch_of(0, [silent], plan)) == []
    assert len(rows(view, batch_of(10, [busy], plan), batch_of(20, [silent], plan))) == 2


def test_what_cannot_open_a_session_is_refused():
    with pytest.raises(
        ConfigError, match=r"Sessions\.OpenedBy: PacketCounters has no number \"bytes_don\"; did you mean"
    ):
        SessionView(opened_by("PacketCounters.bytes_don", ["PacketCounters"]))
    with pytest.raises(ConfigError, match=r"Sessions\.OpenedBy"):
        opened_by("first", ["PacketCounters"])
    with pytest.raises(UsageError, match="none collects VideoSegments, which make sessions"):
        open_sessions(plan_of(["PacketCounters"]))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=30),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_a_session_is_what_the_rule_says(steps, start_gap_s, end_gap_s):
    starts = list(itertools.accumulate((10 * step for step, _ in steps), initial=0))[1:]
    intervals = [(start, has_media) for start, (_, has_media) in zip(starts, steps, strict=True)]
    table = OpenSessions(Sessions(StartGap=f"{start_gap_s}s", EndGap=f"{end_gap_s}s"))
    found, number = [], -1
    for start, has_media in intervals:
        slots, new = table.assign(
            (start * SECOND, start * SECOND + TEN), ["client"], np.array([has_media]), np.array([start])
        )
        number += int(new[0])
        found.append(number if slots[0] >= 0 else -1)
    assert found == naive.sessions_of(intervals, start_gap_s, end_gap_s, 10)
    assert table.started == number + 1
    assert table.started - table.ended == len(table)


def test_a_session_starts_with_media_and_ends_after_silence():
    view = SessionView(PLAN)
    made = rows(
        view, batch_of(0, [{}]), batch_of(10, [media()]), batch_of(20, [{}]), batch_of(70, [{}]), batch_of(140, [{}]),
        batch_of(150, [media()]),
    )  # fmt: skip
    assert [row["ts_start"] for row in made] == [10, 20, 70, 150]
    assert len({row["session_id"] for row in made}) == 2
    assert view.counters == {"sessions_started": 2, "sessions_ended": 1, "sessions_refused": 0, "sessions_open": 1}


def test_a_large_running_segment_is_media():
    running = {
        "PacketCounters.bytes_down": 40_000,
        "VideoSegments.pending_requests": 1,
        "VideoSegments.pending_bytes": 35_000,
    }
    assert len(rows(SessionView(PLAN), batch_of(0, [running]))) == 1
    assert rows(SessionView(PLAN), batch_of(0, [{**running, "PacketCounters.bytes_down": 500}])) == []
    assert rows(SessionView(PLAN), batch_of(0, [{**running, "VideoSegments.pending_requests": 0}])) == []


# Whether a session plays


def of_domains(**filters) -> Plan:
    services = [{"Name": "Video", "Filter": filters, "Collect": COLLECT}]
    return Plan.of(parse_config({"Services": services}))


BOTH = of_domains(DomainsString=["video.example"], MediaDomains=["cdn.video.example", "nflx"])


def test_only_flows_of_media_domains_open_sessions_where_a_filter_has_any():
    def opens(name: str | None) -> bool:
        return bool(rows(SessionView(BOTH), batch_of(0, [media(domain=name)], BOTH)))

    names = ["cdn.video.example", "A.CDN.video.example.", "anflxb.example", None]
    assert all(map(opens, names))  # what has no name is judged by its segments
    assert not any(map(opens, ["www.video.example", "notcdn.video.example", "cdn.video.example.org"]))


@given(
    st.from_regex(r"[aAb]{1,3}(\.[ab]{1,3}){0,3}", fullmatch=True),
    st.lists(st.sampled_from(["a", "ab", "a.b", "b.a", "aa.b"]), max_size=3),
)
def test_media_domains_match_as_other_domains_do(name, domains):
    filters = [ServiceFilter("one", tuple(domains))]
    assert in_domains(name, domains) == (NameMatcher(filters).match(name) == 0)


def test_media_domains_belong_to_the_service():
    both = BOTH.config.services[0].filter
    assert both.domains == ("video.example", "cdn.video.example", "nflx")
    assert of_domains(MediaDomains=["a.b"], DomainsString=["a.b"]).config.services[0].filter.domains == ("a.b",)
    assert of_domains(MediaDomains=["a.b"]).config.services[0].filter.has_names


def plays(view: SessionView, *flows: dict, plan: Plan = PLAN) -> list[bool | None]:
    """In intervals one after the other with one flow each."""
    return [row["playing"] for row in rows(view, *(batch_of(10 * i, [one], plan) for i, one in enumerate(flows)))]


def test_nothing_is_played_until_media_came_again_and_again():
    silent = {"PacketCounters.packets_up": 1}
    found = plays(SessionView(PLAN), *[media()] * 5, *[silent] * 4)
    assert found == [False] * 3 + [True] * 5 + [False]  # 30 s after the last segment
    assert plays(SessionView(PLAN), media() | {"VideoSegments.segments": 4}, silent) == [True, True]


def test_after_a_pause_one_segment_is_not_yet_playing():
    found = plays(SessionView(PLAN), *[media()] * 4, *[{}] * 4, *[media()] * 4)
    assert found == [False] * 3 + [True] * 4 + [False] * 4 + [True]


def test_other_names_never_play():
    other = media(domain="www.video.example") | {"VideoSegments.segments": 9}
    assert plays(SessionView(BOTH), media(domain="nflx.example"), other, plan=BOTH) == [False, False]


def test_one_large_response_is_played():
    running = {"VideoSegments.pending_requests": 1, "VideoSegments.pending_bytes": 9_000_000}
    fast, slow = running | {"PacketCounters.bytes_down": 1_250_000}, running | {"PacketCounters.bytes_down": 1_249_999}
    assert plays(SessionView(PLAN), *[fast] * 4) == [False] * 3 + [True]
    assert plays(SessionView(PLAN), *[slow] * 4) == [False] * 4


def test_playing_is_unknown_where_media_do_not_open_sessions():
    plan = opened_by("packet", ["PacketCounters"])
    assert plays(SessionView(plan), {}, plan=plan) == [None]


def test_nothing_is_inferred_on_netflix_before_playback(shared_data):
    """With media domains and without; the first 60 s are browsing."""
    named = load_config(configs_dir() / "video.json")
    netflix = named.services[0]
    filters = netflix.filter.model_copy(update={"domains_string": netflix.filter.domains, "media_domains": ()})
    plain = named.model_copy(update={"services": (netflix.model_copy(update={"filter": filters}),)})
    for config in (named, plain):
        plan = Plan.of(config)
        view, result = SessionView(plan), Result(Aggregator(plan, 1))
        job = Job(plan, (str(shared_data / "netflix_2018.pcap.zst"),), Settings())
        with TraceReader(job.paths) as reader:
            made = rows(view, *replay_here(job, reader, result))
        start = 1_518_336_602.9
        assert {row["playing"] for row in made if row["ts_end"] <= start + 60} == {False}
        assert {row["playing"] for row in made if start + 60 < row["ts_start"] < start + 350} == {True}


def test_a_session_starts_when_its_media_flow_does():
    made = rows(SessionView(PLAN), batch_of(100, [{"flow_start": 91.0}, media(flow_start=98.5), media(flow_start=103)]))
    assert made[0]["session_start"] == 98.5
    made = rows(SessionView(PLAN), batch_of(100, [media(flow_start=20)]))
    assert made[0]["session_start"] == 100


def test_clients_have_sessions_of_their_own():
    flows = [media(client_ip=f"10.0.0.{number}") for number in (3, 1, 2, 1)]
    made = rows(SessionView(PLAN), batch_of(0, flows))
    assert {row["client_ip"]: row["network.parallel_flows"] for row in made} == {
        "10.0.0.1": 2,
        "10.0.0.2": 1,
        "10.0.0.3": 1,
    }
    assert [row["session_id"] for row in made] == sorted(row["session_id"] for row in made)


def test_more_sessions_than_allowed_are_refused_and_counted():
    view = SessionView(plan_of(Sessions={"MaxSessions": 2}))
    made = rows(view, batch_of(0, [media(client_ip=f"10.0.0.{number}") for number in range(5)]))
    assert len(made) == 2
    assert view.counters["sessions_refused"] == 3


def test_a_slot_that_is_used_again_starts_anew():
    view = SessionView(PLAN)
    made = rows(view, batch_of(0, [media(70_000)]), batch_of(100, [media(50_000, client_ip="10.0.0.9")]))
    assert made[1]["application.all_bytes"] == made[1]["application.last10_bytes_max"] == 50_000


def test_a_session_id_is_keyed_where_addresses_are_anonymised(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    plain = rows(SessionView(PLAN), batch_of(0, [media()]))
    keyed = rows(SessionView(plan_of(Privacy={"KeyFile": str(key)})), batch_of(0, [media()]))
    assert plain[0]["session_id"] == rows(SessionView(PLAN), batch_of(0, [media()]))[0]["session_id"]
    assert plain[0]["session_id"] != keyed[0]["session_id"]
    assert len(keyed[0]["session_id"]) == 16


def test_a_service_without_segments_has_no_sessions():
    plan = plan_of(["PacketCounters"])
    view = SessionView(plan)
    assert view.services == []
    assert view.add(batch_of(0, [{}], plan)) is None


# What the features say


@st.composite
def segment_flows(draw):
    sizes = draw(st.lists(st.integers(30_000, 5_000_000), max_size=12))
    return {
        "segments": len(sizes), "segment_sizes": sizes[:10], "segment_bytes": sum(sizes),
        **{f"segment_bytes_{name}": (float(figure(sizes)) if sizes else None)
           for name, figure in (("mean", np.mean), ("std", np.std), ("min", min), ("max", max))},
    }  # fmt: skip


@given(st.lists(st.lists(segment_flows(), min_size=1, max_size=4), min_size=1, max_size=5))
def test_segment_features_are_those_of_the_naive_twin(history):
    view = SessionView(PLAN)
    view.add(batch_of(0, [media(100_000)]))
    seen = [[{"segments": 1, "segment_sizes": [100_000], "segment_bytes_mean": 1e5, "segment_bytes_std": 0.0,
              "segment_bytes_min": 1e5, "segment_bytes_max": 1e5}]]  # fmt: skip
    for number, flows in enumerate(history, 1):
        seen.append(flows)
        batch = batch_of(
            10 * number, [{f"VideoSegments.{name}": value for name, value in flow.items()} for flow in flows]
        )
        (row,) = rows(view, batch)
        for name, expected in naive.segments(seen).items():
            value = row[f"application.{name}"]
            assert (value is None) == math.isnan(expected), name
            assert value is None or value == pytest.approx(expected, rel=1e-9, abs=1e-3), name


@given(st.lists(st.lists(st.integers(0, 10_000), max_size=6), min_size=1, max_size=5))
def test_packet_gaps_of_several_flows_are_one_series(gaps_ms):
    flows = []
    for gaps in gaps_ms:
        gaps_s = np.array(gaps) / 1e3
        figures = (
            {
                name: float(f(gaps_s))
                for name, f in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max))
            }
            if gaps
            else {}
        )
        flows.append(
            {
                **media(),
                "PacketTimes.iat_n_up": len(gaps),
                **{f"PacketTimes.iat_s_{name}_up": value for name, value in figures.items()},
            }
        )
    (row,) = rows(SessionView(PLAN), batch_of(0, flows))
    pooled = np.concatenate([np.array(gaps) for gaps in gaps_ms]) / 1e3
    assert row["network.iat_n_up"] == len(pooled)
    for name, figure in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        value = row[f"network.iat_s_{name}_up"]
        assert value is None if not len(pooled) else value == pytest.approx(figure(pooled), abs=1e-9)


def test_request_gaps_leave_out_the_first_request_of_a_flow():
    def asking(requests, since, mean):
        return {**media(), "VideoSegments.requests": requests, "VideoSegments.all_requests": since,
                **{f"VideoSegments.request_iat_s_{f}": mean for f in ("mean", "min", "max")}, "VideoSegments.request_iat_s_std": 0.0}  # fmt: skip

    (row,) = rows(SessionView(PLAN), batch_of(0, [asking(3, 3, 1.0), asking(2, 9, 4.0), asking(1, 1, None)]))
    assert row["application.requests"] == 6
    assert row["application.request_iat_s_mean"] == pytest.approx((2 * 1.0 + 2 * 4.0) / 4)


def test_quic_has_no_transport_features_but_nulls():
    view = SessionView(PLAN)
    quic, both = rows(
        view, batch_of(0, [media(protocol="udp")]), batch_of(10, [media(protocol="udp"), {"TCPCounters.ack_up": 7}])
    )
    transport = [name for name in quic if name.startswith("transport.")]
    assert transport
    assert quic["transport_observed"] is False
    assert {quic[name] for name in transport} == {None}
    assert both["transport_observed"] is True
    assert (both["transport.tcp_flows"], both["transport.ack_up"]) == (1, 7)


def test_what_is_not_collected_is_null_and_masked():
    plan = plan_of(["VideoSegments"])
    (row,) = rows(SessionView(plan), batch_of(0, [media()], plan))
    assert (row["network_observed"], row["transport_observed"], row["application_observed"]) == (False, False, True)
    assert {value for name, value in row.items() if name.startswith(("network.", "transport."))} == {None}
    assert row["application.segments"] == 1


def test_media_flows_are_told_from_others():
    flows = [media(**{"PacketCounters.bytes_down": 100_000}), {"PacketCounters.bytes_down": 25_000}]
    (row,) = rows(SessionView(PLAN), batch_of(0, flows))
    assert (row["network.media_flows"], row["network.parallel_flows"]) == (1, 2)
    assert row["network.media_kbps_down"] == pytest.approx(80)
    assert row["network.other_kbps_down"] == pytest.approx(20)
    assert row["network.largest_flow_share"] == pytest.approx(0.8)


# Classes of others


PLAIN = """
from typing import NamedTuple
from trafficrefinery.api import uint64
from trafficrefinery.api.sessions import APPLICATION, Flow, SessionFeature


class RequestsAgainOutput(NamedTuple):
    requests_again: int  # requests since the session's start
    largest_bytes: float  # bytes, of segments that are listed in the interval


class RequestsAgain(SessionFeature):
    group = APPLICATION
    needs = ("VideoSegments",)
    total: uint64
    largest: uint64

    def add_flow(self, flow: Flow) -> None:
        self.total += flow["VideoSegments.requests"]
        for size in flow["VideoSegments.segment_sizes"]:
            self.largest = max(self.largest, size)

    def collect_features(self, interval_s: float) -> RequestsAgainOutput:
        return RequestsAgainOutput(self.total, self.largest if self.largest > 0 else float("nan"))

    def clear(self) -> None:
        self.largest = 0
"""


def test_a_plain_class_in_a_file_is_found_and_keeps_its_state(tmp_path):
    (tmp_path / "requests_again.py").write_text(PLAIN)
    plan = plan_of(FeaturePaths=[str(tmp_path)])
    asking = {"VideoSegments.requests": 3}
    made = rows(
        SessionView(plan), batch_of(0, [media(**asking), media(80_000, **asking)], plan), batch_of(10, [asking], plan)
    )
    assert [row["application.requests_again"] for row in made] == [6, 9]
    assert [row["application.all_requests"] for row in made] == [6, 9]
    assert [row["application.largest_bytes"] for row in made] == [80_000, None]


def test_a_column_that_no_class_gives_is_an_error_that_says_so(tmp_path):
    (tmp_path / "requests_again.py").write_text(PLAIN.replace('"VideoSegments.requests"', '"VideoSegments.request"'))
    plan = plan_of(FeaturePaths=[str(tmp_path)])
    wrong = 'gives "VideoSegments.request"; did you mean "VideoSegments.requests"'
    with pytest.raises(FeatureError, match=re.escape(wrong)):
        rows(SessionView(plan), batch_of(0, [media()], plan))


def test_a_column_that_is_there_already_is_refused(tmp_path):
    (tmp_path / "requests_again.py").write_text(PLAIN.replace("requests_again", "requests"))
    with pytest.raises(FeatureError, match="both give application.requests"):
        SessionRegistry([tmp_path])


def test_every_column_has_a_unit_or_meaning():
    for field in SessionRegistry().fields():
        assert field.doc, field.name


def test_each_output_has_as_many_fields_as_declared():
    for cls in SessionRegistry().classes:
        assert session_fields(cls)


def test_the_page_of_session_features_is_current(root):
    page = root / "features" / "sessions" / "README.md"
    assert page.read_text() == sessions_page(SessionRegistry().found()), (
        "run `trafficrefinery features sessions --markdown > features/sessions/README.md`"
    )


# Real packets


def test_the_sessions_of_the_sample_start_when_they_did(sample_trace):
    config = load_config(configs_dir() / "video.json")
    plan = Plan.of(config)
    view, result = SessionView(plan), Result(Aggregator(plan, 1))
    job = Job(plan, (str(sample_trace),), Settings())
    with TraceReader(job.paths) as reader:
        made = [view.add(batch) for batch in replay_here(job, reader, result)]
    table = pl.DataFrame(pa.concat_tables([batch for batch in made if batch is not None]))
    truth = json.loads(sample_trace.with_name("video.truth.json").read_text())["sessions"]
    found = table.group_by("client_ip", "session_id").agg(pl.col("session_start").first()).rows()
    assert len(found) == view.counters["sessions_started"] == len(truth)
    for client, _, start in found:
        assert min(abs(start - session["start"]) for session in truth if session["client_ip"] == client) < 10
