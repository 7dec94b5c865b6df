"""HeaderBytes and HeaderImage: the bytes are the packet's, and none is read behind its end."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from support.naive.header import rows
from support.naive.running import load, run
from trafficrefinery.api import state_dtype
from trafficrefinery.api.testing import packet
from trafficrefinery.engine.feature_classes.fields import output_dtype, output_fields

HeaderBytes: Any = load("header_bytes").HeaderBytes
HeaderImage: Any = load("header_image").HeaderImage


class FewBytes(HeaderBytes):
    Packets = 3
    Bytes = 5


class FewPixels(HeaderImage):
    Packets = 3
    Bytes = 5


packets_of_intervals = st.lists(st.lists(st.binary(max_size=9), max_size=5), min_size=1, max_size=3)


@given(packets_of_intervals)
def test_equal_to_the_twin_in_each_interval(intervals: list[list[bytes]]) -> None:
    packets = [[packet(raw=raw) for raw in interval] for interval in intervals]
    copied, drawn = run(FewBytes, packets), run(FewPixels, packets)
    for number, interval in enumerate(intervals):
        data, copied_bytes, rest = rows(interval, 3, 5)
        assert bytes(copied[number]["header_bytes"]) == bytes(drawn[number]["image"]) == data
        assert copied[number]["copied_bytes"] == copied_bytes
        assert copied[number]["packets_not_copied"] == drawn[number]["packets_not_drawn"] == rest


def test_sizes_follow_the_parameters() -> None:
    assert state_dtype(FewBytes)["header_bytes"].shape == (15,)
    assert output_dtype(FewPixels)["image"]["items"].shape == (15,)
    (image, _) = output_fields(FewPixels)
    assert (image.kind, image.size, image.png_width) == ("bytes", 15, 5)
