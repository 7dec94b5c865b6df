"""The last closed interval: from the aggregator's process to the one that answers queries, without a copy.

An Arrow IPC file in a memory file, whose descriptor goes over a Unix socket; the receiver maps it.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

_SUMMARIES = b"summaries"
_RIGHTS_BYTES = socket.CMSG_LEN(array.array("i").itemsize)  # of one descriptor


class Interval(NamedTuple):
    """What was closed last.

    Args:
        table: of `files.parquet_schema`.
        summaries: `interval` records.
    """

    table: pa.Table
    summaries: list[dict[str, Any]]


_COLUMNS = pa.schema([(name, pa.string()) for name in ("service", "client_ip", "server_ip")])
_NONE = Interval(pa.Table.from_batches([], _COLUMNS), [])


def interval_channel() -> tuple[socket.socket, socket.socket]:
    """The ends for `publish` and for `Latest.receive`. The supervisor keeps both, for a restarted aggregator."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def publish(
    channel: socket.socket, table: pa.Table | pa.RecordBatchReader, summaries: Sequence[dict[str, Any]]
) -> bool:
    """Hand over all that was closed together. Never blocks.

    Returns:
        False when it was not handed over, to be counted: the one before still waits, or there is no receiver.
    """
    try:
        if _waiting_bytes(channel):
            return False
        fd = os.memfd_create("trafficrefinery-interval", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                _write(file, table, {_SUMMARIES: orjson.dumps(summaries)})
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # so that no reader of the mapping gets SIGBUS
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            channel.sendmsg([b"i"], [rights], socket.MSG_DONTWAIT)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _write(file: Any, table: pa.Table | pa.RecordBatchReader, metadata: dict[bytes, bytes]) -> None:
    reader = table.to_reader() if isinstance(table, pa.Table) else table
    with pa.ipc.new_file(file, reader.schema.with_metadata(metadata)) as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(metadata))


def _waiting_bytes(channel: socket.socket) -> int:
    """What was sent and is not yet received; with a message of one byte, the kernel's overhead (unix(7), SIOCOUTQ)."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(channel, termios.TIOCOUTQ, b"\0" * 4))
    return int(waiting)


class Latest:
    """The last closed interval of each service. One thread receives, any may read `interval`."""

    def __init__(self) -> None:
        self.interval = _NONE

    def clear(self) -> None:
        """Nothing was closed yet."""
        self.interval = _NONE

    def receive(self, channel: socket.socket) -> bool:
        """Take what waits, without waiting; whether there was something. To be called when the socket is readable."""
        received = False
        while (fd := _receive_fd(channel)) is not None:
            self._replace(_read(fd))
            received = True
        return received

    def _replace(self, new: Interval) -> None:
        """A service with a longer interval than others keeps its records until its own next interval is closed."""
        old = self.interval.table
        end = _latest_end(new)
        if old.num_rows and end is not None:
            keeps_until = pc.subtract(pc.multiply(old["ts_end"], 2.0), old["ts_start"])
            kept = old.filter(pc.greater(keeps_until, end))
            if kept.num_rows:
                new = Interval(pa.concat_tables([kept, new.table], promote_options="default"), new.summaries)
        self.interval = Interval(new.table, new.summaries or self.interval.summaries)


def _latest_end(interval: Interval) -> float | None:
    ends = [summary["ts_end"] for summary in interval.summaries]
    if interval.table.num_rows:
        ends.append(pc.max(interval.table["ts_end"]).as_py())
    return max(ends, default=None)


def _receive_fd(channel: socket.socket) -> int | None:
    try:  # not `socket.recv_fds`, which ignores its flags
        _, rights, _, _ = channel.recvmsg(1, _RIGHTS_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, ConnectionError):  # nothing there; the aggregator is gone
        return None
    return array.array("i", rights[0][2])[0] if rights else None


def _read(fd: int) -> Interval:
    try:
        memory = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    table = pa.ipc.open_file(pa.py_buffer(memory)).read_all()
    return Interval(table, orjson.loads(table.schema.metadata[_SUMMARIES]))
