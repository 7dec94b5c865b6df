"""The sources of names: what decides to which service a flow belongs, one entry each.

A source that is read from the packets of the flow is a module in `names` and an entry here. All else follows: which
packets are read, `matched_by` of records, the switch in the configuration, counters with what the summary says of them,
`names`, and the reference pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .names import Status
from .names.hello import read_first_record, read_records, surely_starts_hello
from .names.quic_datagrams import read_datagram

TCP, UDP = 6, 17


class DatagramReader(Protocol):
    """Reads the name of one flow from its datagrams, in Python.

    Attributes:
        status: NEED_MORE as long as the name may come in a later datagram.
        name: as it is compared, see `names.printable_name`.
        ech: what a hello says of Encrypted Client Hello, see `names`.
        has_begun: a part of what is read is there.
        unread_bytes: of distinct datagrams that look like the source's and cannot be read, up to a bound.
        extra_units: work that the last datagram made, beyond that of a usual one; a unit is 10 µs.
        memory_bytes: what the reader takes of memory, beside a constant.
    """

    status: Status
    name: str | None
    ech: int
    has_begun: bool
    unread_bytes: int

    @property
    def extra_units(self) -> int: ...

    @property
    def memory_bytes(self) -> int: ...

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first datagram would wait for."""

    def feed(self, datagram: bytes) -> Status:
        """Take the payload of a datagram; the status."""


@dataclass(frozen=True)
class NameSource:
    """What can decide the service of a flow.

    Args:
        name: as `matched_by` of a record has it.
        evidence: what decides, as the documentation has it: "the … of the flow".
    """

    name: str
    evidence: str


@dataclass(frozen=True)
class FlowSource(NameSource):
    """A name in the packets of the flow itself, in what its client says first.

    Compiled code reads it. What goes on in further segments of TCP is put together and read again; what goes on in
    further datagrams is given to `reader`. Both have a budget.

    Args:
        protocol: TCP or UDP.
        read: compiled: what is in the buffer from `at` up to `end`, of the start of a TCP stream, `(buffer, at, end)`,
            or of a datagram, `(buffer, at, end, r)` with its PACKET. It returns a `Status` as a number, where that
            begins, where the name begins, its bytes (0: none) and what it says of ECH. It reads nothing at or behind
            `end`.
        begins: compiled, TCP only: whether this surely begins at `at`. It may do so in any segment.
        read_whole: as `read`, for streams that were put together, which it may change; else `read`.
        reader: UDP only, where `read` returns NEED_MORE.
        title: what has the name, in a sentence: "2 TLS server names".
        seen: how `names` marks such names.
        over_budget: name of the counter of what was not read because there was too much; its help; and what the summary
            says of it, see `Finding`.
        key: of `ServiceMap`, which switches the source off or on; with its description, and
            whether it is on by default. Empty: always on.
    """

    protocol: int
    read: Any  # compiled functions have no type
    over_budget: tuple[str, str, str]
    title: str
    seen: str
    begins: Any = None
    read_whole: Any = None
    reader: Callable[[], DatagramReader] | None = None
    key: str = ""
    description: str = ""
    is_on: bool = True


def _quic_reader() -> DatagramReader:
    from .names.quic import QuicInitialReader  # decryption is imported at use

    return QuicInitialReader()


SOURCES = (
    NameSource("prefix", "the address of the server lies in one of the configured prefixes"),
    NameSource("dns", "a DNS answer that gave the address of the server"),
    FlowSource(
        "quic_sni",
        "the server name in the QUIC Initial packets of the flow",
        protocol=UDP,
        read=read_datagram,
        reader=_quic_reader,
        title="QUIC",
        seen="quic",
        over_budget=(
            "quic_over_budget",
            "QUIC datagrams not decrypted because there were too many.",
            "{} QUIC [datagram was|datagrams were] not decrypted: too many at once",
        ),
        key="QUIC",
        description="Read the server name in QUIC Initial packets.",
    ),
    FlowSource(
        "sni",
        "the server name in the TLS ClientHello of the flow",
        protocol=TCP,
        read=read_first_record,
        read_whole=read_records,
        begins=surely_starts_hello,
        title="TLS",
        seen="sni",
        over_budget=(
            "hellos_over_budget",
            "ClientHellos over TCP, or parts of them, not read because there were too many.",
            "{} [ClientHello|ClientHellos] or parts of them [was|were] not read: too many at once",
        ),
    ),
)
"""From the weakest to the strongest: a later one overrules those before it."""

BY_NOTHING = 0
"""A source is known by its number, 1 for the first."""
MATCHED_BY = (None, *(source.name for source in SOURCES))
BY_PREFIX, BY_DNS = MATCHED_BY.index("prefix"), MATCHED_BY.index("dns")
FLOW_SOURCES = {number: source for number, source in enumerate(SOURCES, 1) if isinstance(source, FlowSource)}
"""Those in the packets of flows, by number."""
STRONGEST_FIRST = tuple(reversed(FLOW_SOURCES.items()))
ALL_WANTED = sum(1 << number for number in FLOW_SOURCES)
"""A bit for each."""


def new_reader(number: int) -> DatagramReader:
    """A reader of the datagrams of one flow, of the source with that number."""
    reader = FLOW_SOURCES[number].reader
    assert reader is not None, "`read` asked for a reader that its source does not have"
    return reader()
