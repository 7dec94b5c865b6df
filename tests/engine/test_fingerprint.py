"""A step is found again without making its text, and never for classes that would make another one."""

from __future__ import annotations

import importlib
import sys

import pytest

from trafficrefinery.engine.feature_classes.fuse import Profile, compiled_source
from trafficrefinery.engine.feature_classes.key import fingerprint
from trafficrefinery.engine.feature_classes.registry import load_file, specialise

HELPERS = """
from trafficrefinery.api import Struct, uint64

STEP = 2


def more(x: int) -> int:
    return x + STEP


class Counter(Struct):
    n: uint64

    def add(self, x: int) -> None:
        self.n += more(x)
"""
FEATURE = """
from typing import NamedTuple

from helpers_of_a_feature import Counter, more
from trafficrefinery.api import Array, FeatureClass, Packet, array, uint64


class CountedOutput(NamedTuple):
    n: int


class Counted(FeatureClass):
    Bins = 4
    counter: Counter
    bins: Array[int] = array(uint64, "Bins")

    def add_packet(self, pkt: Packet) -> None:
        self.counter.add(pkt.ip_bytes)
        self.bins[0] += 1

    def collect_features(self, interval_s: float) -> CountedOutput:
        return CountedOutput(n=self.counter.n)
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """The class of the feature file, which imports the file of helpers, as these are now."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def made(feature: str = FEATURE, helpers: str = HELPERS):
        (tmp_path / "helpers_of_a_feature.py").write_text(helpers)
        (tmp_path / "feature.py").write_text(feature)
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.endswith("_feature") or "feature_feature" in name]:
            del sys.modules[name]
        return load_file(tmp_path / "feature.py").Counted

    yield made
    sys.modules.pop("helpers_of_a_feature", None)


def both(cls) -> tuple[str, str]:
    """Fingerprint and text."""
    return fingerprint([[cls]], {}), compiled_source([Profile((cls,), 10**10)])


def test_the_fingerprint_of_a_class_that_is_loaded_again_is_the_same(load):
    assert both(load()) == both(load())


def test_a_comment_that_moves_no_line_changes_nothing(load):
    assert both(load()) == both(load(helpers=HELPERS.replace("STEP = 2", "STEP = 2  # of each")))


@pytest.mark.parametrize(
    ("of", "old", "new"),
    [
        ("helpers", "STEP = 2", "STEP = 3"),
        ("helpers", "x + STEP", "x - STEP"),
        ("helpers", "n: uint64", "n: uint64\n    m: uint64"),
        ("helpers", "\n\nSTEP", "\n\n\nSTEP"),
        ("feature", "Bins = 4", "Bins = 5"),
        ("feature", "+= 1", "+= 2"),
        ("feature", "n: int", "n: float"),
        ("feature", "add(pkt.ip_bytes)", "add(pkt.wire_bytes)"),
    ],
)
def test_what_changes_the_text_changes_the_fingerprint(load, of, old, new):
    before = both(load())
    texts = {"feature": FEATURE, "helpers": HELPERS}
    assert old in texts[of]
    after = both(load(**{**texts, of: texts[of].replace(old, new)}))
    assert before[1] != after[1]
    assert before[0] != after[0]


def test_parameters_order_and_options_change_the_fingerprint(load):
    cls = load()
    other = specialise(cls, {"Bins": 8})
    found = [
        fingerprint([[cls]], {}), fingerprint([[other]], {}), fingerprint([[cls], [other]], {}),
        fingerprint([[other], [cls]], {}), fingerprint([[cls, other]], {}), fingerprint([[cls]], {"blanked": True}),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_a_class_that_was_specialised_anew_has_the_same_fingerprint(load):
    cls = load()
    assert len({fingerprint([[specialise(cls, {"Bins": 8})]], {}) for _ in range(3)}) == 1
