"""Feature classes as functions on records: what the translation makes of them, and what it refuses."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import numpy as np
import pytest

from support.feature_cases import BUILTIN, builtin, line_of, load_case, with_options, write_case, write_scaffold
from trafficrefinery import api
from trafficrefinery.api import state_dtype
from trafficrefinery.api.testing import plain
from trafficrefinery.costs.measure import check_loop
from trafficrefinery.costs.measure.check_runs import script
from trafficrefinery.engine.feature_classes.compile_errors import with_origins
from trafficrefinery.engine.feature_classes.fields import output_dtype
from trafficrefinery.engine.feature_classes.fuse import Profile, compiled_source
from trafficrefinery.engine.feature_classes.runtime import _put
from trafficrefinery.engine.feature_classes.transform import ClassFunctions
from trafficrefinery.errors import FeatureError

COUNTING = """
    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
"""


def translated(cls: Any) -> dict[str, str]:
    """The functions of a class, by name."""
    program = ClassFunctions()
    for method in ("add_packet", "collect_features", "clear"):
        program.method(cls, method, cls.__name__)
    return {node.name: ast.unparse(ast.fix_missing_locations(node)) for node, _ in program.functions}


def body(folder: Any, statement: str, fields: str = "", before: str = "") -> str:
    """What becomes of one statement of `add_packet`."""
    case = f"{fields}\n    def add_packet(self, pkt: Packet) -> None:\n        {statement}\n"
    functions = translated(load_case(write_case(folder, case, before)))
    return functions["Case_add_packet"].partition(":\n    ")[2]


# What a method becomes


@pytest.mark.parametrize(
    ("statement", "fields", "becomes"),
    [
        ("self.n = pkt.seq", "", "self.n = int64(pkt.seq)"),
        ("self.n += 1", "", "self.n = int64(self.n) + 1"),
        ("self.w.low = 2", "    w: Moments", "self.w.low = 2"),
        ("x = self.w.low", "    w: Moments", "x = float64(self.w.low)"),
        ("self.w.add(pkt.seq)", "    w: Moments", "Moments_add(self.w, int64(pkt.seq))"),
        ("self.sizes[self.n] = 1", "    sizes: Array[int] = array(uint8, 4)", "self.sizes[int64(self.n)] = 1"),
        ("x = self.sizes[0]", "    sizes: Array[int] = array(uint8, 4)", "x = int64(self.sizes[0])"),
        ("x = len(self.sizes)", "    sizes: Array[int] = array(uint8, 4)", "x = 4"),
        ("x = len(self.sizes)", '    Most = 7\n    sizes: Array[int] = array(uint8, "Most")', "x = 7"),
        ("s = self.w[1]; s.n += 1", "    w: Array[Moments] = array(Moments, 2)",
         "s = self.w[1]\n    s.n = int64(s.n) + 1"),
        ("self.n = self.Most", "    Most = 7", "self.n = 7"),
        ("self.n = UP + DOWN", "", "self.n = 0 + 1"),
        ("x = nan", "", "x = np.nan"),
        ("x = -inf", "", "x = -np.inf"),
        ("x = sqrt(2.0)", "", "x = sqrt(2.0)"),
        ("x = min(self.n, 3)", "", "x = min(int64(self.n), 3)"),
        ("x = pkt.raw(4)", "", "x = raw_byte(pkt, _buffer, 4)"),
        ("x: int = 3", "", "x = 3"),
        ("'said'", "", "pass"),
    ],
)  # fmt: skip
def test_a_statement_becomes_one_on_a_record(tmp_path, statement, fields, becomes):
    assert body(tmp_path, statement, fields) == becomes


@pytest.mark.parametrize(
    ("value", "becomes"),
    [("True", "self.n = 1"), ("False", "self.n = 2")],
)
def test_the_branch_of_an_option_that_is_off_is_left_out(tmp_path, value, becomes):
    statement = "if self.Wide:\n            self.n = 1\n        else:\n            self.n = 2"
    assert body(tmp_path, statement, f"    Wide = {value}") == becomes
    assert (
        body(tmp_path, "x = 1 if not self.Wide else 2", f"    Wide = {value}") == f"x = {2 if value == 'True' else 1}"
    )


def test_a_return_of_outputs_becomes_assignments_to_a_row(tmp_path):
    functions = translated(load_case(write_case(tmp_path, COUNTING)))
    assert functions["Case_collect_features"] == (
        "def Case_collect_features(self, _out, interval_s):\n"
        "    _out.n = int64(self.n)\n"
        "    _out.x = int64(self.n) / interval_s"
    )


NESTED = """
class WayOutput(NamedTuple):
    n: int  # packets
    size: MomentsOutput  # bytes


class NestedOutput(NamedTuple):
    n: int  # packets
    sizes: MomentsOutput  # bytes
    ways: Annotated[tuple[WayOutput, WayOutput], named("*_up", "*_down")]


"""
WAY = """
    w: Moments

    def way(self, scale: float) -> WayOutput:
        return WayOutput(n=self.n, size=self.w.output(scale))

    def collect_features(self, interval_s: float) -> NestedOutput:
"""


def collecting(folder: Any, body: str) -> list[str]:
    """What becomes of the body of a `collect_features` with nested outputs."""
    case = write_case(folder, COUNTING, NESTED, collect=WAY + body)
    functions = translated(load_case(case))
    return functions["Case_collect_features"].replace("    ", "").splitlines()[1:]


def test_a_nested_output_becomes_assignments_to_its_columns(tmp_path):
    body = """
        way = self.way(1.0)
        size = way.size
        return NestedOutput(
            n=way.n,
            sizes=MomentsOutput(mean=size.mean, std=self.way(2.0).size.std, min=1.0, max=2.0),
            ways=(way, self.way(2.0)),
        )
    """
    columns = [f"{name}_{{way}} = {{made}}{index}" for name, index in (
        ("n", "[0]"), ("size_mean", "[1][0]"), ("size_std", "[1][1]"), ("size_min", "[1][2]"), ("size_max", "[1][3]"),
    )]  # fmt: skip
    assert collecting(tmp_path, body) == [
        "way = Case_way(self, 1.0)",
        "size = way[1]",
        "_out.n = way[0]",
        "_out.sizes_mean = size[0]",
        "_out.sizes_std = Case_way(self, 2.0)[1][1]",
        "_out.sizes_min = 1.0",
        "_out.sizes_max = 2.0",
        "_made_2_0 = way",
        *("_out." + column.format(way="up", made="_made_2_0") for column in columns),
        "_made_2_1 = Case_way(self, 2.0)",
        *("_out." + column.format(way="down", made="_made_2_1") for column in columns),
    ]


def test_an_output_may_be_returned_from_a_branch(tmp_path):
    collect = """
    def collect_features(self, interval_s: float) -> CaseOutput:
        if self.n == 0:
            return CaseOutput(n=0, x=nan)
        return CaseOutput(n=self.n, x=1.0)
"""
    functions = translated(load_case(write_case(tmp_path, COUNTING, collect=collect)))
    assert functions["Case_collect_features"].partition("\n")[2].splitlines() == [
        "    if int64(self.n) == 0:",
        "        _out.n = 0",
        "        _out.x = np.nan",
        "        return",
        "    _out.n = int64(self.n)",
        "    _out.x = 1.0",
    ]


def test_a_method_that_returns_an_output_returns_a_tuple_and_each_part_keeps_its_line(tmp_path):
    body = "        return NestedOutput(n=1, sizes=self.w.output(1.0), ways=(self.way(1.0), self.way(2.0)))\n"
    functions = translated(load_case(write_case(tmp_path, COUNTING, NESTED, collect=WAY + body)))
    assert functions["Case_way"] == (
        "def Case_way(self, scale):\n    _made_0 = int64(self.n)\n    _made_1 = Moments_output(self.w, scale)\n"
        "    return (_made_0, _made_1)"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("NestedOutput(n=1, sizes=self.way(1.0), ways=(self.way(1.0), self.way(1.0)))",
         "self.way gives WayOutput in place of MomentsOutput"),
        ("NestedOutput(n=1, sizes=self.w.output(1.0), ways=(self.way(1.0),))",
         "ways has 1 elements; it is declared with 2"),
        ("NestedOutput(n=1, sizes=MomentsOutput(mean=1.0), ways=(self.way(1.0), self.way(1.0)))",
         "the output field std of MomentsOutput is missing"),
        ("NestedOutput(n=1, sizes=MomentsOutput(1.0, 1.0, 1.0, 1.0), ways=(self.way(1.0), self.way(1.0)))",
         "give the fields by name: MomentsOutput(mean=…)"),
        ("NestedOutput(n=self.way(1.0).m, sizes=self.w.output(1.0), ways=(self.way(1.0), self.way(1.0)))",
         "self.way(1.0).m: WayOutput has no field m"),
        ("self.way(1.0)", "self.way gives WayOutput in place of NestedOutput"),
    ],
)  # fmt: skip
def test_a_nested_output_that_is_not_as_declared_is_refused_with_its_line(tmp_path, body, message):
    path = write_case(tmp_path, COUNTING, NESTED, collect=f"{WAY}        return {body}  # HERE\n")
    with pytest.raises(FeatureError) as caught:
        translated(load_case(path))
    assert caught.value.where == f"{path}:{line_of(path)}"
    assert message in caught.value.message


def test_a_class_without_a_clear_of_its_own_gets_one_that_zeroes_every_field(tmp_path):
    fields = "    w: Moments\n    sizes: Array[int] = array(uint8, 4)\n    s: Array[Moments] = array(Moments, 2)\n"
    functions = translated(load_case(write_case(tmp_path, fields + COUNTING)))
    assert functions["Case_clear"].splitlines() == [
        "def Case_clear(self):",
        "    self.n = 0",
        "    Moments_clear(self.w)",
        "    for i in range(4):",
        "        self.sizes[i] = 0",
        "    for i in range(2):",
        "        Moments_clear(self.s[i])",
        "    return",
    ]


def test_a_helper_function_of_the_file_is_translated_too(tmp_path):
    before = "BASE = 3\n\n\ndef twice(x: int) -> int:\n    return 2 * x + BASE\n\n\n"
    case = "\n    def add_packet(self, pkt: Packet) -> None:\n        self.n = twice(self.n)\n"
    functions = translated(load_case(write_case(tmp_path, case, before)))
    (helper,) = [text for name, text in functions.items() if name.endswith("_twice")]
    assert helper.endswith("return 2 * x + 3")


def test_classes_of_one_name_with_other_parameters_get_functions_of_their_own(tmp_path):
    case = load_case(write_case(tmp_path, f"    Most = 7\n{COUNTING}"))
    other = type("Case", (case,), {"Most": 8, "__module__": case.__module__})
    program = ClassFunctions()
    assert [program.method(cls, "add_packet", "") for cls in (case, other)] == ["Case_add_packet", "Case_1_add_packet"]


@pytest.mark.parametrize("name", ["PacketTimes", "HeaderBytes", "FlowStatistics", "SampledCounts"])
def test_the_translation_does_what_the_class_does(name):
    cls = with_options(builtin(name))
    ours, theirs = _Translated(cls), cls.bind(np.zeros((), state_dtype(cls))[()])
    told = script()
    chosen = np.flatnonzero(told.flows == told.flows[0])[:120]
    outputs = 0
    with np.errstate(all="ignore"):
        for i in chosen:
            if told.actions[i] & check_loop.COLLECT:
                assert _values(ours.collect(), cls) == _values(_row(cls, theirs), cls)
                theirs.clear()
                outputs += 1
            packet = np.asarray(told.packets)[i]
            theirs.add_packet(api.Packet.bind_raw(packet, told.buffer))
            ours.add_packet(packet, told.buffer)
        assert _values(ours.collect(), cls) == _values(_row(cls, theirs), cls)
    assert outputs > 0


class _Translated:
    """The functions of a class, run as plain Python on record arrays."""

    def __init__(self, cls: Any) -> None:
        program = ClassFunctions()
        self._names = {name: program.method(cls, name, "") for name in ("add_packet", "collect_features", "clear")}
        self._scope: dict[str, Any] = {
            "np": np, "math": math, "int64": np.int64, "float64": np.float64, "put_list": _put_list,
            "raw_byte": lambda r, buffer, i: np.int64(buffer[r.raw_offset + i]) if 0 <= i < r.raw_bytes else np.int64(0),
            **{name: getattr(api, name) for name in ("isfinite", "isnan", "seq_diff", "seq_lt", "sqrt")},
        }  # fmt: skip
        for node, _ in program.functions:
            exec(ast.unparse(ast.fix_missing_locations(node)), self._scope)
        self._state, self._output = _Record(np.zeros(1, state_dtype(cls))[0]), output_dtype(cls)

    def add_packet(self, packet: Any, buffer: Any) -> None:
        function = self._scope[self._names["add_packet"]]
        function(self._state, _Record(packet), *([buffer] if function.__code__.co_argcount == 3 else []))

    def collect(self) -> Any:
        row = np.zeros(1, self._output)[0]
        self._scope[self._names["collect_features"]](self._state, _Record(row), 10.0)
        self._scope[self._names["clear"]](self._state)
        return row


class _Record:
    """Fields of a NumPy record as attributes, whatever they are called; compiled code sees a record like this."""

    def __init__(self, record: Any) -> None:
        object.__setattr__(self, "record", record)

    def __getattr__(self, name: str) -> Any:
        value = self.record[name]
        if isinstance(value, np.void):
            return _Record(value)
        return [_Record(item) for item in value] if value.dtype.names else value

    def __setattr__(self, name: str, value: Any) -> None:
        self.record[name] = np.asarray(value).astype(self.record.dtype[name])


def _put_list(field: Any, values: Any) -> None:
    field.n = min(len(values), len(field.items))
    field.items[: field.n] = values[: field.n]


def _row(cls: Any, state: Any) -> Any:
    row = np.zeros(1, output_dtype(cls))[0]
    for name, value in plain(state.collect_features(10.0))._asdict().items():
        _put(row, name, value)
    return row


def _values(row: Any, cls: Any) -> list[str]:
    return [repr(row[name].tolist()) for name in output_dtype(cls).names]


# What is refused, with line, reason and hint


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("self.m = 1", "Case has no field 'm'; declare it with an annotation"),
        ("self.nn = 1", "Case has no field 'nn'; declare it with an annotation"),
        ("x = pkt.sequence", "a packet has no 'sequence'; there are ts_ns, "),
        ("x = pkt.payload_byte", "a packet has no 'payload_byte'; did you mean \"payload_bytes\"?"),
        ("pkt.seq = 1", "seq of a packet cannot be changed; other classes see the packet too"),
        ("self.Most = 1", "'Most'; parameter cannot be changed"),
        ("self.ad()", "Case has no method 'ad'"),
        ("x = DOWNN", 'DOWNN is not known here, or not a number; did you mean "DOWN"?'),
        ("x = [1, 2]", "a list cannot be compiled; use plain arithmetic, if, for and while"),
        ("x = [i for i in range(3)]", "a list comprehension cannot be compiled"),
        ("x = {1: 2}", "a dict cannot be compiled"),
        ("x = f'{self.n}'", "an f-string cannot be compiled"),
        ("x = lambda: 1", "lambda cannot be compiled"),
        ("assert self.n", "assert cannot be compiled"),
        ("raise ValueError", "raise cannot be compiled"),
        ("import math", "import cannot be compiled"),
        ("print(self.n)", "print cannot be called here"),
        ("x = mi(1, 2)", "mi cannot be called here; did you mean \"min\"?"),
        ("x = min(a=1)", "only positional arguments can be compiled"),
        ("x = self.n.bit_length()", "self.n.bit_length is not a field, parameter or constant"),
        ("self.add_packet(pkt)", "Case.add_packet calls itself; recursion cannot be compiled"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_with_its_line(tmp_path, statement, message):
    path = write_case(
        tmp_path, f"    Most = 7\n\n    def add_packet(self, pkt: Packet) -> None:\n        {statement}  # HERE\n"
    )
    with pytest.raises(FeatureError) as caught:
        translated(load_case(path))
    assert caught.value.where == f"{path}:{line_of(path)}"
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("collect", "message"),
    [
        ("return CaseOutput(self.n, 1.0)  # HERE", "give the fields by name: CaseOutput(n=…)"),
        ("return CaseOutput(n=self.n)  # HERE", "the output field x of CaseOutput is missing"),
        ("return CaseOutput(n=self.n, x=1.0, xx=2)  # HERE", "CaseOutput has no field xx"),
        ("return (self.n, 1.0)  # HERE", "must end in `return Output(field=value, …)`, with keywords"),
    ],
)
def test_outputs_that_are_not_as_declared_are_refused(tmp_path, collect, message):
    collect = f"\n    def collect_features(self, interval_s: float) -> CaseOutput:\n        {collect}\n"
    path = write_case(tmp_path, COUNTING, collect=collect)
    with pytest.raises(FeatureError, match="collect") as caught:
        translated(load_case(path))
    assert caught.value.where == f"{path}:{line_of(path)}"
    assert message in caught.value.message


@pytest.mark.parametrize("missing", ["add_packet", "collect_features"])
def test_a_class_without_one_of_its_methods_is_refused(tmp_path, missing):
    path = write_case(tmp_path, "" if missing == "add_packet" else COUNTING)
    cls = load_case(path)
    if missing == "collect_features":
        del cls.collect_features
    with pytest.raises(FeatureError, match=f"the class has no {missing}; see `trafficrefinery features new`"):
        compiled_source([Profile((cls,), 1)])


# The lines that generated functions come from


@pytest.mark.parametrize("name", BUILTIN)
def test_each_generated_line_tells_the_line_that_it_is_from(name):
    cls = with_options(builtin(name))
    program = ClassFunctions()
    for method in ("add_packet", "collect_features", "clear"):
        program.method(cls, method, name)
    lines = 0
    for node, where in program.functions:
        file, _, _ = where.rpartition(":")
        if not file:
            continue
        with open(file) as opened:  # noqa: PTH123 (the file of the class, or of the api)
            source = opened.read().splitlines()
        for text in with_origins(node, where, "checked").splitlines()[1:]:
            made, _, number = text.rpartition("  # ")
            if number.isdigit():
                lines += 1
                words = set(_words(re.sub(r"(_out\.\w+ = )?_made\w*", "", made)))
                words -= {"int64", "float64", "_out", "put_list", "range", "pass", "return", "np"}
                assert not words or words & set(_words(source[int(number) - 1])), (text, source[int(number) - 1])
    assert lines > 5


def _words(text: str) -> list[str]:
    return [word for word in "".join(c if c.isalnum() or c == "_" else " " for c in text).split() if not word.isdigit()]


def test_lines_of_a_function_that_nobody_wrote_tell_nothing(tmp_path):
    (definition,) = ast.parse("def f(self):\n    self.n = 0").body
    assert with_origins(definition, "Case.clear", "checked") == "@checked  # Case.clear\ndef f(self):\n    self.n = 0"
    assert write_scaffold(tmp_path).exists()
