"""The examples in the documentation of feature classes show what the classes do."""

from __future__ import annotations

import pytest

from support.feature_cases import BUILTIN, builtin, line_of, load_case, write_case, write_scaffold
from trafficrefinery.costs.checks.examples import run_examples
from trafficrefinery.errors import FeatureError


@pytest.mark.modes
@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_class_has_examples_and_they_hold(name):
    assert run_examples(builtin(name)) > 0


def test_the_scaffold_has_examples_and_they_hold(tmp_path):
    assert run_examples(load_case(write_scaffold(tmp_path), "BurstSizes")) > 0


COUNTING = """
    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
"""


def test_a_wrong_example_is_told_with_its_line(tmp_path):
    path = write_case(tmp_path, COUNTING, doc="    >>> feed(Case, [packet()]).n  # HERE\n    2\n")
    with pytest.raises(FeatureError, match=r"feed\(Case, \[packet\(\)\]\)\.n .*: shows 1, should be 2") as caught:
        run_examples(load_case(path))
    assert caught.value.where == f"{path}:{line_of(path)}"


def test_an_example_that_raises_is_told_with_its_line(tmp_path):
    path = write_case(tmp_path, COUNTING, doc="    >>> feed(Case, [paket()]).n  # HERE\n    2\n")
    with pytest.raises(FeatureError, match="NameError: name 'paket' is not defined") as caught:
        run_examples(load_case(path))
    assert caught.value.where == f"{path}:{line_of(path)}"
