"""What is wrong in a configuration is said in one line: file, key, what is wrong, what is allowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.config_cases import BOTH_KINDS, configuration, one_error, replaced, service
from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.errors import ConfigError


def error_in(tmp_path: Path, text: str | bytes) -> ConfigError:
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.file == str(path)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("value", [10, 10.5, "10", "1.5"])
def test_a_number_without_unit_is_told_to_have_one(value):
    error = one_error(configuration(Interval=value))
    assert error.key == "Interval"
    assert "has no unit" in error.message
    assert '"10s"' in error.message


@pytest.mark.parametrize("value", [True, None, [], {}, "ten", "10 s", "-1s", "10sec", "1h30m", "9999999999h", "0.5ns"])
def test_what_is_no_duration_is_an_error(value):
    assert one_error(configuration(Grace=value)).key == "Grace"


WRONG = [
    ([], "", "must be an object"),
    ({}, "Services", "is missing"),
    (replaced("Services", []), "Services", "must not be empty"),
    (replaced("Services", {}), "Services", "must be a list"),
    (replaced("Services", [5]), "Services[0]", "must be an object"),
    (replaced("Intervall", "10s"), "Intervall", 'did you mean "Interval"?'),
    (replaced("interval", "10s"), "interval", 'did you mean "Interval"?'),
    (replaced("Parser", {}), "Parser", 'did you mean "Parsers"?'),
    (replaced("Zzz", 1), "Zzz", "allowed are Description, Interval, Sensor, "),
    (replaced("A\nb", 1), '"A\\nb"', "unknown key"),
    (replaced("FlowCache", {"MaxFlow": 1}), "FlowCache.MaxFlow", 'did you mean "MaxFlows"?'),
    (replaced("FlowCache", {"EvictTimes": 1}), "FlowCache.EvictTimes", 'did you mean "EvictTime"?'),
    (replaced("FlowCache", {"MaxFlows": 0}), "FlowCache.MaxFlows", "must be at least 1, not 0"),
    (replaced("FlowCache", {"MaxFlows": 10**10}), "FlowCache.MaxFlows", "must be at most 1000000000"),
    (replaced("FlowCache", {"MaxFlows": "5"}), "FlowCache.MaxFlows", 'must be a whole number, not "5"'),
    (replaced("FlowCache", {"MaxFlows": True}), "FlowCache.MaxFlows", "must be a whole number, not true"),
    (replaced("FlowCache", {"IdleTimeout": "0s"}), "FlowCache.IdleTimeout", "longer than 0"),
    (replaced("FlowCache", {"AtCapacity": "refuze"}), "FlowCache.AtCapacity", 'did you mean "refuse"?'),
    (replaced("FlowCache", 5), "FlowCache", "must be an object"),
    (replaced("ServiceMap", {"QUIC": 1}), "ServiceMap.QUIC", "must be true or false, not 1"),
    (replaced("Sensor", ""), "Sensor", "must not be empty"),
    (replaced("Sensor", 5), "Sensor", "must be a string, not 5"),
    (replaced("Direction", {"Mode": "bridge"}), "Direction.Mode", 'must be one of "service", "host", '),
    (replaced("Direction", {"Mode": "host"}), "Direction", 'Mode "host" needs a MAC'),
    (replaced("Direction", {"MAC": "e4:ce:8f:01:4c:54"}), "Direction.MAC", 'not used in Mode "service"'),
    (replaced("Direction", {"Mode": "host", "MAC": "e4:ce"}), "Direction.MAC", "not a MAC address"),
    (replaced("Direction", {"ClientNetworks": ["10.1.0.0/8"]}), "Direction.ClientNetworks[0]", '"10.0.0.0/8"'),
    (replaced("Decapsulate", ["gre", "ipipip"]), "Decapsulate[1]", 'must be one of "geneve", "gre", "erspan", '),
    (replaced("Decapsulate", ["gre", "gre"]), "Decapsulate", "twice"),
    (replaced("FeaturePaths", ["no/such/folder"]), "FeaturePaths[0]", "there is no folder or file"),
    (replaced("FeaturePaths", [5]), "FeaturePaths[0]", "must be the path of a folder"),
    (replaced("OutFolder", 5), "OutFolder", "must be a path, not 5"),
    (replaced("Interval", "0s"), "Interval", "at least"),
    (replaced("Interval", "999us"), "Interval", "whole number of milliseconds"),
    (replaced("Interval", "1.5ms"), "Interval", "whole number of milliseconds"),
    (configuration(service(), service(Name="b", Interval="15s")), "Services[1].Interval", "not a multiple"),
    (configuration(service(Emitt=5)), "Services[0].Emitt", 'did you mean "Emit"?'),
    (configuration(service(Name=...)), "Services[0].Name", "is missing"),
    (configuration(service(Name="")), "Services[0].Name", "must not be empty"),
    (configuration(service(Name=" a")), "Services[0].Name", "printable"),
    (configuration(service(Name="a\nb")), "Services[0].Name", "printable"),
    (configuration(service(), service()), "Services[1].Name", "is the name of Services[0] too"),
    (configuration(service(Filter=...)), "Services[0].Filter", "is missing"),
    (configuration(service(Filter={})), "Services[0].Filter", "at least one entry in DomainsString, DomainsRegex, "),
    (configuration(service(Filter={"DomainsString": []})), "Services[0].Filter", "at least one entry"),
    (configuration(service(Filter={"Domains": ["a"]})), "Services[0].Filter.Domains", 'did you mean "'),
    (configuration(service(Filter={"DomainsString": "a"})), "Services[0].Filter.DomainsString", "must be a list"),
    (configuration(service(Filter={"MediaDomains": "a"})), "Services[0].Filter.MediaDomains", "must be a list"),
    (configuration(service(Filter={"MediaDomains": ["a b"]})), "Services[0].Filter.MediaDomains[0]", "not a domain name"),
    (configuration(service(Collect=...)), "Services[0].Collect", "is missing"),
    (configuration(service(Collect=[])), "Services[0].Collect", "must not be empty"),
    (configuration(service(Collect="A")), "Services[0].Collect", "must be a list"),
    (configuration(service(Collect=["A", 5])), "Services[0].Collect[1]", "5 is not a feature class; write its name"),
    (configuration(service(Collect=[""])), "Services[0].Collect[0]", "is not a feature class"),
    (configuration(service(Collect=[{"A": {}, "B": {}}])), "Services[0].Collect[0]", "is not a feature class"),
    (configuration(service(Collect=[{"A": 5}])), "Services[0].Collect[0]", "is not a feature class"),
    (configuration(service(Collect=[{"A": {"X": {}}}])), "Services[0].Collect[0]", 'parameter "X" is {}'),
    (configuration(service(Collect=[{"A": {"X": float("nan")}}])), "Services[0].Collect[0]", 'parameter "X"'),
    (configuration(service(Collect=["A", {"A": {"X": 1}}])), "Services[0].Collect[1]", "is collected already"),
    (configuration(service(Collect=["TCPState", "TCPCounters"])), "Services[0].Collect[1]", "is collected already"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "key", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_key_and_what_is_allowed(data, key, message):
    error = one_error(data)
    assert error.key == key
    assert message in error.message


FILTERS = [
    ("Prefixes", "10.0.0.1/8", 'has host bits set; the network is "10.0.0.0/8"'),
    ("Prefixes", "2a00:86c0::1/32", 'the network is "2a00:86c0::/32"'),
    ("Prefixes", "10.0.0.0/33", "is not an IP prefix"),
    ("Prefixes", "10.0.0/8", "is not an IP prefix"),
    ("Prefixes", "fe80::%eth0/64", "is not an IP prefix"),
    ("Prefixes", "", "is not an IP prefix"),
    ("Prefixes", 5, "is not an IP prefix"),
    ("DomainsRegex", "(netflix", "is not a regular expression: missing )"),
    ("DomainsRegex", "", "would match every name"),
    ("DomainsRegex", "a{99999999999999999999}", "write both bounds, of at most 1000"),
    ("DomainsRegex", "(" * 5000 + ")" * 5000, "regular expression"),
    ("DomainsRegex", 5, "must be a string"),
    ("DomainsRegex", r"netflix\.(?=com)", '"netflix\\\\.(?=com)" has (?= at character 10: look-ahead cannot be used'),
    ("DomainsRegex", r"(?<!not)netflix", "has (?<! at character 1: look-behind cannot be used"),
    ("DomainsRegex", r"\\(a+)\1$", "has a back-reference at character 7, which cannot be used"),
    ("DomainsRegex", r"(?P<x>a)(?P=x)", "has (?P= at character 9: back-references cannot be used"),
    ("DomainsRegex", "(?>a)b", "has (?> at character 1: atomic groups cannot be used"),
    ("DomainsRegex", "(a)?(?(1)b|c)", "has (?( at character 5: conditions cannot be used"),
    ("DomainsRegex", "a*+b", "bad repetition operator *+ at character 2; expressions are matched in linear time"),
    ("DomainsRegex", r"a\Z", r"invalid escape sequence \Z at character 2"),
    ("DomainsRegex", "ab{,5}", "has {,5} at character 3: write both bounds, of at most 1000"),
    ("DomainsRegex", "a{4000000000}", "has {4000000000} at character 2: write both bounds, of at most 1000"),
    ("DomainsRegex", "((a{100}){100}){100}", "invalid repetition size {100} at character"),
    ("DomainsRegex", "ab\ud800", '"ab\\ud800" has "\\ud800" in it, which is half a character'),
    ("DomainsRegex", "(a|b)*a(a|b){900}", "is too large a regular expression: 2,"),
    ("DomainsString", "", "is not a domain name"),
    ("DomainsString", "a b", "is not a domain name"),
    ("DomainsString", "https://netflix.com/", "is not a domain name"),
    ("DomainsString", "netflix..com", "is not a domain name"),
    ("DomainsString", "*.netflix.com", 'write "netflix.com", which also matches all names below it'),
    ("DomainsString", ".netflix.com", 'write "netflix.com"'),
    ("DomainsString", "netflix.com\n", "is not a domain name"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "entry", "message"), FILTERS)
def test_a_wrong_filter_is_named_by_its_place(kind, entry, message):
    right = {"Prefixes": "192.0.2.0/24", "DomainsRegex": "a", "DomainsString": "a"}[kind]
    error = one_error(configuration(service(), service(Name="b", Filter={kind: [right, entry]})))
    assert error.key == f"Services[1].Filter.{kind}[1]"
    assert message in error.message


def test_half_a_character_is_refused_in_every_text_and_key():
    character = "\ud800"
    for key, made in {
        "Sensor": {"Sensor": f"a{character}"}, "OutFolder": {"OutFolder": f"/x{character}"},
        "Capture.Interfaces[1]": {"Capture": {"Interfaces": ["lo", character]}},
        "Capture.Filter": {"Capture": {"Filter": f"tcp {character}"}},
        "Metrics.Listen": {"Metrics": {"Listen": f"{character}:1"}}, "Metrics": {"Metrics": {f"x{character}": 1}},
        "": {f"x{character}": 1},
    }.items():  # fmt: skip
        error = one_error(configuration(service(), **made))
        assert error.key == key
        assert "in it, which is half a character" in error.message


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "::ffff:10.0.0.0/104"])
def test_the_same_prefix_in_two_services_is_an_error(prefix):
    two = [service(Filter={"Prefixes": ["10.0.0.0/8"]}), service(Name="b", Filter={"Prefixes": ["10.0.0.0/9", prefix]})]
    error = one_error(configuration(*two))
    assert error.key == "Services[1].Filter.Prefixes[1]"
    assert '"10.0.0.0/8" is in service "Netflix" too' in error.message


def test_a_doubtful_regular_expression_warns_nobody(recwarn):
    parse_config(configuration(service(Filter={"DomainsRegex": ["[[a]"]})))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", "line 1 column 1", "not JSON: expecting value"),
        ('{\n  "Interval": "10s"\n  "Grace": "1s"\n}', "line 3 column 3", "expecting ',' delimiter"),
        ('{"Interval": "10s"', "line 1 column 19", "not JSON"),
        ('{"Interval": "10s", "Interval": "5s"}', "Interval", "is a duplicate key"),
        (
            '{"Services": [{}, {"Filter": {"Prefixes": [], "Prefixes": []}}]}',
            "Services[1].Filter.Prefixes",
            "duplicate",
        ),
        ('{"A": {"B": 1, "B": 2}, "A": 3}', "A", "duplicate"),
        ('{"Interval": NaN}', "", "NaN is not a JSON number"),
        ('{"Interval": -Infinity}', "", "-Infinity is not a JSON number"),
        ('{"Services": ' + "9" * 5000 + "}", "", "cannot be read"),
        ("[" * 100_000, "", "cannot be read"),
        ("[]", "", "must be an object"),
        (b'{"Sensor": "\xff"}', "", "is not UTF-8 text: byte 12 is wrong"),
        (b"\x28\xb5\x2f\xfd\x00\x00", "", "is not UTF-8 text: byte 1 is wrong"),
    ],
)
def test_text_that_is_no_configuration_is_refused_with_its_place(tmp_path, text, key, message):
    error = error_in(tmp_path, text)
    assert error.key == key
    assert message in error.message


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(configuration()), encoding="utf-8-sig")
    assert load_config(path).services[0].name == "Netflix"


@pytest.mark.parametrize(
    ("name", "message"), [("absent.json", "No such file"), (".", "Is a directory"), ("a\0b", "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10s", "router", "0.0.0.0/0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """All places inside a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@given(st.sampled_from(places(BOTH_KINDS)), JSON, st.none() | st.text(max_size=5))
def test_no_json_at_any_place_gives_anything_but_one_line(place, value, new_key):
    data = copy.deepcopy(BOTH_KINDS)
    if not place:
        data = value
    else:
        inside = data
        for key in place[:-1]:
            inside = inside[key]
        if new_key is not None and isinstance(inside, dict):
            inside[new_key] = value
        else:
            inside[place[-1]] = value
    try:
        assert isinstance(parse_config(data), Config)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
