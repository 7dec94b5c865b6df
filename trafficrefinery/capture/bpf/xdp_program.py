"""The XDP program of a capture: it stamps a frame, copies DNS for the process that reads names, and picks a worker.

    Capture.Filter leaves it out?           it goes on to the machine's own network stack
    else                                    it goes to the socket of its worker, or is counted

The parts that look into a frame are the classic programs that packet sockets have.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .extended import (
    ALU32,
    ALU64,
    CONTEXT,
    DOUBLE,
    EXIT,
    IF_EQUAL,
    IF_GREATER,
    IF_LESS,
    IF_NOT_EQUAL,
    LDX,
    LENGTH,
    LOAD_BYTES,
    REGISTER,
    SAVED,
    STX,
    A,
    Extended,
    X,
)
from .filters import compile_filter
from .programs import address_hash, dns_filter

STAMP_BYTES = 8
"""Before the frame, where XDP has room for metadata: nanoseconds of CLOCK_MONOTONIC."""
NAME_RECORD_BYTES, NAME_HEAD_BYTES, RING_HEAD_BYTES = 2048, 16, 8
"""A frame with DNS in the ring: behind the ring's head, its stamp (u8), and its bytes on the wire and here (u4)."""
UNCLAIMED, NAMES_LOST = 0, 8
"""Where in the map of counts: frames that no socket is there for, frames with DNS that found no room."""
_TIME, _REDIRECT, _ADJUST_META, _RESERVE, _SUBMIT, _DISCARD = 5, 51, 54, 131, 132, 133  # numbers of bpf-helpers(7)
_PASS, _REDIRECTED = 2, 4  # enum xdp_action
_DATA, _DATA_META, _QUEUE = 0, 8, 16  # in struct xdp_md
_MULTIPLY, _REMAINDER = 0x20, 0x90


class Maps(NamedTuple):
    """Descriptors: of the workers' sockets by queue * workers + worker, of the counts, of the ring for names."""

    sockets: int
    counts: int
    names: int


def xdp_program(maps: Maps, workers: int, fanout: str, expression: str, decapsulate: Collection[str]) -> bytes:
    """The program.

    Args:
        fanout: `addresses` or `queue`, as in the configuration.
        expression: Capture.Filter.

    Raises:
        UsageError: with libpcap's words of a filter.
    """
    p = Extended()
    taken = p.label()
    p.copy(CONTEXT, 1)
    _copy_names(p, maps, dns_filter(True, decapsulate))
    if expression:
        p.classic(compile_filter(expression))
        p.jump(taken, IF_NOT_EQUAL, A)
        p.move(0, _PASS)
        p.emit(EXIT)
    p.place(taken)
    _pick_worker(p, workers, fanout, decapsulate)
    _stamp(p)
    _redirect(p, maps, workers)
    return p.assembled()


def _copy_names(p: Extended, maps: Maps, program: bytes) -> None:
    lost, whole, discard, done = (p.label() for _ in range(4))
    most = NAME_RECORD_BYTES - RING_HEAD_BYTES - NAME_HEAD_BYTES
    p.classic(program)
    p.jump(done, IF_EQUAL, A)
    p.load_map(1, maps.names)
    p.move(2, NAME_RECORD_BYTES - RING_HEAD_BYTES)
    p.move(3, 0)
    p.call(_RESERVE)
    p.jump(lost, IF_EQUAL, 0)
    p.copy(X, 0)
    p.call(_TIME)
    p.emit(STX | DOUBLE, X, 0, 0)
    p.copy(1, CONTEXT)
    p.call(LENGTH)
    p.copy(A, 0)
    p.emit(STX, X, A, 8)
    p.jump(discard, IF_LESS, A, 1)
    p.jump(whole, IF_LESS, A, most)
    p.move(A, most)
    p.place(whole)
    p.emit(STX, X, A, 12)
    p.copy(1, CONTEXT)
    p.move(2, 0)
    p.copy(3, X, NAME_HEAD_BYTES)
    p.copy(4, A)
    p.call(LOAD_BYTES)
    p.jump(discard, IF_NOT_EQUAL, 0)
    _end_record(p, _SUBMIT)
    p.jump(done)
    p.place(discard)
    _end_record(p, _DISCARD)
    p.place(lost)
    p.count(maps.counts, NAMES_LOST)
    p.place(done)


def _end_record(p: Extended, helper: int) -> None:
    p.copy(1, X)
    p.move(2, 0)
    p.call(helper)


def _pick_worker(p: Extended, workers: int, fanout: str, decapsulate: Collection[str]) -> None:
    """A = the worker, by the pair of addresses or by the queue."""
    if workers == 1:
        p.move(A, 0)
        return
    if fanout == "addresses":
        p.classic(address_hash(True, decapsulate))
    else:
        p.emit(LDX, A, CONTEXT, _QUEUE)
    p.emit(ALU32 | _REMAINDER, A, value=workers)


def _stamp(p: Extended) -> None:
    """A driver without room for metadata leaves the frame without: then the reader's time is its time."""
    done = p.label()
    p.call(_TIME)
    p.copy(SAVED, 0)
    p.copy(1, CONTEXT)
    p.move(2, -STAMP_BYTES)
    p.call(_ADJUST_META)
    p.jump(done, IF_NOT_EQUAL, 0)
    p.emit(LDX, 1, CONTEXT, _DATA_META)
    p.emit(LDX, 2, CONTEXT, _DATA)
    p.copy(3, 1, STAMP_BYTES)
    p.jump(done, IF_GREATER | REGISTER, 3, source=2)
    p.emit(STX | DOUBLE, 1, SAVED, 0)
    p.place(done)


def _redirect(p: Extended, maps: Maps, workers: int) -> None:
    done = p.label()
    p.emit(LDX, 2, CONTEXT, _QUEUE)
    p.emit(ALU32 | _MULTIPLY, 2, value=workers)
    p.emit(ALU64 | REGISTER, 2, A)
    p.load_map(1, maps.sockets)
    p.move(3, _PASS)
    p.call(_REDIRECT)
    p.jump(done, IF_EQUAL, 0, _REDIRECTED)
    p.copy(SAVED, 0)
    p.count(maps.counts, UNCLAIMED)
    p.copy(0, SAVED)
    p.place(done)
    p.emit(EXIT)
