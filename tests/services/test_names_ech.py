"""Public names of Encrypted Client Hello in HTTPS records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tls_hellos import vector
from trafficrefinery.services import ServiceFilter, ServiceMap
from trafficrefinery.services.dns.ech import public_names

KEY = b"\x01\0\x20" + vector(2, bytes(32)) + vector(2, b"\0\1\0\1") + b"\x40"

RECORD = bytes.fromhex(
    "0001000001000302683200040008a29f874fa29f884f"
    "000500470045fe0d0041510020002012f5b1b1d1b02a1e3f9a7d2c4b5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f6f"
    "0004000100010012636c6f7564666c6172652d6563682e636f6d0000"
)  # with `alpn`, address hints and `ech`, as a browser's resolver gives it


def configuration(name, version=0xFE0D):
    return version.to_bytes(2) + vector(2, KEY + vector(1, name) + vector(2, b""))


def record(*configurations, target=b"\0", before=b""):
    return b"\0\1" + target + before + b"\0\5" + vector(2, vector(2, b"".join(configurations)))


def test_the_public_name_of_a_usual_record_is_found():
    assert public_names(RECORD) == ["cloudflare-ech.com"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (record(configuration(b"Public.Example")), ["public.example"]),
        (record(configuration(b"a.example"), configuration(b"b.example")), ["a.example", "b.example"]),
        (record(configuration(b"a.example", 0xFE0C), configuration(b"b.example")), ["b.example"]),
        (record(configuration(b"a.example"), target=b"\3svc\7example\0", before=b"\0\1\0\3\2h2"), ["a.example"]),
        (record(configuration(b"a b")), []),
        (b"\0\1\0\0\1\0\3\2h2", []),
        (b"", []),
    ],
)
def test_public_names_are_those_of_all_known_configurations(data, names):
    assert public_names(data) == names


def test_a_cut_record_gives_what_is_before_the_cut():
    data = record(configuration(b"a.example"), configuration(b"b.example"))
    assert {tuple(public_names(data[:count])) for count in range(len(data))} == {
        ()
    }  # its list of configurations is cut
    longer = record(configuration(b"a.example"), b"\xfe\x0d\0\xff")
    assert public_names(longer) == ["a.example"]


@given(st.binary(max_size=80), st.integers(0, 90))
def test_noise_raises_nothing(noise, at):
    public_names(noise)
    public_names(RECORD[:at] + noise + RECORD[at:])


def test_a_dns_answer_teaches_the_public_name():
    header = b"\0\1\x81\x80\0\1\0\1\0\0\0\0"
    question = b"\3www\5video\7example\0\0\x41\0\1"
    answer = b"\xc0\x0c\0\x41\0\1\0\0\0\x3c" + vector(2, record(configuration(b"front.example")))
    services = ServiceMap([ServiceFilter("Video", ("video.example",))])
    assert not services.is_public_name("front.example")
    services.learn_dns(header + question + answer, 1, 2, 0)
    assert services.is_public_name("front.example")
    assert services.is_public_name("cloudflare-ech.com")
