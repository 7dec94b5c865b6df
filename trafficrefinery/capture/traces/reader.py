"""Recorded traces as blocks of frames: pcap and pcapng, plain or compressed, several of them merged by time.

All bytes pass through a window of some megabytes, where the frames are used; a record that is cut by its end is carried
over to the next. A plain file is read into it, not mapped: when a file is cut while it is mapped, the pages behind its
new end stop the process (SIGBUS). Read to a page's beginning, it costs no more than mapping does.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import zstandard
from numpy.typing import NDArray

from trafficrefinery.capture.duplicates import SEED_OF_TRACES, DuplicateFinder
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.errors import OutputError, TraceError, UsageError
from trafficrefinery.jit.memory import table, whole_pages
from trafficrefinery.system.writing import Whole, output_errors

from . import records

STANDARD_INPUT = "-"
STEP_BYTES = 4 * 1024 * 1024  # by which a window grows or moves on
PIECE_BYTES = 1024 * 1024  # the most that is decompressed at once
LONG_RUN = 256  # frames of one trace in a row that are handed on where they lie, not copied

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BEFORE_ALL_NS = -(1 << 63)
_READ = "pcap and pcapng are read, plain or compressed with gzip or zstd"
_ENDS_TOO_EARLY = "the compressed data ends too early"
_WAS_CUT = "the file was cut while it was read, from {} to {} bytes"
_WAS_REPLACED = "the file of {} bytes was cut and written anew while it was read; it has {} bytes now"
_BUFFER_BYTES = 65536  # of what is read piece by piece; larger reads go past it
_FIRST_BYTES = 65536  # of a plain file: what the file header and the first frame need, nearly always


class _Input:
    """A stream of bytes that counts what was read.

    Args:
        size: of a file, when it was opened: what is appended later is not read. None: up to the end, as of a pipe.
        begin: bytes of the file that lie before.
    """

    def __init__(self, file: BinaryIO, size: int | None, begin: int = 0) -> None:
        self._file, self.size, self._begin, self.position = file, size, begin, 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count if self.size is None else min(count, self.size - self.position))
        self.position += len(data)
        return data

    def rewind(self) -> bool:
        """Back to where it began, when that can be."""
        if self.size is None:
            return False
        self._file.seek(-self.position, os.SEEK_CUR)
        self.position = 0
        return True

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer, but for the end of the file; how many bytes were read."""
        room = len(buffer) if self.size is None else min(len(buffer), self.size - self.position)
        done = 0
        while done < room:
            count = self._file.readinto(buffer[done:room])  # type: ignore[attr-defined] # BinaryIO leaves it out
            if not count:
                break
            done += count
        self.position += done
        return done

    def cut(self) -> str:
        """At its end: that it came before the size when it was opened; empty when it did not."""
        if self.size is None or self.position >= self.size:
            return ""
        before_bytes, now_bytes = self._begin + self.size, os.fstat(self._file.fileno()).st_size
        return (_WAS_CUT if now_bytes < before_bytes else _WAS_REPLACED).format(before_bytes, now_bytes)

    def exactly(self, count: int) -> bytes:
        data = self.read(count)
        if len(data) < count:
            raise EOFError(_ENDS_TOO_EARLY)
        return data

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()


def _cannot_be_read_on(error: OSError) -> str:
    return f"cannot be read on ({error.strerror})"


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and 0x50 <= magic[0] <= 0x5F and magic[1:] == b"\x2a\x4d\x18"


def _gzip_pieces(source: _Input, head: bytes) -> Iterator[bytes]:
    """The members of a gzip file. zlib gives nothing of a call that fails, so that call is made again byte by byte."""
    data = head
    while data:
        engine = zlib.decompressobj(wbits=31)
        while not engine.eof:
            data = data or source.read(65536)
            if not data:
                yield engine.flush()
                raise EOFError(_ENDS_TOO_EARLY)
            before = engine.copy()
            try:
                piece = engine.decompress(data, PIECE_BYTES)
            except zlib.error:
                for i in range(len(data)):
                    yield before.decompress(data[i : i + 1])
                raise
            yield piece
            data = engine.unconsumed_tail or engine.unused_data
        while not data.strip(b"\0"):  # zeros behind a member are padding
            data = source.read(65536)
            if not data:
                return
        data = data.lstrip(b"\0")


def _zstd_pieces(source: _Input, head: bytes) -> Iterator[bytes]:
    """The frames of a zstd file, fed block by block: what lies before a damaged block is not lost (RFC 8878, 3.1.1)."""
    magic = head
    while magic:
        if _is_skippable(magic):
            left = int.from_bytes(source.exactly(4), "little")
            while left:
                left -= len(source.exactly(min(left, PIECE_BYTES)))
        elif magic == _ZSTD:
            flags = source.exactly(1)
            sizes, single_segment, dictionary = flags[0] >> 6, flags[0] >> 5 & 1, flags[0] & 3
            header_bytes = 1 - single_segment + (0, 1, 2, 4)[dictionary] + (single_segment, 2, 4, 8)[sizes]
            engine = zstandard.ZstdDecompressor().decompressobj()
            yield engine.decompress(magic + flags + source.exactly(header_bytes))
            last = False
            while not last:
                block_header = source.exactly(3)
                value = int.from_bytes(block_header, "little")
                last, repeated = bool(value & 1), value >> 1 & 3 == 1
                yield engine.decompress(block_header + source.exactly(1 if repeated else value >> 3))
            if flags[0] & 4:
                yield engine.decompress(source.exactly(4))
        else:
            raise zstandard.ZstdError(f"unknown bytes {magic.hex(' ')} behind a frame")
        magic = source.read(4)


class _Window:
    """`buffer[start:end]` are bytes of a trace, from `base + start` on, that move on with `more`."""

    def __init__(self, source: _Input, begun: bytes = b"", first_bytes: int = 1) -> None:
        self._source = source
        self.buffer: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.start = self.end = self.base = 0
        self.failure = ""
        self._begun = begun  # what was read before
        self._goal_bytes = first_bytes

    @property
    def position(self) -> int:
        return self._source.position

    def more(self) -> bool:
        """Drop what is before `start` and read on; False when nothing came, `failure` then says why."""
        kept = self.end - self.start
        lead = -(-kept // mmap.PAGESIZE) * mmap.PAGESIZE  # what is read begins at a page: copied twice as fast
        goal = lead + max(self._goal_bytes, kept)  # a record may be larger than a step
        buffer = self.buffer
        if len(buffer) < goal + PIECE_BYTES:
            buffer = table(whole_pages(goal + PIECE_BYTES, np.uint8), np.uint8)
        buffer[lead - kept : lead] = self.buffer[self.start : self.end]
        self.buffer, self.base = buffer, self.base + self.start - (lead - kept)
        self.start, self.end = lead - kept, lead
        self._goal_bytes = STEP_BYTES
        try:
            self._fill(goal)
        except OSError as error:
            self.failure = _cannot_be_read_on(error)
        if self.end == lead:
            self.failure = self._source.cut() or self.failure
        return self.end > lead

    def _fill(self, goal: int) -> None:
        """Append some bytes, so that the end is at about `goal`; none at the end of the trace."""
        if self._begun:
            self._append(self._begun)
            self._begun = b""
        if self.end < goal:
            self.end += self._source.read_into(self.buffer.data[self.end : goal])

    def _append(self, piece: bytes) -> None:
        end = self.end + len(piece)
        if end > len(self.buffer):
            self.buffer = np.concatenate((self.buffer, np.empty(len(piece), np.uint8)))
        self.buffer[self.end : end] = np.frombuffer(piece, np.uint8)
        self.end = end

    def close(self) -> None:
        self._source.close()
        self.buffer = np.empty(0, np.uint8)


class _Decompressed(_Window):
    """A window over bytes as they are decompressed: by a thread, one step ahead, while those before are used.

    Of a trace whose beginning alone is read, there may be thousands: the thread starts when a step was used up.
    """

    def __init__(self, source: _Input, head: bytes) -> None:
        super().__init__(source)
        self._pieces = (_gzip_pieces if head.startswith(_GZIP) else _zstd_pieces)(source, head)
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: Future[tuple[list[bytes], str]] | None = None

    def _fill(self, goal: int) -> None:
        while self.end < goal:
            pieces, failure = self._step(goal - self.end) if self._ahead is None else self._ahead.result()
            self._ahead = None
            self.failure = failure or self.failure
            for piece in pieces:
                self._append(piece)
            if failure or not pieces:
                break
            if self._thread is None and self.base >= STEP_BYTES:
                self._thread = ThreadPoolExecutor(1, "decompress")
            if self._thread is not None:
                self._ahead = self._thread.submit(self._step, STEP_BYTES)

    def _step(self, count: int) -> tuple[list[bytes], str]:
        """The next bytes, at least `count` unless they end, and what ended them."""
        pieces: list[bytes] = []
        try:
            for piece in self._pieces:
                pieces.append(piece)
                count -= len(piece)
                if count <= 0:
                    break
        except EOFError as error:
            return pieces, f"{error}"
        except (zlib.error, zstandard.ZstdError) as error:
            return pieces, f"the compressed data is damaged ({error})"
        except OSError as error:
            return pieces, _cannot_be_read_on(error)
        return pieces, ""

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)  # it reads the file until it is done
        super().close()
        self._pieces, self._ahead = iter(()), None


def _open(path: str, size: int | None) -> tuple[_Window, int | None]:
    """The bytes of a trace, and how many are stored (None when that is not known); of a file at most `size`."""
    if path == STANDARD_INPUT:
        return _window(_Input(sys.stdin.buffer, *_standard_input())), None
    try:
        file = Path(path).open("rb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed by the window
        status = os.fstat(file.fileno())
        is_file = stat.S_ISREG(status.st_mode)
        stored_bytes = (status.st_size if size is None else size) if is_file else None
        source = _Input(file, stored_bytes)
        if stored_bytes == 0 or (is_file and status.st_size == 0):
            source.close()
            raise TraceError(path, None, "is empty; capture or copy it again")
        return _window(source), stored_bytes
    except FileNotFoundError:
        raise TraceError(path, None, "no such file; check its name") from None
    except IsADirectoryError:
        raise TraceError(path, None, f"is a directory; name the traces in it, as in {path.rstrip('/')}/*") from None
    except OSError as error:
        advice = "; check its permissions" if isinstance(error, PermissionError) else ""
        raise TraceError(path, None, f"cannot be read ({error.strerror}){advice}") from None


def _standard_input() -> tuple[int | None, int]:
    """When standard input is a file: how many bytes follow, and how many were read from it before."""
    with contextlib.suppress(OSError, ValueError):  # closed, or replaced by an object without a descriptor
        status = os.fstat(sys.stdin.fileno())
        if stat.S_ISREG(status.st_mode):
            begin = os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR)
            return status.st_size - begin, begin
    return None, 0


def _window(source: _Input) -> _Window:
    head = source.read(4)
    if head.startswith(_GZIP) or head == _ZSTD or _is_skippable(head):
        return _Decompressed(source, head)
    if source.rewind():
        return _Window(source, first_bytes=_FIRST_BYTES)
    return _Window(source, head)


def _recognise(path: str, window: _Window) -> records.PcapRecords | records.PcapngRecords:
    """Which records follow; the window is moved behind the file header of pcap."""
    while window.end - window.start < 28 and window.more():
        pass
    head = window.buffer[window.start : window.end][:28].tobytes()
    magic = head[:4]
    is_pcapng = magic == records.PCAPNG_MAGIC
    if not is_pcapng and not {int.from_bytes(magic, "little"), int.from_bytes(magic, "big")} & set(records.PCAP_MAGIC):
        if window.failure:
            raise TraceError(path, window.base + window.end, f"{window.failure}; copy it again")
        if not head:
            raise TraceError(path, None, "is empty; capture or copy it again")
        raise TraceError(path, None, f"not a capture file: it starts with {magic.hex(' ')}; {_READ}")
    if len(head) < (28 if is_pcapng else 24):
        raise TraceError(path, len(head), window.failure or "ends inside the file header; capture or copy it again")
    if is_pcapng:
        return records.PcapngRecords()
    try:
        pcap = records.PcapRecords(head[:24])
    except ValueError as error:
        raise TraceError(path, None, f"{error}") from None
    window.start += 24
    return pcap


class ReadTrace(NamedTuple):
    """What was read of a trace.

    Args:
        first_ns: time of its first packet, as it is stored; None without packets.
        backward: packets that are stored behind a later one.
    """

    packets: int
    first_ns: int | None
    backward: int


class _Trace:
    """One of the files; `frames[cursor[0]:cursor[1]]` are its frames that are indexed and not yet handed on."""

    def __init__(self, path: str, row: int, table: tuple[records.Records, NDArray[np.int64]], size: int | None) -> None:
        self.path, self.row, self.stored_bytes = path, row, size
        self.packets = self.backward = 0
        self._before_ns = _BEFORE_ALL_NS
        self._frames, self._cursor = table
        self.damage: TraceError | None = None
        self._position = 0
        self._window: _Window | None = None
        self.open()
        self.first_ns = self.head_ns if self.fill() else None

    def open(self) -> None:
        self._window, self.stored_bytes = _open(self.path, self.stored_bytes)
        try:
            self._records = _recognise(self.path, self._window)
        except TraceError:
            self.close()
            raise

    @property
    def head_ns(self) -> int:
        return int(self._frames["ts_ns"][self._cursor[0]])

    @property
    def position(self) -> int:
        return self._position if self._window is None else self._window.position

    @property
    def buffer(self) -> NDArray[np.uint8]:
        assert self._window is not None, "there are no frames without a window"
        return self._window.buffer

    def take(self, count: int | None = None) -> Block:
        """Hand on the next frames; all that are indexed when no number is given."""
        first, stop = self._cursor.tolist()
        stop = stop if count is None else first + count
        self._cursor[0] = stop
        return Block(self.buffer, self._frames[first:stop])

    def fill(self) -> bool:
        """Index the next frames when there are none; False at the end of the trace, or at damage."""
        window = self._window
        while self._cursor[0] == self._cursor[1] and window is not None:
            count, behind, status, backward = self._records.walk(window, self._frames, self._before_ns)
            window.start = int(behind)
            self._cursor[:] = 0, count
            if count:
                self.packets, self.backward = self.packets + int(count), self.backward + int(backward)
                self._before_ns = int(self._frames["ts_ns"][count - 1])
            if count == 0 and not (status == records.MORE and window.more()):
                self._end(window, status)
                break
        return bool(self._cursor[0] < self._cursor[1])

    def _end(self, window: _Window, status: int) -> None:
        if status != records.MORE:
            message = f"{records.DAMAGE[status]}; what is before it was read"
            self.damage = TraceError(self.path, window.base + window.start, message)
        elif window.failure:
            self.damage = TraceError(self.path, window.base + window.end, f"{window.failure}; what is before was read")
        elif window.start < window.end:
            message = f"the last record is cut off after {window.end - window.start} bytes; what is before it was read"
            self.damage = TraceError(self.path, window.base + window.start, message)
        self.close()
        self._position = self.stored_bytes or self._position

    def suspend(self) -> None:
        """Close a file until its time has come: there may be thousands, and each has a descriptor and a window."""
        if self._window is not None and self.stored_bytes is not None:
            self.close()
            self._cursor[:] = self._position = 0
            self.packets = self.backward = 0
            self._before_ns = _BEFORE_ALL_NS

    def resume(self) -> None:
        try:
            if self._window is None:
                self.open()
        except TraceError as error:  # gone or changed since it was first opened
            self.damage = error

    def close(self) -> None:
        if self._window is not None:
            self._position = self._window.position
            self._window.close()
            self._window = None


class TraceReader:
    """The frames of recorded traces, merged by time.

    Of several traces, the one whose next frame is the oldest gives the next frame; of equal ones, the one that was
    named first. So the order inside each trace stays as stored, also where time goes backwards, and traces that do not
    overlap follow each other. Frames are used where they lie unless traces interleave finely.

    Args:
        paths: files, `-` for standard input (once). Formats are recognised by content.
        frames_per_block: the most frames in a block; handing on a block costs some 25 µs.
        sizes: how many bytes of each file there are (`sizes` of another reader); else as many as now. What is appended
            later is not read, so several readers of one trace see the same.
        duplicates: what becomes of frames that a mirror port shows twice: `keep`, `count` or `drop`.
        decapsulate: tunnels whose inner packets are compared for that, as in the configuration.

    Raises:
        TraceError: a file that cannot be opened, or is no trace. Damage further inside ends the trace that has it, and
            is listed in `damage` as soon as the reader gets there; what is before it is read, and the others go on.
    """

    def __init__(
        self, paths: Sequence[str | Path], *, frames_per_block: int = 16_384, sizes: Sequence[int | None] = (),
        duplicates: str = "keep", decapsulate: Sequence[str] = (),
    ) -> None:  # fmt: skip
        names = [str(path) for path in paths]
        if names.count(STANDARD_INPUT) > 1:
            raise UsageError("-: standard input can be read once only; name it once")
        self.damage: list[TraceError] = []
        self._frames = table((len(names), frames_per_block), FRAME)
        self._cursors = table((len(names), 2), np.int64)
        self._traces: list[_Trace] = []
        try:
            for row, name in enumerate(names):
                size = sizes[row] if sizes else None
                trace = _Trace(name, row, (self._frames[row], self._cursors[row]), size)
                self._traces.append(trace)
                self._note_damage(trace)
                if len(names) > 1:
                    trace.suspend()
        except BaseException:
            self.close()
            raise
        self._merged: tuple[records.Records, NDArray[np.int64], NDArray[np.uint8]] | None = None
        self._options: dict[str, Any] = {"duplicates": duplicates, "decapsulate": decapsulate}
        drop = duplicates == "drop"
        self._finder = None if duplicates == "keep" else DuplicateFinder(drop, decapsulate, SEED_OF_TRACES)

    @property
    def first_ns(self) -> int | None:
        """Time of the packet that comes first; None without packets."""
        return min((trace.first_ns for trace in self._traces if trace.first_ns is not None), default=None)

    @property
    def traces(self) -> dict[str, ReadTrace]:
        """What has been read of each trace so far."""
        return {trace.path: ReadTrace(trace.packets, trace.first_ns, trace.backward) for trace in self._traces}

    @property
    def duplicates_total(self) -> int:
        """Frames that were seen before, of what was read so far; 0 where all are kept."""
        return 0 if self._finder is None else self._finder.duplicates_total

    @property
    def position_bytes(self) -> int:
        """How much was read, in bytes of the files as they are stored."""
        return sum(trace.position for trace in self._traces)

    @property
    def sizes(self) -> list[int | None]:
        """How many bytes of each trace there are to read; None for a pipe."""
        return [trace.stored_bytes for trace in self._traces]

    @property
    def total_bytes(self) -> int | None:
        """How much there is; None when a pipe takes part."""
        return None if None in self.sizes else sum(size or 0 for size in self.sizes)

    def again(self) -> TraceReader:
        """Another reader of the same traces, as long as they were found here."""
        return TraceReader([trace.path for trace in self._traces], sizes=self.sizes, **self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for trace in self._traces:
            trace.close()

    def __iter__(self) -> Iterator[Block]:
        """The blocks, once; each is valid until the next is asked for."""
        if self._finder is None:
            return self._blocks()
        return (block for block in map(self._finder.filter, self._blocks()) if len(block.frames))

    def _blocks(self) -> Iterator[Block]:
        waiting = sorted(
            ((trace.first_ns, trace.row) for trace in self._traces if trace.first_ns is not None), reverse=True
        )
        active: list[_Trace] = []  # in the order in which they were named
        while waiting or active:
            while waiting and (not active or waiting[-1][0] <= min(trace.head_ns for trace in active)):
                trace = self._traces[waiting.pop()[1]]
                trace.resume()
                active = sorted([*active, trace], key=lambda trace: trace.row)
                active = [trace for trace in active if self._has_frames(trace)]
            if active:
                yield self._next_block(active, waiting[-1][0] if waiting else None)
                active = [trace for trace in active if self._has_frames(trace)]

    def _has_frames(self, trace: _Trace) -> bool:
        if trace.fill():
            return True
        self._note_damage(trace)
        return False

    def _note_damage(self, trace: _Trace) -> None:
        if trace.damage is not None:
            self.damage.append(trace.damage)

    def _next_block(self, active: list[_Trace], until_ns: int | None) -> Block:
        """Frames that come before `until_ns`, when the next trace begins."""
        if len(active) == 1 and until_ns is None:
            return active[0].take()
        until_ns = np.iinfo(np.int64).max if until_ns is None else until_ns
        rows = np.array([trace.row for trace in active])
        row, run = records.leading_run(self._frames, rows, self._cursors, until_ns)
        if len(active) == 1 or run >= LONG_RUN:
            return self._traces[row].take(int(run))
        if self._merged is None:
            size = self._frames.shape[1]
            self._merged = table(size, FRAME), table((size, 2), np.int64), table(STEP_BYTES, np.uint8)
        merged, origins, buffer = self._merged
        count = records.merge(self._frames, rows, self._cursors, until_ns, STEP_BYTES, merged, origins)
        for trace in active:
            records.gather(trace.buffer, trace.row, origins, merged[:count], buffer)
        return Block(buffer, merged[:count])


class PcapWriter:
    """Writes frames of one link type to a pcap file with nanosecond times.

    The file has its name only when it is closed; until then, and when a `with` block ends by an error, there is at most
    its draft. Frames of another link type are left out and counted in `left_out_frames`.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: str | Path, link_type: int = 1) -> None:
        self.path, self.link_type = Path(path), link_type
        self.frames = self.left_out_frames = 0
        self._whole = Whole(self.path)
        self._out = table(STEP_BYTES, np.uint8)
        header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, records.MAX_FRAME_BYTES, link_type)
        self._out[: len(header)] = np.frombuffer(header, np.uint8)
        self._used_bytes: records.Whole = len(header)
        with output_errors(self.path):
            self._file: BinaryIO | None = self._whole.draft.open("wb")

    def write(self, ts_ns: int, frame: bytes, wire_bytes: int | None = None) -> None:
        """Append one frame; `wire_bytes` is its length on the wire when it was cut."""
        frames = table(1, FRAME)
        frames[0] = (ts_ns, 0, len(frame), len(frame) if wire_bytes is None else wire_bytes, self.link_type, 0)
        self.write_frames(Block(np.frombuffer(bytearray(frame), np.uint8), frames))

    def write_frames(self, block: Block, selection: NDArray[np.bool_] | NDArray[np.int64] | None = None) -> None:
        """Append frames of a block: all, those where a mask is true, or those with the given indices."""
        if selection is None:
            chosen = np.arange(len(block.frames))
        else:
            chosen = np.flatnonzero(selection) if selection.dtype == np.bool_ else selection.astype(np.int64)
        done: records.Whole = 0
        left_out = 0
        while True:
            done, self._used_bytes, skipped = records.write_pcap(
                block.buffer, block.frames, chosen, done, self.link_type, self._out, self._used_bytes
            )
            left_out += skipped
            if done == len(chosen):
                break
            self._flush()
        self.left_out_frames += left_out
        self.frames += len(chosen) - left_out

    def _flush(self) -> None:
        with output_errors(self.path):
            if self._file is not None:
                self._file.write(self._out[: self._used_bytes].data)
        self._used_bytes = 0

    def close(self) -> None:
        """Write the rest and give the file its name."""
        if self._file is None:
            return
        try:
            self._flush()
            with output_errors(self.path):
                self._file.close()
                self._whole.publish()
        except OutputError:
            self.discard()
            raise
        self._file = None

    def discard(self) -> None:
        """Give up: leave nothing behind."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._whole.discard()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
