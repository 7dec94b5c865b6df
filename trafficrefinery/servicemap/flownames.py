"""Handshakes that are spread over several packets, beside the packet loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from trafficrefinery.names import Status
from trafficrefinery.names.quic import QuicInitialReader, may_be_initial
from trafficrefinery.names.tls import ClientHelloReader

_NS_PER_S = 1_000_000_000


@dataclass
class FlowNamesCounters:
    """What a `FlowNames` has seen."""

    evicted_total: int = 0  # flows given up for newer ones
    quic_attempts_total: int = 0
    quic_over_limit_total: int = 0
    quic_unsupported_total: int = 0  # flows given up whose version is not read


class FlowNames:
    """Handshakes of flows while they are put together; when there are too many, the longest unused give way.

    Args:
        max_flows: that are kept at a time, at least one.
        quic_attempts_per_second: of packet time, to decrypt; None for no limit.
    """

    def __init__(self, max_flows: int = 4096, quic_attempts_per_second: int | None = None) -> None:
        self.counters = FlowNamesCounters()
        self._max_flows = max_flows
        self._quic_attempts_per_second = quic_attempts_per_second
        self._readers: OrderedDict[tuple[str, Hashable], ClientHelloReader | QuicInitialReader] = OrderedDict()
        self._second = -1
        self._attempts_in_second = 0

    def __len__(self) -> int:
        return len(self._readers)

    def tcp(
        self, key: Hashable, seq: int, payload: bytes, isn_plus_1: int | None = None, truncated: bool = False
    ) -> tuple[Status, str | None]:
        """Take a client's segment of the flow `key`: the status, final but for NEED_MORE, and the name if found.

        A hello behind other data (STARTTLS, a proxy's CONNECT) is found with `isn_plus_1` None, from the segment
        that `names.tls.starts_client_hello` tells.
        """
        reader = self._readers.get(("tcp", key))
        if not isinstance(reader, ClientHelloReader):
            reader = ClientHelloReader(isn_plus_1)
        self._keep(("tcp", key), reader)
        status = reader.feed(seq, payload, truncated)
        if status is not Status.NEED_MORE:
            self.forget(key)
        return status, reader.sni

    def quic(self, key: Hashable, datagram: bytes, ts_ns: int) -> tuple[Status, str | None]:
        """Take a client's datagram of the flow `key`; NOT_FOUND as well when there were too many this second."""
        if may_be_initial(datagram) and not self._may_try(ts_ns):
            self.forget(key)
            return Status.NOT_FOUND, None
        reader = self._readers.get(("quic", key))
        if not isinstance(reader, QuicInitialReader):
            reader = QuicInitialReader()
        self._keep(("quic", key), reader)
        status = reader.feed(datagram)
        if status is not Status.NEED_MORE:
            self.counters.quic_unsupported_total += (
                status is not Status.FOUND and reader.unsupported_version is not None
            )
            self.forget(key)
        return status, reader.sni

    def forget(self, key: Hashable) -> None:
        """Drop a flow that has ended."""
        self._readers.pop(("tcp", key), None)
        self._readers.pop(("quic", key), None)

    def _may_try(self, ts_ns: int) -> bool:
        second = ts_ns // _NS_PER_S
        if second > self._second:
            self._second, self._attempts_in_second = second, 0
        if self._quic_attempts_per_second is not None and self._attempts_in_second >= self._quic_attempts_per_second:
            self.counters.quic_over_limit_total += 1
            return False
        self._attempts_in_second += 1
        self.counters.quic_attempts_total += 1
        return True

    def _keep(self, key: tuple[str, Hashable], reader: ClientHelloReader | QuicInitialReader) -> None:
        if key not in self._readers and len(self._readers) >= self._max_flows:
            self._readers.popitem(last=False)
            self.counters.evicted_total += 1
        self._readers[key] = reader
        self._readers.move_to_end(key)
