"""Configurations: what is accepted means what was written."""

from __future__ import annotations

import copy
import json
import pickle
import re
from fractions import Fraction
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.config_cases import configuration, service
from trafficrefinery.config import (
    CLASS_ALIASES,
    CollectItem,
    config_schema,
    format_duration,
    format_size,
    load_config,
    parse_config,
    parse_duration_ns,
    parse_size_bytes,
)
from trafficrefinery.config.units import (
    BYTES_PER_UNIT,
    DURATION_PATTERN,
    MAX_DURATION_NS,
    MAX_SIZE_BYTES,
    NS_PER_UNIT,
    SIZE_PATTERN,
    format_size_or_share,
    parse_size_or_share,
)
from trafficrefinery.errors import ConfigError

# Durations and sizes


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("10s", 10**10), ("500ms", 5 * 10**8), ("10m", 600 * 10**9), ("1h", 3600 * 10**9), ("250us", 250_000),
        ("7ns", 7), ("0s", 0), ("1.5ms", 1_500_000), ("0.001us", 1), ("007s", 7 * 10**9),
    ],
)  # fmt: skip
def test_a_duration_is_read_in_nanoseconds(text, duration_ns):
    assert parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("256MiB", 2**28), ("4KB", 4000), ("4KiB", 4096), ("12B", 12), ("1.5KiB", 1536)]
)
def test_a_size_is_read_in_bytes(text, size_bytes):
    assert parse_size_bytes(text) == size_bytes


def test_a_size_may_be_a_share():
    for text, share in (("40%", 0.4), ("0.5%", 0.005), ("100%", 1.0)):
        assert parse_size_or_share(text) == pytest.approx(share)
        assert format_size_or_share(parse_size_or_share(text)) == text
    assert parse_size_or_share("4KB") == 4000
    assert format_size_or_share(4000) == "4KB"


@pytest.mark.parametrize("text", ["0%", "101%", "%", "-1%", "4 %", "40%%", "1e1%", "40", 40, None, True])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"share|unit|size"):
        parse_size_or_share(text)


@given(st.integers(0, MAX_DURATION_NS))
def test_a_duration_that_is_written_is_read_again(duration_ns):
    assert parse_duration_ns(format_duration(duration_ns)) == duration_ns


@given(st.integers(0, MAX_SIZE_BYTES))
def test_a_size_that_is_written_is_read_again(size_bytes):
    assert parse_size_bytes(format_size(size_bytes)) == size_bytes


def test_what_is_written_is_the_short_form():
    assert [format_duration(ns) for ns in (10**10, 9 * 10**10, 600 * 10**9, 1, 0)] == ["10s", "90s", "10m", "1ns", "0s"]
    assert [format_size(size) for size in (2**28, 4000, 4096, 0)] == ["256MiB", "4KB", "4KiB", "0B"]


AMOUNTS = st.tuples(
    st.one_of(
        st.from_regex(r"[0-9]{1,22}(\.[0-9]{1,11})?", fullmatch=True),
        st.sampled_from(["", ".", "1.", ".5", "-1", "+1", "1e3", " 1", "1 ", "١", "1_0", "1,5"]),  # noqa: RUF001
    ),
    st.sampled_from([*NS_PER_UNIT, *BYTES_PER_UNIT, "", "sec", "S", "kb", "min", " s", "s ", "s\n"]),
).map("".join)


@given(AMOUNTS)
def test_durations_and_sizes_are_exact_or_refused(text):
    """Against a naive reading in fractions."""
    for parse, pattern, units, limit in (
        (parse_duration_ns, DURATION_PATTERN, NS_PER_UNIT, MAX_DURATION_NS),
        (parse_size_bytes, SIZE_PATTERN, BYTES_PER_UNIT, MAX_SIZE_BYTES),
    ):
        match = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]+)", text)
        amount = Fraction(match[1]) * units[match[2]] if match and match[2] in units else None
        if amount is None or amount > limit or amount.denominator != 1:
            with pytest.raises(ValueError, match=r"unit|whole number|at most"):
                parse(text)
        else:
            assert parse(text) == amount
            assert re.search(pattern, text)


# What is accepted


def test_defaults_are_those_of_the_design():
    config = parse_config(configuration())
    assert (config.interval_ns, config.grace_ns) == (10 * 10**9, 10**9)
    assert config.flow_cache.max_flows == config.service_map.max_addresses == 1_000_000
    assert config.flow_cache.idle_timeout_ns == config.service_map.min_ttl_ns == 600 * 10**9
    assert (config.flow_cache.at_capacity, config.service_map.quic) == ("evict-oldest", True)
    assert (config.direction.mode, config.direction.mac, config.direction.client_networks) == ("service", None, ())
    assert (config.decapsulate, config.feature_paths, config.out_folder, config.description) == ((), (), None, "")
    assert config.sensor
    assert config.ignored == []


def test_everything_can_be_set(tmp_path):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps(
            configuration(
                service(
                    Filter={
                        "DomainsString": ["NetFlix.com", "hulustream"],
                        "DomainsRegex": ["(.+?\\.)?NFLXvideo\\.net"],
                        "Prefixes": ["23.246.0.0/18", "2a00:86c0::/32", "192.0.2.7"],
                    },
                    Collect=["PacketCounters", {"VideoSegments": {"MinBytes": 5, "Levels": [1, 2.5]}}],
                    Interval="20s",
                ),
                Description="all",
                Interval="5s",
                Sensor="edge1",
                Grace="250ms",
                FlowCache={"MaxFlows": 5, "IdleTimeout": "1m", "AtCapacity": "refuse"},
                ServiceMap={"MinTTL": "0s", "MaxAddresses": 7, "QUIC": False},
                Direction={"Mode": "host", "MAC": "E4-CE-8F-01-4C-54", "ClientNetworks": ["192.168.0.0/16"]},
                Decapsulate=["gre", "gtpu"],
                FeaturePaths=["mine"],
                OutFolder="records",
            )
        )
    )
    config = load_config(path)
    (only,) = config.services
    assert (only.name, only.interval_ns) == ("Netflix", 20 * 10**9)
    assert only.filter.domains_string == ("netflix.com", "hulustream")
    assert only.filter.domains_regex == ("(.+?\\.)?NFLXvideo\\.net",)
    assert only.filter.prefixes == tuple(map(ip_network, ("23.246.0.0/18", "2a00:86c0::/32", "192.0.2.7/32")))
    assert only.collect == (
        CollectItem("PacketCounters"),
        CollectItem("VideoSegments", {"MinBytes": 5, "Levels": (1, 2.5)}),
    )
    assert (config.description, config.interval_ns, config.sensor, config.grace_ns) == (
        "all", 5 * 10**9, "edge1", 25 * 10**7,
    )  # fmt: skip
    cache = config.flow_cache
    assert (cache.max_flows, cache.idle_timeout_ns, cache.at_capacity) == (5, 60 * 10**9, "refuse")
    services = config.service_map
    assert (services.min_ttl_ns, services.max_addresses, services.quic) == (0, 7, False)
    assert (config.direction.mode, config.direction.mac) == ("host", "e4:ce:8f:01:4c:54")
    assert config.direction.client_networks == (ip_network("192.168.0.0/16"),)
    assert config.decapsulate == ("gre", "gtpu")
    assert config.feature_paths == (tmp_path / "mine",)
    assert config.out_folder == Path("records")
    assert config.file == str(path)


def test_a_service_without_interval_has_that_of_the_file():
    config = parse_config(configuration(service(), service(Name="b", Interval="20s"), Interval="5s"))
    assert [one.interval_ns for one in config.services] == [5 * 10**9, 20 * 10**9]


def test_overlapping_prefixes_of_different_length_are_fine_and_so_is_one_twice_in_a_service():
    config = parse_config(
        configuration(
            service(Filter={"Prefixes": ["10.0.0.0/8", "10.0.0.0/8"]}),
            service(Name="b", Filter={"Prefixes": ["10.1.0.0/16", "0.0.0.0/0", "::/0"]}),
        )
    )
    assert len(config.services) == 2


def test_an_ipv4_mapped_prefix_is_the_ipv4_prefix():
    config = parse_config(configuration(service(Filter={"Prefixes": ["::ffff:10.0.0.0/104"]})))
    assert config.services[0].filter.prefixes == (ip_network("10.0.0.0/8"),)


def test_names_of_classes_of_the_original_are_aliases():
    config = parse_config(configuration(service(Collect=[*CLASS_ALIASES, "MyOwn"])))
    assert [item.name for item in config.services[0].collect] == [*CLASS_ALIASES.values(), "MyOwn"]


def test_a_collected_class_knows_its_key_for_later_errors():
    config = parse_config(configuration(service(), service(Name="b", Collect=["A", {"B": {"X": 1}}])), "x.json")
    item = config.services[1].collect[1]
    assert str(config.error(item.key_path, "no such class")) == "x.json: Services[1].Collect[1]: no such class"


def test_equal_collect_lists_make_equal_profiles_wherever_they_stand():
    collect = ["A", {"B": {"X": [1, 2]}}]
    config = parse_config(
        configuration(
            service(Collect=collect),
            service(Name="b", Collect=collect),
            service(Name="c", Collect=["A", {"B": {"X": [1, 3]}}]),
        )
    )
    assert len({one.collect for one in config.services}) == 2


def test_a_configuration_survives_pickling():
    config = parse_config(configuration(Sys={"CPUProf": True}), "x.json")
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert (again.file, again.ignored) == ("x.json", config.ignored)


LABELS = st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True)
DOMAINS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PREFIXES = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda p: str(ip_network(p, strict=False))),
    st.tuples(st.integers(2**120, 2**128 - 1), st.integers(0, 128)).map(lambda p: str(ip_network(p, strict=False))),
)
PARAMETERS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
COLLECTS = st.dictionaries(
    st.text(min_size=1), st.dictionaries(st.text(), PARAMETERS | st.lists(PARAMETERS)), min_size=1, max_size=3
).map(lambda classes: [{name: params} if params else name for name, params in classes.items()])
SERVICES = st.builds(
    lambda domains, prefix, collect, factor: {
        "Filter": {"DomainsString": domains, "DomainsRegex": ["a.*b"], "Prefixes": [prefix] if prefix else []},
        "Collect": collect,
        "Interval": f"{2**factor}s",
    },
    st.lists(DOMAINS), st.none() | PREFIXES, COLLECTS, st.integers(0, 8),
)  # fmt: skip
VALID = st.builds(
    lambda services, grace_ns, flows, policy, quic: {
        "Grace": format_duration(grace_ns),
        "FlowCache": {"MaxFlows": flows, "AtCapacity": policy},
        "ServiceMap": {"QUIC": quic},
        "Services": [{"Name": f"service {i}", **one} for i, one in enumerate(services)],
    },
    st.lists(SERVICES, min_size=1, max_size=3, unique_by=lambda one: tuple(one["Filter"]["Prefixes"]) or id(one)),
    st.integers(0, 10**12), st.integers(1, 10**9), st.sampled_from(["refuse", "evict-oldest"]), st.booleans(),
)  # fmt: skip


@given(VALID)
def test_the_effective_configuration_loads_to_itself_and_the_input_is_untouched(data):
    try:
        before = copy.deepcopy(data)
        effective = parse_config(data).to_dict()
    except ConfigError as error:  # aliases can make two of the generated classes one
        assert "is collected already" in error.message  # noqa: PT017
        return
    assert data == before
    assert json.loads(json.dumps(effective)) == effective
    assert parse_config(effective).to_dict() == effective


# The JSON schema


def objects(schema):
    return [schema, *schema["$defs"].values()]


def test_the_schema_describes_every_key_and_no_key_of_the_original():
    schema = config_schema()
    effective = parse_config(configuration()).to_dict()
    assert list(schema["properties"]) == list(effective)
    for section in objects(schema):
        assert section["additionalProperties"] is False
        for key, described in section["properties"].items():
            assert described.get("description") or "$ref" in described, key


def test_the_schema_has_the_defaults_as_they_are_written_in_a_file():
    schema = config_schema()
    effective = parse_config(configuration()).to_dict()
    for key, described in schema["properties"].items():
        if "default" in described:
            assert described["default"] == effective[key], key
    assert schema["properties"]["Grace"]["default"] == "1s"
    assert "default" not in schema["$defs"]["Service"]["properties"]["Interval"]
