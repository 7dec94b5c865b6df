"""The lines of a state that the packet loop asks for are those that packets touch."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import DOWN, UP, Array, FeatureClass, Packet, array, uint64
from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.engine.feature_classes.prefetch_plan import touched_lines
from trafficrefinery.jit import MODE

LINE = 8  # numbers in a cache line


class LinesOutput(NamedTuple):
    up: int


class Lines(FeatureClass):
    """A line for each direction, one for what is seldom, one for nothing."""

    first: Array[int] = array(uint64, LINE)
    up: Array[int] = array(uint64, LINE)
    down: Array[int] = array(uint64, LINE)
    large: Array[int] = array(uint64, LINE)
    unused: Array[int] = array(uint64, LINE)

    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == UP:
            self.up[0] += 1
        else:
            self.down[0] += 1
        if pkt.payload_bytes > 1_448:
            self.large[0] += 1

    def collect_features(self, interval_s: float) -> LinesOutput:
        return LinesOutput(up=self.up[0])


class SmallOutput(NamedTuple):
    n: int


class Small(FeatureClass):
    n: uint64

    def add_packet(self, pkt: Packet) -> None:
        self.n += 1

    def collect_features(self, interval_s: float) -> SmallOutput:
        return SmallOutput(n=self.n)


def test_lines_are_those_that_packets_of_a_direction_write_and_the_first_of_each_class():
    profile = Profile((Small, Lines), 10_000_000_000)
    lines = touched_lines(profile, fuse([profile]).profiles[0])
    small = profile.state_dtype().fields["Small"][1]
    expected = {UP: [0, 64, small], DOWN: [0, 128, small]}
    assert lines == ((expected[UP], expected[DOWN]) if MODE == "on" else ([0, small], [0, small]))


def test_the_largest_class_begins_at_a_cache_line_and_states_are_whole_lines():
    state = Profile((Small, Lines), 10_000_000_000).state_dtype()
    assert state.fields["Lines"][1] == 0
    assert state.itemsize % 64 == 0


def test_a_small_state_is_not_padded_to_a_line():
    assert Profile((Small,), 10_000_000_000).state_dtype().itemsize == 8
