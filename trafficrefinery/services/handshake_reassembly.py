"""Handshakes that are spread over several packets, beside the packet loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from .names import Status, counter
from .names.streams import LIMIT_BYTES, StreamReader
from .sources import ALL_WANTED, FLOW_SOURCES, DatagramReader, new_reader


@dataclass
class FlowNamesCounters:
    """What a `FlowNames` has seen."""

    evicted_total: int = counter("Incomplete ClientHellos discarded for newer ones.", shown="hellos_evicted")
    segments_total: int = counter("TCP segments reassembled into ClientHellos.", shown="hello_segments")
    quic_attempts_total: int = counter("QUIC datagrams that were decrypted to find a name.")
    quic_unread_total: int = counter("Flows with 16 KiB of QUIC Initials that could not be decrypted.")
    not_found_total: int = counter("Flows whose ClientHello is too long or damaged.", shown="hellos_not_found")


class Told(NamedTuple):
    """What is known of a flow's name after a packet.

    Args:
        by: number of the source that was read, see `sources`.
        ech: as in `names`.
        has_begun: pieces of a hello are there, and its start.
        ready_bytes: that are there without a hole, from the start of the hello.
        passed_bytes: of something else, that this packet has shown to stand before the hello.
        units: of work beyond that of a usual packet.
    """

    status: Status
    name: str | None = None
    by: int = 0
    ech: int = 0
    has_begun: bool = False
    ready_bytes: int = 0
    passed_bytes: int = 0
    units: int = 0


class FlowNames:
    """Handshakes of flows while they are put together; when there are too many, the longest unused give way.

    Args:
        max_flows: that are kept at a time, at least one.
        max_bytes: that they take of memory together.
        wanted: sources in TCP that are read, see `source_readers`.
    """

    def __init__(self, max_flows: int = 4096, max_bytes: int = 32 << 20, wanted: int = ALL_WANTED) -> None:
        self.counters = FlowNamesCounters()
        self._max_flows, self._max_bytes, self._wanted = max_flows, max_bytes, wanted
        self._bytes = 0
        self._readers: OrderedDict[Hashable, StreamReader | DatagramReader] = OrderedDict()

    @staticmethod
    def warm_up() -> None:
        """Compile, or load from the cache, what the first hello would wait for."""
        StreamReader(0).feed(0, b"\x16")
        for source in FLOW_SOURCES.values():
            if source.reader is not None:
                source.reader().warm_up()

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def memory_bytes(self) -> int:
        """What the hellos take of memory."""
        return self._bytes

    def segment(self, key: Hashable, start_seq: int, seq: int, payload: bytes, truncated: bool = False) -> Told:
        """Take a segment of one side of a TCP connection, whose hello may begin at `start_seq`."""
        self.counters.segments_total += 1
        reader = self._readers.get(key)
        if not isinstance(reader, StreamReader) or reader.start_seq != start_seq:
            reader = StreamReader(start_seq, self._wanted)
        before_bytes = self._taken(key)
        passed_bytes = reader.passed_bytes
        status = reader.feed(seq, payload, truncated)
        self._keep(key, reader, before_bytes)
        self.counters.not_found_total += status is Status.NOT_FOUND
        passed_bytes = reader.passed_bytes - passed_bytes
        return Told(
            status, reader.name, reader.by, reader.ech, reader.has_begun, reader.ready_bytes, passed_bytes,
            reader.extra_units,
        )  # fmt: skip

    def datagram(self, key: Hashable, datagram: bytes, by: int) -> Told:
        """Take a datagram of a flow, which the source with that number is to read."""
        self.counters.quic_attempts_total += 1
        reader = self._readers.get(key)
        if reader is None or isinstance(reader, StreamReader):
            reader = new_reader(by)
        before_bytes = self._taken(key)
        unread_bytes = reader.unread_bytes
        status = reader.feed(datagram)
        self._keep(key, reader, before_bytes)
        self.counters.not_found_total += status is Status.NOT_FOUND
        self.counters.quic_unread_total += unread_bytes < LIMIT_BYTES <= reader.unread_bytes
        return Told(status, reader.name, by, reader.ech, reader.has_begun, units=reader.extra_units)

    def _taken(self, key: Hashable) -> int:
        reader = self._readers.get(key)
        return 0 if reader is None else reader.memory_bytes

    def _keep(self, key: Hashable, reader: StreamReader | DatagramReader, before_bytes: int) -> None:
        """Keep a reader that needs more, as the last one that may give way."""
        self._bytes -= before_bytes
        self._readers.pop(key, None)
        if reader.status is not Status.NEED_MORE:
            return
        self._readers[key] = reader
        self._bytes += reader.memory_bytes
        while len(self._readers) > self._max_flows or (self._bytes > self._max_bytes and len(self._readers) > 1):
            _, oldest = self._readers.popitem(last=False)
            self._bytes -= oldest.memory_bytes
            self.counters.evicted_total += 1
