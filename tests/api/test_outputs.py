"""Outputs as they are declared: the columns that they give, and what is refused."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.feature_cases import BUILTIN, builtin, line_of, load_case, with_options, write_case
from trafficrefinery.api.testing import feed, packet
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.errors import FeatureError
from trafficrefinery.models.sessions import SessionRegistry, session_fields

COUNTING = """
    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
"""
FILES = [*sorted(features_dir().glob("*.py")), *sorted((features_dir() / "sessions").glob("*.py"))]


def case_of(folder: Path, declared: str, state: str = "", output: str = "CaseOutput") -> Any:
    """A class whose output is declared as said; `collect_features` is not made for it."""
    collect = f"\n    def collect_features(self, interval_s: float) -> {output}:\n        return {output}()\n"
    return load_case(write_case(folder, f"{state}{COUNTING}", declared + "\n\n", collect=collect))


def columns_of(folder: Path, declared: str, state: str = "") -> list[str]:
    return [field.name for field in output_fields(case_of(folder, declared, state, "Output"))]


# Names and order


PART = """
class PartOutput(NamedTuple):
    n: int  # packets
    s: MomentsOutput  # s


"""


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ("a: int", ["a"]),
        ("rtt: MomentsOutput", ["rtt_mean", "rtt_std", "rtt_min", "rtt_max"]),
        ("rtt: PartOutput", ["rtt_n", "rtt_s_mean", "rtt_s_std", "rtt_s_min", "rtt_s_max"]),
        ('rtt: Annotated[MomentsOutput, named("*")]', ["mean", "std", "min", "max"]),
        ('rtt: Annotated[MomentsOutput, named("b_*_c")]', ["b_mean_c", "b_std_c", "b_min_c", "b_max_c"]),
        ('a: Annotated[tuple[int, int], named("*_up", "*_down")]', ["a_up", "a_down"]),
        ('a: Annotated[tuple[list[int], list[int]], up_to(2), named("*_up", "*_down")]', ["a_up", "a_down"]),
        ('a: Annotated[tuple[PartOutput, PartOutput], named("*_up", "*_down")]',
         ["n_up", "n_down", "s_mean_up", "s_mean_down", "s_std_up", "s_std_down", "s_min_up", "s_min_down", "s_max_up",
          "s_max_down"]),
        ("a: int\n    b: PartOutput\n    c: int", ["a", "b_n", "b_s_mean", "b_s_std", "b_s_min", "b_s_max", "c"]),
    ],
)  # fmt: skip
def test_a_field_gives_these_columns(tmp_path, fields, columns):
    assert columns_of(tmp_path, f"{PART}class Output(NamedTuple):\n    {fields}\n") == columns


OPTIONS = """
class PartOutput(NamedTuple):
    p50: Annotated[float, when("Wide")]
    n: int
    sizes: Annotated[list[int], up_to("Most")]


class Output(NamedTuple):
    a: PartOutput
    b: Annotated[PartOutput, when("Deep")]
    c: int
"""


@pytest.mark.parametrize(
    ("deep", "wide", "columns"),
    [
        (False, False, ["a_n", "a_sizes", "c"]),
        (False, True, ["a_n", "a_sizes", "c", "a_p50"]),
        (True, False, ["a_n", "a_sizes", "c", "b_n", "b_sizes"]),
        (True, True, ["a_n", "a_sizes", "c", "b_n", "b_sizes", "a_p50", "b_p50"]),
    ],
)
def test_an_option_adds_its_columns_at_the_end_and_changes_no_order(tmp_path, deep, wide, columns):
    state = f"    Deep = {deep}\n    Wide = {wide}\n    Most = 7\n"
    fields = output_fields(case_of(tmp_path, OPTIONS, state, "Output"))
    assert [field.name for field in fields] == columns
    assert {field.size for field in fields if field.kind == "ints"} == {7}


def test_what_is_said_of_a_column_is_said_of_its_fields_the_innermost_first(tmp_path):
    declared = (
        f"{PART}class Output(NamedTuple):\n    a: int  # packets\n    rtt: PartOutput  # server's side\n    b: int"
    )
    docs = {field.name: field.doc for field in output_fields(case_of(tmp_path, declared, output="Output"))}
    assert docs["a"] == "packets"
    assert docs["b"] == ""
    assert docs["rtt_n"] == "packets; server's side"
    assert docs["rtt_s_mean"] == "s; server's side"


def test_feed_shows_the_columns(tmp_path):
    declared = (
        f'{PART}class Output(NamedTuple):\n    ways: Annotated[tuple[PartOutput, PartOutput], named("*_a", "*_b")]\n'
    )
    collect = """
    def part(self) -> PartOutput:
        return PartOutput(n=self.n, s=self.w.output(2.0))

    def collect_features(self, interval_s: float) -> Output:
        return Output(ways=(self.part(), self.part()))
"""
    body = "    w: Moments\n\n    def add_packet(self, pkt: Packet) -> None:\n        self.n += 1\n        self.w.add(pkt.seq)\n"
    output = feed(load_case(write_case(tmp_path, body, declared + "\n\n", collect=collect)), [packet(seq=6)])
    assert output._asdict() == {
        "n_a": 1, "n_b": 1, "s_mean_a": 3.0, "s_mean_b": 3.0, "s_std_a": 0.0, "s_std_b": 0.0, "s_min_a": 3.0,
        "s_min_b": 3.0, "s_max_a": 3.0, "s_max_b": 3.0,
    }  # fmt: skip


def test_moments_of_nothing_are_not_observed(tmp_path):
    declared = "class Output(NamedTuple):\n    w: MomentsOutput\n"
    collect = (
        "\n    def collect_features(self, interval_s: float) -> Output:\n        return Output(w=self.w.output(1e9))\n"
    )
    output = feed(
        load_case(write_case(tmp_path, f"    w: Moments\n{COUNTING}", declared + "\n\n", collect=collect)), []
    )
    assert all(math.isnan(value) for value in output)


# What is refused


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("class Output(NamedTuple):\n    rtt: Moments  # HERE",
         "Output.rtt: Moments cannot be written; that is a state; declare what its output() returns, such as MomentsOutput"),
        ("class Part:\n    n: int\n\n\nclass Output(NamedTuple):\n    rtt: Part  # HERE",
         "Output.rtt: Part cannot be written; declare it as `class Part(NamedTuple)`, with a field for each column"),
        ("class PartOutput(NamedTuple):\n    n: str  # HERE\n\n\nclass Output(NamedTuple):\n    rtt: PartOutput",
         "PartOutput.n: str cannot be written; use int, float, bool, Annotated[list[int], up_to(N)] (list[float], bytes), "
         "or a NamedTuple of these"),
        ("class Output(NamedTuple):\n    a: list[int]  # HERE", "Output.a: list[int] cannot be written; use int, float"),
        ("class Output(NamedTuple):\n    a: dict[str, int]  # HERE", "Output.a: dict[str, int] cannot be written; use int"),
        ("class Output(NamedTuple):\n    rtt_mean: float\n    rtt: MomentsOutput  # HERE",
         "Output.rtt: rtt.mean and rtt_mean both give the column rtt_mean; rename one, or give it names of its own"),
        ('class Output(NamedTuple):\n    a: int\n    b: Annotated[tuple[int, int], named("a*", "b*")]\n'
         '    c: Annotated[int, named("ab")]  # HERE', 'Output.c: named("ab"): a name has one * in it'),
        ("class PartOutput(NamedTuple):\n    again: PartOutput  # HERE\n\n\nclass Output(NamedTuple):\n    a: PartOutput",
         "PartOutput.again: PartOutput contains itself; name its fields one by one"),
        ("class A(NamedTuple):\n    x: int\n\n\nclass B(NamedTuple):\n    a: A\n\n\nclass C(NamedTuple):\n    b: B  # HERE\n\n\n"
         "class D(NamedTuple):\n    c: C\n\n\nclass E(NamedTuple):\n    d: D\n\n\n"
         "class Output(NamedTuple):\n    e: E", "C.b: 4 NamedTuples within each other are the most"),
        ("class Output(NamedTuple):\n    a: tuple[int, int]  # HERE",
         "Output.a: tuple[int, int]: a tuple has elements of one type and a name for each; "
         'write Annotated[tuple[X, X], named("*_up", "*_down")]'),
        ('class Output(NamedTuple):\n    a: Annotated[tuple[int, float], named("*_up", "*_down")]  # HERE',
         "a tuple has elements of one type and a name for each"),
        ('class Output(NamedTuple):\n    a: Annotated[tuple[int, int, int], named("*_up", "*_down")]  # HERE',
         "a tuple has elements of one type and a name for each"),
        ('class Output(NamedTuple):\n    a: Annotated[int, named("*_up", "*_down")]  # HERE',
         "Output.a: int has 2 names; several are for a tuple, one for each element"),
        ('class Output(NamedTuple):\n    a: Annotated[int, named("*-up")]  # HERE', 'named("*-up"): a name has one * in it'),
        ('class Output(NamedTuple):\n    a: Annotated[int, when("Wid")]  # HERE',
         'Output.a: when("Wid"): the class has no parameter of that name; did you mean "Wide"?'),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_refused_with_its_line(tmp_path, declared, message):
    with pytest.raises(FeatureError) as caught:
        Registry([write_wrong(tmp_path, declared)]).get("Case")
    assert caught.value.where == f"{tmp_path / 'case.py'}:{line_of(tmp_path / 'case.py')}"
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


def write_wrong(folder: Path, declared: str) -> Path:
    collect = "\n    def collect_features(self, interval_s: float) -> Output:\n        return Output()\n"
    return write_case(folder, f"    Wide = True\n{COUNTING}", declared + "\n\n\n", collect=collect)


def test_an_output_that_is_no_named_tuple_is_refused(tmp_path):
    path = write_wrong(tmp_path, "class Output:\n    n: int")
    with pytest.raises(FeatureError, match=r"Case\.collect_features must be annotated with a NamedTuple class"):
        Registry([path]).get("Case")


SESSION = """
from typing import Annotated, NamedTuple
from trafficrefinery.api import MomentsOutput, up_to
from trafficrefinery.api.sessions import SessionFeature


class MeasuredOutput(NamedTuple):
    FIELD


class Measured(SessionFeature):
    def collect_features(self, interval_s: float) -> MeasuredOutput:
        return MeasuredOutput()
"""


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("n: Annotated[list[int], up_to(3)]  # HERE", "MeasuredOutput.n: ints cannot be a figure of a session; use int or float"),
        ("n: bool  # HERE", "MeasuredOutput.n: bool cannot be a figure of a session; use int or float"),
        ("n: str  # HERE", "MeasuredOutput.n: str cannot be written"),
        ("n_mean: int; n: MomentsOutput  # HERE", "both give the column n_mean"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_of_a_session_feature_is_refused_with_its_line(tmp_path, field, message):
    path = tmp_path / "measured.py"
    path.write_text(SESSION.replace("FIELD", field.replace("; ", "\n    ")))
    with pytest.raises(FeatureError) as caught:
        SessionRegistry([path])
    assert caught.value.where == f"{path}:{line_of(path)}"
    assert message in caught.value.message


# Declared once


def declared_in(path: Path) -> dict[str, list[str]]:
    """NamedTuple → its fields."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: [part.target.id for part in node.body if isinstance(part, ast.AnnAssign)]
        for node in classes
        if [ast.unparse(base) for base in node.bases] == ["NamedTuple"]
    }


ENDS = re.compile(r"_(up|down|server|client)$")
FIGURES = re.compile(r"(?<=.)_(mean|std|min|max|p\d\d)(?=_|$)")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_output_is_not_written_down_again_for_each_direction_or_series(path):
    for name, fields in declared_in(path).items():
        stems = Counter(ENDS.sub("", field) for field in fields if ENDS.search(field))
        nested = {"rtt", "ack_rtt", "ts_rtt"}  # one name for each side, and one NamedTuple for both
        assert [stem for stem, times in stems.items() if times > 1 and stem not in nested] == [], name
        series = Counter(FIGURES.sub("", field) for field in fields if FIGURES.search(field))
        assert sum(times > 1 for times in series.values()) <= 1, f"{name}: {series}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_output_is_returned_by_name(path):
    outputs = {*declared_in(path), "MomentsOutput"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            of = ast.unparse(node.func)
            assert of.removesuffix("._make") not in outputs or (of in outputs and not node.args), f"{of}: {node.lineno}"


def test_fewer_names_are_written_down_than_there_are_columns():
    columns = sum(len(output_fields(with_options(builtin(name)))) for name in BUILTIN)
    columns += sum(len(session_fields(cls)) for cls in SessionRegistry().classes)
    written = sum(len(fields) for path in FILES for fields in declared_in(path).values())
    assert written < columns * 0.6
