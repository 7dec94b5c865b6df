"""The last closed interval: from the aggregator's process to the one that answers queries, without a copy.

An Arrow IPC file, or JSON where there are no records, in a memory file, whose descriptor goes over a Unix socket; the
receiver maps it.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa, pc = Late("pyarrow"), Late("pyarrow.compute")  # on a quiet link there are no tables

_SUMMARIES = b"summaries"
_ARROW = b"ARROW1"  # what an Arrow IPC file begins with
_RIGHTS_BYTES = socket.CMSG_LEN(array.array("i").itemsize)  # of one descriptor


class LatestInterval(NamedTuple):
    """What was closed last.

    Args:
        table: of `files.parquet_schema`.
        summaries: `interval` records.
    """

    table: pa.Table
    summaries: list[dict[str, Any]]


def _no_rows() -> pa.Table:
    return pa.schema([(name, pa.string()) for name in ("service", "client_ip", "server_ip")]).empty_table()


def interval_channel() -> tuple[socket.socket, socket.socket]:
    """The ends for `publish` and for `Latest.receive`. The supervisor keeps both, for a restarted aggregator."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def publish(
    channel: socket.socket, table: pa.Table | pa.RecordBatchReader | None, summaries: Sequence[dict[str, Any]]
) -> bool:
    """Hand over all that was closed together. Never blocks.

    Args:
        table: None: there are no records.

    Returns:
        False when it was not handed over, to be counted: the one before still waits, or there is no receiver.
    """
    try:
        if _waiting_bytes(channel):
            return False
        fd = os.memfd_create("trafficrefinery-interval", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                encoded = orjson.dumps(summaries)
                if table is None:
                    file.write(encoded)
                else:
                    _write(file, table, {_SUMMARIES: encoded})
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
        self._table: pa.Table | None = None
        self._summaries: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Nothing was closed yet."""
        self._table, self._summaries = None, []

    @property
    def interval(self) -> LatestInterval:
        """What was closed last."""
        return LatestInterval(_no_rows() if self._table is None else self._table, self._summaries)

    def receive(self, channel: socket.socket) -> bool:
        """Take what waits, without waiting; whether there was something. To be called when the socket is readable."""
        received = False
        while (fd := _receive_fd(channel)) is not None:
            self._replace(*_read(fd))
            received = True
        return received

    def _replace(self, new: pa.Table | None, summaries: list[dict[str, Any]]) -> None:
        """A service with a longer interval than others keeps its records until its own next interval is closed."""
        old, end = self._table, _latest_end(new, summaries)
        if old is not None and old.num_rows and end is not None:
            keeps_until = pc.subtract(pc.multiply(old["ts_end"], 2.0), old["ts_start"])
            kept = old.filter(pc.greater(keeps_until, end))
            if kept.num_rows:
                new = kept if new is None else pa.concat_tables([kept, new], promote_options="default")
        self._table, self._summaries = new, summaries or self._summaries


def _latest_end(table: pa.Table | None, summaries: Sequence[dict[str, Any]]) -> float | None:
    ends = [summary["ts_end"] for summary in summaries]
    if table is not None and table.num_rows:
        ends.append(pc.max(table["ts_end"]).as_py())
    return max(ends, default=None)


def _receive_fd(channel: socket.socket) -> int | None:
    try:  # not `socket.recv_fds`, which ignores its flags
        _, rights, _, _ = channel.recvmsg(1, _RIGHTS_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, ConnectionError):  # nothing there; the aggregator is gone
        return None
    return array.array("i", rights[0][2])[0] if rights else None


def _read(fd: int) -> tuple[pa.Table | None, list[dict[str, Any]]]:
    try:
        memory = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    if memory[: len(_ARROW)] != _ARROW:
        return None, orjson.loads(memory[:])
    table = pa.ipc.open_file(pa.py_buffer(memory)).read_all()
    return table, orjson.loads(table.schema.metadata[_SUMMARIES])
