"""DNS messages: who asked for which name, and which addresses answer to it (RFC 1035, 2181, 3596, 7766, 9460)."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from trafficrefinery.services.names import counter
from trafficrefinery.services.names.assembly import ByteAssembly, seq_offset

A, NS, CNAME, PTR, AAAA, DNAME, SVCB, HTTPS = 1, 2, 5, 12, 28, 39, 64, 65
_NAME_TYPES = (NS, CNAME, PTR, DNAME)
_ADDRESS_BYTES = {A: 4, AAAA: 16}
_HINT_BYTES = {4: 4, 6: 16}  # of service bindings: ipv4hint, ipv6hint
_CLASS_IN = 1
_MAX_NAME_BYTES = 255
_MAX_LABELS = 16_384  # read in one message: a hostile one could make us follow pointers for long
_MAX_POINTERS = 64  # in one name, one behind the other
_MAX_CHAIN = 32  # aliases that lead to one address
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
_MAPPED = 0xFFFF_0000_0000  # ::ffff:0:0/96, where IPv4 addresses live


class Question(NamedTuple):
    """A question; `name` is lower-case, without final dot."""

    name: str
    qtype: int


class Answer(NamedTuple):
    """A record of the answer section; the value is a name, 4 or 16 address bytes, or the raw record data."""

    owner: str
    rtype: int
    value: str | bytes
    ttl_s: int


class DnsMessage(NamedTuple):
    """What is read of a message; `complete` is False when it is damaged or cut behind that."""

    is_response: bool
    rcode: int
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    complete: bool


class ResolvedAddress(NamedTuple):
    """An address with the names that lead to it, from the question to the owner of the address record."""

    address_hi: int
    address_lo: int
    names: tuple[str, ...]
    ttl_s: int


class _DamagedError(Exception):
    """The message does not hold what it announces."""


def _printable(label: bytes) -> str:
    """A label in lower case; bytes that are not plain are decimal escapes, so that dots part labels only."""
    if not label.translate(None, _PLAIN):
        return label.decode("ascii").lower()
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b".\\" else f"\\{byte:03d}" for byte in label.lower()
    )


class _Reader:
    """Reads forward through a message. Names that were pointed at once are not decoded again."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.offset = payload, 12
        self.questions: list[Question] = []
        self.answers: list[Answer] = []
        self._labels_left = _MAX_LABELS
        self._known: dict[int, tuple[str, int]] = {}  # offset of a name: its text and its length on the wire

    def name(self) -> str:
        text, _, self.offset = self._name_at(self.offset, 0)
        return text

    def _name_at(self, start: int, pointers: int) -> tuple[str, int, int]:
        """Text of a name, its length on the wire when written out, and the offset behind it."""
        labels: list[str] = []
        wire_bytes, offset = 1, start
        while True:
            count = self.payload[offset]
            if count >= 0xC0:
                target = (count & 0x3F) << 8 | self.payload[offset + 1]
                if target >= start or pointers >= _MAX_POINTERS:  # only backwards, so that it ends
                    raise _DamagedError
                rest, rest_bytes = self._pointed_at(target, pointers + 1)
                if rest:
                    labels.append(rest)
                wire_bytes, after = wire_bytes + rest_bytes - 1, offset + 2
                break
            if count == 0:
                after = offset + 1
                break
            label = self.payload[offset + 1 : offset + 1 + count]
            self._labels_left -= 1
            wire_bytes += 1 + count
            if count > 63 or len(label) < count or wire_bytes > _MAX_NAME_BYTES or self._labels_left < 0:
                raise _DamagedError
            labels.append(_printable(label))
            offset += 1 + count
        if wire_bytes > _MAX_NAME_BYTES:
            raise _DamagedError
        return ".".join(labels), wire_bytes, after

    def _pointed_at(self, target: int, pointers: int) -> tuple[str, int]:
        known = self._known.get(target)
        if known is None:
            self._labels_left -= 1
            text, wire_bytes, _ = self._name_at(target, pointers)
            known = self._known[target] = text, wire_bytes
        return known

    def question(self) -> None:
        name = self.name()
        (qtype,) = struct.unpack_from(">H", self.payload, self.offset)
        self.offset += 4
        self.questions.append(Question(name, qtype))

    def answer(self) -> None:
        owner = self.name()
        rtype, rclass, ttl_s, count = struct.unpack_from(">HHIH", self.payload, self.offset)
        start = self.offset + 10
        end = start + count
        # The top bit of the class is multicast DNS's cache flush.
        is_address = rtype in _ADDRESS_BYTES and rclass & 0x7FFF == _CLASS_IN
        if end > len(self.payload) or (is_address and count != _ADDRESS_BYTES[rtype]):
            raise _DamagedError
        value: str | bytes = self.payload[start:end]
        if rtype in _NAME_TYPES:
            self.offset = start
            value = self.name()
        elif (rtype in _ADDRESS_BYTES or rtype in {SVCB, HTTPS}) and rclass & 0x7FFF != _CLASS_IN:
            rtype = 0  # in another class the number means something else
        self.offset = end
        # RFC 2181, 8: a TTL with the top bit set means zero.
        self.answers.append(Answer(owner, rtype, value, ttl_s if ttl_s < 1 << 31 else 0))


def read_dns(payload: bytes) -> DnsMessage | None:
    """Read a DNS message (without the length that TCP puts before it); None when it is none.

    Of a damaged message, what lies before the damage is kept.
    """
    if len(payload) < 12:
        return None
    _, flags, question_count, answer_count, _, _ = struct.unpack_from(">6H", payload)
    if flags >> 11 & 0xF:  # only standard queries
        return None
    reader = _Reader(payload)
    complete = False
    try:
        for _ in range(question_count):
            reader.question()
        for _ in range(answer_count):
            reader.answer()
        complete = True
    except (_DamagedError, IndexError, struct.error):
        if not reader.questions and not reader.answers:
            return None
    return DnsMessage(bool(flags >> 15), flags & 0xF, tuple(reader.questions), tuple(reader.answers), complete)


def address_pair(address: bytes) -> tuple[int, int]:
    """The upper and lower 64 bits of an IPv6 address, or of an IPv4 address mapped to ::ffff:0:0/96."""
    if len(address) == 4:
        return 0, _MAPPED | int.from_bytes(address)
    return int.from_bytes(address[:8]), int.from_bytes(address[8:])


def service_binding(data: bytes) -> tuple[str, list[bytes]] | None:
    """The target of a service binding (empty: its owner) and the address hints; None when the data are none.

    In AliasMode (priority 0) there are no hints (RFC 9460, 2.4.2).
    """
    reader = _Reader(data)
    reader.offset = 2
    hints = []
    try:
        while data[reader.offset] & 0xC0 == 0 and data[reader.offset]:  # never compressed
            reader.offset += 1 + data[reader.offset]
        if data[reader.offset]:
            return None
        reader.offset = 2
        target = reader.name()
        while reader.offset < len(data):
            key, count = struct.unpack_from(">HH", data, reader.offset)
            start, reader.offset = reader.offset + 4, reader.offset + 4 + count
            width = _HINT_BYTES.get(key, 1)
            if reader.offset > len(data) or count % width:
                return None
            if key in _HINT_BYTES:
                hints += [data[at : at + width] for at in range(start, reader.offset, width)]
    except (_DamagedError, IndexError, struct.error):
        return None
    return target, hints if data[:2] != b"\0\0" else []


def resolve_answers(message: DnsMessage) -> list[ResolvedAddress]:
    """The addresses that a response gives to its questions, with their names and the smallest TTL on the way to them.

    Owners that do not follow from a question by aliases may be anybody's, and are left out. The target of a service
    binding is an alias of its owner, and its hints are addresses.
    """
    asked = {question.name for question in message.questions}
    aliases: dict[str, dict[str, int]] = {}  # target: owners that are aliases of it, and their TTL
    addresses: list[tuple[str, bytes, int]] = []
    for answer in message.answers:
        target = answer.value
        if answer.rtype in _ADDRESS_BYTES and isinstance(answer.value, bytes):
            addresses.append((answer.owner, answer.value, answer.ttl_s))
            continue
        if answer.rtype in {SVCB, HTTPS} and isinstance(answer.value, bytes):
            target, given = service_binding(answer.value) or ("", [])
            addresses += ((target or answer.owner, address, answer.ttl_s) for address in given)
        elif answer.rtype != CNAME:
            continue
        if isinstance(target, str) and (target or answer.rtype == CNAME):
            owners = aliases.setdefault(target, {})
            owners[answer.owner] = min(answer.ttl_s, owners.get(answer.owner, answer.ttl_s))
    aliases = _reached(aliases, asked)
    chains: dict[str, tuple[tuple[str, ...], int]] = {}
    resolved = []
    for owner, address, ttl_s in addresses:
        if owner not in asked and owner not in aliases:
            continue
        if owner not in chains:
            chains[owner] = _chain(owner, aliases, asked)
        names, chain_ttl_s = chains[owner]
        resolved.append(ResolvedAddress(*address_pair(address), names, min(chain_ttl_s, ttl_s)))
    return resolved


def _reached(aliases: dict[str, dict[str, int]], asked: set[str]) -> dict[str, dict[str, int]]:
    """The aliases that follow from the questions, by target."""
    targets: dict[str, list[str]] = {}
    for target, owners in aliases.items():
        for owner in owners:
            targets.setdefault(owner, []).append(target)
    reached, ahead = set(asked), list(asked)
    while ahead:
        more = [target for target in targets.get(ahead.pop(), ()) if target not in reached]
        reached.update(more)
        ahead += more
    found = {target: {owner: ttl_s for owner, ttl_s in owners.items() if owner in reached}
             for target, owners in aliases.items()}  # fmt: skip
    return {target: owners for target, owners in found.items() if owners}


def _chain(owner: str, aliases: dict[str, dict[str, int]], asked: set[str]) -> tuple[tuple[str, ...], int]:
    """The names that lead to `owner`, itself last, and the smallest TTL among their alias records."""
    names = [owner]
    ttl_s = (1 << 31) - 1
    for name in names:  # grows meanwhile
        if name in asked:
            continue
        for alias, alias_ttl_s in aliases.get(name, {}).items():
            if len(names) >= _MAX_CHAIN:
                break
            if alias not in names:
                names.append(alias)
                ttl_s = min(ttl_s, alias_ttl_s)
    return tuple(reversed(names)), ttl_s


class DnsStream:
    """One direction of a DNS connection over TCP: segments in any order to whole messages, in at most 64 KiB.

    A stream is followed from its SYN, or from the first segment that looks like the start of a message. A hole that
    stays open is skipped in the same way.
    """

    _LIMIT_BYTES = 2 + 0xFFFF
    _PATIENCE = 16  # segments behind a hole

    def __init__(self) -> None:
        self._start_seq: int | None = None
        self._stream = ByteAssembly(self._LIMIT_BYTES)
        self._waiting = 0  # segments that came since the last byte in order

    def feed(self, seq: int, payload: bytes, is_syn: bool) -> list[bytes]:
        """Take a segment and return the messages that it completes; `seq` is the field of its TCP header."""
        if is_syn:
            seq += 1
            self._restart(seq)
        if not payload:
            return []
        lost = self._start_seq is None or seq_offset(seq, self._start_seq) >= self._LIMIT_BYTES
        if (lost or self._waiting >= self._PATIENCE) and _starts_message(payload):
            self._restart(seq)
        elif lost:
            return []
        ready_bytes = self._stream.ready_bytes
        self._stream.add(seq_offset(seq, self._start_seq or 0), payload)
        self._waiting = self._waiting + 1 if self._stream.ready_bytes == ready_bytes else 0
        return self._messages()

    def begin(self, start_seq: int) -> None:
        """The first byte is the one with this sequence number, whatever came before."""
        self._restart(start_seq)

    def _messages(self) -> list[bytes]:
        messages = []
        while self._stream.ready_bytes >= 2:
            count = 2 + int.from_bytes(self._stream.prefix(2))
            if count < 2 + 12:  # not a message: the framing is lost
                self._restart(None)
            if self._stream.ready_bytes < count:
                break
            messages.append(self._stream.take(count)[2:])
            self._start_seq = ((self._start_seq or 0) + count) & 0xFFFFFFFF
        return messages

    def _restart(self, start_seq: int | None) -> None:
        self._start_seq, self._waiting = start_seq, 0
        self._stream = ByteAssembly(self._LIMIT_BYTES)


def _starts_message(payload: bytes) -> bool:
    """Whether a segment can start with the length and header of a DNS message with one question at most."""
    if len(payload) == 2:  # some senders write the length by itself
        return int.from_bytes(payload) >= 12
    if len(payload) < 14:
        return False
    count, _, flags, questions = struct.unpack_from(">4H", payload)
    return bool(count >= 12 and flags & 0x7840 == 0 and questions <= 1)  # standard query, reserved bit zero


@dataclass
class DnsStreamsCounters:
    """What a `DnsStreams` has seen."""

    evicted_total: int = counter("DNS connections over TCP discarded for newer ones.",
                                 shown="dns_streams_evicted")  # fmt: skip


class DnsStreams:
    """The streams of many connections, by a key for each direction; the longest unused give way."""

    def __init__(self, max_streams: int = 256) -> None:
        self._max_streams = max_streams
        self._streams: OrderedDict[Hashable, DnsStream] = OrderedDict()
        self.counters = DnsStreamsCounters()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def evicted_total(self) -> int:
        """Streams given up for newer ones."""
        return self.counters.evicted_total

    def feed(self, key: Hashable, seq: int, payload: bytes, is_syn: bool, start_seq: int | None = None) -> list[bytes]:
        """Take a segment of the stream `key`, and return the messages that it completes.

        `start_seq` is where the stream begins, when this is the first segment of it that comes here.
        """
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = DnsStream()
            if len(self._streams) > self._max_streams:
                self._streams.popitem(last=False)
                self.counters.evicted_total += 1
        self._streams.move_to_end(key)
        if start_seq is not None:
            stream.begin(start_seq)
        return stream.feed(seq, payload, is_syn)
