"""Parameters of feature classes: what values they take, and that no value gets into a class unchecked."""

from __future__ import annotations

import json
import math
from typing import Annotated, NamedTuple

import numpy as np
import pytest

import trafficrefinery
from support.feature_cases import BUILTIN, builtin, load_case, write_case
from support.traces import seeded_trace, write_trace
from trafficrefinery.api import (
    DOWN,
    UP,
    Array,
    FeatureClass,
    Packet,
    array,
    declared_parameters,
    parameter,
    parameters,
    state_dtype,
    uint8,
    up_to,
)
from trafficrefinery.api.parameters import MAX_ROW_BYTES, MAX_STATE_BYTES
from trafficrefinery.api.testing import feed, packet
from trafficrefinery.cli import main as cli
from trafficrefinery.cli.ui.describe import as_text
from trafficrefinery.config import config_schema, load_config
from trafficrefinery.engine.feature_classes.fields import output_dtype
from trafficrefinery.engine.feature_classes.registry import Registry, specialise
from trafficrefinery.errors import ConfigError, FeatureError

WRONG = {
    '{"SampledCounts": {"SampleMs": -1}}': "SampledCounts.SampleMs: must be a whole number from 1 to 3,600,000 ms, not -1",
    '{"HeaderBytes": {"Packets": 1000000000}}':
        "HeaderBytes.Packets: must be a whole number from 1 to 1,024 packets, not 1000000000",
    '{"HeaderBytes": {"Packets": 1e9}}':
        "HeaderBytes.Packets: must be a whole number from 1 to 1,024 packets, not 1000000000.0",
    '{"HeaderImage": {"Bytes": 257}}': "HeaderImage.Bytes: must be a whole number from 1 to 256 bytes, not 257",
    '{"FirstSeconds": {"StepMs": -1}}': "FirstSeconds.StepMs: must be a whole number from 1 to 3,600,000 ms, not -1",
    '{"FirstSeconds": {"Steps": true}}': "FirstSeconds.Steps: must be a whole number from 1 to 3,600 steps, not true",
    '{"FirstSeconds": {"Steps": 1.5}}': "FirstSeconds.Steps: must be a whole number from 1 to 3,600 steps, not 1.5",
    '{"FirstSeconds": {"Steps": "9"}}': 'FirstSeconds.Steps: must be a whole number from 1 to 3,600 steps, not "9"',
    '{"FirstSeconds": {"Steps": 99999999999999999999}}':
        "FirstSeconds.Steps: must be a whole number from 1 to 3,600 steps, not 99999999999999999999",
    '{"PacketSizes": {"Signed": 1}}': "PacketSizes.Signed: must be true or false, not 1",
    '{"VideoSegments": {"MinBytes": [1]}}':
        "VideoSegments.MinBytes: must be a whole number from 0 to 4,294,967,295 bytes, not [1]",
}  # fmt: skip


def configuration(folder, *collect, **keys):
    file = folder / "wrong.json"
    service = '{"Name": "A", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": [%s]}' % ", ".join(collect)  # noqa: UP031
    more = "".join(f'"{key}": {json.dumps(value)}, ' for key, value in keys.items())
    file.write_text(f'{{{more}"Services": [{service}]}}')
    return file


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error


@pytest.mark.parametrize("collect", WRONG)
def test_a_wrong_value_is_refused_with_file_key_value_and_range(tmp_path, capsys, collect):
    file = configuration(tmp_path, collect)
    expected = f"error: {file}: Services[0].Collect[0].{WRONG[collect]}\n"
    assert refused(capsys, "config", "check", file) == expected


@pytest.mark.parametrize(
    "command",
    ["replay TRACE -c FILE -o OUT", "run --file TRACE -c FILE -o OUT", "profile TRACE -c FILE -o OUT",
     "explore TRACES -c FILE -o OUT", "dataset build TRACES -c FILE -o OUT"],
)  # fmt: skip
def test_every_command_refuses_it(tmp_path, capsys, command):
    traces = tmp_path / "traces"
    traces.mkdir()
    write_trace(traces / "a.pcap", seeded_trace(1, wrappings=("ethernet",)))
    (traces / "labels.csv").write_text("file,session,video_id,resolution\na.pcap,s,v,720\n")
    file = configuration(tmp_path, '"VideoSegments"', '{"SampledCounts": {"SampleMs": -1}}')
    words = {"TRACE": traces / "a.pcap", "TRACES": traces, "FILE": file, "OUT": tmp_path / "out"}
    error = refused(capsys, *(words.get(word, word) for word in command.split()))
    assert "SampledCounts.SampleMs: must be a whole number from 1 to 3,600,000 ms, not -1" in error


@pytest.mark.parametrize("value", [-1, 0, True, 1.0, "1", math.nan, math.inf, 1 << 70, np.int64(-1), np.float64(3)])
def test_a_notebook_refuses_it(tmp_path, value):
    trace = write_trace(tmp_path / "a.pcap", seeded_trace(1, wrappings=("ethernet",)))
    with pytest.raises(ConfigError, match=r"SampleMs"):
        trafficrefinery.replay(trace, [{"SampledCounts": {"SampleMs": value}}])
    with pytest.raises(ConfigError, match=r"must be a whole number from 1 to 3,600,000 ms, not"):
        specialise(builtin("SampledCounts"), {"SampleMs": value})


def test_numbers_of_numpy_are_numbers():
    assert parameters(specialise(builtin("SampledCounts"), {"SampleMs": np.int64(7)}))["SampleMs"] == 7


# What classes declare


@pytest.mark.parametrize("name", BUILTIN)
def test_every_parameter_of_a_built_in_class_has_a_range(name):
    cls = builtin(name)
    for parameter_name, declared in declared_parameters(cls).items():
        assert parameter_name in cls._parameters, "declare it with parameter(...)"
        if not isinstance(declared.default, bool):
            assert declared.at_least is not None
            assert declared.at_most is not None
            assert declared.unit
            assert f"{declared.at_least:,} to {declared.at_most:,} {declared.unit}" in as_text(cls, None)


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("end", ["at_least", "at_most"])
def test_a_class_works_at_the_ends_of_its_ranges(name, end):
    """All parameters at once, so that products of them are in bounds too; packets lie far beyond every limit."""
    declared = declared_parameters(builtin(name))
    values = {key: True if isinstance(item.default, bool) else getattr(item, end) for key, item in declared.items()}
    cls = specialise(builtin(name), values)
    assert state_dtype(cls).itemsize <= MAX_STATE_BYTES
    assert output_dtype(cls).itemsize <= MAX_ROW_BYTES
    packets = [
        packet(ts_s=i * i * 1.3, direction=i % 2, seq=i * 2_000, ack=i, payload_bytes=1_400, raw=bytes(300))
        for i in range(40)
    ]
    feed(cls, [*packets, packet(ts_s=4_000_000.0, direction=DOWN, payload_bytes=9)])


def test_a_count_of_steps_does_not_wrap():
    """It was kept in 8 bits: of 300 steps, 44 were reported."""
    cls = specialise(builtin("FirstSeconds"), {"Steps": 3_600, "StepMs": 1_000})
    last = feed(cls, [packet(ts_s=0.0), packet(ts_s=3_599.5, direction=DOWN, payload_bytes=7)])
    assert last.payload_bytes_down == [0] * 3_599 + [7]


def test_the_schema_has_the_ranges(tmp_path, capsys):
    schema = config_schema(Registry().schemas())
    with pytest.raises(SystemExit):
        cli.main(["config", "schema"])
    assert json.loads(capsys.readouterr().out) == schema
    items = schema["$defs"]["Service"]["properties"]["Collect"]["items"]["anyOf"]
    (classes,) = (item["properties"] for item in items if item["type"] == "object")
    assert list(classes) == BUILTIN
    assert classes["SampledCounts"]["properties"]["SampleMs"] == {
        "type": "integer", "default": 1_000, "minimum": 1, "maximum": 3_600_000, "description": "Unit: ms.",
    }  # fmt: skip
    assert classes["SampledCounts"]["additionalProperties"] is False


class RatesOutput(NamedTuple):
    n: int
    shares: Annotated[list[float], up_to("Bins")]


class Rates(FeatureClass):
    """A class of a user, with parameters of all kinds."""

    Bins = parameter(4, at_least=1, at_most=8)
    Share = parameter(0.5, at_least=0.0, at_most=1.0)
    Plain = 7
    Mean = 1.0
    Mode = "up"

    n: uint8
    shares: Array[float] = array(uint8, "Bins")

    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == UP:
            self.n += 1

    def collect_features(self, interval_s: float) -> RatesOutput:
        return RatesOutput(n=self.n, shares=self.shares[:1])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Share", 1.01, "must be a number from 0.0 to 1.0, not 1.01"),
        ("Share", math.nan, "must be a number from 0.0 to 1.0, not NaN"),
        ("Share", True, "must be a number from 0.0 to 1.0, not true"),
        ("Plain", 1 << 63, "must be a whole number that fits into 64 bits, not 9223372036854775808"),
        ("Plain", -(1 << 63) - 1, "must be a whole number that fits into 64 bits, not -9223372036854775809"),
        ("Plain", 1.0, "must be a whole number that fits into 64 bits, not 1.0"),
        ("Mean", math.inf, "must be a number, not Infinity"),
        ("Mean", "1", 'must be a number, not "1"'),
        ("Mode", 3, "must be text of at most 1,000 characters, not 3"),
        ("Mode", "x" * 5_000, 'must be text of at most 1,000 characters, not "xxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (5002 characters)'),
    ],
)  # fmt: skip
def test_parameters_of_users_are_checked_declared_or_not(name, value, said):
    with pytest.raises(ConfigError) as caught:
        specialise(Rates, {name: value}, "x.json", "Services[0].Collect[0]")
    assert str(caught.value) == f"x.json: Services[0].Collect[0].Rates.{name}: {said}"


def test_a_whole_number_is_a_number():
    made = parameters(specialise(Rates, {"Mean": 3}))["Mean"]
    assert made == 3.0
    assert isinstance(made, float)


def test_a_default_is_in_its_own_range_and_a_subclass_keeps_the_range(tmp_path):
    with pytest.raises(ValueError, match=r"the default must be a whole number from 1 to 8, not 9"):
        parameter(9, at_least=1, at_most=8)
    with pytest.raises(TypeError, match=r"only numbers have a range"):
        parameter(True, at_least=0)
    path = write_case(
        tmp_path, "", before="class Base(FeatureClass):\n    Bins = parameter(4, at_least=1, at_most=8)\n\n\n"
    )
    text = path.read_text().replace("class Case(FeatureClass):", "class Case(Base, FeatureClass):\n    Bins = 0\n")
    path.write_text(text.replace("import (", "import (\n    parameter,", 1))
    with pytest.raises(FeatureError, match=r"Case.Bins must be a whole number from 1 to 8, not 0"):
        Registry([path]).get("Case")


# What a flow costs


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ('    Bins = 1_000_000_000\n    bins: Array[int] = array(uint32, "Bins")\n', r"takes at least 3.725 GiB; the most is 4 MiB"),
        ('    Bins = 100_000\n    bins: Array[int] = array(uint32, "Bins*Bins")\n', r"takes at least 37.25 GiB"),
        ('    Bins = 9_000_000_000_000_000_000\n    bins: Array[int] = array(uint8, "Bins")\n', r"takes at least [0-9.e+,]+ GiB"),
        ('    Bins = -1\n    bins: Array[int] = array(uint32, "Bins")\n', r"the size 'Bins' is -1; the least is 0"),
        ('    Bins = 1.5\n    bins: Array[int] = array(uint32, "Bins")\n', r"is not a whole number and not a parameter"),
        ("    bins: Array[Histogram] = array(Histogram, 20_000)\n", r"Case: with bins, the state of one flow takes"),
    ],
)  # fmt: skip
def test_the_state_of_a_class_is_bounded(tmp_path, declaration, said):
    with pytest.raises(FeatureError, match=said):
        Registry([write_case(tmp_path, declaration)]).get("Case")


def test_a_size_that_the_configuration_sets_is_bounded(tmp_path):
    path = write_case(tmp_path, '    Bins = 4\n    bins: Array[int] = array(uint32, "Bins")\n')
    file = configuration(tmp_path, '{"Case": {"Bins": 1000000000}}', FeaturePaths=[str(path)])
    config = load_config(file)
    with pytest.raises(ConfigError) as caught:
        Registry(config.feature_paths).collect(config.services[0].collect, str(file))
    assert str(caught.value) == (
        f"{file}: Services[0].Collect[0].Case: Case: with bins, the state of one flow takes at least 3.725 GiB; "
        "the most is 4 MiB"
    )


def test_the_outputs_of_a_class_are_bounded():
    with pytest.raises(
        ConfigError, match=r"Listing: its outputs take 7.629 MiB a flow and interval; the most is 1 MiB"
    ):
        specialise(Listing, {"Most": 1_000_000})


class ListingOutput(NamedTuple):
    listed: Annotated[list[int], up_to("Most")]


class Listing(Rates):
    """Its state is small, its rows are as large as a parameter says."""

    Most = 4

    def collect_features(self, interval_s: float) -> ListingOutput:
        return ListingOutput(listed=self.shares[:1])


def test_all_classes_of_a_service_are_bounded_together(tmp_path, capsys):
    bodies = "    bins: Array[int] = array(uint32, 900_000)\n"
    path = write_case(tmp_path, bodies)
    second = tmp_path / "second.py"
    second.write_text(path.read_text().replace("class Case(", "class Second("))
    file = configuration(tmp_path, '"Case"', '"Second"', FeaturePaths=[str(tmp_path)])
    file.rename(tmp_path / "together.json")
    assert refused(capsys, "config", "check", tmp_path / "together.json") == (
        f"error: {tmp_path / 'together.json'}: Services[0].Collect: the states of one flow take 6.866 MiB together, "
        "3.433 MiB of them for Case; the most is 4 MiB\n"
    )


def test_the_flow_cache_fits_into_the_addresses_of_a_process(tmp_path, capsys):
    path = write_case(tmp_path, "    bins: Array[int] = array(uint32, 900_000)\n")
    file = configuration(tmp_path, '"Case"', FeaturePaths=[str(path)], FlowCache={"MaxFlows": 10**9})
    said = refused(capsys, "config", "check", file)
    assert "FlowCache.MaxFlows: 1,000,000,000 flows of 3.433 MiB are more than a process can address; with" in said


def test_a_class_that_is_loaded_by_hand_has_its_declared_values(tmp_path):
    path = write_case(tmp_path, "    Bins = 4\n")
    assert declared_parameters(load_case(path))["Bins"].described() == "a whole number that fits into 64 bits"


def test_a_class_of_a_notebook_is_checked_as_one_of_a_file(tmp_path):
    trace = write_trace(tmp_path / "a.pcap", seeded_trace(1, wrappings=("ethernet",)))
    with pytest.raises(FeatureError, match=r"Rates.Bins must be a whole number from 1 to 8, not 9"):
        trafficrefinery.replay(trace, [type("Rates", (Rates,), {"Bins": 9, "__module__": __name__})])
