"""The lab without its network: ladders, plans, players on simulated links, truth, what is kept of frames."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.lab_links import START_S, played
from trafficrefinery.cli.main import _run
from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.errors import UsageError
from trafficrefinery.models.dataset.intervals import COLUMNS
from trafficrefinery_lab.adaptation import RULES, Situation, Throughput, by_buffer, by_throughput
from trafficrefinery_lab.cutting import Cutter
from trafficrefinery_lab.dns import Zone, answer
from trafficrefinery_lab.folder import prepare, write_rows
from trafficrefinery_lab.ladders import Title
from trafficrefinery_lab.network import Addresses
from trafficrefinery_lab.plan import make_plan
from trafficrefinery_lab.playback import Playback
from trafficrefinery_lab.profiles import PROFILES, RESOLUTIONS, chosen_profiles
from trafficrefinery_lab.truth import as_csv, buffered_s, intervals

LADDER = (300.0, 600.0, 1200.0, 2400.0, 4800.0)


# Ladders


@pytest.mark.parametrize("name", PROFILES)
def test_a_title_is_the_same_for_the_same_seed_and_another_for_another(name):
    profile = PROFILES[name]
    sizes = [[Title(profile, seed, 3).video_bytes(n, 2) for n in range(50)] for seed in (1, 1, 2)]
    assert sizes[0] == sizes[1] != sizes[2]


@pytest.mark.parametrize("name", PROFILES)
def test_segments_vary_around_the_declared_bitrate_of_their_level(name):
    profile = PROFILES[name]
    title = Title(profile, 1, 0)
    for level, kbps in enumerate(title.ladder_kbps):
        mean_bytes = kbps * 125 * profile.segment_s
        shares = [title.video_bytes(number, level) / mean_bytes for number in range(400)]
        assert statistics.mean(shares) == pytest.approx(1, abs=0.1)
        assert 0.08 < statistics.stdev(shares) < 0.3


@pytest.mark.parametrize("name", PROFILES)
def test_a_segment_at_a_higher_level_is_larger(name):
    title = Title(PROFILES[name], 1, 1)
    for number in range(400):
        sizes = [title.video_bytes(number, level) for level in range(len(RESOLUTIONS))]
        assert sizes == sorted(sizes)


def test_audio_does_not_vary_with_the_picture():
    title = Title(PROFILES["alder"], 1, 0)
    sizes = [title.audio_bytes(number) for number in range(400)]
    assert max(sizes) / min(sizes) < 1.1


# Plans


def test_a_plan_follows_from_its_seed_and_grows_at_its_end():
    profiles = chosen_profiles(None)
    assert make_plan(1, 40, profiles, 180) == make_plan(1, 40, profiles, 180) == make_plan(1, 80, profiles, 180)[:40]
    assert make_plan(1, 40, profiles, 180) != make_plan(2, 40, profiles, 180)


def test_a_plan_has_all_profiles_titles_and_kinds_of_links():
    plan = make_plan(1, 300, chosen_profiles(None), 180)
    assert set(Counter(one.profile.name for one in plan).values()) == {60}
    assert {one.link.kind for one in plan} == {"constant", "steps", "walk"}
    assert {one.profile.transport for one in plan} == {"h1", "h2", "h3"}
    assert {one.profile.rule for one in plan} == set(RULES)
    assert min(len({one.title for one in plan if one.profile.name == name}) for name in PROFILES) > 10
    assert all(120 <= one.duration_s <= 240 for one in plan)
    assert len({one.stem for one in plan}) == 300


def test_each_profile_has_a_service_in_the_configuration_of_the_lab():
    config = load_config(configs_dir() / "lab.json")
    assert [service.name for service in config.services] == list(PROFILES)
    for service, profile in zip(config.services, PROFILES.values(), strict=True):
        assert service.filter.domains_string == (profile.domain,)


def test_the_plan_is_printed_as_a_table(capsys):
    assert _run(["lab", "plan", "--sessions", "3", "--profiles", "cedar,elm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["lab-1-0000", "cedar", "h3"], ["lab-1-0001", "elm", "h2"], ["lab-1-0002", "cedar", "h3"],
    ]  # fmt: skip
    assert _run(["lab", "run", "-o", "nowhere", "--dry-run", "--sessions", "3", "--profiles", "cedar,elm"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profiles", "alder,berch"], '--profiles: no profile "berch"; did you mean "birch"?'),
        (["--profiles", "elm,elm"], "--profiles: elm,elm: one is named twice"),
        (["--duration", "60"], "--duration: "),
        (["--duration", "1s"], "--duration: 1s is too short for a video; 5s at least"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, message, capsys):
    assert _run(["lab", "plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# Rules


def situation(**more) -> Situation:
    return Situation(**{"level": 2, "throughput_kbps": 2000.0, "buffer_s": 15.0, "usable_s": 20.0,
                        "ladder_kbps": LADDER, **more})  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_the_first_segment_is_of_the_lowest_level(name):
    assert RULES[name](situation(level=None, throughput_kbps=None)) == 0


@given(st.floats(100, 10_000), st.integers(0, 4))
def test_by_throughput_never_takes_more_than_there_is(throughput_kbps, level):
    chosen = by_throughput(situation(throughput_kbps=throughput_kbps, level=level))
    assert chosen == 0 or LADDER[chosen] < throughput_kbps
    assert chosen <= level + 1


@given(st.integers(0, 4), st.floats(0, 20), st.floats(0, 20))
def test_by_buffer_takes_no_lower_level_with_more_media_in_it(level, a_s, b_s):
    less, more = (by_buffer(situation(level=level, throughput_kbps=None, buffer_s=s)) for s in sorted((a_s, b_s)))
    assert less <= more


def test_by_buffer_takes_the_lowest_level_with_little_and_the_highest_with_much():
    assert by_buffer(situation(throughput_kbps=None, buffer_s=1.0)) == 0
    assert by_buffer(situation(throughput_kbps=None, buffer_s=20.0)) == 4


def test_the_throughput_estimate_falls_faster_than_it_rises():
    falling, rising = Throughput(), Throughput()
    for first, then, seen in ((4e6, 1e6, falling), (1e6, 4e6, rising)):
        for bits in (first, first, first, then):
            seen.add(round(bits / 8 * 4), 4.0)
    assert falling.kbps < 2500
    assert rising.kbps < 2500


# Players on simulated links


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("level", range(len(RESOLUTIONS)))
def test_a_player_on_a_steady_link_finds_the_level_that_fits_and_does_not_stall(name, level):
    profile = PROFILES[name]
    needed_kbps = Title(profile, 1, 0).ladder_kbps[level] + profile.audio_kbps
    player = played(profile, [(0, needed_kbps * 1.6)], 240)
    late = Counter(one.resolution for one in player.downloads if one.start_s > START_S + 60)
    assert abs(RESOLUTIONS.index(late.most_common(1)[0][0]) - level) <= 1
    assert player.playback.stalls == [] or level == 0


@pytest.mark.parametrize("name", PROFILES)
def test_a_player_whose_link_collapses_steps_down(name):
    player = played(PROFILES[name], [(0, 8000), (100, 500)], 320)
    resolutions = [one.resolution for one in player.downloads]
    assert max(resolutions) == 1080
    assert resolutions[-1] <= 480


@pytest.mark.parametrize("name", PROFILES)
def test_the_buffer_stays_within_its_target(name):
    profile = PROFILES[name]
    player = played(profile, [(0, 9000)], 120)
    for at_s in range(1, 120):
        assert buffered_s(player.playback, START_S + at_s) <= profile.buffer_s + 0.1


def test_a_live_player_never_asks_for_what_is_not_made_yet():
    player = played(PROFILES["dogwood"], [(0, 9000)], 120)
    for number, one in enumerate(player.downloads):
        assert one.start_s - START_S >= (number - 2) * PROFILES["dogwood"].segment_s - 1e-6


def test_startup_ends_with_the_media_that_it_needs():
    profile = PROFILES["alder"]
    player = played(profile, [(0, 1000)], 30)
    first = player.downloads[0]
    assert player.playback.started_s == first.end_s


# Playback and truth


@given(st.lists(st.tuples(st.floats(0.1, 30), st.sampled_from(RESOLUTIONS)), min_size=1, max_size=30))
def test_what_came_was_shown_or_is_buffered_and_time_plays_or_stalls(segments):
    playback, now_s = Playback(4, 4), START_S
    for gap_s, resolution in segments:
        now_s += gap_s
        playback.append(now_s, 4.0, resolution)
    end_s = now_s + 7.0
    playback.stop(end_s)
    shown_s = sum(one.end_s - one.start_s for one in playback.shown)
    stalled_s = sum(one.end_s - one.start_s for one in playback.stalls)
    assert shown_s + playback.buffer_s(end_s) == pytest.approx(4 * len(segments), abs=1e-3)
    assert shown_s + stalled_s == pytest.approx(end_s - playback.started_s, abs=1e-3)
    rows = intervals(playback, [], START_S, end_s)
    assert sum(row.stalls for row in rows) == len(playback.stalls)
    assert sum(row.stalled_s for row in rows) == pytest.approx(stalled_s, abs=1e-3)


def test_the_truth_of_an_interval_is_what_was_on_the_screen_for_most_of_it():
    playback = Playback(4, 4)
    for at_s, resolution in ((3, 240), (4, 720), (5, 720), (16, 1080)):
        playback.append(1000.0 + at_s, 4.0, resolution)
    playback.stop(1024.0)
    rows = intervals(playback, [], 1001.0, 1024.0)
    assert [(row.ts_start, row.ts_end) for row in rows] == [(1000, 1010), (1010, 1020), (1020, 1030)]
    # 240 from 3 to 7, 720 from 7 to 15, a stall to 16, 1080 from 16 to 20, a stall to the end.
    assert [row.resolution for row in rows] == [240, 720, None]
    assert [row.switches for row in rows] == [1, 1, 0]
    assert [row.stalls for row in rows] == [0, 1, 1]
    assert [round(row.stalled_s, 3) for row in rows] == [0, 1, 4]
    assert [round(row.buffer_s, 3) for row in rows] == [5, 0, 0]


def test_the_downloaded_resolution_is_that_of_most_video_bytes():
    player = played(PROFILES["alder"], [(0, 4000)], 40)
    rows = intervals(player.playback, player.downloads, START_S, START_S + 40)
    for row in rows:
        came: Counter[int] = Counter()
        for one in player.downloads:
            if row.ts_start <= one.end_s < row.ts_end:
                came[one.resolution] += one.video_bytes
        assert row.downloaded_resolution == (came.most_common(1)[0][0] if came else None)


def test_a_label_file_has_a_line_for_each_interval_and_nothing_for_what_was_not():
    playback = Playback(4, 4)
    playback.append(1012.0, 4.0, 360)
    playback.stop(1015.5)
    lines = as_csv(intervals(playback, [], 1004.0, 1015.5)).splitlines()
    assert lines == [",".join(COLUMNS), "1000,1010,,,0,0.000,0,0.000", "1010,1020,360,,0,0.000,0,0.500"]


def test_nobody_knows_when_the_first_picture_came_that_never_came():
    assert Playback(4, 4).started_s is None
    assert math.isclose(Playback(4, 4).buffer_s(START_S), 0)


# What is kept of frames


def ethernet(payload, kind: int) -> bytes:
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, type=kind, data=payload))


def over_ip(transport, protocol: int, version: int = 4) -> bytes:
    if version == 4:
        packet = dpkt.ip.IP(src=bytes([10, 0, 0, 1]), dst=bytes([10, 0, 0, 2]), p=protocol, data=transport)
        packet.len = 20 + len(transport)
        return ethernet(packet, dpkt.ethernet.ETH_TYPE_IP)
    packet = dpkt.ip6.IP6(src=b"\1" * 16, dst=b"\2" * 16, nxt=protocol, plen=len(transport), data=transport)
    return ethernet(packet, dpkt.ethernet.ETH_TYPE_IP6)


def tcp(payload: bytes, seq: int, *, flags: int = dpkt.tcp.TH_ACK, sport: int = 5000, dport: int = 443) -> dpkt.tcp.TCP:
    return dpkt.tcp.TCP(sport=sport, dport=dport, seq=seq, flags=flags, data=payload)


def udp(payload: bytes, sport: int = 5000, dport: int = 443) -> dpkt.udp.UDP:
    return dpkt.udp.UDP(sport=sport, dport=dport, ulen=8 + len(payload), data=payload)


@pytest.mark.parametrize("version", [4, 6])
def test_of_a_connection_the_client_hello_is_kept_and_nothing_else(version):
    cutter = Cutter()
    hello = b"\x16\x03\x01" + (1795).to_bytes(2, "big") + b"\x01" + bytes(1794)
    stream = hello + bytes(500)
    first = 0xFFFFFF00  # sequence numbers wrap

    def kept(transport) -> int:
        frame = over_ip(transport, dpkt.ip.IP_PROTO_TCP, version)
        return len(transport.data) - (len(frame) - cutter.kept_bytes(frame))

    assert kept(tcp(b"", first - 1, flags=dpkt.tcp.TH_SYN)) == 0
    assert kept(tcp(stream[1400:2300], first + 1400 & 0xFFFFFFFF)) == 900, "overtook the first"
    assert kept(tcp(stream[:1400], first)) == 1400
    assert kept(tcp(stream[1400:2300], first + 1400 & 0xFFFFFFFF)) == 900
    assert kept(tcp(bytes(600), first + 1800 & 0xFFFFFFFF)) == 0
    assert kept(tcp(bytes(600), 77, sport=443, dport=5000)) == 0


def test_dns_and_quic_initials_are_kept_whole_and_other_datagrams_are_cut():
    def cut_bytes(transport) -> int:
        frame = over_ip(transport, dpkt.ip.IP_PROTO_UDP)
        return len(frame) - Cutter().kept_bytes(frame)

    assert cut_bytes(udp(bytes(80), sport=53, dport=5000)) == 0
    assert cut_bytes(udp(b"\xc0\0\0\0\1" + bytes(1195))) == 0
    assert cut_bytes(udp(b"\xd0\x6b\x33\x43\xcf" + bytes(1195))) == 0
    assert cut_bytes(udp(b"\xe0\0\0\0\1" + bytes(1195))) == 1200, "a handshake packet"
    assert cut_bytes(udp(b"\x40" + bytes(99))) == 100
    arp = ethernet(bytes(28), dpkt.ethernet.ETH_TYPE_ARP)
    assert Cutter().kept_bytes(arp) == len(arp)


# Names


def test_the_name_server_answers_with_the_chain_of_aliases_and_all_addresses():
    zone = Zone({"edge.example": [Addresses("203.0.113.1", "2001:db8::1"), Addresses("203.0.113.2", "2001:db8::2")]},
                {"cdn.example": "edge.example"})  # fmt: skip

    def asked(name: str, kind: int) -> dpkt.dns.DNS:
        return dpkt.dns.DNS(answer(zone, bytes(dpkt.dns.DNS(id=7, qd=[dpkt.dns.DNS.Q(name=name, type=kind)]))))

    reply = asked("CDN.example", dpkt.dns.DNS_A)
    assert (reply.id, reply.qr, reply.rcode) == (7, 1, 0)
    assert [each.type for each in reply.an] == [dpkt.dns.DNS_CNAME, dpkt.dns.DNS_A, dpkt.dns.DNS_A]
    assert [each.rdata for each in reply.an[1:]] == [bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])]
    assert len(asked("edge.example", dpkt.dns.DNS_AAAA).an) == 2
    assert asked("edge.example", 16).an == []
    assert asked("nowhere.example", dpkt.dns.DNS_A).rcode == 3


# The folder of a run


def test_only_what_a_run_left_half_done_is_removed_from_a_folder(tmp_path):
    plan = make_plan(1, 2, chosen_profiles("elm"), 180)
    done, half = (one.stem for one in plan)
    write_rows(tmp_path / "labels.csv", {plan[0].session: {"file": f"{done}.pcap.zst", "session": plan[0].session}})
    kept = [
        f"{done}.pcap.zst",
        f"{done}.labels.csv",
        f"{done}.truth.json",
        "mine.pcap.zst",
        "mine.labels.csv",
        "x.partial",
    ]
    gone = [f"{half}.pcap.zst", f"{half}.labels.csv", f"{half}.pcap.zst.partial", f"{done}.truth.json.partial"]
    for name in (*kept, *gone):
        (tmp_path / name).write_bytes(b"")
    assert list(prepare(tmp_path, plan)) == [plan[0].session]
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "labels.csv", "plan.json"}


def test_a_longer_plan_goes_on_in_the_same_folder_and_another_does_not(tmp_path):
    profiles = chosen_profiles(None)
    prepare(tmp_path, make_plan(1, 5, profiles, 180))
    prepare(tmp_path, make_plan(1, 9, profiles, 180))
    prepare(tmp_path, make_plan(2, 5, profiles, 180))
    with pytest.raises(UsageError, match="has another session lab-1-0000; use another folder"):
        prepare(tmp_path, make_plan(1, 5, profiles, 60))
