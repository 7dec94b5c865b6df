"""The name readers on real traces: what `tshark` found in them is found, no more and no less."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import zstandard

from support.dns_frames import Segment, frames, ip_packet, segment
from support.naive.hellos import starts
from trafficrefinery.services.dns.messages import HTTPS, SVCB, DnsStreams, read_dns, resolve_answers
from trafficrefinery.services.names import Status
from trafficrefinery.services.names.quic import QuicInitialReader
from trafficrefinery.services.names.streams import StreamReader

# Where we and tshark differ, and why. Each is (file, name).
NOT_FOUND = {
    (
        "haproxy.pcap",
        "aaaaaaaaaaaaaaaa.xx",
    ): "behind a PROXY header without a SYN, which only the packet loop looks behind",
    ("custom_rules_ipv6.pcapng", "itojun.org"): "a DNS server on port 5333",
    ("malformed_dns.pcap", "www.xt.com"): "behind a name of more than 255 bytes, where reading ends",
}
FOUND_BESIDES = {
    ("tls_missing_ch_frag.pcap", "r1---sn-5f5nxgvh5o-hjul.googlevideo.com"): "the rest of the hello was not captured",
    ("gquic.pcap", "www.gstatic.com"): "tshark has the names of Google's Q050 in a field of their own",
    ("quic_q50.pcap", "www.googletagmanager.com"): "the same",
    ("ookla.pcap", "spd-pub-mi-01-01.fastwebnet.it"): "tshark takes port 8080 for HTTP",
    ("rdp.pcap", "192.168.2.142"): "tshark takes port 3389 for TPKT only",
    **{
        ("heuristic_tcp_ack_payload.pcap", name): "the hello overlaps two bytes that came with the ACK before it"
        for name in (
            "bitrix.info",
            "firefox.settings.services.mozilla.com",
            "moevideo.biz",
            "portal.mail.ru",
            "ru.pinterest.com",
        )
    },
}


class Found:
    """Everything that the readers tell about a trace."""

    def __init__(self, file: BinaryIO) -> None:
        self.queries: set[str] = set()
        self.sni: list[tuple[Any, ...]] = []
        self.answers: set[tuple[str, str, str, str]] = set()
        self._dns = DnsStreams()
        self._isn_plus_1: dict[Any, int] = {}
        self._tls: dict[Any, StreamReader] = {}
        self._quic: dict[Any, QuicInitialReader] = defaultdict(QuicInitialReader)
        for link_type, frame in frames(file):
            part = segment(ip_packet(link_type, frame))
            if part is not None:
                self._take(part)

    def _take(self, part: Segment) -> None:
        ports = {part.source_port, part.destination_port}
        if part.protocol == 6:
            if 53 in ports:
                for message in self._dns.feed(part.flow, part.seq, part.payload, part.is_syn):
                    self._take_dns(message)
            self._take_tls(part)
        elif ports & {53, 5353}:
            self._take_dns(part.payload, multicast=5353 in ports)
        else:
            reader = self._quic[part.flow]
            if reader.status is Status.NEED_MORE and reader.feed(part.payload) is Status.FOUND and reader.name:
                self._name(reader.name, "quic", part)

    def _take_tls(self, part: Segment) -> None:
        if part.is_syn:
            self._isn_plus_1[part.flow] = part.seq + 1
            self._tls[part.flow] = StreamReader(part.seq + 1)
        reader = self._tls.get(part.flow)
        # A second hello, after a proxy's CONNECT or STARTTLS, begins with a segment of its own.
        again = reader is None or reader.status is not Status.NEED_MORE
        if again and len(part.payload) > 5 and starts(part.payload):
            reader = self._tls[part.flow] = StreamReader(part.seq)
        if reader is not None and reader.status is Status.NEED_MORE:
            seq = part.seq + part.is_syn
            if reader.feed(seq, part.payload, part.truncated) is Status.FOUND and reader.name:
                self._name(reader.name, "tls", part)

    def _name(self, sni: str, kind: str, part: Segment) -> None:
        self.sni.append((sni, kind, *part.flow[1:]))

    def _take_dns(self, payload: bytes, multicast: bool = False) -> None:
        message = read_dns(payload)
        if message is None:
            return
        question = message.questions[0].name if message.questions else ""
        if not message.is_response:
            self.queries.update(question.name for question in message.questions)
        if multicast:
            return
        owners = [(a.owner, a.rtype, a.value) for a in message.answers if a.rtype in (1, 28)]
        plain = message._replace(answers=tuple(a for a in message.answers if a.rtype not in (SVCB, HTTPS)))
        for (owner, rtype, value), resolved in zip(owners, resolve_answers(plain), strict=True):
            assert isinstance(value, bytes)
            assert resolved.names[-1] == owner
            family = socket.AF_INET if rtype == 1 else socket.AF_INET6
            self.answers.add((question, owner, "A" if rtype == 1 else "AAAA", socket.inet_ntop(family, value)))


def test_names_and_answers_are_those_that_tshark_finds(shared_data: Path) -> None:
    missing: set[tuple[str, str]] = set()
    besides: set[tuple[str, str]] = set()
    compared = 0
    with (shared_data / "ndpi" / "truth.jsonl").open() as lines:
        for truth in map(json.loads, lines):
            with (shared_data / "ndpi" / truth["file"]).open("rb") as file:
                found = Found(file)
            for theirs, ours in (
                ({(row[0].lower().rstrip("."), *row[1:6]) for row in truth["sni"]}, set(found.sni)),
                ({tuple(row) for row in truth["dns"]}, found.answers),
            ):
                missing |= {(truth["file"], row[0]) for row in theirs - ours}
                besides |= {(truth["file"], row[0]) for row in ours - theirs}
                compared += len(theirs)
    assert missing == NOT_FOUND.keys()
    assert besides == FOUND_BESIDES.keys()
    assert compared > 1400


@pytest.fixture(scope="module")
def netflix(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of the course assignment, unpacked."""
    path: Path = tmp_path_factory.mktemp("netflix") / "netflix.pcap"
    with (shared_data / "netflix_2018.pcap.zst").open("rb") as packed, path.open("wb") as unpacked:
        zstandard.ZstdDecompressor().copy_stream(packed, unpacked)
    return path


def test_the_netflix_session_has_39_query_names_and_the_names_of_its_handshakes(netflix: Path, tshark: str) -> None:
    with netflix.open("rb") as file:
        found = Found(file)
    assert len(found.queries) == 39
    fields = ("tls.handshake.extensions_server_name", "ip.src", "tcp.srcport", "ip.dst", "tcp.dstport")
    command = [tshark, "-r", str(netflix), "-Y", fields[0], "-T", "fields", *(f"-e{field}" for field in fields)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = sorted(line.split("\t") for line in lines)
    assert sorted([sni, *map(str, ends)] for sni, _, *ends in found.sni) == theirs
    assert len(theirs) == 70  # 52 of them full handshakes
