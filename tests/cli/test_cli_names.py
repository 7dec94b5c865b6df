"""`trafficrefinery names`: the names in a trace, their traffic, and the services that they would get."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import dpkt
import pytest
import zstandard

from support.hello_variants import with_extension
from support.naive.frames import Frame
from support.naive.tlsnames import quic_initial
from support.replays import ALL_TRAFFIC, config_of, replay_files
from support.tls_hellos import client_hello, record
from support.traces import ACK, SECOND, START_NS, SYN, ethernet, ip, packed, seeded_trace, tcp, udp, write_trace
from trafficrefinery.cli import main as cli
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.replaying.names import read_names

CLIENT, RESOLVER, MULTICAST = "10.0.0.1", "10.0.0.53", "224.0.0.251"
CONFIG = {
    "Services": [
        {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]},
        {"Name": "Alias", "Filter": {"DomainsString": ["cdn.test"]}, "Collect": ["PacketCounters"]},
        {"Name": "Net", "Filter": {"Prefixes": ["192.0.2.8/32"]}, "Collect": ["PacketCounters"]},
    ]
}


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["names", *map(str, arguments)])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def frames(*packets):
    """Frames a second apart; each packet is from the client unless it begins with another address."""
    return [Frame(START_NS + i * SECOND, ethernet(packet), len(ethernet(packet))) for i, packet in enumerate(packets)]


def question(name, kind=dpkt.dns.DNS_A):
    message = dpkt.dns.DNS(id=7, rd=1)
    message.qd = [dpkt.dns.DNS.Q(name=name, type=kind)]
    return bytes(message)


def answer(name, *addresses, alias=None, ttl=300):
    message = dpkt.dns.DNS(id=7, qr=1)
    message.qd = [dpkt.dns.DNS.Q(name=name, type=dpkt.dns.DNS_A)]
    if alias:
        message.an.append(dpkt.dns.DNS.RR(name=name, type=dpkt.dns.DNS_CNAME, ttl=ttl, cname=alias))
    for address in addresses:
        answer = dpkt.dns.DNS.RR(name=alias or name, type=dpkt.dns.DNS_A, ttl=ttl, rdata=packed(address))
        message.an.append(answer)
    return bytes(message)


def lookup(name, *addresses, **options):
    return [
        ip(CLIENT, RESOLVER, 17, udp(5_000, 53, question(name))),
        ip(RESOLVER, CLIENT, 17, udp(53, 5_000, answer(name, *addresses, **options))),
    ]


def tls(port, server, name):
    """A handshake whose ClientHello is in two segments that come in the wrong order."""
    hello = record(client_hello(name))
    pieces = [(1, hello[:90]), (91, hello[90:])]
    return [
        ip(CLIENT, server, 6, tcp(port, 443, 0, 0, SYN)),
        ip(server, CLIENT, 6, tcp(443, port, 0, 1, SYN | ACK)),
        *(ip(CLIENT, server, 6, tcp(port, 443, seq, 1, ACK, piece)) for seq, piece in pieces[::-1]),
    ]


def trace():
    return frames(
        *lookup("www.video.example", "192.0.2.1", "192.0.2.2"),
        *lookup("www.other.test", "192.0.2.3"),
        *lookup("shop.test", "192.0.2.4", alias="edge.cdn.test"),
        *lookup("data.test", "192.0.2.8"),
        ip(CLIENT, MULTICAST, 17, udp(5_353, 5_353, question("_printer._tcp.local", dpkt.dns.DNS_PTR))),
        *tls(6_000, "192.0.2.1", "www.video.example"),
        *tls(6_001, "192.0.2.3", "api.other.test"),
        ip(CLIENT, "192.0.2.3", 17, udp(6_002, 9, b"x" * 72)),
        ip(CLIENT, "192.0.2.4", 17, udp(6_003, 9, b"x" * 72)),
        ip(CLIENT, "192.0.2.8", 17, udp(6_004, 9, b"x" * 72)),
        ip(CLIENT, "192.0.2.9", 17, udp(6_005, 443, quic_initial(b"12345678", 0, 0, client_hello("q.video.example")))),
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return write_trace(tmp_path / "t.pcap", trace()), tmp_path / "config.json"


def test_each_name_is_told_with_how_it_was_seen_its_traffic_and_its_service(run, files):
    path, config = files
    status, out, err = run(path, "-c", config, "--json")
    assert (status, err) == (0, "")
    rows = {row.pop("name"): row for row in map(json.loads, out.splitlines())}
    sizes = {name: row["bytes"] for name, row in rows.items()}
    assert {name: (row["service"], row["service_by"], row["seen"], row["flows"], row["packets"]) for name, row in rows.items()} == {
        "www.other.test": (None, None, ["answer", "query"], 1, 1),
        "api.other.test": (None, None, ["sni"], 1, 4),
        "_printer._tcp.local": (None, None, ["query"], 0, 0),
        "www.video.example": ("Video", "name", ["answer", "query", "sni"], 1, 4),
        "q.video.example": ("Video", "name", ["quic"], 1, 1),
        "edge.cdn.test": ("Alias", "name", ["alias"], 1, 1),
        "shop.test": ("Alias", "dns", ["answer", "query"], 1, 1),
        "data.test": ("Net", "prefix", ["answer", "query"], 1, 1),
    }  # fmt: skip
    assert sizes["www.other.test"] == sizes["shop.test"] == 100  # IP total length
    assert rows["www.video.example"]["addresses"] == ["192.0.2.1", "192.0.2.2"]
    assert rows["www.video.example"]["queries"] == 1
    assert [json.loads(line)["name"] for line in out.splitlines()][:3] == [
        "api.other.test", "www.other.test", "_printer._tcp.local",
    ]  # fmt: skip


def test_the_table_has_names_without_a_service_first_and_ends_with_counts(run, files):
    path, config = files
    status, out, err = run(path, "-c", config)
    assert (status, err) == (0, "")
    header, *rows, last = out.splitlines()
    assert header.split() == ["service", "name", "seen", "queries", "flows", "packets", "bytes", "addresses"]
    assert [row.split("  ")[0] for row in rows] == [
        "-", "-", "-", "Video", "Video", "Net (by prefix)", "Alias", "Alias (by dns)",
    ]  # fmt: skip
    assert last == "5 DNS query names, 2 TLS and 1 QUIC server names; 3 of 8 names belong to no service"


def test_without_a_configuration_there_are_no_services(run, files):
    status, out, _ = run(files[0])
    header, *_, last = out.splitlines()
    assert status == 0
    assert header.split()[0] == "name"
    assert last == "5 DNS query names, 2 TLS and 1 QUIC server names"


def test_names_that_hide_others_are_marked(run, tmp_path):
    """The public name of ECH gets no service and none of the traffic, which is that of the hidden name."""

    def hello(port, name, to_port=443, server="192.0.2.1", ech=False):
        data = record(with_extension(0xFE0D, bytes(60), True, name) if ech else client_hello(name))
        return ip(CLIENT, server, 6, tcp(port, to_port, 1, 0, ACK, data))

    quic = quic_initial(b"12345678", 0, 0, client_hello("dns.adguard-dns.com"))
    path = write_trace(tmp_path / "t.pcap", frames(
        *lookup("www.video.example", "192.0.2.1"),
        hello(6_000, "cloudflare-ech.com", ech=True),
        hello(6_001, "dns.google", server="192.0.2.2"),
        hello(6_002, "one.one.one.one", to_port=853, server="192.0.2.3"),
        hello(6_003, "grease.test", server="192.0.2.4", ech=True),
        ip(CLIENT, "192.0.2.5", 17, udp(6_004, 853, quic)),
        ip(CLIENT, "192.0.2.6", 17, udp(6_005, 443, quic)),
    ))  # fmt: skip
    services = [{"Name": "Front", "Filter": {"DomainsString": ["cloudflare-ech.com"]}, "Collect": ["PacketCounters"]}]
    found = {
        name.name: name for name in read_names([path], parse_config({"Services": services + CONFIG["Services"]}))[0]
    }
    assert {name: one.seen for name, one in found.items()} == {
        "www.video.example": {"query", "answer"}, "cloudflare-ech.com": {"sni", "ech"}, "dns.google": {"sni", "doh"},
        "one.one.one.one": {"sni", "dot"}, "grease.test": {"sni"}, "dns.adguard-dns.com": {"quic", "doq", "doh"},
    }  # fmt: skip
    assert (found["cloudflare-ech.com"].flows, found["cloudflare-ech.com"].service) == (0, None)
    assert (found["www.video.example"].flows, found["www.video.example"].service) == (1, "Video")
    assert "ech sni" in run(path)[1]


def test_addresses_that_do_not_follow_from_a_question_are_nobodys(tmp_path):
    poison = dpkt.dns.DNS(answer("evil.test", "192.0.2.7"))
    poison.an[0].name = "www.video.example"
    asked = ip(RESOLVER, CLIENT, 17, udp(53, 5_000, bytes(poison)))
    path = write_trace(tmp_path / "t.pcap", frames(lookup("evil.test")[0], asked, *tls(6_000, "192.0.2.7", None)))
    found = {name.name: name for name in read_names([path], parse_config(CONFIG))[0]}
    assert "www.video.example" not in found


def test_a_trace_without_names_says_so(run, tmp_path):
    path = write_trace(tmp_path / "t.pcap", frames(ip(CLIENT, "192.0.2.3", 17, udp(6_002, 9, b"x"))))
    assert run(path) == (0, "0 DNS query names, 0 TLS and 0 QUIC server names\n", "")


def test_names_before_the_damage_are_told_and_the_damage_is(run, files, tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(files[0].read_bytes()[:-20])
    status, out, err = run(path)
    assert status == 1
    assert "api.other.test" in out
    assert err.startswith(f"error: {path}: byte ")


def test_a_file_that_is_no_trace_is_one_line(run, tmp_path):
    path = tmp_path / "x.pcap"
    path.write_text("no trace at all, whatever it is called")
    status, out, err = run(path)
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_dns_over_tcp_is_read_in_both_directions(tmp_path):
    def stream(source, destination, ports, message):
        sent = len(message).to_bytes(2) + message
        yield ip(source, destination, 6, tcp(*ports, 9, 0, SYN))
        yield ip(source, destination, 6, tcp(*ports, 10 + 15, 0, ACK, sent[15:]))
        yield ip(source, destination, 6, tcp(*ports, 10, 0, ACK, sent[:15]))

    path = write_trace(tmp_path / "t.pcap", frames(
        *stream(CLIENT, RESOLVER, (5_000, 53), question("tcp.test")),
        *stream(RESOLVER, CLIENT, (53, 5_000), answer("tcp.test", "192.0.2.3")),
    ))  # fmt: skip
    ((name,), damage) = read_names([path])
    assert (name.name, name.seen, name.queries, list(name.addresses)) == (
        "tcp.test",
        {"query", "answer"},
        1,
        ["192.0.2.3"],
    )
    assert damage == []


def test_an_answer_holds_for_flows_that_begin_after_it_and_while_it_holds(tmp_path):
    def flow(port, at_s):
        packet = ethernet(ip(CLIENT, "192.0.2.3", 17, udp(port, 9, b"x")))
        return Frame(START_NS + at_s * SECOND, packet, len(packet))

    asked = [Frame(frame.ts_ns + 100 * SECOND, *frame[1:]) for frame in frames(*lookup("a.test", "192.0.2.3", ttl=900))]
    path = write_trace(tmp_path / "t.pcap", [flow(1, 0), *asked, flow(2, 102), flow(3, 1_000), flow(4, 1_002)])
    ((name,), _) = read_names([path])
    assert name.flows == 2


def test_a_flow_that_comes_again_after_the_idle_time_is_another_flow(tmp_path):
    hellos = tls(6_000, "192.0.2.1", "one.test"), tls(6_000, "192.0.2.1", "two.test")
    later = [Frame(frame.ts_ns + 700 * SECOND, *frame[1:]) for frame in frames(*hellos[1])]
    found, _ = read_names([write_trace(tmp_path / "t.pcap", [*frames(*hellos[0]), *later])])
    assert {name.name: (name.flows, name.packets) for name in found} == {"one.test": (1, 4), "two.test": (1, 4)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_name_that_a_worker_matches_is_listed_with_the_same_service(tmp_path, seed):
    path = write_trace(tmp_path / "t.pcap", seeded_trace(seed, 150, wrappings=("ethernet", "vlan", "qinq", "mpls")))
    config = config_of(rest=ALL_TRAFFIC)
    records = replay_files(Plan.of(config), [path]).records
    found = {name.name: name for name in read_names([path], config)[0]}
    matched = defaultdict(set)
    for one in records:
        if one["domain"]:
            matched[one["domain"]].add((one["service"], one["matched_by"]))
    assert len(matched) >= 4
    for domain, ways in matched.items():
        assert {service for service, _ in ways} == {found[domain].service}
        assert found[domain].service_by == "name"
        kinds = {"dns": {"answer", "alias"}, "sni": {"sni"}, "quic_sni": {"quic"}}
        for _, by in ways:
            assert found[domain].seen & kinds[by], (domain, by, found[domain].seen)


def test_what_got_its_service_by_a_name_tells_its_service_before_what_shares_the_address(tmp_path):
    """The answer comes behind the first flow in the trace, but was sent before it."""
    question, answer, shared, *own = frames(
        *lookup("www.video.example", "192.0.2.8"),
        ip(CLIENT, "192.0.2.8", 17, udp(6_004, 9, b"x" * 72)),
        *tls(6_005, "192.0.2.8", "www.video.example"),
    )
    path = write_trace(tmp_path / "t.pcap", [question, shared, answer, *own])
    (found,) = read_names([path], parse_config(CONFIG))[0]
    assert (found.name, found.flows, found.service, found.service_by) == ("www.video.example", 2, "Video", "name")


def test_names_do_not_depend_on_the_order_of_traces(tmp_path):
    whole = seeded_trace(4, 80, wrappings=("ethernet",))
    cut = random.Random(1).randrange(len(whole))
    parts = [write_trace(tmp_path / "b.pcap", whole[:cut]), write_trace(tmp_path / "a.pcap", whole[cut:])]
    one = write_trace(tmp_path / "one.pcap", whole)
    assert read_names(parts)[0] == read_names(parts[::-1])[0] == read_names([one])[0]


@pytest.fixture(scope="module")
def netflix(shared_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("netflix") / "netflix.pcap"
    with (shared_data / "netflix_2018.pcap.zst").open("rb") as packed_file, path.open("wb") as unpacked:
        zstandard.ZstdDecompressor().copy_stream(packed_file, unpacked)
    config = load_config(shared_data / "original_configs" / "trconfig_default.json")
    return read_names([path], config)[0]


def test_the_netflix_session_has_39_query_names(netflix):
    assert sum("query" in name.seen for name in netflix) == len(netflix) == 39


def test_the_packets_of_the_netflix_names_are_those_of_the_published_addresses(netflix):
    theirs = [name for name in netflix if name.service == "Netflix"]
    assert sum(name.packets for name in theirs) == 140_472
    assert len({address for name in theirs for address in name.addresses}) >= 16
    beside = [name for name in theirs if "23.57.80.120" in name.addresses]
    assert {name.name for name in beside} == {"assets.nflxext.com", "codex.nflxext.com", "tp-s.nflximg.net"}
    assert sum(name.packets for name in theirs if name not in beside) == 138_633
