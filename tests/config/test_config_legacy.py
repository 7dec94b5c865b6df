"""Configuration files of the original system load unchanged, and nothing in them is lost in silence."""

from __future__ import annotations

import json
import time
from ipaddress import ip_network
from pathlib import Path

import pytest

from support.config_cases import BOTH_KINDS, configuration, one_error, replaced, service
from trafficrefinery.config import CLASS_ALIASES, CollectItem, load_config, parse_config

ORIGINALS = ["ads", "default", "replay", "simple", "video", "voip"]


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_configurations_of_the_original_load_unchanged(shared_data, name):
    path = shared_data / "original_configs" / f"trconfig_{name}.json"
    raw = json.loads(path.read_text())
    config = load_config(path)
    assert [one.name for one in config.services] == [one["Name"] for one in raw["Services"]]
    for one, original in zip(config.services, raw["Services"], strict=True):
        filters = original["Filter"]
        assert list(one.filter.domains_string) == [d.lower() for d in filters.get("DomainsString", [])]
        assert list(one.filter.domains_regex) == filters.get("DomainsRegex", [])
        assert list(one.filter.prefixes) == [ip_network(prefix) for prefix in filters.get("Prefixes", [])]
        classes = original.get("Collect") or original["Features"]
        assert [item.name for item in one.collect] == [CLASS_ALIASES.get(name, name) for name in classes]
        assert one.interval_ns == original["Emit"] * 1000 == 10 * 10**9
    assert config.flow_cache.idle_timeout_ns == config.service_map.min_ttl_ns == 600 * 10**9
    assert config.out_folder == Path("/tmp/")
    assert "Sys.CPUProf: has no meaning here, ignored" in config.ignored
    assert parse_config(config.to_dict()).to_dict() == config.to_dict()


def test_the_direction_of_a_replay_of_the_original_is_by_its_mac(shared_data):
    direction = load_config(shared_data / "original_configs" / "trconfig_replay.json").direction
    assert (direction.mode, direction.mac) == ("router", "e4:ce:8f:01:4c:54")


def test_fifty_thousand_domains_load_in_under_a_second(shared_data):
    start = time.perf_counter()
    config = load_config(shared_data / "original_configs" / "trconfig_ads.json")
    assert time.perf_counter() - start < 1
    assert sum(len(one.filter.domains_string) for one in config.services) == 50_722


def test_each_key_of_the_original_is_used_or_reported():
    config = parse_config(BOTH_KINDS)
    assert config.flow_cache.max_flows == 5
    assert config.flow_cache.idle_timeout_ns == config.service_map.min_ttl_ns == 600 * 10**9
    assert config.services[1].collect == (CollectItem("A"), CollectItem("B", {"X": 1}))
    assert config.ignored == [
        f"{key}: has no meaning here, ignored"
        for key in ("Sys.CPUProf", "Parsers.DNSParser.Driver", "FlowCache.Anonymize")
    ]


def test_addresses_are_anonymised_as_in_the_original_with_a_key_of_ones_own():
    config = parse_config(configuration(FlowCache={"Anonymize": True}, Privacy={"KeyFile": "/run/key"}))
    assert config.privacy.key_file == Path("/run/key")
    assert config.ignored == []


def test_a_mode_without_mac_is_reported():
    config = parse_config(configuration(Parsers={"TrafficParsers": [{"Mode": "router", "Ifname": "eth0"}]}))
    assert config.direction.mode == "service"
    assert any(note.startswith("Parsers.TrafficParsers[0].Mode: tells no direction") for note in config.ignored)


def test_host_bits_are_masked_and_noted_in_files_of_the_original_only():
    prefixes = service(Filter={"Prefixes": ["10.1.2.3/8", "192.0.2.0/24"]}, Emit=10_000_000)
    config = parse_config(configuration(prefixes))
    assert config.services[0].filter.prefixes == (ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24"))
    assert config.ignored == [
        'Services[0].Filter.Prefixes[0]: "10.1.2.3/8" has host bits set, taken as "10.0.0.0/8"'
    ]  # fmt: skip


LEGACY_WRONG = [
    (configuration(service(Emit=10_000_000, Interval="10s")), "Services[0].Emit", "says the same as Interval"),
    (configuration(service(Features=["A"])), "Services[0].Features", "says the same as Collect"),
    (configuration(service(Emit="10s")), "Services[0].Emit", "whole number of microseconds"),
    (configuration(service(Emit=0)), "Services[0].Emit", "whole number of microseconds above 0"),
    (configuration(service(Emit=True)), "Services[0].Emit", "whole number of microseconds"),
    (configuration(service(Emit=10**20)), "Services[0].Emit", "whole number of microseconds"),
    (configuration(service(Emit=1500)), "Services[0].Emit", "whole number of milliseconds"),
    (replaced("Sys", {"CPUProfile": 1}), "Sys.CPUProfile", 'did you mean "CPUProf"?'),
    (replaced("Sys", {"Zzz": 1}), "Sys.Zzz", "allowed are CPUProf, MemProf, InterfaceStats, OutFolder"),
    (replaced("Sys", 5), "Sys", "must be an object"),
    (replaced("Parsers", {"TrafficParsers": {}}), "Parsers.TrafficParsers", "must be a list"),
    (replaced("Parsers", {"TrafficParsers": [5]}), "Parsers.TrafficParsers[0]", "must be an object"),
    (replaced("Parsers", {"TrafficParsers": [{"Mod": "host"}]}), "Parsers.TrafficParsers[0].Mod", '"Mode"'),
    (replaced("Parsers", {"TrafficParsers": [{"Mode": "x"}]}), "Parsers.TrafficParsers[0].Mode", '"router"'),
    (replaced("Parsers", {"TrafficParsers": [{"Mode": "host"}, {}]}), "Parsers.TrafficParsers[1]", "differ"),
    (
        replaced("Parsers", {"TrafficParsers": [{"Mode": "host", "ReplayMAC": "x"}]}),
        "Parsers.TrafficParsers[0].ReplayMAC",
        "not a MAC address",
    ),
    (replaced("FlowCache", {"EvictTime": "10m"}), "FlowCache.EvictTime", "whole number of nanoseconds"),
    (replaced("FlowCache", {"EvictTime": 1, "IdleTimeout": "1s"}), "FlowCache.EvictTime", "FlowCache.IdleTimeout"),
    (replaced("FlowCache", {"Anonymize": True}), "FlowCache.Anonymize", "name its file in Privacy.KeyFile"),
    (configuration(FlowCache={"Anonymize": True}, Privacy={"KeyFile": None}), "FlowCache.Anonymize", "Privacy.KeyFile"),
    (configuration(FlowCache={"Anonymize": True}, Privacy=5), "FlowCache.Anonymize", "Privacy.KeyFile"),
    (configuration(DNSCache={"EvictTime": 5}, ServiceMap={"MinTTL": "5s"}), "DNSCache.EvictTime", "ServiceMap.MinTTL"),
    (configuration(Sys={"OutFolder": "a"}, OutFolder="b"), "Sys.OutFolder", "says the same as OutFolder"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "key", "message"), LEGACY_WRONG)
def test_a_wrong_key_of_the_original_is_named_as_it_stands_in_the_file(data, key, message):
    error = one_error(data)
    assert error.key == key
    assert message in error.message
