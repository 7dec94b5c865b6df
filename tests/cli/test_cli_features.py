"""`trafficrefinery features`: what is listed and shown, what is scaffolded, and what a check finds."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from support.feature_cases import BUILTIN, builtin, line_of, load_case, write_case, write_scaffold
from trafficrefinery.api import state_dtype
from trafficrefinery.cli import main as cli
from trafficrefinery.cli.ui.describe import as_text
from trafficrefinery.cli.ui.scaffold import file_name
from trafficrefinery.costs.checks import check_class
from trafficrefinery.costs.checks.comparing import compare
from trafficrefinery.costs.measure.generated_traffic import traffic, write_traffic
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.errors import FeatureError
from trafficrefinery.models.sessions import SessionRegistry, session_fields

COUNTING = """
    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
"""


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


# list and show


def test_list_names_every_class_with_its_state_and_file(run):
    status, out, err = run("features", "list")
    assert (status, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split("  ")[0] == "class"
    assert [line.split()[0] for line in lines] == BUILTIN + SessionRegistry().names()
    assert [line.split()[1] for line in lines] == ["flow"] * len(BUILTIN) + ["session"] * len(SessionRegistry().names())
    for line, name in zip(lines[: len(BUILTIN)], BUILTIN, strict=True):
        assert f"{state_dtype(builtin(name)).itemsize}" in line
        assert line.endswith(file_name(name))


def test_list_finds_classes_in_further_directories(run, tmp_path):
    write_scaffold(tmp_path)
    status, out, _ = run("features", "list", "--path", tmp_path)
    assert status == 0
    assert "BurstSizes" in out


def test_a_file_that_is_no_python_is_told_with_its_line(run, tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\nclass Bad(FeatureClass:\n")
    status, _, err = run("features", "list", "--path", tmp_path)
    assert status == 2
    assert err.startswith(f"error: {tmp_path}/bad.py:2: not a Python file: ")


@pytest.mark.parametrize("name", BUILTIN)
def test_show_tells_definition_parameters_state_and_outputs(run, name):
    status, out, err = run("features", "show", name)
    assert (status, err) == (0, "")
    cls = builtin(name)
    assert out.splitlines()[0].endswith(file_name(name))
    assert cls.__doc__.splitlines()[0] in out
    assert f"state: {state_dtype(cls).itemsize} bytes a flow" in out
    for field in output_fields(cls):
        assert f"  {field.name} " in out
        assert field.doc in out


def test_show_tells_where_the_bytes_of_the_state_are():
    text = as_text(builtin("PacketTimes"), None)
    assert "  both.gaps.n     uint64   8" in text
    assert "  up.packets      uint32   4  in the interval" in text
    assert "  iat_s_p25           float  s, within 12.5 %; both directions together (with Quantiles)" in text


def test_show_knows_the_names_of_the_original_system(run):
    assert run("features", "show", "VideoCounters")[1].startswith("VideoSegments  ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "PacketCounter"], 'no feature class "PacketCounter"; did you mean "PacketCounters"?'),
        (["show"], "features show: give the name of a class, or --all"),
        (["show", "PacketTimes", "--all"], "features show: give the name of a class, or --all"),
        (["check", "nowhere/x.py"], "nowhere/x.py: no such file or directory"),
        (["check", "PacketCounter"], 'no feature class "PacketCounter"; did you mean "PacketCounters"?'),
        (["check", "PacketTimes", "--set", "Quantiles"], '--set: "Quantiles" is no PARAMETER=VALUE'),
        (["list", "--path", "nowhere"], "nowhere: no such directory or file; FeaturePaths names where features lie"),
        (["new", "burst"], 'features new: "burst" is not a class name; write it as in BurstSizes'),
        (["new", "PacketTimes"], 'features new: there is a class "PacketTimes" already; see'),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_and_exit_2(run, arguments, message):
    status, out, err = run("features", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


# new


@pytest.mark.parametrize(
    ("name", "file"), [("BurstSizes", "burst_sizes.py"), ("TCPCounters", "tcp_counters.py"), ("RTT2", "rtt2.py")]
)
def test_the_file_of_a_class_is_named_after_it(name, file):
    assert file_name(name) == file


def test_new_writes_a_class_and_says_what_to_do_next(run, tmp_path):
    folder = tmp_path / "made"
    status, out, err = run("features", "new", "BurstSizes", "-o", folder)
    assert (status, err) == (0, "")
    file = folder / "burst_sizes.py"
    assert ast.parse(file.read_text())
    assert f"trafficrefinery features check {file}" in out
    assert f'"FeaturePaths": ["{folder}"]' in out
    status, out, err = run("features", "new", "BurstSizes", "-o", folder)
    assert (status, out) == (2, "")
    assert err == f"error: {file}: is there already; choose another name, or another directory with --out\n"


# check


def test_the_scaffold_passes_the_check_and_is_collected_by_a_replay(run, tmp_path):
    file = write_scaffold(tmp_path)
    status, out, err = run("features", "check", file)
    assert (status, err) == (0, "")
    said = dict(line.strip().split(maxsplit=1) for line in out.splitlines())
    assert said["state"] == "24 bytes a flow"
    assert said["output"] == "40 bytes a row, 5 fields"
    assert said["traffic"].endswith("the same in all ways")
    assert said["note"] == "NaN becomes null: payload_bytes_mean_up, payload_bytes_mean_down"
    assert float(said["add_packet"].split()[0]) < 1_000
    write_traffic(tmp_path / "t.pcap", traffic(exchanges=3, many=50))
    status, _, err = run(
        "replay", tmp_path / "t.pcap", "-c", _config(tmp_path, "BurstSizes"), "-o", tmp_path, "--quiet"
    )
    assert (status, err) == (0, "")
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert sum(record["features"]["BurstSizes"]["packets_up"] for record in records) > 50


def _config(folder, name):
    path = folder / "config.json"
    everything = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": [name]}
    path.write_text(json.dumps({"FeaturePaths": [str(folder)], "Services": [everything]}))
    return path


WRONG = {
    "out of bounds": (
        """
    sizes: Array[int] = array(uint8, 100)

    def add_packet(self, pkt: Packet) -> None:
        self.sizes[self.n] = 1  # HERE
        self.n += 1
""",
        "Case.add_packet: self.sizes[self.n]: IndexError: index 100 is out of bounds for axis 0 with size 100; "
        "compiled, the call ends here and counts as an error",
    ),
    "does not compile": (
        """
    def add_packet(self, pkt: Packet) -> None:
        for i in self.n:  # HERE
            self.n += i
""",
        "Case.add_packet: does not compile: for cannot go through an int; write `for i in range(...)`",
    ),
    "no such field": (
        """
    def add_packet(self, pkt: Packet) -> None:
        self.n += pkt.payload  # HERE
""",
        "Case.add_packet: a packet has no 'payload'; ",
    ),
    "no value in one branch": (
        """
    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == UP:
            x = 1
        self.n += x  # HERE
""",
        "Case.add_packet: x: UnboundLocalError: cannot access local variable 'x' where it is not associated with a "
        "value; set it in every branch",
    ),
    "differs": (
        """
    def add_packet(self, pkt: Packet) -> None:
        self.n = int(pkt.ip_bytes * 1e20) % 1_000  # HERE
""",
        "Case.n: ",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_class_fails_the_check_with_line_reason_and_hint(run, tmp_path, what):
    body, message = WRONG[what]
    path = write_case(tmp_path, body)
    status, out, err = run("features", "check", path)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    if what == "differs":
        assert " compiled, " in err
        assert " interpreted; look for whole numbers beyond 64 bits" in err
        assert err.startswith(f"error: {path}:{line_of(path, 'n=self.n')}: {message}")
    else:
        assert err.startswith(f"error: {path}:{line_of(path)}: {message}")


def test_a_check_takes_parameters(tmp_path):
    body = """
    Most = 1_000

    sizes: Array[int] = array(uint8, "Most")

    def add_packet(self, pkt: Packet) -> None:
        self.sizes[self.n % 500] = 1
        self.n += 1
"""
    path = write_case(tmp_path, body)
    with pytest.raises(FeatureError, match="index 400 is out of bounds"):
        check_class(path, "Case", {"Most": 400})


def test_a_result_that_is_not_the_same_is_told_by_way_field_and_line(tmp_path):
    """The comparison by itself: such a class cannot be written, since all that it could remember is refused."""
    import numpy as np

    path = write_case(tmp_path, COUNTING)
    cls = load_case(path)
    same = np.zeros(3, [("Case", [("n", "i8"), ("x", "f8")])])
    same["Case"]["x"] = [0.0, np.nan, 1.0]
    other = same.copy()
    other["Case"]["n"] = [0, 0, 5]

    def results(**changed):
        return {
            mode: {f"{way}_{kind}": changed.get(f"{mode}_{way}_{kind}", same) for way in ("whole", "again", "split")
                   for kind in ("rows", "states")}
            for mode in ("on", "off", "boundscheck")
        }  # fmt: skip

    compare(cls, results())
    for changed, words in (
        ("off_whole_rows", "0 compiled, 5 interpreted"),
        ("boundscheck_whole_rows", "0 unchecked, 5 bounds-checked; look for an index beyond its array"),
        ("on_again_rows", "0 the first time, compiled, 5 the second time"),
        ("off_split_states", "0 with all flows together, interpreted, 5 flow after flow; keep all that is remembered"),
    ):
        with pytest.raises(FeatureError, match=words) as caught:
            compare(cls, results(**{changed: other}))
        assert caught.value.where == f"{path}:{line_of(path, 'n=self.n')}"


def test_signed_zeros_differ_and_nans_do_not(tmp_path):
    import numpy as np

    cls = load_case(write_case(tmp_path, COUNTING))
    rows = np.zeros(1, [("Case", [("x", "f8")])])

    def compared(one, other):
        both = []
        for value in (one, other):
            rows["Case"]["x"] = value
            both.append(
                {f"{way}_{kind}": rows.copy() for way in ("whole", "again", "split") for kind in ("rows", "states")}
            )
        compare(cls, {"on": both[0], "boundscheck": both[0], "off": both[1]})

    compared(np.nan, -np.nan)
    with pytest.raises(FeatureError, match=r"Case\.x: 0\.0 compiled, -0\.0 interpreted"):
        compared(0.0, -0.0)


# Session features


@pytest.mark.parametrize("name", SessionRegistry().names())
def test_show_describes_a_session_feature(run, name):
    status, out, err = run("features", "show", name)
    assert (status, err) == (0, "")
    cls = SessionRegistry().get(name)
    assert out.splitlines()[0].endswith(file_name(name))
    assert f"group: {cls.group}; needs: {', '.join(cls.needs)}" in out
    assert f"state: {state_dtype(cls).itemsize} bytes a session" in out
    for field in session_fields(cls):
        assert f"  {field.name} " in out
        assert field.doc in out


def test_a_new_session_feature_passes_the_check_at_once(run, tmp_path):
    status, out, err = run("features", "new", "UploadShare", "--session", "-o", tmp_path)
    assert (status, err) == (0, "")
    file = tmp_path / "upload_share.py"
    assert f"trafficrefinery features check {file}" in out
    status, out, err = run("features", "check", file)
    assert (status, err) == (0, "")
    said = dict(line.strip().split(maxsplit=1) for line in out.splitlines())
    assert said["state"] == "32 bytes a session"
    assert said["output"] == "3 fields"
    assert said["traffic"].endswith("the same together and one by one")
    assert "note" not in said
    assert 0 < float(said["time"].split()[0]) < 10_000
    for command in (["list", "--path", tmp_path], ["show", "UploadShare", "--path", tmp_path]):
        assert "UploadShare" in run("features", *command)[1]


def test_every_built_in_session_feature_passes_the_check(run, root):
    status, out, err = run("features", "check", root / "features" / "sessions")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == SessionRegistry().names()


WRONG_SESSION_FEATURES = {
    "remembers beside its fields": (
        "self.bytes_up += flow", "SEEN.append(1)\n        self.bytes_up += len(SEEN) + flow",
        r"upload_share\.py:\d+: UploadShare\.upload_share_\w+: interval \d+: .* a second time; keep all that is remembered",
    ),
    "needs what there is not": (
        '("PacketCounters",)', '("PacketCounter",)',
        r'upload_share\.py: UploadShare\.needs: no feature class "PacketCounter"; did you mean "PacketCounters"\?',
    ),
    "uses what it does not need": (
        'flow["PacketCounters.bytes_down"]', 'flow["TCPCounters.ack_up"]',
        r"upload_share\.py:\d+: UploadShare: .* gives \"TCPCounters\.ack_up\"; name TCPCounters in `needs`",
    ),
    "uses an output that there is not": (
        'flow["PacketCounters.bytes_down"]', 'flow["PacketCounters.byte_down"]',
        r"upload_share\.py:\d+: UploadShare: .* did you mean \"PacketCounters\.bytes_down\"\?",
    ),
    "raises without bytes": (
        "part / whole if whole > 0 else nan", "1 / int(whole)",
        r"upload_share\.py:\d+: UploadShare: ZeroDivisionError: division by zero",
    ),
    "raises without flows": (
        "part / whole if whole > 0 else nan", "1 / int(whole + self.before_all)",
        r"upload_share\.py:\d+: UploadShare: without flows, ZeroDivisionError",
    ),
    "is infinite": (
        "part / whole if whole > 0 else nan", "part / whole if whole > 0 else float('inf')",
        r"upload_share\.py:\d+: UploadShare\.upload_share_up_share: is infinite; give nan for what was not observed",
    ),
    "is no whole number": (
        "upload_share_bytes=self.bytes_all", "upload_share_bytes=self.bytes_all / 7",
        r"upload_share\.py:\d+: UploadShare\.upload_share_bytes: is [\d.]+, but is declared as int; declare it as float",
    ),
    "is no number": (
        "upload_share_bytes=self.bytes_all", "upload_share_bytes='many'",
        r"upload_share\.py: UploadShare: network\.upload_share_bytes: .*many.*; give a number",
    ),
    "declares what cannot be written": (
        "upload_share_bytes: int", "upload_share_bytes: str",
        r"upload_share\.py:\d+: UploadShareOutput\.upload_share_bytes: str cannot be written; use int, float",
    ),
    "group": (
        "group = NETWORK", 'group = "The Network"',
        r'upload_share\.py: UploadShare: group "The Network" cannot begin',
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_SESSION_FEATURES)
def test_a_wrong_session_feature_fails_the_check_with_file_class_and_field(run, tmp_path, what):
    old, new, message = WRONG_SESSION_FEATURES[what]
    run("features", "new", "UploadShare", "--session", "-o", tmp_path)
    file = tmp_path / "upload_share.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1).replace("\n\nclass", "\nSEEN = []\n\n\nclass", 1))
    status, out, err = run("features", "check", file)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert re.match(f"error: (.*/)?{message}", err), err


TOGETHER = '''
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import parameter
from trafficrefinery.api.sessions import NETWORK, Flows, SessionFeature


class RankOutput(NamedTuple):
    rank: float  # among the sessions


class Rank(SessionFeature):
    """A rank."""

    group = NETWORK
    needs = ("PacketCounters",)
    Scale = parameter(1, at_least=1, at_most=10)

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> RankOutput:
        total = flows.sum(flows["PacketCounters.bytes_down"])
        return RankOutput(RESULT)
'''


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            "np.argsort(np.argsort(total)).astype(float)",
            r"Rank\.rank: interval \d+: .* alone; a session must not depend",
        ),
        ("total[:1]", r"Rank: network\.rank: has the shape \(1,\), for 5 sessions it should be \(5,\)"),
        ("total, total", r"Rank: TypeError: .*takes 2 positional arguments but 3 were given"),
        ("total * (flows.count / flows.count)", r"Rank: ZeroDivisionError"),
    ],
)
def test_sessions_that_are_taken_together_must_not_depend_on_each_other(run, tmp_path, result, message):
    file = tmp_path / "rank.py"
    file.write_text(TOGETHER.replace("RESULT", result))
    status, _, err = run("features", "check", file)
    assert status == 1
    assert re.search(message, err), err


def test_a_session_feature_takes_parameters_in_a_check(run, tmp_path):
    file = tmp_path / "rank.py"
    file.write_text(TOGETHER.replace("RESULT", "total / (state.Scale - 3)"))
    assert run("features", "check", file)[0] == 0
    status, _, err = run("features", "check", file, "--set", "Scale=3")
    assert (status, "Rank.rank: is infinite" in err) == (1, True)
    assert "Rank.Scale: must be a whole number from 1 to 10" in run("features", "check", file, "--set", "Scale=11")[2]
    assert "a whole number from 1 to 10" in run("features", "show", "Rank", "--path", tmp_path)[1]


# Replay with a class that is wrong, and in plain Python


def process(*arguments, **environment):
    command = [sys.executable, "-m", "trafficrefinery", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--interpreted"]], ids=["alone", "workers", "interpreted"])
def test_a_replay_refuses_a_class_that_is_wrong_before_it_writes_anything(tmp_path, more):
    body = (
        "    w: Moments\n\n    def add_packet(self, pkt: Packet) -> None:\n        self.n = self.w.low + None  # HERE\n"
    )
    path = write_case(tmp_path, body)
    write_traffic(tmp_path / "t.pcap", traffic(exchanges=3, many=50))
    out = tmp_path / "out"
    done = process("replay", tmp_path / "t.pcap", "-c", _config(tmp_path, "Case"), "-o", out, *more)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {path}:{line_of(path)}: Case.add_packet: ")
    assert "Traceback" not in done.stderr
    assert not (out / "records.jsonl").exists()


def test_an_interpreted_replay_runs_the_class_itself(tmp_path):
    body = """
    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
"""
    path = write_case(tmp_path, body)
    write_traffic(tmp_path / "t.pcap", traffic(exchanges=1, many=20))
    config = _config(tmp_path, "Case")
    compiled, plain = tmp_path / "compiled", tmp_path / "plain"
    for out, more in ((compiled, []), (plain, ["--interpreted"])):
        done = process("replay", tmp_path / "t.pcap", "-c", config, "-o", out, "--quiet", *more)
        assert (done.returncode, done.stdout, done.stderr.replace("\n", "")) == (0, "", ""), done.stderr
    assert (compiled / "records.jsonl").read_bytes() == (plain / "records.jsonl").read_bytes()
    # Where a debugger would stop: the class's own code runs.
    path.write_text(path.read_text().replace("self.n += 1", "self.n += 1\n        breakpoint()"))
    done = process(
        "replay", tmp_path / "t.pcap", "-c", config, "-o", plain, "--quiet", "--interpreted",
        PYTHONBREAKPOINT="os.abort",
    )  # fmt: skip
    assert done.returncode == -6
