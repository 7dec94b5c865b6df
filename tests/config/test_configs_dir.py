"""The configurations that come with the package: each loads, and says what it is for."""

from __future__ import annotations

import json

import pytest

from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.engine.feature_classes.registry import Registry

FILES = sorted(configs_dir().glob("*.json"))
USE_CASES = {"ads", "all", "default", "headers", "lab", "latency", "statistics", "video", "voip"}


def load(name: str) -> Config:
    return load_config(configs_dir() / f"{name}.json")


def classes(config: Config) -> set[tuple[str, ...]]:
    return {tuple(item.name for item in service.collect) for service in config.services}


def test_there_is_one_for_each_use_case():
    assert {path.stem for path in FILES} == USE_CASES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_loads_without_notes_and_says_first_what_it_is_for(path):
    config = load_config(path)
    assert config.description
    assert next(iter(json.loads(path.read_text()))) == "Description"
    assert config.ignored == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_collects_classes_and_parameters_that_exist(path):
    config = load_config(path)
    for service in config.services:
        assert Registry().collect(service.collect, config.file)


def test_default_names_every_key_with_its_default():
    written = json.loads((configs_dir() / "default.json").read_text())
    effective = parse_config(written).to_dict()
    defaults = parse_config({"Services": written["Services"]}).to_dict()
    assert effective == {**defaults, "Description": written["Description"]}
    # As it is written, too: nothing is left to defaults but the host name.
    assert written["Sensor"] is None
    assert {**written, "Sensor": effective["Sensor"]} == effective


def test_video_has_the_eleven_services_of_the_paper_and_that_of_the_sample():
    config = load("video")
    names = [service.name for service in config.services]
    assert len(names) == 12
    assert {"Netflix", "YouTube", "Amazon Prime Video", "Twitch", "Hulu", "Disney+", "Example"} < set(names)
    assert classes(config) == {("PacketCounters", "TCPCounters", "VideoSegments", "FirstSeconds")}


def test_video_covers_what_the_original_covers(shared_data):
    original = load_config(shared_data / "original_configs" / "trconfig_video.json")
    ours = {service.name: service.filter for service in load("video").services}
    renamed = {"Youtube": "YouTube", "Amazon": "Amazon Prime Video"}
    for service in original.services:
        mine = ours[renamed.get(service.name, service.name)]
        assert set(service.filter.domains_string) <= set(mine.domains_string)
        assert set(service.filter.prefixes) <= set(mine.prefixes)
        assert len(service.filter.domains_regex) == len(mine.domains_regex)


@pytest.mark.parametrize("name", ["all", "headers", "statistics"])
def test_every_packet_is_selected_by_prefix(name):
    (service,) = load(name).services
    assert [str(prefix) for prefix in service.filter.prefixes] == ["0.0.0.0/0", "::/0"]


def test_statistics_has_the_representations_of_the_assignment():
    assert classes(load("statistics")) == {("FlowStatistics", "PacketSizes", "InterArrivals", "SampledCounts")}
