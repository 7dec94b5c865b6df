"""The readers of all `sources` in the packets of flows, as one compiled function for each kind of packets.

`wanted` has a bit for each source that is to be read. Compiled code cannot loop over functions, so each reader is
called by the one before it, where that has found nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trafficrefinery.jit import borrowed, helper, kernel

from .names import NO_ECH, OTHER
from .sources import STRONGEST_FIRST, TCP, UDP


def _in_turn(readers: Sequence[tuple[int, Any]]) -> Any:
    """Some readers, with their numbers, as one: it returns the number, and what `FlowSource.read` does."""
    if not readers:
        return _no_reader
    number, read = readers[0]
    others = _in_turn(readers[1:])

    @helper
    def read_in_turn(buffer: Any, at: int, end: int, wanted: int, *more: Any) -> Any:
        begins = at
        if wanted >> number & 1:
            status, begins, name_at, name_bytes, ech = read(buffer, at, end, *more)
            if status != OTHER:
                return number, status, begins, name_at, name_bytes, ech
        by, status, others_begin, name_at, name_bytes, ech = others(buffer, at, end, wanted, *more)
        return by, status, max(begins, others_begin), name_at, name_bytes, ech

    return read_in_turn


@helper
def _no_reader(buffer: Any, at: int, end: int, wanted: int, *more: Any) -> Any:  # noqa: ARG001
    return 0, OTHER, at, 0, 0, NO_ECH


def _any_of(tests: Sequence[tuple[int, Any]]) -> Any:
    if not tests:
        return _none
    number, begins = tests[0]
    others = _any_of(tests[1:])

    @helper
    def begins_here(buffer: Any, at: int, end: int, wanted: int) -> bool:
        if wanted >> number & 1 and begins(buffer, at, end):
            return True
        return bool(others(buffer, at, end, wanted))

    return begins_here


@helper
def _none(buffer: Any, at: int, end: int, wanted: int) -> bool:  # noqa: ARG001
    return False


_STREAMS = [(number, source) for number, source in STRONGEST_FIRST if source.protocol == TCP]
_DATAGRAMS = [(number, source) for number, source in STRONGEST_FIRST if source.protocol == UDP]
STREAMS_WANTED = sum(1 << number for number, _ in _STREAMS)
DATAGRAMS_WANTED = sum(1 << number for number, _ in _DATAGRAMS)

begins_in_stream = _any_of([(number, source.begins) for number, source in _STREAMS])
read_stream = _in_turn([(number, source.read) for number, source in _STREAMS])
read_datagram = _in_turn([(number, source.read) for number, source in _DATAGRAMS])
_read_whole = _in_turn([(number, source.read_whole or source.read) for number, source in _STREAMS])


@kernel
def read_assembled(stream: Any, wanted: int) -> Any:
    """What a stream begins with, as far as it is there: number of the source, and the five of `FlowSource.read`.

    Args:
        stream: uint8[n], which may be changed.
    """
    stream = borrowed(stream)
    return _read_whole(stream, 0, len(stream), wanted)
