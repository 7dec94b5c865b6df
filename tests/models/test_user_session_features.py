"""A session feature of a user, from FeaturePaths, through dataset, training, evaluation, inference and replay."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow.parquet as pq
import pytest

from support import replay_runs as runs
from support.daemon_runs import COMPILE_TIMEOUT_S, Daemon, lines_in
from trafficrefinery.api import parameters
from trafficrefinery.cli.main import _run
from trafficrefinery.config import load_config
from trafficrefinery.costs.measure.generated_traffic import traffic, write_traffic
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import FeatureError
from trafficrefinery.models.inference import BundleError, check, load_bundle
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.dataset import feature_set, read_dataset
from trafficrefinery.models.training.estimators import Candidate

SMALL = Candidate("forest", (("n_estimators", 4), ("max_depth", 5), ("min_samples_leaf", 2)), 0.0)
COLUMN = "sizes.small_share"

FLOW_CLASS = '''
from typing import NamedTuple
from trafficrefinery.api import FeatureClass, Packet, uint32


class SmallPacketsOutput(NamedTuple):
    small: int  # packets of at most 100 bytes
    packets: int  # packets


class SmallPackets(FeatureClass):
    """Counts small packets."""

    small: uint32
    packets: uint32

    def add_packet(self, pkt: Packet) -> None:
        self.packets += 1
        if pkt.ip_bytes <= 100:
            self.small += 1

    def collect_features(self, interval_s: float) -> SmallPacketsOutput:
        return SmallPacketsOutput(small=self.small, packets=self.packets)
'''

SESSION_FEATURE = '''
from typing import NamedTuple
from trafficrefinery.api import float64, parameter
from trafficrefinery.api.sessions import Flow, SessionFeature


class SmallShareOutput(NamedTuple):
    small_share: float  # of packets


class SmallShare(SessionFeature):
    """Share of small packets since the session's start."""

    group = "sizes"
    needs = ("SmallPackets",)
    MinPackets = parameter(1, at_least=1, at_most=1_000, unit="packets")  # below, the share is not known
    small: float64
    packets: float64

    def add_flow(self, flow: Flow) -> None:
        self.small += flow["SmallPackets.small"]
        self.packets += flow["SmallPackets.packets"]

    def collect_features(self, interval_s: float) -> SmallShareOutput:
        return SmallShareOutput(small_share=self.small / self.packets if self.packets >= self.MinPackets else float("nan"))

    def clear(self) -> None:
        pass
'''


class Made(NamedTuple):
    """What the walk left behind."""

    folder: Path
    trace: Path
    config: Path
    data: Path
    bundle: Path
    replay: Path


def write_config(path: Path, features: Path | None, **changes: object) -> Path:
    collect = ["PacketCounters", "VideoSegments", *(["SmallPackets"] if features else [])]
    service = {"Name": "Video", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": collect}
    paths = {"FeaturePaths": [str(features)]} if features else {}
    path.write_text(json.dumps({**paths, "Services": [service], **changes}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Build a dataset of generated traffic with a session feature and a feature class of a user, train, and replay."""
    folder = tmp_path_factory.mktemp("walk")
    features = folder / "mine"
    features.mkdir()
    (features / "small_packets.py").write_text(FLOW_CLASS)
    (features / "small_share.py").write_text(SESSION_FEATURE)
    config = write_config(folder / "mine.json", features)
    traces = folder / "traces"
    traces.mkdir()
    trace = traces / "generated.pcap"
    write_traffic(trace, traffic(exchanges=20, many=50))
    clients = ("10.0.0.2", "2001:db8:fffe::1", "10.0.2.2", "2001:db8:fffe::3")
    rows = [f"{trace.name},s{one},v{one},{(480, 1080)[one % 2]},{client}" for one, client in enumerate(clients)]
    (traces / "labels.csv").write_text("\n".join(("file,session,video_id,resolution,client_ip", *rows)) + "\n")
    data, bundle, replay = folder / "data.parquet", folder / "model", folder / "replayed"
    assert _run(["dataset", "build", str(traces), "-c", str(config), "-o", str(data)]) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(training.MODELS, "forest", (SMALL,))
        assert _run(["train", str(data), "-o", str(bundle), "--features", "all"]) == 0
    arguments = ["replay", str(trace), "-c", str(config), "-o", str(replay), "--sessions", "--quiet"]
    assert _run([*arguments, "--model", str(bundle)]) == 0
    return Made(folder, trace, config, data, bundle, replay)


def test_the_dataset_has_the_column_and_says_what_it_is_made_by(made):
    table = pl.read_parquet(made.data)
    assert table[COLUMN].is_between(0, 1).all()
    told = json.loads(pq.read_schema(made.data).field(COLUMN).metadata[b"made_by"])
    assert told[:2] == ["SmallShare", ["SmallPackets"]]


def test_the_bundle_needs_the_code_that_it_was_trained_on(made):
    schema = json.loads((made.bundle / "schema.json").read_text())
    assert {"name": COLUMN, "unit": "of packets", "feature": "SmallShare"} in schema["columns"]
    assert [one for one in schema["needs"] if isinstance(one, dict)] == [
        {
            "kind": kind,
            "name": name,
            "file": f"mine/{file}",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "parameters": {},
        }
        for kind, name, file, text in (
            ("session feature", "SmallShare", "small_share.py", SESSION_FEATURE),
            ("feature class", "SmallPackets", "small_packets.py", FLOW_CLASS),
        )
    ]
    assert set(load_bundle(made.bundle).needs) == {"PacketCounters", "SmallPackets", "VideoSegments"}
    assert "the session feature SmallShare of mine/small_share.py" in (made.bundle / "card.md").read_text()


def test_a_replay_infers_with_it_and_infer_says_the_same_of_what_was_written(made, capsys):
    expected = runs.lines(made.replay / "inferences.jsonl")
    assert expected
    sessions = runs.lines(made.replay / "sessions.jsonl")
    assert {one["sizes_observed"] for one in sessions} == {True}
    assert all(0 <= one["features"]["sizes"]["small_share"] <= 1 for one in sessions)
    for name in ("records.jsonl", "sessions.jsonl"):
        out = made.folder / f"{name}.inferred.jsonl"
        given = [str(made.replay / name), "--model", str(made.bundle), "-c", str(made.config), "-o", str(out)]
        assert _run(["infer", *given]) == 0
        assert runs.lines(out) == expected


def test_the_daemon_infers_with_it_what_a_replay_does(made, tmp_path):
    daemon = Daemon(
        tmp_path,
        {
            **json.loads(made.config.read_text()), "Inference": {"Models": [str(made.bundle)]},
            "Capture": {"Workers": 2, "Cpus": [0, 1]}, "Metrics": {"Listen": None},
            "Sinks": {"JSONLines": {"Enabled": True, "Compress": False}},
        },
        None, "--file", made.trace,
    )  # fmt: skip
    try:
        daemon.start(wait=False)
        assert daemon.wait(COMPILE_TIMEOUT_S) == 0, daemon.log
    finally:
        daemon.end()
    expected = runs.lines(made.replay / "inferences.jsonl")
    assert list(lines_in(daemon.out, "inferences")) == expected != []


def test_an_exploration_tries_it_and_what_it_deploys_runs(made, tmp_path):
    out = tmp_path / "explored"
    given = ["--trials", "4", "--no-compare", "--whole-classes", "--trace", str(made.trace), "--quiet"]
    assert _run(["explore", str(made.data), "-o", str(out), "-c", str(made.config), *given]) == 0
    tried = pl.read_parquet(out / "table.parquet")
    with_it = tried.filter(pl.col("columns").list.contains(COLUMN))
    assert with_it.height
    assert with_it["classes"].list.contains("SmallPackets").all()
    plan = Plan.of(load_config(out / "deploy" / "config.json"))
    bundle = load_bundle(next((out / "deploy").glob("*/schema.json")).parent)
    check(bundle, plan)


def test_evaluation_takes_the_dataset(made, tmp_path):
    given = ["evaluate", str(made.bundle), str(made.data), "-o", str(tmp_path / "scores")]
    assert _run(given) == 0


def test_a_model_without_its_feature_is_refused_with_the_file_and_what_to_do(made, tmp_path, capsys):
    config = write_config(tmp_path / "other.json", None)
    with pytest.raises(BundleError) as caught:
        check(load_bundle(made.bundle), Plan.of(load_config(config)))
    label = load_bundle(made.bundle).label
    said = f"{label}: no session feature gives {COLUMN}; add the file of the session feature SmallShare of "
    assert str(caught.value) == f"{said}mine/small_share.py to FeaturePaths"
    out = tmp_path / "out"
    status = _run(["replay", str(made.trace), "-c", str(config), "-o", str(out), "--model", str(made.bundle)])
    assert (status, capsys.readouterr().err) == (2, f"error: {caught.value}\n")
    assert not out.exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("small_share.py", "self.small / self.packets", "self.packets / self.small", "session feature SmallShare"),
        ("small_packets.py", "<= 100", "<= 200", "feature class SmallPackets"),
    ],
)
def test_a_model_with_other_code_is_refused_with_the_file_and_what_to_do(made, tmp_path, file, old, new, what):
    features = tmp_path / "mine"
    shutil.copytree(made.folder / "mine", features)
    config = write_config(tmp_path / "same.json", features)
    check(load_bundle(made.bundle), Plan.of(load_config(config)))  # wherever the directory lies
    path = features / file
    path.write_text(path.read_text().replace(old, new))
    label = load_bundle(made.bundle).label
    with pytest.raises(BundleError) as caught:
        check(load_bundle(made.bundle), Plan.of(load_config(config)))
    said = f"{config}: FeaturePaths: the {what} of mine/{file} differs from the file that {label} was trained on (SHA-"
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("; put that file back, or train the model again")


def test_a_table_made_by_other_code_is_refused(made, tmp_path, capsys):
    table = pq.read_table(made.data)
    field = table.schema.field(COLUMN)
    other = field.metadata[b"made_by"].replace(hashlib.sha256(SESSION_FEATURE.encode()).hexdigest().encode(), b"0" * 64)
    place = table.column_names.index(COLUMN)
    changed = field.with_metadata({**field.metadata, b"made_by": other})
    path = tmp_path / "other.parquet"
    pq.write_table(table.set_column(place, changed, table[COLUMN]), path)
    for command in (["infer", str(path), "--model", str(made.bundle)], ["evaluate", str(made.bundle), str(path), "-o", str(tmp_path / "out")]):  # fmt: skip
        capsys.readouterr()
        assert _run(command) == 2
        assert "the session feature SmallShare of mine/small_share.py differs" in capsys.readouterr().err


def test_parameters_of_session_features_are_set_in_the_configuration_and_known_to_the_model(made, tmp_path):
    bundle = load_bundle(made.bundle)
    features = made.folder / "mine"
    given = {"SmallShare": {"MinPackets": 5}}
    config = write_config(tmp_path / "five.json", features, Sessions={"Parameters": given})
    assert load_config(config).to_dict()["Sessions"]["Parameters"] == given
    plan = Plan.of(load_config(config))
    assert parameters(SessionRegistry.of(plan).get("SmallShare")) == {"MinPackets": 5}
    said = (
        rf"the parameters of SmallShare are \{{'MinPackets': 5\}}, {bundle.label} was trained with their defaults; set"
    )
    with pytest.raises(BundleError, match=said):
        check(bundle, plan)
    given = {"SessionTraffic": {"MediaBytes": 9}}
    built_in = write_config(tmp_path / "more.json", features, Sessions={"Parameters": given})
    with pytest.raises(BundleError, match="the parameters of SessionTraffic are {'MediaBytes': 9}"):
        check(bundle, Plan.of(load_config(built_in)))
    same = write_config(tmp_path / "same.json", features, Sessions={"Parameters": {"SmallShare": {"MinPackets": 1}}})
    check(bundle, Plan.of(load_config(same)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SmallShares": {}}, 'Sessions.Parameters: no session feature "SmallShares"; did you mean "SmallShare"?'),
        ({"SmallShare": {"MinPacket": 1}}, 'Sessions.Parameters.SmallShare: no parameter "MinPacket"; did you mean'),
        ({"SmallShare": {"MinPackets": 0}}, "Sessions.Parameters.SmallShare.MinPackets: must be a whole number from 1"),
        ([], "Sessions.Parameters: [] is not an object of classes with their parameters"),
    ],
)
def test_wrong_parameters_are_refused_with_their_key(made, tmp_path, capsys, given, said):
    config = write_config(tmp_path / "wrong.json", made.folder / "mine", Sessions={"Parameters": given})
    assert _run(["config", "check", str(config)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {config}: {said}")


def test_a_group_of_a_user_is_a_feature_set(made):
    dataset = read_dataset(made.data)
    assert feature_set(dataset, "sizes") == (COLUMN,)
    assert COLUMN in feature_set(dataset, "all")
    assert COLUMN not in feature_set(dataset, "net+app")


def test_a_built_in_feature_that_is_replaced_is_not_the_one_of_training(made, tmp_path, root):
    """A class of the same name goes before the built-in one; a model that was trained on that one is refused."""
    features = tmp_path / "mine"
    shutil.copytree(made.folder / "mine", features)
    shutil.copy(root / "features" / "sessions" / "session_traffic.py", features)
    config = write_config(tmp_path / "same.json", features)
    with pytest.raises(BundleError, match="mine/session_traffic.py gives .*, but .* was trained without that file"):
        check(load_bundle(made.bundle), Plan.of(load_config(config)))


def test_a_need_that_there_is_not_is_told_with_file_and_class(tmp_path):
    path = tmp_path / "small_share.py"
    path.write_text(SESSION_FEATURE)
    with pytest.raises(FeatureError, match=r'small_share.py: SmallShare.needs: no feature class "SmallPackets'):
        SessionRegistry([tmp_path])
    path.write_text(SESSION_FEATURE.replace('"SmallPackets"', '"PacketCounter"'))
    with pytest.raises(FeatureError, match=r'"PacketCounter"; did you mean "PacketCounters"\?'):
        SessionRegistry([tmp_path])
