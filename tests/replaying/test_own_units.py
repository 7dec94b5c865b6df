"""Targets of flows and of clients, from label lines to the daemon, by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.daemon_runs import Daemon, lines_in
from support.labelled_flows import APPS, CONFIG, FILES, MadeFlow, flows_of, write_traces
from support.replay_runs import lines
from support.small_models import small_models
from trafficrefinery.cli.main import _run
from trafficrefinery.errors import UsageError
from trafficrefinery.models.dataset.community_id import community_id
from trafficrefinery.models.dataset.labels import read_labels
from trafficrefinery.models.dataset.unit_labels import UnitLabels
from trafficrefinery.models.targets import UNITS
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.replaying.notebook import replay

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 2)))
TARGETS = [
    {"name": "app", "kind": "classes", "unit": "flow", "when": {"packets": 8}},
    {"name": "busy", "kind": "ordinal", "unit": "flow", "labels": ["quiet", "busy"]},
    {"name": "lasts", "kind": "quantity", "unit": "flow", "measured_in": "s", "least": 0, "when": "end"},
    {"name": "user", "kind": "classes", "unit": "client"},
    {"name": "load", "kind": "quantity", "unit": "client", "measured_in": "flows"},
]
OF_FLOWS, OF_CLIENTS = ("app", "busy", "lasts"), ("user", "load")
NAMES = OF_FLOWS + OF_CLIENTS
LISTEN = "127.0.0.1:9474"


def flow_line(file: str, flow: MadeFlow) -> dict[str, Any]:
    return {
        "file": file, "client_ip": flow.client_ip, "client_port": float(flow.client_port), "server_ip": flow.server_ip,
        "server_port": flow.server_port, "protocol": flow.protocol, "label.app": flow.app,
        "label.busy": "busy" if flow.app == "bulk" else "quiet", "label.lasts": flow.times[-1] - flow.times[0],
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three traces; flows are labelled in a Parquet file by their 5-tuples, clients in CSV by their addresses."""
    made = tmp_path_factory.mktemp("own") / "traces"
    write_traces(made)
    (made / "targets.json").write_text(json.dumps(TARGETS))
    (made / "config.json").write_text(json.dumps(CONFIG))
    everything = [(file, flow) for number, file in enumerate(FILES) for flow in flows_of(number)]
    pl.DataFrame([flow_line(file, flow) for file, flow in everything]).write_parquet(made / "labels.parquet")
    clients = sorted({f"{flow.client_ip},{flow.app},2" for _, flow in everything})
    (made / "clients.csv").write_text("\n".join(["client_ip,label.user,label.load", *clients]) + "\n")
    return made


def build(folder: Path, out: Path, *options: object) -> int:
    command = ["dataset", "build", folder, "-c", folder / "config.json", "-o", out, "--quiet", *options]
    return _run(list(map(str, command)))


@pytest.fixture(scope="module")
def data(folder) -> dict[str, Path]:
    flows, clients = folder.parent / "flows.parquet", folder.parent / "clients.parquet"
    assert build(folder, flows) == 0
    assert build(folder, clients, "--labels", folder / "clients.csv") == 0
    return {**dict.fromkeys(OF_FLOWS, flows), **dict.fromkeys(OF_CLIENTS, clients)}


@pytest.fixture(scope="module")
def models(folder, data) -> list[Path]:
    with small_models(SMALL):
        for name in NAMES:
            out = folder.parent / name
            assert _run(["train", str(data[name]), "-o", str(out), "--target", name, "--no-compare", "--quiet"]) == 0
    return [folder.parent / name for name in NAMES]


@pytest.fixture(scope="module")
def expected(folder, models) -> list[dict[str, Any]]:
    out = folder.parent / "replay"
    options = [word for model in models for word in ("--model", str(model))]
    assert _run(["replay", str(folder / FILES[0]), "-c", str(folder / "config.json"), "-o", str(out), *options]) == 0
    return lines(out / "inferences.jsonl")


def test_a_table_has_a_row_for_each_interval_of_what_its_labels_are_of(data):
    flows, clients = pl.read_parquet(data["app"]), pl.read_parquet(data["user"])
    now = flows.filter(~pl.col("is_last"))
    assert now.group_by("file", "flow_id").agg(pl.col("label.app").n_unique())["label.app"].unique().to_list() == [1]
    assert dict(now.unique(["file", "flow_id"])["label.app"].value_counts().iter_rows()) == dict.fromkeys(APPS, 12)
    last = flows.filter(pl.col("is_last"))
    assert last["flow_id"].n_unique() == len(last) == 36  # of flows that were silent at the end too
    assert set(last["end"]) == {"fin", "open"}
    assert now["PacketSizes.sizes.0"].null_count() == 0
    assert "resolution" not in flows.columns  # nothing of video
    assert clients.filter(pl.col("ts_start") == 1.6e9)["client.flows"].to_list() == [2] * 18
    wide = now.group_by("file", "ts_start", "client_ip").agg(pl.col("PacketCounters.bytes_down").sum().alias("sum"))
    joined = clients.join(wide, on=["file", "ts_start", "client_ip"])
    assert joined["PacketCounters.bytes_down.sum"].to_list() == joined["sum"].to_list()
    assert len(joined) == len(clients)
    manifest = json.loads(data["app"].with_suffix(".manifest.json").read_text())
    assert [one["name"] for one in manifest["targets"]] == list(OF_FLOWS)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_evaluated_on_files_that_it_has_not_seen(capsys, folder, data, models, name):
    out = folder.parent / f"report-{name}"
    capsys.readouterr()
    assert _run(["evaluate", str(folder.parent / name), str(data[name]), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    unit = "flow" if name in OF_FLOWS else "client"
    assert metrics["sessions"] == (36 if name in OF_FLOWS else 18)
    assert name == "load" or UNITS[unit].many in said
    if name in ("app", "user", "busy"):
        assert metrics["out_of_fold"]
        assert metrics["accuracy"] > 0.9
    card = (folder.parent / name / "card.md").read_text()
    assert {"app": "in the interval of packet 8 of a flow", "lasts": "at the end of a flow"}.get(name, unit) in card


def test_a_flow_is_told_once_in_the_interval_of_its_packet(folder, expected):
    answers = [one for one in expected if one["target"] == "app"]
    truth = {(flow.client_ip, flow.client_port): flow for flow in flows_of(0)}
    assert len(answers) == len({one["flow_id"] for one in answers}) == len(truth)
    for one in answers:
        flow = truth[one["client_ip"], one["client_port"]]
        assert one["ts_start"] <= flow.times[7] < one["ts_end"]
        assert one["value"] == flow.app
        identity = ("protocol", "server_ip", "server_port")
        assert {name: one[name] for name in identity} == {name: getattr(flow, name) for name in identity}
        assert one["unit"] == "flow"
        assert "session_id" not in one


def test_every_kind_is_told_when_it_can_be(folder, expected):
    records = lines(folder.parent / "replay" / "records.jsonl")
    told = {name: [one for one in expected if one["target"] == name] for name in NAMES}
    assert [(one["ts_end"], one["flow_id"]) for one in told["busy"]] == [
        (one["ts_end"], one["flow_id"]) for one in records
    ]
    ends = {(one["ts_end"], one["flow_id"]) for one in told["lasts"]}
    last = {one["flow_id"]: one["ts_end"] for one in records}
    assert ends == {(end, flow) for flow, end in last.items()}
    clients = {(one["ts_end"], one["client_ip"]) for one in records}
    assert [(one["ts_end"], one["client_ip"]) for one in told["user"]] == sorted(clients)
    assert all(set(one) & {"flow_id", "session_id", "server_ip"} == set() for one in told["user"])
    assert {one["measured_in"] for one in told["load"]} == {"flows"}


def test_infer_gives_what_the_replay_gave(folder, data, models, expected):
    options = [word for model in models for word in ("--model", str(model))]
    records = folder.parent / "replay" / "records.jsonl"
    out = folder.parent / "again.jsonl"
    assert _run(["infer", str(records), "-c", str(folder / "config.json"), *options, "-o", str(out)]) == 0
    assert lines(out) == expected
    for name in ("app", "lasts", "user"):
        assert _run(["infer", str(data[name]), "--model", str(folder.parent / name), "-o", str(out)]) == 0
        found = {(one["ts_end"], one["client_ip"], one.get("flow_id")): one["value"] for one in lines(out)}
        wanted = [one for one in expected if one["target"] == name]
        assert wanted
        for one in wanted:  # tables hold several files
            assert found[one["ts_end"], one["client_ip"], one.get("flow_id")] == pytest.approx(one["value"], abs=2e-3)


def test_a_notebook_has_the_answers_behind_the_records(folder, models, expected):
    trace = folder / FILES[0]
    table = replay(trace, config=folder / "config.json", model=[models[0]]).to_polars()
    told = table.filter(pl.col("inferred.app").is_not_null())
    assert dict(told.select("flow_id", "inferred.app").iter_rows()) == {
        one["flow_id"]: one["value"] for one in expected if one["target"] == "app"
    }
    with pytest.raises(UsageError, match="user is asked of clients, not of flows"):
        replay(trace, config=folder / "config.json", model=[models[3]])


def test_what_is_of_other_units_is_refused(capsys, folder, data, models):
    labels = folder.parent / "both.csv"
    labels.write_text("client_ip,label.app,label.user\n10.0.0.1,bulk,bulk\n")
    out = folder.parent / "no.parquet"
    assert build(folder, out, "--labels", labels, "--targets", folder / "targets.json") == 2
    assert (
        "label.app is of a flow, label.user is of a client; a dataset has rows of one of these"
        in capsys.readouterr().err
    )
    assert _run(["train", str(data["app"]), "-o", str(out), "--target", "user"]) == 2
    assert "has no column label.user with labels of user" in capsys.readouterr().err
    assert _run(["evaluate", str(models[0]), str(data["user"]), "-o", str(out)]) == 2
    assert "label.app" in capsys.readouterr().err
    assert _run(["infer", str(data["user"]), "--model", str(models[0])]) == 2
    assert "is a table of clients, app@" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["app", "user"])
def test_an_exploration_deploys_a_model_of_the_target(folder, data, name):
    out = folder.parent / f"explored-{name}"
    traces = [folder, "-c", folder / "config.json", "--intervals", "10s", "--first-packets", "8,all"]
    command = ["explore", *(traces if name == "app" else [data[name]]), "-o", out, "--trials", "3", "--no-compare",
               "--whole-classes", "--trace", folder / FILES[0], "--quiet", "--target", name]  # fmt: skip
    assert _run(list(map(str, command))) == 0
    manifest = json.loads((out / "deploy" / "model" / "manifest.json").read_text())
    assert manifest["target"]["name"] == name
    deployed, done = out / "deploy" / "config.json", folder.parent / f"deployed-{name}"
    assert _run(["replay", str(folder / FILES[1]), "-c", str(deployed), "-o", str(done)]) == 0
    assert {one["target"] for one in lines(done / "inferences.jsonl")} == {name}


def test_a_profile_prices_a_model_of_flows_and_one_of_clients(capsys, folder, models):
    capsys.readouterr()
    command = ["profile", folder / FILES[0], "-c", folder / "config.json", "-o", folder.parent / "profile"]
    options = [word for model in (models[0], models[3]) for word in ("--model", model)]
    assert _run(list(map(str, [*command, *options]))) == 0
    said = capsys.readouterr().out
    assert "app@" in said
    assert "user@" in said


def test_the_daemon_answers_what_the_replay_does(tmp_path, folder, models, expected):
    config = {**CONFIG, "Inference": {"Models": list(map(str, models))}, "Sensor": "test",
              "Capture": {"Workers": 1}, "Metrics": {"Listen": LISTEN}}  # fmt: skip
    daemon = Daemon(tmp_path, config, None, "--file", folder / FILES[0], "--speed", 4)
    try:
        daemon.start()
        daemon.wait_until(lambda: daemon.metrics().get("inferred_quantity{All}"), "no quantity is shown")
        assert 'target="app",value="bulk"' in daemon.get("/metrics")
        assert daemon.wait() == 0
        assert list(lines_in(daemon.out, "inferences")) == expected
    finally:
        daemon.end()


def test_a_session_may_be_opened_by_any_packet(capsys, folder, models):
    place = folder.parent / "opened"
    place.mkdir()
    config, labels, data, model = (place / name for name in ("config.json", "labels.csv", "data.parquet", "model"))
    config.write_text(json.dumps({**CONFIG, "Sessions": {"OpenedBy": "packet"}}))
    clients = {(file, flow.client_ip): flow.app for number, file in enumerate(FILES) for flow in flows_of(number)}
    lines_of = [f"{file},{client},{client},{app}" for (file, client), app in clients.items()]
    labels.write_text("\n".join(["file,session,client_ip,label.kind", *lines_of]) + "\n")
    built = ["dataset", "build", folder, "-c", config, "-o", data, "--labels", labels, "--quiet"]
    assert _run(list(map(str, built))) == 0
    assert pl.read_parquet(data)["session"].n_unique() == 18
    with small_models(SMALL):
        command = ["train", data, "-o", model, "--target", "kind", "--group", "file", "--no-compare", "--quiet"]
        assert _run(list(map(str, command))) == 0
    command = ["replay", folder / FILES[0], "-c", config, "-o", place / "out", "--model", model]
    assert _run(list(map(str, command))) == 0
    right = [clients[FILES[0], one["client_ip"]] == one["value"] for one in lines(place / "out" / "inferences.jsonl")]
    assert sum(right) / len(right) > 0.9
    command = ["replay", folder / FILES[0], "-c", folder / "config.json", "-o", place / "no", "--model", model]
    capsys.readouterr()
    assert _run(list(map(str, command))) == 2
    assert "Sessions.OpenedBy: is VideoSegments, model@" in capsys.readouterr().err


# Labels


def rows_of(path: Path, text: str, unit: str = "flow") -> UnitLabels:
    path.joinpath("labels.csv").write_text(text)
    return next(iter(UnitLabels.of_traces(path, path / "labels.csv", unit, {}).values()))


@pytest.fixture(scope="module")
def table(folder, data) -> pl.DataFrame:
    whole = pl.read_parquet(data["busy"]).filter(pl.col("file") == FILES[0], ~pl.col("is_last"))
    return whole.drop("file", "label.app", "label.busy", "label.lasts")


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / FILES[0]).touch()
    return tmp_path


def labelled(labels: UnitLabels, table: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame(labels.labelled(table.to_arrow())[0])


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_flow_is_found_by_its_ends_from_either_side(place, table, end):
    flow = table.row(0, named=True)
    ends = {"client": ("client", "server"), "server": ("server", "client")}[end]
    values = ",".join(f"{flow[f'{one}_ip']},{flow[f'{one}_port']}" for one in ends)
    text = f"file,client_ip,client_port,server_ip,server_port,protocol,label.a\na.pcap,{values},{flow['protocol']},x\n"
    found = labelled(rows_of(place, text), table)
    assert found["flow_id"].unique().to_list() == [flow["flow_id"]]
    assert found["label.a"].unique().to_list() == ["x"]


def test_a_flow_is_found_by_its_community_id_and_its_flow_id(place, table):
    flow = table.row(3, named=True)
    name = community_id(flow["protocol"], (flow["client_ip"], flow["client_port"]),
                        (flow["server_ip"], flow["server_port"]))  # fmt: skip
    for text in (f"community_id,label.a\n{name},x\n", f"flow_id,label.a\n{flow['flow_id']},x\n"):
        assert labelled(rows_of(place, text), table)["flow_id"].unique().to_list() == [flow["flow_id"]]


@pytest.mark.parametrize(
    ("ends", "expected"),  # the first from the specification, with the second the other way round
    [
        ((("128.232.110.120", 34855), ("66.35.250.204", 80)), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ((("66.35.250.204", 80), ("128.232.110.120", 34855)), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ],
)
def test_community_ids_are_those_of_the_specification(ends, expected):
    assert community_id("tcp", *ends) == expected


def test_a_line_with_more_keys_counts_before_one_with_fewer(place, table):
    client = table["client_ip"][0]
    text = f"file,client_ip,label.a,group.day\na.pcap,,other,1\na.pcap,{client},this,2\n"
    found = labelled(rows_of(place, text), table)
    assert len(found) == len(table)
    assert set(found.filter(pl.col("client_ip") == client)["label.a"]) == {"this"}
    assert set(found.filter(pl.col("client_ip") != client)["label.a"]) == {"other"}
    assert set(found["group.day"]) == {"1", "2"}


def test_a_line_with_times_is_of_rows_in_that_time(place, table):
    text = "ts_start,ts_end,label.a\n1600000000,1600000010,early\n1600000010,,late\n"
    found = labelled(rows_of(place, text), table)
    assert found.select(pl.col("label.a") == "early").to_series().to_list() == (found["ts_start"] == 1.6e9).to_list()


def test_lines_that_contradict_each_other_are_refused(place, table):
    labels = rows_of(place, "client_ip,server_port,label.a\n10.0.0.1,,x\n,443,y\n")
    with pytest.raises(UsageError, match=r"labels\.csv:3: fits the same rows as .*labels\.csv:2, with other labels"):
        labels.labelled(table.to_arrow())


def test_lines_of_nothing_are_reported(place, table):
    labels = rows_of(place, "file,client_ip,label.a\na.pcap,10.9.9.9,x\na.pcap,10.0.0.1,y\n")
    _, absent = labels.labelled(table.to_arrow())
    (line,) = absent
    assert line.startswith("a.pcap: no flow in it fits ")
    assert line.endswith("labels.csv:2")


def test_labels_of_sessions_may_be_parquet_whatever_the_name(tmp_path):
    text = "file,session,video_id,resolution,client_ip,label.a\na.pcap,s,v,720,10.0.0.1,x\na.pcap,t,v,,10.0.0.2,\n"
    (tmp_path / "labels.csv").write_text(text)
    frame = pl.read_csv(tmp_path / "labels.csv").with_columns(pl.col("resolution").cast(pl.Float64))
    frame.write_parquet(tmp_path / "labels")
    assert read_labels(tmp_path / "labels") == read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label.a\nb.pcap,x\n", "b.pcap: no such trace in"),
        ("client_ip,label.a\n10.0.0.300,x\n", r'labels\.csv:2: client_ip: "10\.0\.0\.300" is not an IP address'),
        ("server_port,label.a\nhttps,x\n", 'server_port: "https" is not a port'),
        ("protocol,label.a\nsctp,x\n", 'protocol: "sctp" is not tcp or udp'),
        ("community_id,label.a\nabc,x\n", 'community_id: "abc" is not a Community ID of version 1'),
        ("ts_start,label.a\nnoon,x\n", 'ts_start: "noon" is not a number of seconds'),
        ("ts_start,ts_end,label.a\n20,10,x\n", "ts_end: is before ts_start"),
        ("sever_ip,label.a\n10.0.0.1,x\n", 'no such column "sever_ip"; did you mean "server_ip"'),
        ("client_ip\n10.0.0.1\n", r"no column label\.NAME"),
        ("client_ip,label.a\n10.0.0.1\n", "has not as many values as the first line has names"),
    ],
)
def test_label_lines_that_are_wrong_are_refused_with_their_place(place, text, message):
    with pytest.raises(UsageError, match=message):
        rows_of(place, text)


def test_clients_have_no_servers(place):
    with pytest.raises(UsageError, match='no such column "community_id"; clients have file, ts_start'):
        rows_of(place, "community_id,label.a\n10.0.0.1,x\n", "client")
