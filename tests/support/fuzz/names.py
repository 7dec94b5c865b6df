"""The name readers on hostile bytes: nothing raises, nothing grows beyond its bound.

`exercise` is called by the tests; `python tests/fuzz/names.py [CORPUS] [-max_total_time=60]` drives it with atheris.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from trafficrefinery.services import ServiceFilter, ServiceMap
from trafficrefinery.services.dns.messages import DnsStream, read_dns, resolve_answers
from trafficrefinery.services.names import Status
from trafficrefinery.services.names.quic import QuicInitialReader, _crypto_frames, _initials, crypto_name
from trafficrefinery.services.names.streams import LIMIT_BYTES, StreamReader


def pieces(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Data as segments: flags, a sequence number near the start of the stream, and a payload."""
    position = 0
    while position + 4 <= len(data):
        flags, seq, count = data[position], int.from_bytes(data[position + 1 : position + 3]), data[position + 3]
        yield flags, seq, data[position + 4 : position + 4 + count]
        position += 4 + count


def exercise_dns(data: bytes) -> None:
    message = read_dns(data)
    if message is None:
        return
    for address in resolve_answers(message):
        assert 0 <= address.ttl_s < 1 << 31
        assert 0 <= address.address_hi < 1 << 64
        assert 0 <= address.address_lo < 1 << 64
        assert 1 <= len(address.names) <= 32
    for name in [*(question.name for question in message.questions), *(answer.owner for answer in message.answers)]:
        assert name == name.lower()
        assert name.isascii()
        assert len(name) <= 4 * 255
    services = ServiceMap([ServiceFilter("All", (), (".",))], max_addresses=64, max_names=8)
    assert services.learn_dns(data, 1, 2, 0) <= len(resolve_answers(message))


def exercise_dns_stream(data: bytes) -> None:
    stream = DnsStream()
    for flags, seq, payload in pieces(data):
        for message in stream.feed(seq - 100, payload, is_syn=flags & 7 == 0):
            assert 12 <= len(message) <= 0xFFFF
        assert len(stream._stream._data) <= 2 + 0xFFFF


def exercise_tls(data: bytes) -> None:
    crypto_name(data)
    for start_seq in (0, 5):
        reader = StreamReader(start_seq)
        for flags, seq, payload in pieces(data):
            status = reader.feed(seq & 0x3FF if flags & 8 else 0, payload, truncated=flags & 7 == 0)
            assert status is Status.FOUND or reader.name is None
        assert len(reader._stream._data) <= LIMIT_BYTES
    whole = StreamReader(0)
    whole.feed(0, data)
    assert whole.name is None or 0 < len(whole.name) <= 255


def exercise_quic(data: bytes) -> None:
    reader = QuicInitialReader()
    for version in (b"", b"\xc0\0\0\0\x01", b"\xd0\x6b\x33\x43\xcf"):
        reader.feed((version + data).ljust(1200, b"\0"))
    for initial in _initials(data):
        assert len(initial.connection_id) <= 20
        assert initial.number_offset <= len(initial.packet)
    for offset, piece in _crypto_frames(data):
        assert offset >= 0
        reader._crypto.add(offset, piece)
    reader._read_hello()
    assert len(reader._crypto._data) <= LIMIT_BYTES


READERS: tuple[Callable[[bytes], None], ...] = (exercise_dns, exercise_dns_stream, exercise_tls, exercise_quic)


def exercise(data: bytes) -> None:
    """Give all bytes but the first to the reader that the first one chooses."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, exercise)
    atheris.Fuzz()
