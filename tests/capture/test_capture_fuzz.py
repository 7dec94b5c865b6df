"""Damaged and arbitrary traces: the reader equals its naive twin, whatever the bytes.

Bounds-checked (see the marker), a byte outside of a file is an error.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.pcapng_blocks import (
    COMPRESSIONS,
    Frame,
    block,
    enhanced,
    frames_of,
    interface,
    merged_naively,
    naive_frames,
    obsolete,
    pcap_file,
    section,
)
from trafficrefinery.capture.traces import reader as file_module
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.errors import TraceError
from trafficrefinery.jit import COMPILED

pytestmark = pytest.mark.modes

EXAMPLES = settings(max_examples=150 if COMPILED else 40)
HEADER_BYTES = 28  # of both formats, at most: what the naive twin expects to be whole

orders = st.sampled_from("<>")
u32 = st.integers(0, 2**32 - 1)
frames = st.builds(
    lambda ts_ns, data, cut: Frame(ts_ns, data, len(data) + cut, 1),
    st.integers(0, 2**32 * 10**9 - 1),
    st.binary(max_size=70),
    st.sampled_from((0, 0, 1000)),
)


@st.composite
def pcap_bytes(draw):
    return pcap_file(
        draw(st.lists(frames, max_size=12)),
        order=draw(orders),
        magic=draw(st.sampled_from((0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34))),
        link=draw(st.sampled_from((1, 113))),
        version=(2, draw(st.sampled_from((2, 4)))),
    )


@st.composite
def pcapng_bytes(draw):
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        order = draw(orders)
        data += section(order) + interface(order, link=7)
        for _ in range(draw(st.integers(0, 8))):
            units, frame, number = draw(st.integers(0, 2**64 - 1)), draw(frames), draw(st.integers(0, 1))
            data += draw(
                st.sampled_from(
                    (
                        enhanced(order, units, frame),
                        enhanced(order, units, frame, number),
                        obsolete(order, units, frame, number),
                        block(order, 3, len(frame.data).to_bytes(4, "big" if order == ">" else "little") + frame.data),
                        block(order, 5, frame.data),
                        interface(order, snap=20, resolution=draw(st.integers(0, 255)), offset_s=units % 999 - 99),
                    )
                )
            )
    return data


traces = pcap_bytes() | pcapng_bytes()


@st.composite
def damaged(draw, data):
    """Some bytes changed, a piece cut out, put in or doubled, or the end cut off."""
    data = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 1:
            data[at : at + 4] = draw(u32).to_bytes(4, "little")
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + 30]
        else:
            del data[at:]
    return bytes(data)


@contextmanager
def stored(*contents):
    """Paths of temporary files with these contents."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"trace{i}" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        yield paths


def read(data, **arguments):
    """(frames, positions of damage); None when the reader refuses the file."""
    with stored(data) as paths:
        try:
            reader = TraceReader(paths, **arguments)
        except TraceError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any refusal is right, if it is one line
            return None
        with reader:
            return frames_of(reader), [error.position for error in reader.damage]


def twin(data):
    found, position = naive_frames(data)
    return found, [] if position is None else [position]


@EXAMPLES
@given(traces.flatmap(damaged), st.sampled_from((1, 3, 1024)))
@example(section() + interface() + block("<", 6, bytes(19)), 3)
def test_any_bytes_give_the_frames_and_the_damage_of_the_naive_twin(data, frames_per_block):
    found = read(data, frames_per_block=frames_per_block)
    if found is not None:
        assert found == twin(data)


@EXAMPLES
@given(traces.flatmap(damaged), st.sampled_from(("gzip", "gzip members", "zstd", "zstd blocks", "zstd frames")))
def test_windows_and_compression_change_nothing(data, compression):
    with mock.patch.multiple(file_module, STEP_BYTES=200, PIECE_BYTES=64):
        through_windows = read(COMPRESSIONS[compression](data))
    whole = read(data)
    if through_windows is None or whole is None:
        assert through_windows == whole
    else:
        assert through_windows == whole


@EXAMPLES
@given(traces, st.integers(0, 2**30))
def test_a_cut_gives_a_prefix_and_damage_unless_it_falls_between_records(data, cut):
    whole, _ = twin(data)
    cut = HEADER_BYTES + cut % max(1, len(data) - HEADER_BYTES)
    found = read(data[:cut])
    assert found is not None
    assert found[0] == whole[: len(found[0])]
    assert found == twin(data[:cut])


@EXAMPLES
@given(traces, st.data())
def test_a_changed_byte_changes_no_frame_before_it(data, choice):
    at = choice.draw(st.integers(HEADER_BYTES, max(HEADER_BYTES, len(data) - 1)))
    before, _ = naive_frames(data[:at])
    changed = (
        data[:at] + bytes([data[at] ^ choice.draw(st.integers(1, 255))]) + data[at + 1 :] if at < len(data) else data
    )
    found = read(changed)
    assert found is not None
    assert found[0][: len(before)] == before


@EXAMPLES
@given(st.lists(frames, min_size=1, max_size=12), st.sampled_from(sorted(COMPRESSIONS)), st.data())
def test_a_damaged_compressed_trace_never_crashes(packets, compression, choice):
    data = choice.draw(damaged(COMPRESSIONS[compression](pcap_file(packets))))
    with mock.patch.multiple(file_module, STEP_BYTES=200, PIECE_BYTES=64):
        read(data)


@EXAMPLES
@given(st.lists(st.lists(frames, max_size=30), min_size=2, max_size=4), st.sampled_from((1, 4, 1024)))
def test_merged_traces_are_those_of_the_naive_merge(parts, frames_per_block):
    with (
        stored(*(pcap_file(part) for part in parts)) as paths,
        TraceReader(paths, frames_per_block=frames_per_block) as reader,
    ):
        assert frames_of(reader) == merged_naively(parts)
