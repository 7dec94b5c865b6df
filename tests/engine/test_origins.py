"""What the compiler, or plain Python, says about a feature class names the line of its file, the reason and a hint."""

from __future__ import annotations

import pytest

from support.feature_cases import line_of, load_case, write_case
from trafficrefinery.api.testing import feed, packet
from trafficrefinery.engine.feature_classes.compile_errors import failure
from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.errors import FeatureError
from trafficrefinery.jit import COMPILED

compiled = pytest.mark.skipif(not COMPILED, reason="the compiler is off")
FIELDS = """\
    w: Moments
    sizes: Array[int] = array(uint16, 4)

    def two(self, a: int, b: int) -> int:
        return a + b

"""


def add_packet(*statements: str) -> str:
    return "    def add_packet(self, pkt: Packet) -> None:\n        " + "\n        ".join(statements) + "\n"


@compiled
@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["x = self.w", "if pkt.direction == UP:", "    x = 1", "self.n += x  # HERE"],
         "does not compile: x is a record in one place and an int in another; give each a name of its own"),
        (["self.n += self.sizes[self.n + 0.5]  # HERE"],
         "does not compile: an array is indexed with a float; take int(...) or // for an index"),
        (["self.n = self.w  # HERE"],
         "does not compile: a record cannot be stored as an int; store numbers, field by field"),
        (["self.n = later + 1  # HERE", "later = 3"],
         "does not compile: later is used before it has a value; set it first"),
        (["self.n = self.two(3)  # HERE"],
         "a method is called with the wrong arguments: missing a required argument: 'b'; compare the call with"),
        (["self.n = min(self.n, None)  # HERE"],
         "does not compile: min cannot be computed for (an int, None); compute with numbers only"),
        (["for i in self.n:  # HERE", "    self.n += i"],
         "does not compile: for cannot go through an int; write `for i in range(...)`"),
        (["self.w.add('a')  # HERE"], "does not compile: sub cannot be computed for (a string, a float)"),
    ],
)  # fmt: skip
def test_what_the_compiler_refuses_is_told_with_the_line_in_the_file(tmp_path, statements, message):
    path = write_case(tmp_path, FIELDS + add_packet(*statements))
    with pytest.raises(FeatureError) as caught:
        fuse([Profile((load_case(path),), 10**10)])
    assert caught.value.where == f"{path}:{line_of(path)}"
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


@compiled
def test_a_class_that_was_refused_is_refused_again(tmp_path):
    path = write_case(tmp_path, FIELDS + add_packet("self.n = self.w  # HERE"))
    for _ in range(2):
        with pytest.raises(FeatureError, match="a record cannot be stored"):
            fuse([Profile((load_case(path),), 10**10)])


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["self.sizes[pkt.payload_bytes] = 1  # HERE"],
         "Case.add_packet: self.sizes[pkt.payload_bytes]: IndexError: index 9 is out of bounds for axis 0 with "
         "size 4; compiled, the call ends here and counts as an error: compare the index with the length first"),
        (["if pkt.direction == DOWN:", "    x = 1", "self.n += x  # HERE"],
         "Case.add_packet: x: UnboundLocalError: cannot access local variable 'x' where it is not associated with a "
         "value; set it in every branch"),
        (["self.n = 1 // 0  # HERE"], "Case.add_packet: 1 // 0: ZeroDivisionError: "),
        (["self.m = 1  # HERE"], "Case.add_packet: self.m: AttributeError: Case has no field 'm'; declare it"),
        (["self.w.add('a')  # HERE"], "Case.add_packet: self.w.add('a'): "),
    ],
)  # fmt: skip
def test_what_plain_python_raises_is_told_with_line_and_expression(tmp_path, statements, message):
    path = write_case(tmp_path, FIELDS + add_packet(*statements))
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each raises another)
        feed(load_case(path), [packet(payload_bytes=9)])
    error = failure(caught.value, str(path))
    assert error.where == f"{path}:{line_of(path)}"
    assert error.message.startswith(message)


def test_an_exception_from_nowhere_names_the_file():
    assert str(failure(ValueError("why"), "x.py")) == "x.py: ValueError: why"
