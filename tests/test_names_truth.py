"""The name readers on real traces: what `tshark` found in them is found, no more and no less."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import dpkt
import pytest
import zstandard

from naive.hellos import starts
from trafficrefinery.names import Status
from trafficrefinery.names.dns import HTTPS, SVCB, DnsStreams, read_dns, resolve_answers
from trafficrefinery.names.quic import QuicInitialReader
from trafficrefinery.names.tls import ClientHelloReader

HEADER_BYTES = {0: 4, 12: 0, 101: 0, 108: 4, 228: 0, 229: 0}  # loopback and raw IP
ETHER_TYPE_AT = {1: (12, 14), 113: (14, 16), 276: (0, 20)}  # where the type is, and the end of the header
PPP_IP = (b"\x00\x21", b"\x00\x57")

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


class Segment(NamedTuple):
    """A whole (not fragmented, not tunnelled) TCP segment or UDP datagram."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    seq: int
    is_syn: bool
    payload: bytes
    truncated: bool

    @property
    def flow(self) -> tuple[Any, ...]:
        return self[:5]


def frames(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Link type and bytes of each frame, up to where the file is damaged."""
    magic = file.read(4)
    file.seek(0)
    reader = dpkt.pcapng.Reader(file) if magic == b"\x0a\x0d\x0d\x0a" else dpkt.pcap.Reader(file)
    try:
        for _, frame in reader:
            yield reader.datalink(), bytes(frame)
    except (dpkt.dpkt.Error, ValueError, KeyError):
        return


def ip_packet(link_type: int, frame: bytes) -> bytes:
    """The outermost IP packet of a frame."""
    if link_type in HEADER_BYTES:
        return frame[HEADER_BYTES[link_type] :]
    if link_type == 9:
        frame = frame.removeprefix(b"\xff\x03")
        return frame[2:] if frame[:2] in PPP_IP else b""
    if link_type not in ETHER_TYPE_AT:
        return b""
    at, header_bytes = ETHER_TYPE_AT[link_type]
    ether_type, rest = int.from_bytes(frame[at : at + 2]), frame[header_bytes:]
    while ether_type in (0x8100, 0x88A8, 0x9100):
        ether_type, rest = int.from_bytes(rest[2:4]), rest[4:]
    if ether_type in (0x8847, 0x8848):
        while len(rest) >= 4 and not rest[2] & 1:
            rest = rest[4:]
        return rest[4:]
    if ether_type == 0x8864:
        return rest[8:] if rest[6:8] in PPP_IP else b""
    return rest if ether_type in (0x0800, 0x86DD) else b""


def segment(packet: bytes) -> Segment | None:
    """The TCP segment or UDP datagram of an IP packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        if int.from_bytes(packet[6:8]) & 0x3FFF:
            return None
        protocol, start, end = packet[9], 4 * (packet[0] & 15), int.from_bytes(packet[2:4])
        source, destination = (socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16))
    elif version == 6 and len(packet) >= 40:
        protocol, start, end = packet[6], 40, 40 + int.from_bytes(packet[4:6])
        source, destination = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
        while protocol in (0, 43, 60) and len(packet) >= start + 8:
            protocol, start = packet[start], start + 8 * (1 + packet[start + 1])
    else:
        return None
    end = max(end, start) if end else len(packet)  # segmentation offload leaves the length zero
    header, truncated = packet[start : start + 20], end > len(packet)
    if protocol == 6 and len(header) == 20:
        payload = packet[start + 4 * (header[12] >> 4) : end]
        seq, is_syn = int.from_bytes(header[4:8]), bool(header[13] & 2)
    elif protocol == 17 and len(header) >= 8:
        payload, seq, is_syn = packet[start + 8 : end], 0, False
    else:
        return None
    ports = int.from_bytes(header[0:2]), int.from_bytes(header[2:4])
    return Segment(protocol, source, ports[0], destination, ports[1], seq, is_syn, payload, truncated)


class Found:
    """Everything that the readers tell about a trace."""

    def __init__(self, file: BinaryIO) -> None:
        self.queries: set[str] = set()
        self.sni: list[tuple[Any, ...]] = []
        self.answers: set[tuple[str, str, str, str]] = set()
        self._dns = DnsStreams()
        self._isn_plus_1: dict[Any, int] = {}
        self._tls: dict[Any, ClientHelloReader] = {}
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
            if reader.status is Status.NEED_MORE and reader.feed(part.payload) is Status.FOUND and reader.sni:
                self._name(reader.sni, "quic", part)

    def _take_tls(self, part: Segment) -> None:
        if part.is_syn:
            self._isn_plus_1[part.flow] = part.seq + 1
            self._tls[part.flow] = ClientHelloReader(part.seq + 1)
        reader = self._tls.get(part.flow)
        # A second hello, after a proxy's CONNECT or STARTTLS, begins with a segment of its own.
        again = reader is None or reader.status is not Status.NEED_MORE
        if again and len(part.payload) > 5 and starts(part.payload):
            reader = self._tls[part.flow] = ClientHelloReader(part.seq)
        if reader is not None and reader.status is Status.NEED_MORE:
            seq = part.seq + part.is_syn
            if reader.feed(seq, part.payload, part.truncated) is Status.FOUND and reader.sni:
                self._name(reader.sni, "tls", part)

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
