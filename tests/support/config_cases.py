"""Configurations as tests make them, and what an error about one looks like."""

from __future__ import annotations

import pytest

from trafficrefinery.config import parse_config
from trafficrefinery.errors import ConfigError


def service(**changes):
    made = {"Name": "Netflix", "Filter": {"DomainsString": ["netflix.com"]}, "Collect": ["PacketCounters"], **changes}
    return {key: value for key, value in made.items() if value is not ...}


def configuration(*services, **sections):
    return {**sections, "Services": list(services) or [service()]}


def one_error(data) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def replaced(key, value):
    return {**configuration(), key: value}


BOTH_KINDS = {
    **configuration(
        service(Filter={"DomainsString": ["a.b"], "DomainsRegex": ["a"], "Prefixes": ["10.0.0.0/8"]}, Interval="10s"),
        service(Name="b", Collect=..., Features=["A", {"B": {"X": 1}}], Emit=10_000_000),
    ),
    "Sys": {"CPUProf": False, "OutFolder": "/tmp/"},
    "Parsers": {
        "DNSParser": {"Driver": "pcap"},
        "TrafficParsers": [{"Mode": "router", "ReplayMAC": "e4:ce:8f:01:4c:54"}],
    },
    "FlowCache": {"EvictTime": 600_000_000_000, "Anonymize": False, "MaxFlows": 5},
    "DNSCache": {"EvictTime": 600_000_000_000},
    "ServiceMap": {"QUIC": True},
    "Decapsulate": ["gre"],
}  # fmt: skip
