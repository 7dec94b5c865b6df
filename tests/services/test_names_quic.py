"""QUIC Initials: the sample packets of the standards, and hellos split in every way that clients split them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.services.names import Status
from trafficrefinery.services.names.quic import InitialKeys, QuicInitialReader, initial_keys, may_be_initial

V1, V2, DRAFT_29 = 0x00000001, 0x6B3343CF, 0xFF00001D
SALTS = {
    V1: "38762cf7f55934b34d179ae6a4c80cadccbb7f0a",
    V2: "0dede3def700a6db819381be6e269dcbf9bd2ed9",
    DRAFT_29: "afbfec289993d24c9e9786f19c6111e04390a899",
}
CONNECTION_ID = bytes.fromhex("8394c8f03e515708")

# RFC 9001 and RFC 9369, appendix A.2: the CRYPTO frame of a ClientHello for example.com.
CRYPTO_FRAME = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000"
    "000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000"
    "0000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d00"
    "10000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff0704800"
    "0ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
HELLO = CRYPTO_FRAME[4:]
NAME = "example.com"


def expand(secret, label, count):
    name = b"tls13 " + label.encode()
    info = count.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(hashes.SHA256(), count, info).derive(secret)


def keys_of(version, connection_id):
    extract = hmac.HMAC(bytes.fromhex(SALTS.get(version, SALTS[V1])), hashes.SHA256())
    extract.update(connection_id)
    secret = expand(extract.finalize(), "client in", 32)
    label = "quicv2" if version == V2 else "quic"
    return [expand(secret, f"{label} {kind}", count) for kind, count in (("key", 16), ("iv", 12), ("hp", 16))]


def varint(value, width=2):
    return (value | {1: 0, 2: 1, 4: 2, 8: 3}[width] << (8 * width - 2)).to_bytes(width)


def initial(
    frames, *, version=V1, connection_id=CONNECTION_ID, key_id=None, number=0, number_bytes=4, pad_to=1200, token=b""
):
    """A protected Initial packet; `key_id` is the connection id that its keys come from, when not its own."""
    key, iv, header_key = keys_of((SALTS.keys() & {version} and version) or V1, key_id or connection_id)
    first = 0xC0 | (0x10 if version == V2 else 0) | number_bytes - 1
    header = bytes([first]) + version.to_bytes(4) + bytes([len(connection_id)]) + connection_id + b"\0"
    header += varint(len(token)) if token else b"\0"
    header += token
    frames += bytes(max(0, pad_to - len(header) - 2 - number_bytes - len(frames) - 16))
    header += varint(number_bytes + len(frames) + 16) + number.to_bytes(number_bytes)
    nonce = (int.from_bytes(iv) ^ number).to_bytes(12)
    packet = bytearray(header + AESGCM(key).encrypt(nonce, frames, header))
    at = len(header) - number_bytes
    mask = Cipher(algorithms.AES(header_key), modes.ECB()).encryptor().update(bytes(packet[at + 4 : at + 20]))
    packet[0] ^= mask[0] & 0x0F
    for index in range(number_bytes):
        packet[at + index] ^= mask[1 + index]
    return bytes(packet)


def crypto(start, end, hello=HELLO):
    return b"\x06" + varint(start, 4) + varint(len(hello[start:end])) + hello[start:end]


def feed(*datagrams):
    reader = QuicInitialReader()
    statuses = [reader.feed(datagram) for datagram in datagrams]
    return reader, statuses


@pytest.mark.parametrize(
    ("version", "key", "iv", "header_key"),
    [
        (V1, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"),
        (V2, "8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"),
    ],
    ids=["RFC 9001", "RFC 9369"],
)
def test_keys_are_those_of_appendix_a1(version, key, iv, header_key):
    expected = InitialKeys(bytes.fromhex(key), bytes.fromhex(iv), bytes.fromhex(header_key))
    assert initial_keys(version, CONNECTION_ID) == expected


@pytest.mark.parametrize(
    ("version", "header", "sample", "tag"),
    [
        (
            V1,
            "c000000001088394c8f03e5157080000449e7b9aec34",
            "d1b1c98dd7689fb8ec11d242b123dc9b",
            "e221af44860018ab0856972e194cd934",
        ),
        (
            V2,
            "d76b3343cf088394c8f03e5157080000449ea0c95e82",
            "ffe67b6abcdb4298b485dd04de806071",
            "a18b2faa745b6fe189cf772a9f84cbfc",
        ),
    ],
    ids=["RFC 9001", "RFC 9369"],
)
def test_the_client_initial_of_appendix_a2_is_read(version, header, sample, tag):
    """The packet is made here; its header, the sample behind it and its tag, which covers all, are the standard's."""
    packet = initial(CRYPTO_FRAME, version=version, number=2)
    assert packet[:22].hex() == header
    assert packet[22:38].hex() == sample
    assert packet[-16:].hex() == tag
    reader, statuses = feed(packet)
    assert statuses == [Status.FOUND]
    assert reader.name == NAME


HEADERS = st.fixed_dictionaries(
    {
        "version": st.sampled_from(sorted(SALTS)),
        "connection_id": st.binary(max_size=20),
        "number_bytes": st.integers(2, 4),
        "token": st.binary(max_size=60),
    }
)


@given(
    HEADERS,
    st.integers(0, 255),
    st.lists(st.integers(1, len(HELLO) - 1), unique=True, max_size=7),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_the_name_is_found_however_the_hello_is_split(header, number, cuts, datagram_count, random):
    edges = [0, *sorted(cuts), len(HELLO)]
    frames = [crypto(start, end) for start, end in pairwise(edges)]
    frames += [b"\x01", b"\0\0\0", b"\x02\x09\x08\x01\x02\x03\x04", b"\x03\x09\x08\0\x02\x05\x06\x07", crypto(5, 40)]
    random.shuffle(frames)
    parts = [b"".join(frames[index::datagram_count]) for index in range(datagram_count)]
    reader, statuses = feed(*(initial(part, number=number + index, **header) for index, part in enumerate(parts)))
    assert statuses[-1] is Status.FOUND
    assert reader.name == NAME


def test_packets_that_share_a_datagram_are_all_read():
    first = initial(crypto(0, 30), pad_to=0)
    handshake = b"\xe0" + V1.to_bytes(4) + b"\0\0" + varint(40) + bytes(40)
    second = initial(crypto(30, len(HELLO)), number=1, pad_to=1200)
    reader, statuses = feed(handshake + first + second)
    assert statuses == [Status.FOUND]
    assert reader.name == NAME


def test_the_keys_of_the_first_connection_id_hold_after_the_server_names_its_own():
    reader, statuses = feed(
        initial(crypto(100, len(HELLO))),
        initial(crypto(0, 100), connection_id=b"server", key_id=CONNECTION_ID, number=1),
    )
    assert statuses == [Status.NEED_MORE, Status.FOUND]
    assert reader.name == NAME


def test_after_a_retry_the_keys_are_those_of_the_new_connection_id():
    reader, statuses = feed(
        initial(crypto(100, len(HELLO))),
        initial(crypto(0, 100), connection_id=b"retried!", token=b"token", number=1),
    )
    assert statuses == [Status.NEED_MORE, Status.FOUND]
    assert reader.name == NAME


def test_another_version_with_the_same_connection_id_has_keys_of_its_own():
    reader, statuses = feed(initial(crypto(100, len(HELLO))), initial(crypto(0, 100), version=V2))
    assert statuses == [Status.NEED_MORE, Status.FOUND]
    assert reader.name == NAME


def test_the_name_is_reported_before_the_hello_ends():
    name_end = HELLO.index(NAME.encode()) + len(NAME)
    reader, statuses = feed(initial(crypto(0, name_end)))
    assert statuses == [Status.FOUND]
    assert reader.name == NAME


@pytest.mark.parametrize(
    ("datagram", "status", "reason"),
    [
        (b"\x40" + bytes(1300), Status.NEED_MORE, "a short header"),
        (b"\x16\xfe\xff" + bytes(1300), Status.NEED_MORE, "DTLS"),
        (initial(CRYPTO_FRAME, pad_to=1199), Status.NEED_MORE, "a datagram that is too small"),
        (b"\xc3Q046\x50" + bytes(1300), Status.NEED_MORE, "a version that is not read"),
        (b"\xc0" + V1.to_bytes(4) + b"\xff" * 1300, Status.NEED_MORE, "lengths that reach too far"),
        (b"\xf0" + V1.to_bytes(4) + bytes(1300), Status.NEED_MORE, "a Retry"),
        (initial(crypto(0, 6, b"\x02\0\x10\0\x03\x03")), Status.NOT_FOUND, "a handshake message of another type"),
        (initial(b"\x1c\0\0\0" + CRYPTO_FRAME), Status.NEED_MORE, "a closed connection"),
        (initial(CRYPTO_FRAME)[:-1] + b"\0", Status.NEED_MORE, "a wrong tag"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_hello_is_told_apart(datagram, status, reason):
    reader, statuses = feed(datagram)
    assert statuses == [status]
    assert reader.name is None


def test_a_version_that_forces_a_negotiation_has_the_keys_of_the_clients_latest():
    reader, statuses = feed(initial(CRYPTO_FRAME, version=0x1A2A3A4A))
    assert statuses == [Status.FOUND]
    assert reader.name == NAME


def test_datagrams_that_come_again_do_not_end_the_search():
    incomplete = initial(crypto(1, len(HELLO)))
    other_numbers = [initial(crypto(1, len(HELLO)), number=number) for number in range(50)]
    unreadable = initial(CRYPTO_FRAME)[:-1] + b"\0"
    _, statuses = feed(*[incomplete] * 50, *other_numbers, *[unreadable] * 50, initial(crypto(0, 1)))
    assert statuses == [Status.NEED_MORE] * 150 + [Status.FOUND]


def test_the_search_ends_after_16_kib_of_distinct_crypto_data_and_not_by_datagrams_that_no_key_opens():
    endless = b"\x01\0\xff\xff\x03\x03" + bytes(32) + b"\0\0\0\1\0\xff\xff" + bytes(20_000)
    reader, statuses = feed(*(initial(crypto(at, at + 1000, endless), number=at) for at in range(0, 17_000, 1000)))
    assert statuses == [Status.NEED_MORE] * 16 + [Status.NOT_FOUND]
    assert reader.has_begun
    noise = (b"\xc0" + V1.to_bytes(4) + b"\x08" + bytes([number]) * 8 + bytes(1200) for number in range(20))
    reader, statuses = feed(*noise)
    assert statuses == [Status.NEED_MORE] * 20
    assert not reader.has_begun


def test_crypto_data_is_kept_up_to_16_kib():
    far = b"\x06" + varint(16 * 1024 - 10, 4) + varint(100) + bytes(100)
    beyond = b"\x06" + varint(1 << 40, 8) + varint(100) + bytes(100)
    reader, _ = feed(initial(far + beyond))
    assert len(reader._crypto._data) == 16 * 1024


def test_only_large_datagrams_with_a_long_header_are_tried():
    packet = initial(CRYPTO_FRAME)
    assert may_be_initial(packet)
    assert not may_be_initial(packet[:1199])
    assert not may_be_initial(b"\x40" + packet[1:])
    assert not may_be_initial(b"")
