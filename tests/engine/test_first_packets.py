"""Features of the first packets of each flow and interval."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from support import datasets
from trafficrefinery.api import DOWN, UP
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.costs.measure.check_runs import script, whole
from trafficrefinery.engine.feature_classes.fuse import Profile
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import ConfigError
from trafficrefinery.models.inference import BundleError, check, load_bundle
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

CLASSES = ("PacketCounters", "VideoSegments")
INTERVAL_NS = 10_000_000_000


def profile(first_packets):
    registry = Registry()
    return Profile(tuple(registry.get(name) for name in CLASSES), INTERVAL_NS, first_packets)


def counts(rows):
    counters = rows["PacketCounters"]
    return counters["packets_up"] + counters["packets_down"]


@pytest.mark.modes
@pytest.mark.parametrize("first_packets", [1, 7, 10**9])
def test_classes_see_the_first_packets_of_each_interval_and_no_more(first_packets):
    traffic = script()
    everything = counts(whole(profile(None), traffic).rows)
    assert everything.max() > 7
    assert (counts(whole(profile(first_packets), traffic).rows) == np.minimum(everything, first_packets)).all()


@pytest.mark.modes
def test_the_packets_that_are_seen_are_the_first_ones_and_a_limit_beyond_all_changes_nothing():
    traffic = script()
    all_rows, same = (whole(profile(limit), traffic).rows for limit in (None, 10**9))
    assert all_rows.tobytes() == same.tobytes()
    first = whole(profile(1), traffic).rows["PacketCounters"]
    began = {UP: 0, DOWN: 0}
    packets, seen = np.asarray(traffic.packets)[: traffic.closing], set()
    for packet, flow in zip(packets, traffic.flows[: traffic.closing], strict=True):
        if (flow, packet["interval_start_ns"]) not in seen:
            seen.add((flow, packet["interval_start_ns"]))
            began[int(packet["direction"])] += 1
    assert first["packets_up"].sum() == began[UP]
    assert first["packets_down"].sum() == began[DOWN]


def test_counting_them_takes_eight_bytes_of_state_before_padding():
    registry = Registry()
    one = (registry.get("PacketTimes"),)
    plain, limited = (Profile(one, INTERVAL_NS, limit).state_dtype() for limit in (None, 5))
    assert plain.itemsize <= limited.itemsize <= plain.itemsize + 64
    assert set(limited.names) - set(plain.names) == {"packets_seen"}


def test_records_of_a_replay_are_of_the_first_packets(tmp_path, sample_trace):
    content = load_config(configs_dir() / "video.json").to_dict()
    content["Services"] = [{**one, "Collect": list(CLASSES), "FirstPackets": 20} for one in content["Services"]]
    replay_to_directory(parse_config(content), [sample_trace], tmp_path, ReplayOptions(form="parquet"))
    table = pl.read_parquet(tmp_path / "records.parquet")
    packets = table["PacketCounters.packets_up"] + table["PacketCounters.packets_down"]
    assert packets.max() == 20


def test_a_limit_of_no_packets_is_refused():
    service = {"Name": "A", "Filter": {"Prefixes": ["192.0.2.0/24"]}, "Collect": ["PacketCounters"], "FirstPackets": 0}
    with pytest.raises(ConfigError, match=r"Services\[0\].FirstPackets"):
        parse_config({"Services": [service]})


def test_a_model_of_all_packets_is_refused_where_few_are_seen(tmp_path):
    data = datasets.write(tmp_path / "data.parquet")
    train(data, tmp_path / "model", TrainOptions(compare=False))
    bundle = load_bundle(tmp_path / "model")
    content = datasets.plan().config.to_dict()
    check(bundle, Plan.of(parse_config(content, "made.json")))
    content["Services"][0]["FirstPackets"] = 50
    with pytest.raises(BundleError, match="FirstPackets: is 50, .* was trained on all; set it to that"):
        check(bundle, Plan.of(parse_config(content, "made.json")))
