"""`trafficrefinery.replay` as a researcher uses it: in a script, and in a Jupyter notebook with its own classes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pytest

import trafficrefinery
from support import replay_runs as runs
from support import replays, traces
from support.model_bundles import write_bundle
from trafficrefinery import Table
from trafficrefinery.api import FeatureClass, Packet, int64
from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.errors import ConfigError, FeatureError, TraceError, TrafficRefineryError, UsageError
from trafficrefinery.jit import COMPILED
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

LOG = ["PacketCounters", "PacketLog"]


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    return traces.write_trace(tmp_path_factory.mktemp("notebook") / "trace.pcap", runs.frames())


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return runs.configuration(tmp_path_factory.mktemp("config"))


class SizesOutput(NamedTuple):
    packets: int
    largest: int  # bytes


class Sizes(FeatureClass):
    """The largest packet."""

    Least = 0

    packets: int64
    largest: int64

    def add_packet(self, pkt: Packet) -> None:
        if pkt.ip_bytes >= self.Least:
            self.packets += 1
            self.largest = max(self.largest, pkt.ip_bytes)

    def collect_features(self, interval_s: float) -> SizesOutput:
        return SizesOutput(packets=self.packets, largest=self.largest)


def test_the_package_imports_no_compiler_until_it_is_used():
    code = "import sys, trafficrefinery; assert 'replay' in dir(trafficrefinery); print('numba' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


def test_replay_stays_a_function_whatever_else_is_imported():
    import trafficrefinery.cli.commands.replay
    import trafficrefinery.replaying.single

    assert callable(trafficrefinery.replay)
    assert trafficrefinery.replay.__doc__.startswith("Turn recorded packets into a table")


@pytest.mark.skipif(not COMPILED, reason="the command line takes too long in plain Python")
def test_a_table_says_what_the_records_of_the_command_say(capsys, trace, config, tmp_path):
    table = trafficrefinery.replay(trace, config=config)
    assert runs.replay(capsys, trace, "-c", config, "-o", tmp_path, "--format", "parquet").status == 0
    assert table.to_polars().equals(pl.read_parquet(tmp_path / "records.parquet"))


@pytest.fixture(scope="module")
def table(trace) -> Table:
    """All traffic, with a class that is no file's."""
    return trafficrefinery.replay(str(trace), features=["PacketCounters", Sizes])


@pytest.mark.modes
def test_all_traffic_is_one_service_unless_services_are_named(table):
    frame = table.to_polars()
    assert frame["service"].unique().to_list() == ["All"]
    packets = frame["PacketCounters.packets_up"] + frame["PacketCounters.packets_down"]
    assert (frame["Sizes.packets"] == packets).all()
    assert packets.sum() == table.counters["attributed"]
    assert table.counters["packets"] == len(runs.frames())


def test_a_table_converts_to_what_notebooks_use(table):
    arrow, frame = table.to_arrow(), table.to_polars()
    assert isinstance(arrow, pa.Table)
    assert len(table) == len(arrow) == len(frame) > 0
    assert table.to_pandas()["Sizes.largest"].tolist() == frame["Sizes.largest"].to_list()
    assert repr(table) == repr(frame)
    assert "<table" in table._repr_html_()


def test_without_pandas_the_error_says_what_to_use(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("trafficrefinery.replaying.notebook.pa.Table", None)
    with pytest.raises(UsageError, match="install the extra pandas of this program"):
        Table(NoPandas(), {}).to_pandas()


class NoPandas:
    def to_pandas(self) -> None:
        import pandas as pd  # noqa: F401


def test_intervals_services_and_alignment_are_as_said(trace):
    services = {"Net": {"Prefixes": ["192.0.2.0/24"]}, "Rest": {"Prefixes": ["0.0.0.0/0", "::/0"]}}
    frame = trafficrefinery.replay([trace], [Sizes], interval="5s", services=services, align="first-packet").to_polars()
    assert set(frame["service"]) == {"Net", "Rest"}
    assert (frame["ts_end"] - frame["ts_start"]).round(6).unique().to_list() == [5.0]
    first_s = runs.frames()[0].ts_ns / 1e9
    assert ((frame["ts_start"] - first_s) / 5 % 1).round(6).is_in([0.0, 1.0]).all()


def test_services_may_be_blocks_of_a_configuration(trace):
    block = {"Name": "Net", "Filter": {"Prefixes": ["192.0.2.0/24"]}, "Collect": ["PacketCounters"]}
    assert len(trafficrefinery.replay(trace, services=[block])) > 0


@pytest.mark.modes
@pytest.mark.parametrize("feature", [{Sizes: {"Least": 100}}, {"Sizes": {"Least": 100}}])
def test_a_class_may_be_given_parameters(trace, feature):
    features = [feature] if Sizes in feature else [feature, Sizes]
    if len(features) == 2:  # the same class twice is refused, as in a configuration
        with pytest.raises(ConfigError, match="collected already"):
            trafficrefinery.replay(trace, features)
        return
    frame = trafficrefinery.replay(trace, features).to_polars()
    counted = sum(1 for size in frame["Sizes.largest"] if size >= 100)
    assert counted == len(frame.filter(pl.col("Sizes.packets") > 0))


def test_a_configuration_may_be_changed_in_part(trace, config):
    frame = trafficrefinery.replay(trace, "PacketCounters", config=config, interval="30s").to_polars()
    assert (frame["ts_end"] - frame["ts_start"]).unique().to_list() == [30.0]
    assert set(frame["service"]) >= {"Video", "Net"}
    assert not [name for name in frame.columns if name.startswith("PacketLog")]


def test_a_configuration_may_be_a_mapping(trace):
    config = {**replays.BASE, "Services": list(replays.SERVICES)}
    assert len(trafficrefinery.replay(trace, config=config)) == len(trafficrefinery.replay([trace], LOG, config=config))


class Nothing(FeatureClass):
    """No methods."""


class NoNumbers(FeatureClass):
    words: str

    def add_packet(self, pkt: Packet) -> None:
        self.words = "x"

    def collect_features(self, interval_s: float) -> SizesOutput:
        return SizesOutput(packets=0, largest=0)


class VideoCounters(Sizes):
    """A name of the original system."""


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"features": ["PacketCounter"]},
            ConfigError,
            'no feature class "PacketCounter"; did you mean "PacketCounters"',
        ),
        (
            {"features": [dict]},
            FeatureError,
            "dict: is not a feature class; derive it from trafficrefinery.api.FeatureClass",
        ),
        ({"features": [Nothing]}, FeatureError, "Nothing"),
        ({"features": [NoNumbers]}, FeatureError, "NoNumbers.*words"),
        ({"features": [VideoCounters]}, FeatureError, "VideoCounters: is another name of VideoSegments"),
        ({"features": [3]}, ConfigError, "3 is not a feature class"),
        ({"features": [{Sizes: {"Leas": 3}}]}, ConfigError, 'no parameter "Leas"; did you mean "Least"'),
        ({"features": [Sizes], "interval": "10"}, ConfigError, "Interval"),
        ({"services": {"A": {"Prefix": ["10.0.0.0/8"]}}}, ConfigError, 'did you mean "Prefixes"'),
        ({"services": {"A": ["a.example"]}}, ConfigError, "Services.0..Filter"),
        ({"services": {}, "config": {}}, UsageError, "services or config, not both"),
        ({"config": "nowhere.json"}, ConfigError, "nowhere.json: cannot be read"),
        ({"align": "midnight"}, UsageError, 'align: "midnight" is not one of epoch, first-packet'),
    ],
)
def test_what_is_wrong_is_a_readable_exception(trace, arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        trafficrefinery.replay(trace, **arguments)
    assert isinstance(caught.value, TrafficRefineryError)
    assert "\n" not in str(caught.value)


def test_a_damaged_trace_is_an_exception(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(traces.pcap_bytes(runs.frames(1, 5))[:-1])
    with pytest.raises(TraceError, match="cut off"):
        trafficrefinery.replay(path, [Sizes])
    with pytest.raises(TraceError, match="no such file"):
        trafficrefinery.replay(tmp_path / "missing.pcap", [Sizes])


# In Jupyter


def executed(*cells: str) -> list[str]:
    """What the cells of a notebook print, run by a real kernel."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    sources = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=sources)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return ["".join(_text(output) for output in cell.outputs) for cell in notebook.cells]


def _text(output) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


CELL = """
    from typing import Annotated, NamedTuple
    from trafficrefinery.api import UP, Array, FeatureClass, Packet, array, float64, int64, up_to

    STEP = 100

    def rounded(size: int) -> int:
        return size // STEP * STEP

    class EarlySizesOutput(NamedTuple):
        packets: int
        mean_bytes: float  # bytes
        sizes: Annotated[list[int], up_to(4)]

    class EarlySizes(FeatureClass):
        packets: int64
        total: float64
        sizes: Array[int] = array(int64, 4)

        def add_packet(self, pkt: Packet) -> None:
            if self.packets < 4:
                self.sizes[self.packets] = rounded(pkt.ip_bytes)
            self.packets += 1
            self.total += pkt.ip_bytes

        def collect_features(self, interval_s: float) -> EarlySizesOutput:
            return EarlySizesOutput(
                packets=self.packets, mean_bytes=self.total / self.packets, sizes=self.sizes[: min(self.packets, 4)]
            )
"""


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_a_class_of_a_notebook_cell_is_compiled_and_can_be_changed_and_run_again(trace):
    run = """
        table = trafficrefinery.replay(TRACE, features=["PacketCounters", EarlySizes], interval="10s")
        f = table.to_polars()
        packets = f["PacketCounters.packets_up"] + f["PacketCounters.packets_down"]
        octets = f["PacketCounters.bytes_up"] + f["PacketCounters.bytes_down"]
        print(len(table), (f["EarlySizes.packets"] == packets).all(),
              (f["EarlySizes.mean_bytes"] - octets / packets).abs().max() < 1e-9,
              all(size % STEP == 0 for sizes in f["EarlySizes.sizes"] for size in sizes),
              sum(len(s) for s in f["EarlySizes.sizes"]))
    """
    wrong = """
        class EarlySizes(FeatureClass):
            packets: int64

            def add_packet(self, pkt: Packet) -> None:
                self.packets += pkt.bytes

            def collect_features(self, interval_s: float) -> EarlySizesOutput:
                return EarlySizesOutput(packets=self.packets, mean_bytes=0.0, sizes=[])

        try:
            trafficrefinery.replay(TRACE, features=[EarlySizes])
        except Exception as error:
            print(type(error).__name__, error)
    """
    cells = (
        f"import trafficrefinery\nTRACE = {str(trace)!r}", CELL, run, CELL.replace("STEP = 100", "STEP = 7"), run,
        "table", "table.to_pandas()", wrong,
    )  # fmt: skip
    said, again = executed(*cells), executed(*cells)
    first, second = (said[number].splitlines()[-1].split() for number in (2, 4))
    assert first == second
    assert int(first[0]) == len(trafficrefinery.replay(trace, [Sizes]))
    assert first[1:4] == ["True"] * 3
    assert int(first[4]) > int(first[0])
    assert said[5].startswith("shape: (")
    assert "EarlySizes.mean_bytes" in said[6]
    assert said[7].startswith("FeatureError ")
    assert "EarlySizes.add_packet: a packet has no 'bytes'; did you mean \"ip_bytes\"?" in said[7]
    assert not any(
        "compiling feature classes" in text for text in again
    )  # in the next session, it comes from the cache


@pytest.mark.skipif(not COMPILED, reason="the sample takes too long in plain Python")
def test_sessions_are_a_table_with_what_models_infer(sample_trace, tmp_path):
    models = [write_bundle(tmp_path, target) for target in ("resolution", "startup")]
    config = configs_dir() / "video.json"
    table = trafficrefinery.replay_sessions(sample_trace, config=config, model=models)
    assert replay_to_directory(load_config(config), [sample_trace], tmp_path, ReplayOptions(models=tuple(models)))
    lines = runs.lines(tmp_path / "inferences.jsonl")
    frame = table.to_polars()
    resolutions = [one for one in lines if one["target"] == "resolution"]
    assert frame["inferred.resolution"].to_list() == [one["value"] for one in resolutions]
    assert frame["inferred.resolution.confidence"].to_list() == [one["confidence"] for one in resolutions]
    assert frame["session_id"].to_list() == [one["session_id"] for one in resolutions]
    delays = [one["value"] for one in lines if one["target"] == "startup"]
    assert frame["inferred.startup"].drop_nulls().to_list() == delays
    assert table.counters["sessions_started"] == len({one["session_id"] for one in lines})


@pytest.mark.skipif(not COMPILED, reason="the sample takes too long in plain Python")
def test_sessions_have_all_features_unless_others_are_named(sample_trace):
    services = {"Example": {"DomainsString": ["video.example"]}}
    frame = trafficrefinery.replay_sessions(sample_trace, services=services).to_polars()
    assert frame["network.iat_n_up"].null_count() == frame["application.segments"].null_count() == 0
    assert not [name for name in frame.columns if name.startswith("inferred.")]
    only = trafficrefinery.replay_sessions(sample_trace, ["VideoSegments"], services=services).to_polars()
    both = only.join(frame, on=["client_ip", "ts_start"])  # other classes tell of more intervals without media
    assert len(both) == len(only)
    assert both["application.segments"].to_list() == both["application.segments_right"].to_list()
    assert only["network.packets_up"].null_count() == len(only) > 0


def test_a_model_that_is_not_there_is_told(trace):
    with pytest.raises(UsageError, match="model: there is no folder"):
        trafficrefinery.replay_sessions(trace, model="nothing", features=["VideoSegments"])
