"""Privacy: with a key, no address is in any output; and all else is as it was."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import subprocess
import zlib
from collections import Counter
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import trafficrefinery
from support import replay_runs as runs
from support import replays, traces
from support.naive.blanked import blanked
from support.naive.frames import Frame
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.cli import main as cli
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import ConfigError
from trafficrefinery.records import privacy
from trafficrefinery.records.privacy import Anonymiser
from trafficrefinery.records.schema import address_text

REFERENCE_KEY = bytes.fromhex("152217 8d33a4cf80 130a5b16 49907d10 d8988f83 79796527 62574c2d 2a842202")
REFERENCE = {  # of the sample trace of the reference implementation
    "128.11.68.132": "135.242.180.132", "129.118.74.4": "134.136.186.123", "130.132.252.244": "133.68.164.234",
    "141.223.7.43": "141.167.8.160", "141.233.145.108": "141.129.237.235", "152.163.225.39": "151.140.114.167",
    "156.29.3.236": "147.225.12.42", "165.247.96.84": "162.9.99.234", "166.107.77.190": "160.132.178.185",
    "192.102.249.13": "252.138.62.131", "205.188.147.153": "242.96.16.101", "24.0.250.221": "100.15.198.226",
    "4.3.88.225": "124.60.155.63", "63.97.7.140": "95.97.9.123", "64.14.118.196": "0.255.183.58",
    "10.185.25.118": "117.161.29.118",
}  # fmt: skip
REFERENCE_V6 = {  # of other implementations: the first one knew no IPv6
    "::1": "78ff:f001:9fc0:20df:8380:b1f1:704:ed", "::2": "78ff:f001:9fc0:20df:8380:b1f1:704:ef",
    "::ffff": "78ff:f001:9fc0:20df:8380:b1f1:704:f838", "2001:db8::1": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e",
    "2001:db8::2": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c",
}  # fmt: skip
KEY = bytes(range(100, 132))


def key_file(folder: Path, content: bytes = KEY, mode: int = 0o600) -> Path:
    path = folder / "privacy.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


# Addresses


@pytest.mark.parametrize(("address", "anonymised"), [*REFERENCE.items(), *REFERENCE_V6.items()])
def test_addresses_become_what_they_do_in_other_implementations(address, anonymised):
    assert Anonymiser(REFERENCE_KEY).text(address) == anonymised


anonymisers = st.binary(min_size=32, max_size=32).map(Anonymiser)
v4 = st.integers(0, 2**32 - 1)
v6 = st.integers(0, 2**128 - 1).filter(lambda value: value >> 32 != 0xFFFF)


def common_bits(a: int, b: int, bits: int) -> int:
    return bits - (a ^ b).bit_length()


def relatives(addresses: st.SearchStrategy[int], bits: int) -> st.SearchStrategy[tuple[int, int]]:
    """Two addresses with a common prefix of any length."""
    return st.builds(
        lambda address, shared, other: (address, address ^ other >> shared),
        addresses, st.integers(0, bits), st.integers(0, 2**bits - 1),
    )  # fmt: skip


@given(anonymisers, relatives(v4, 32))
def test_the_common_prefix_of_ipv4_addresses_stays_as_long(anonymiser, pair):
    made = [int(IPv4Address(anonymiser.text(str(IPv4Address(value))))) for value in pair]
    assert common_bits(*made, 32) == common_bits(*pair, 32)


@given(anonymisers, relatives(v6, 128).filter(lambda pair: pair[1] >> 32 != 0xFFFF))
def test_the_common_prefix_of_ipv6_addresses_stays_as_long(anonymiser, pair):
    made = [int(IPv6Address(anonymiser.text(str(IPv6Address(value))))) for value in pair]
    assert common_bits(*made, 128) == common_bits(*pair, 128)


def test_each_address_of_a_subnet_becomes_another_one_of_the_same_subnet():
    anonymiser = Anonymiser(KEY)
    given_addresses = np.arange(2**16, dtype=np.uint64) + np.uint64(0xFFFF_C0A8_0000)
    hi, lo = anonymiser.addresses(np.zeros_like(given_addresses), given_addresses)
    assert not hi.any()
    assert len(np.unique(lo)) == 2**16
    assert len(np.unique(lo >> np.uint64(16))) == 1


@given(st.lists(st.one_of(v4.map(lambda value: value | 0xFFFF << 32), v6), max_size=20), st.data())
@example([1, 1, 0x9E3779B97F4A7C15 ^ 1, 1 << 64], None)  # two of them have the same number
def test_an_address_becomes_the_same_in_any_company_and_order(values, data):
    def anonymised(anonymiser: Anonymiser, values: list[int]) -> list[tuple[int, int]]:
        halves = (np.array([divmod(value, 1 << 64)[i] for value in values], np.uint64) for i in (0, 1))
        return list(zip(*(half.tolist() for half in anonymiser.addresses(*halves)), strict=True))

    one = Anonymiser(KEY)
    together = anonymised(one, values)
    assert anonymised(one, values) == together
    shuffled = values[::-1] if data is None else data.draw(st.permutations(values))
    assert dict(zip(shuffled, anonymised(Anonymiser(KEY), shuffled), strict=True)) == dict(
        zip(values, together, strict=True)
    )


def test_few_addresses_are_kept_and_the_others_are_right_all_the_same(monkeypatch):
    values = np.arange(0xFFFF_0A00_0000, 0xFFFF_0A00_0064, dtype=np.uint64)
    whole = Anonymiser(KEY).addresses(np.zeros_like(values), values)[1].tolist()
    monkeypatch.setattr(privacy, "MAX_KNOWN", 16)
    anonymiser = Anonymiser(KEY)
    for size in (100, 10, 7, 100):
        made = []
        for part in np.array_split(values, 100 // size):
            made += anonymiser.addresses(np.zeros_like(part), part)[1].tolist()
            assert len(anonymiser._given) <= 16
        assert made == whole


@given(st.one_of(v4.map(IPv4Address), v6.map(IPv6Address)))
def test_the_text_of_an_address_is_that_of_records(address):
    anonymiser = Anonymiser(KEY)
    value = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    halves = [np.array([half], np.uint64) for half in divmod(value, 1 << 64)]
    assert anonymiser.text(str(address)) == address_text(*anonymiser.addresses(*halves))[0]


def test_derived_keys_differ_by_key_and_purpose():
    keys = {Anonymiser(key).derived_key(purpose) for key in (KEY, REFERENCE_KEY) for purpose in ("a", "b")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


# Key files


def test_a_key_file_holds_32_bytes_or_as_many_in_hexadecimal(tmp_path):
    made = {Anonymiser.from_file(key_file(tmp_path, KEY)).text("192.0.2.1")}
    for text in (KEY.hex(), f"{KEY.hex().upper()}\n"):
        made.add(Anonymiser.from_file(key_file(tmp_path, text.encode())).text("192.0.2.1"))
    assert made == {Anonymiser(KEY).text("192.0.2.1")}
    assert Anonymiser.from_file(key_file(tmp_path, KEY, 0o400)).text("192.0.2.1") in made


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Anonymiser.from_file(path, "some.json")
    error = caught.value
    assert (error.file, error.key) == ("some.json", "Privacy.KeyFile")
    assert "\n" not in str(error)
    assert f'"{path}"' in error.message
    if path.exists() or path.is_symlink():  # no advice may cost the key
        before = path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b""
        advice = re.search(r"(?:run|made with): (.*)$", error.message)
        if advice is not None:
            subprocess.run(["sh", "-c", advice[1].replace("NEW_FILE", str(path))], check=False, capture_output=True)
        assert (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") == before
    return error.message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o440])
def test_a_key_that_others_can_touch_is_refused(tmp_path, mode):
    path = key_file(tmp_path, mode=mode)
    message = refusal(path)
    assert f"its mode is {mode:04o}, not 0600; run: chmod 600 {path}" in message
    assert Anonymiser.from_file(path).text("192.0.2.1") == Anonymiser(KEY).text("192.0.2.1")  # as advised


def test_the_advice_for_a_missing_key_makes_one_that_is_taken(tmp_path):
    path = tmp_path / "a key"
    command = refusal(path).split("a key is made with: ")[1]
    subprocess.run(["sh", "-c", command], check=True)
    Anonymiser.from_file(path)
    assert subprocess.run(["sh", "-c", command], check=False, capture_output=True).returncode != 0


def test_a_key_of_someone_else_is_refused(tmp_path, monkeypatch):
    path = key_file(tmp_path)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}, not to {owner + 1}" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", KEY[:31], KEY + b"\n", KEY * 2, KEY.hex().encode()[:-1], b"g" * 64, b"00 " * 32, b"0" * 65],
)  # fmt: skip
def test_what_is_no_key_is_refused(tmp_path, content):
    assert "holds no key: it must be 32 bytes long, or 64 hexadecimal digits" in refusal(key_file(tmp_path, content))


def test_a_missing_key_is_refused(tmp_path):
    assert "is missing" in refusal(tmp_path / "none.key")
    assert "cannot be read (Not a directory)" in refusal(key_file(tmp_path) / "below")


def test_a_link_to_a_key_is_refused(tmp_path):
    link = tmp_path / "link.key"
    link.symlink_to(key_file(tmp_path))
    assert "is a symbolic link" in refusal(link)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "is not a regular file" in refusal(pipe)
    assert "is not a regular file" in refusal(tmp_path)


def test_a_key_that_the_user_may_not_read_is_refused(tmp_path, monkeypatch):
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = key_file(tmp_path)
    monkeypatch.setattr(os, "open", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_the_key_file_is_looked_for_beside_the_configuration(tmp_path, monkeypatch):
    runs.configuration(tmp_path)
    path = tmp_path / "private.json"
    content = json.loads((tmp_path / "config.json").read_text()) | {"Privacy": {"KeyFile": "keys/privacy.key"}}
    path.write_text(json.dumps(content))
    monkeypatch.chdir("/")
    config = load_config(path)
    assert config.privacy.key_file == tmp_path / "keys" / "privacy.key"
    assert parse_config(config.to_dict()).privacy == config.privacy


# Records

COLLECT = [{"HeaderBytes": {"Packets": 24, "Bytes": 256}}, "PacketCounters"]
SERVICES = [
    {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]},
    {"Name": "Stream", "Filter": {"DomainsString": ["streamy"]}, "Collect": COLLECT},
    {"Name": "Rest", "Filter": {"Prefixes": list(replays.ALL_TRAFFIC)}, "Collect": COLLECT},
]


@pytest.fixture(scope="module")
def key_path(tmp_path_factory) -> Path:
    return key_file(tmp_path_factory.mktemp("key"))


@cache
def plan_of(key: Path | None, decapsulate: tuple[str, ...] = ("gre", "vxlan", "gtpu")) -> Plan:
    return Plan.of(
        replays.config_of(
            Services=SERVICES, Decapsulate=list(decapsulate), Privacy={"KeyFile": str(key) if key else None}
        )
    )


def anonymised(record: dict[str, Any], anonymiser: Anonymiser) -> dict[str, Any]:
    """What a record without privacy is with it, but for the flow id."""
    features = dict(record["features"])
    if "HeaderBytes" in features:
        output = features["HeaderBytes"]
        raw = bytes.fromhex(output["header_bytes"])
        ports = (record["client_port"], record["server_port"])
        rows = [blanked(raw[at * 256 :][:size], ports) for at, size in enumerate(output["copied_bytes"])]
        features["HeaderBytes"] = {**output, "header_bytes": b"".join(row.ljust(256, b"\0") for row in rows).hex()}
    ends = {name: anonymiser.text(record[name]) for name in ("client_ip", "server_ip")}
    return {**{name: value for name, value in record.items() if name != "flow_id"}, **ends, "features": features}


def check(frames: list[Frame], key_path: Path, **options: Any) -> list[dict[str, Any]]:
    """Compare records with and without privacy; returns those with it."""
    plain = replays.replay_frames(plan_of(None), frames, **options)
    private = replays.replay_frames(plan_of(key_path), frames, **options)
    anonymiser = Anonymiser(KEY)
    expected = [anonymised(record, anonymiser) for record in plain.records]
    without_ids = [{name: value for name, value in record.items() if name != "flow_id"} for record in private.records]
    assert sorted(map(json.dumps, without_ids)) == sorted(map(json.dumps, expected))
    ids = {record["flow_id"] for record in private.records}
    assert not ids & {record["flow_id"] for record in plain.records}
    assert len(ids) == len({record["flow_id"] for record in plain.records})
    assert private.counters == plain.counters
    keys = [(record["ts_end"], record["service"], record["flow_id"]) for record in private.records]
    assert keys == sorted(keys)
    return private.records


@pytest.mark.modes
def test_nothing_but_addresses_flow_ids_and_raw_bytes_is_another_with_privacy(key_path):
    records = check(traces.seeded_trace(7, 120), key_path)
    assert {record["matched_by"] for record in records} == {"sni", "quic_sni", "dns", "prefix"}


@given(frames=traces.traces(), partitions=st.sampled_from([1, 2, 3]))
def test_the_same_holds_for_any_trace_and_number_of_workers(key_path, frames, partitions):
    check(frames, key_path, partitions=partitions, sizes=(1, 7, 50))


def test_records_do_not_depend_on_the_number_of_workers(key_path):
    frames = traces.seeded_trace(8, 120)
    lines = [replays.replay_frames(plan_of(key_path), frames, partitions=number).lines for number in (1, 2, 3)]
    assert lines[0] == lines[1] == lines[2]
    assert lines[0]


def test_another_key_gives_other_addresses_and_flow_ids(key_path, tmp_path):
    frames = traces.seeded_trace(9, 30)
    one = replays.replay_frames(plan_of(key_path), frames).records
    other = replays.replay_frames(plan_of(key_file(tmp_path, REFERENCE_KEY)), frames).records
    for name in ("flow_id", "client_ip", "server_ip"):
        assert not {record[name] for record in one} & {record[name] for record in other}


CLIENT, SERVER, HIDDEN = "10.11.12.13", "192.0.2.201", bytes.fromhex("0a090807")
MULTIPATH = bytes([30, 8, 0x30, 1]) + HIDDEN
RECORD_ROUTE = bytes([7, 7, 8]) + HIDDEN + b"\0"
INNER = traces.ethernet(traces.ip("10.9.8.7", "10.9.8.6", 17, traces.udp(1, 2, b"x")))
ROUTING = bytes([17, 2, 2, 1, 0, 0, 0, 0]) + bytes(12) + HIDDEN


def v4_packet(protocol: int, body: bytes, **options: Any) -> bytes:
    return traces.ip(CLIENT, SERVER, protocol, body, **options)


@pytest.mark.parametrize(
    ("packet", "kept"),
    [
        (v4_packet(6, traces.tcp(1024, 443, 5, 6, 16, b"payload", options=b"\1\1" + MULTIPATH)), b"payload"),
        (v4_packet(17, traces.udp(1024, 443, b"payload"), options=RECORD_ROUTE), b"payload"),
        (traces.ipv6(bytes(15) + b"\1", bytes(15) + b"\2", 43, ROUTING + traces.udp(1024, 443, b"payload")), b"payload"),
        (v4_packet(17, traces.udp(1024, 4789, b"\x08" + bytes(7) + INNER)), b""),
        (v4_packet(17, traces.udp(53, 1024, b"\0\0\x81\x80" + bytes(8) + HIDDEN)), b""),
        (v4_packet(6, traces.tcp(53, 1024, 5, 6, 16, b"\0\x40\0\0\x81\x80" + bytes(8) + HIDDEN)), b""),
        (v4_packet(17, traces.udp(68, 67, b"\1\1\6\0" + HIDDEN)), b""),
    ],
    ids=["multipath TCP", "record route", "routing header", "VXLAN", "DNS", "DNS over TCP", "DHCP"],
)  # fmt: skip
def test_addresses_inside_headers_and_payload_are_blanked(key_path, packet, kept):
    frame = traces.tagged(packet, 0x8100)
    frames = [Frame(traces.START_NS, frame, len(frame))]
    seen = []
    for key in (None, key_path):
        (record,) = replays.replay_frames(plan_of(key, ()), frames).records
        seen.append(bytes.fromhex(record["features"]["HeaderBytes"]["header_bytes"]))
    plain, private = seen
    assert plain[: len(packet)] == packet
    hidden = {HIDDEN, socket.inet_aton("10.9.8.7"), traces.HOST_MAC}
    assert any(secret in plain for secret in hidden)
    for secret in (*hidden, socket.inet_aton(CLIENT), socket.inet_aton(SERVER), traces.GATEWAY_MAC):
        assert secret not in private
    assert kept in private


# Whole runs over the sample


def all_classes(**parameters: Any) -> list[Any]:
    sources = "\n".join(path.read_text() for path in sorted(features_dir().glob("*.py")))
    names = re.findall(r"^class (\w+)\(FeatureClass\)", sources, re.MULTILINE)
    return [{name: parameters[name]} if name in parameters else name for name in names]


@pytest.fixture(scope="module")
def sample_runs(tmp_path_factory, sample_trace, key_path) -> dict[str, Path]:
    """What `replay` wrote of the sample: without a key, with it, and with it by two workers."""
    folder = tmp_path_factory.mktemp("sample")
    whole = {"Packets": 40, "Bytes": 256}
    collect = all_classes(HeaderBytes=whole, HeaderImage=whole)
    services = [
        {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": collect},
        {"Name": "Rest", "Filter": {"Prefixes": list(replays.ALL_TRAFFIC)}, "Collect": collect},
    ]
    made = {}
    for name, key, options in (
        ("plain", None, []),
        ("private", str(key_path), []),
        ("again", str(key_path), ["--workers", "2"]),
    ):
        config = folder / f"{name}.json"
        config.write_text(json.dumps({"Sensor": "s", "Services": services, "Privacy": {"KeyFile": key}}))
        made[name] = folder / name
        assert cli._run(["replay", str(sample_trace), "-c", str(config), "-o", str(made[name]), *options]) == 0
    return made


@pytest.fixture(scope="module")
def sample_records(sample_runs) -> dict[str, list[dict[str, Any]]]:
    return {name: runs.lines(folder / "records.jsonl") for name, folder in sample_runs.items()}


def png_pixels(data: bytes) -> bytes:
    """Pixels of a grey PNG image whose rows are not filtered."""
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[start : start + int.from_bytes(data[start - 8 : start - 4])])
    return b"".join(rows[at * (width + 1) + 1 :][:width] for at in range(height))


def raw_bytes(record: dict[str, Any]) -> bytes:
    features = record["features"]
    image = base64.b64decode(features["HeaderImage"]["image"])
    return bytes.fromhex(features["HeaderBytes"]["header_bytes"]) + png_pixels(image)


def secrets_of(trace: Path) -> tuple[set[str], set[bytes]]:
    """Addresses of all frames as text, and in bytes with MAC addresses."""
    texts, packed = set(), set()
    with TraceReader([trace]) as reader:
        for buffer, frames in reader:
            for offset in frames["offset"].tolist():
                frame = buffer[offset : offset + 54].tobytes()
                packed |= {frame[:6], frame[6:12]}
                start, size = {0x0800: (26, 4), 0x86DD: (22, 16)}.get(int.from_bytes(frame[12:14]), (0, 0))
                ends = {frame[start : start + size], frame[start + size : start + 2 * size]} if size else set()
                packed |= ends
                texts |= {str(ip_address(end)) for end in ends}
    return texts, packed


def test_no_address_of_the_sample_is_anywhere_in_the_output(sample_trace, sample_runs, sample_records):
    texts, packed = secrets_of(sample_trace)
    assert {"192.168.20.11", "2001:db8:20::c"} <= texts
    found: dict[str, Counter[str]] = {}
    for name, folder in sample_runs.items():
        written = "".join(path.read_text() for path in folder.iterdir())
        copies = b"\n".join(map(raw_bytes, sample_records[name]))
        found[name] = Counter(
            text=sum(f'"{text}"' in written for text in texts), bytes=sum(secret in copies for secret in packed)
        )
        if name != "plain":
            assert [text for text in texts if text in written] == []
            assert [secret for secret in packed if secret in copies] == []
    assert found["plain"]["text"] > 10  # so that the search is known to find
    assert found["plain"]["bytes"] > 10


def test_what_dns_says_is_blanked_and_server_names_are_found_all_the_same(sample_records):
    name = b"\x05video\x07example"
    told = {}
    for run, records in sample_records.items():
        dns = [record for record in records if 53 in (record["client_port"], record["server_port"])]
        told[run] = name in b"".join(map(raw_bytes, dns))
        assert dns
    assert told == {"plain": True, "private": False, "again": False}
    plain, private = (
        Counter((record["domain"], record["matched_by"]) for record in sample_records[run])
        for run in ("plain", "private")
    )
    assert plain == private
    assert {"sni", "quic_sni", "prefix"} == {matched_by for _, matched_by in private}


def test_the_same_key_gives_the_same_file_with_any_number_of_workers(sample_runs):
    one, two = ((sample_runs[name] / "records.jsonl").read_bytes() for name in ("private", "again"))
    assert one == two


def test_features_other_than_raw_bytes_are_as_without_privacy(sample_records):
    def rest(records: list[dict[str, Any]]) -> list[str]:
        return sorted(
            json.dumps({name: value for name, value in record["features"].items() if not name.startswith("Header")})
            for record in records
        )

    assert rest(sample_records["plain"]) == rest(sample_records["private"])


def test_clients_of_one_subnet_stay_in_one(sample_records):
    clients = [
        sorted({int(IPv4Address(record["client_ip"])) for record in sample_records[run] if "." in record["client_ip"]})
        for run in ("plain", "private")
    ]
    shared = [sorted(common_bits(a, b, 32) for a, b in pairwise(ends)) for ends in clients]
    assert shared[0] == shared[1]


# Commands


@pytest.fixture
def private_config(tmp_path) -> Path:
    path = runs.configuration(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Privacy": {"KeyFile": str(key_file(tmp_path))}}))
    return path


@pytest.fixture
def trace(tmp_path) -> Path:
    return traces.write_trace(tmp_path / "trace.pcap", runs.frames())


def test_replay_refuses_a_key_that_others_can_read_before_it_writes(capsys, tmp_path, private_config, trace):
    (tmp_path / "privacy.key").chmod(0o644)
    done = runs.replay(capsys, trace, "-c", private_config, "-o", tmp_path / "out")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {private_config}: Privacy.KeyFile: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_packets_are_not_written_where_addresses_are_anonymised(capsys, tmp_path, private_config, trace):
    done = runs.replay(capsys, trace, "-c", private_config, "-o", tmp_path / "out", "--write-pcap", tmp_path / "pcap")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: --write-pcap: packets hold addresses as they are")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "pcap").exists()


def test_names_shows_anonymised_addresses(capsys, tmp_path, sample_trace):
    config = {
        "Services": [{"Name": "V", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]}]
    }
    shown = []
    for privacy_section in ({}, {"KeyFile": str(key_file(tmp_path))}):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, "Privacy": privacy_section}))
        assert cli._run(["names", str(sample_trace), "-c", str(path), "--json"]) == 0
        shown.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    anonymiser = Anonymiser(KEY)
    for name in shown[0]:
        name["addresses"] = [anonymiser.text(address) for address in name["addresses"]]
    assert shown[0] == shown[1]
    assert any(name["addresses"] for name in shown[1])


def test_a_replay_in_a_notebook_is_anonymised_too(private_config, trace):
    table = trafficrefinery.replay(trace, ["PacketCounters"], config=private_config).to_arrow()
    texts, _ = secrets_of(trace)
    ends = set(table["client_ip"].to_pylist()) | set(table["server_ip"].to_pylist())
    assert ends
    assert not ends & texts
