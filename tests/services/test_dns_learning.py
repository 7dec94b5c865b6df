"""Which answers teach, for whom, and what a flood of DNS packets may cost: a worker on packets of port 53 and flows."""

from __future__ import annotations

import itertools
import struct

import pytest

from support.dns_bindings import binding, with_bindings
from support.dns_messages import message
from support.naive.frames import Frame
from support.replays import config_of, replay_files, replay_frames
from support.traces import SECOND, START_NS, dns_query, ethernet, ip, tcp, udp
from trafficrefinery.config import load_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings
from trafficrefinery.services import ANY_CLIENT
from trafficrefinery.services.dns.answers import ONE_SIDED_NS
from trafficrefinery.services.dns.messages import CNAME, HTTPS, A

CLIENT, OTHER, RESOLVER, STRANGER = "10.0.0.7", "10.0.0.8", "10.0.0.53", "10.0.0.66"
SERVER, PORT = "192.0.2.200", 40_000
NAME = "www.video.example"
ANSWER = message([(NAME, A)], [(NAME, A, SERVER, 60)])
SYN, ACK = 2, 16


def plan(**changes):
    return Plan.of(config_of(**changes))


def sent(at_s, source, destination, body, protocol=17):
    packet = ip(source, destination, protocol, body)
    data = ethernet(packet)
    return Frame(START_NS + int(at_s * SECOND), data, len(data))


def query(at_s=0.0, *, client=CLIENT, port=PORT, answer=ANSWER, resolver=RESOLVER):
    return sent(at_s, client, resolver, udp(port, 53, dns_query(answer)))


def answer(at_s=0.1, *, client=CLIENT, port=PORT, payload=ANSWER, resolver=RESOLVER):
    return sent(at_s, resolver, client, udp(53, port, payload))


def flow(at_s=1.0, *, client=CLIENT, server=SERVER, port=50_000):
    return sent(at_s, client, server, tcp(port, 443, 1, 1, ACK, b"x" * 100), 6)


def other_query(at_s=0.0):
    return query(at_s, client="10.0.0.99", answer=message([("other.test", A)], [("other.test", A, "192.0.2.9", 9)]))


def named(frames, **settings):
    """Client, and the name by DNS, of each record; and the counters."""
    run = replay_frames(plan(), frames, **settings)
    return {
        record["client_ip"]: record["domain"] for record in run.records if record["matched_by"] == "dns"
    }, run.counters


def test_an_answer_to_a_query_names_flows_of_its_client_and_of_others():
    found, counters = named([query(), answer(), flow(), flow(client=OTHER)])
    assert found == {CLIENT: NAME, OTHER: NAME}
    assert (counters["dns_messages"], counters["dns_unasked"], counters["dns_one_sided"]) == (2, 0, 0)


FORGED = {
    "by nobody": [other_query(), answer()],
    "of another resolver": [query(), answer(resolver=STRANGER)],
    "by another client": [query(client=OTHER), answer()],
    "from another port": [query(port=PORT + 1), answer()],
    "with another id": [query(), answer(payload=b"\xff" + ANSWER[1:])],
    "with another name": [query(answer=message([("www.other.test", A)])), answer()],
    "with another type": [query(answer=message([(NAME, HTTPS)])), answer()],
    "too long ago": [query(), other_query(100), answer(100)],
    "later than packets may be out of order": [other_query(), answer(), query(1.5)],
    "with one more question": [query(answer=message([("evil.test", A)])), answer(payload=message([("evil.test", A), (NAME, A)], [(NAME, A, SERVER, 60)]))],
    "first for another name": [query(answer=message([("evil.test", A)])), answer(payload=message([("evil.test", CNAME)], [(NAME, A, SERVER, 60)]))],
    "over TCP": [other_query(), sent(0.1, RESOLVER, CLIENT, tcp(53, PORT, 1, 1, ACK, len(ANSWER).to_bytes(2) + ANSWER), 6)],
}  # fmt: skip


@pytest.mark.parametrize("asked", FORGED)
def test_an_answer_that_was_not_asked_for_names_nothing_where_queries_are_seen(asked):
    later = 101 if asked == "too long ago" else 2
    found, counters = named([*FORGED[asked], flow(later), flow(later, client=OTHER)])
    assert not found
    assert counters["dns_unasked"] == 1


def test_where_no_query_is_seen_an_answer_names_flows_of_its_client_alone():
    found, counters = named([answer(), flow(), flow(client=OTHER)])
    assert found == {CLIENT: NAME}
    assert (counters["dns_unasked"], counters["dns_one_sided"]) == (0, 1)


@pytest.mark.parametrize(
    "asks", [{"client": "203.0.113.66", "resolver": "10.4.0.77"}, {"client": OTHER, "resolver": STRANGER}]
)
def test_queries_of_others_to_others_do_not_end_the_naming_by_answers_alone(asks):
    """Such as those of a scanner on a tap that sees the packets of one direction."""
    found, counters = named([query(-1, **asks), answer(), flow(), flow(client=OTHER)])
    assert found == {CLIENT: NAME}
    assert (counters["dns_unasked"], counters["dns_one_sided"]) == (0, 1)


@pytest.mark.parametrize("answered_at_s", [-1.9, -2.1])
def test_where_queries_are_seen_with_their_answers_one_that_nobody_asked_for_names_nothing(answered_at_s):
    """Also where neither its client nor its resolver has asked or been asked anything."""
    others = {"client": OTHER, "resolver": STRANGER}
    text = message([("other.test", A)], [("other.test", A, "192.0.2.9", 60)])
    asked = [query(-2, answer=text, **others), answer(answered_at_s, payload=text, **others)]
    in_order = sorted(asked, key=lambda frame: frame.ts_ns)
    found, counters = named([*in_order, answer(), flow(), flow(client=OTHER)])
    assert (found, counters["dns_unasked"]) == ({}, 1)
    assert named([*asked[:1], answer(), flow()])[0] == {CLIENT: NAME}  # a query alone may be a scanner's


@pytest.mark.parametrize("asks", [{"resolver": STRANGER}, {"client": OTHER}])
def test_after_an_hour_without_queries_of_both_ends_a_tap_sees_answers_only(asks):
    hour_s = ONE_SIDED_NS / SECOND
    before = query(answer=message([("other.test", A)]), **asks)
    assert named([before, answer(hour_s - 1), flow(hour_s)])[0] == {}
    assert named([before, answer(hour_s + 1), flow(hour_s + 2)])[0] == {CLIENT: NAME}


def test_the_ends_of_queries_are_bounded_and_what_is_forgotten_is_counted():
    flood = [query(number / 1000, client=f"10.9.{number >> 8}.{number & 255}", port=number) for number in range(400)]
    run = replay_frames(plan(), flood)
    record = run.workers[0].services.answers.record
    assert int(record["ends"]["hand"][0]) == 401
    assert run.counters["dns_forgotten"] == 0


def test_answers_that_wait_are_bounded_and_what_is_forgotten_is_counted():
    answers = [answer(number / 10_000, port=number) for number in range(1, 2_101)]
    counters = replay_frames(plan(), [*answers, query(0.3, port=1), query(0.3, port=2_100)]).counters
    assert (counters["dns_one_sided"], counters["dns_forgotten"], counters["dns_retried"]) == (2_100, 52, 1)


POISON = (NAME, A, SERVER, 60)


@pytest.mark.parametrize(
    "records",
    [
        [POISON],
        [("evil.test", A, "192.0.2.5", 60), POISON],
        [POISON, ("evil.test", A, "192.0.2.5", 60)],
        [("evil.test", CNAME, "x.evil.test", 60), (NAME, CNAME, "x.evil.test", 60), ("x.evil.test", A, SERVER, 60)],
        [(NAME, CNAME, "evil.test", 60), ("evil.test", A, SERVER, 60)],
        [(NAME, CNAME, "x.test", 60), ("x.test", A, SERVER, 60)],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [A, HTTPS])
def test_an_answer_names_addresses_that_follow_from_its_question_alone(records, kind):
    payload = message([("evil.test", kind)], records)
    frames = [query(answer=payload), answer(payload=payload), flow(), flow(client=OTHER)]
    assert named(frames)[0] == {}
    assert named(frames[1:])[0] == {}  # where no query is seen
    many = message([("evil.test", kind)], [*records, *((f"{n}.test", A, "192.0.2.1", 60) for n in range(120))])
    assert named([query(answer=many), answer(payload=many), flow(), flow(client=OTHER)])[0] == {}


def test_an_alias_of_a_name_that_was_not_asked_for_is_not_remembered():
    first = message([("evil.test", A)], [(NAME, CNAME, "edge.test", 60), ("evil.test", A, "192.0.2.5", 60)])
    second = message([("edge.test", A)], [("edge.test", A, SERVER, 60)])
    frames = [part for n, payload in enumerate((first, second))
              for part in (query(n / 10, answer=payload), answer(n / 10 + 0.01, payload=payload))]  # fmt: skip
    assert named([*frames, flow()])[0] == {}


def test_hints_of_a_binding_that_was_not_asked_for_name_nothing():
    hints = [(4, bytes([192, 0, 2, 200]))]
    for target, asked in (("", "evil.test"), ("s.test", "evil.test"), ("", "s.test")):
        given = with_bindings([(asked, HTTPS)], [binding(NAME, 1, target, hints, 300)])
        assert named([query(answer=given), answer(payload=given), flow()])[0] == {}
    given = with_bindings([(NAME, HTTPS)], [binding(NAME, 1, "s.test", hints, 300)])
    assert named([query(answer=given), answer(payload=given), flow()])[0] == {CLIENT: NAME}


def test_records_of_the_other_sections_name_nothing():
    payload = bytearray(message([("evil.test", A)], [("evil.test", A, "192.0.2.5", 60), POISON]))
    for section in (8, 10):  # authority, additional
        moved = payload[:]
        moved[7], moved[section + 1] = 1, 1
        assert named([query(answer=bytes(moved)), answer(payload=bytes(moved)), flow()])[0] == {}


def test_letter_case_of_a_question_may_change_on_the_way():
    asked = ANSWER.replace(b"video", b"vIdEo")
    assert named([query(answer=asked), answer(), flow()])[0] == {CLIENT: NAME}
    assert named([query(), answer(payload=asked), flow()])[0] == {CLIENT: NAME}


# What comes in the wrong order


EDGE, LAST = "edge.cdn.test", "x.cdn.test"
CHAIN = (
    message([(NAME, A)], [(NAME, CNAME, EDGE, 300)]),
    message([(EDGE, A)], [(EDGE, CNAME, LAST, 300)]),
    message([(LAST, A)], [(LAST, A, SERVER, 60)]),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_answers_that_follow_from_each_other_may_come_in_any_order(order):
    frames = [part for n, number in enumerate(order) for part in (
        query(n / 10, answer=CHAIN[number]), answer(n / 10 + 0.01, payload=CHAIN[number]))]  # fmt: skip
    flows = [flow(), flow(client=OTHER)]
    runs = [replay_frames(plan(), [*frames, *flows], partitions=count) for count in (1, 2)]
    assert runs[0].lines == runs[1].lines
    for run in runs:
        assert {r["client_ip"]: r["domain"] for r in run.records if r["matched_by"] == "dns"} == {
            CLIENT: NAME, OTHER: NAME,
        }  # fmt: skip
        assert (run.counters["dns_retried"] > 0) == (order != (0, 1, 2))


def test_an_answer_waits_for_its_alias_no_longer_than_packets_may_be_out_of_order():
    frames = [part for n, payload in enumerate(CHAIN[::-1]) for part in (
        query(2 * n, answer=payload), answer(2 * n + 0.01, payload=payload))]  # fmt: skip
    found, counters = named([*frames, flow(5)])
    assert found == {}
    assert counters["dns_retried"] == 0


def test_a_query_may_come_after_its_answer_within_grace():
    for frames in ([other_query(), answer(), query(0.9)], [answer(), query(0.9)]):
        found, counters = named([*frames, flow(), flow(client=OTHER)])
        assert found == {CLIENT: NAME, OTHER: NAME}
        assert counters["dns_retried"] == 1
    assert named([other_query(), answer(), query(1.2), flow(2)])[0] == {}
    assert named([other_query(), answer(), query(0.5, port=PORT + 1), flow()])[0] == {}
    tcp_answer = len(ANSWER).to_bytes(2) + ANSWER
    asked = dns_query(ANSWER)
    over_tcp = [
        other_query(), sent(0.1, RESOLVER, CLIENT, tcp(53, PORT, 1, 1, ACK, tcp_answer), 6),
        sent(0.2, CLIENT, RESOLVER, tcp(PORT, 53, 1, 1, ACK, len(asked).to_bytes(2) + asked), 6),
    ]  # fmt: skip
    assert named([*over_tcp, flow()])[0] == {CLIENT: NAME}


def test_the_answer_comes_over_tcp_in_any_pieces():
    ask, told = (len(payload).to_bytes(2) + payload for payload in (dns_query(ANSWER), ANSWER))
    for cuts in ((), (2,), (1, 7), (20, 40)):
        frames = [
            sent(0, CLIENT, RESOLVER, tcp(PORT, 53, 9, 0, SYN), 6),
            sent(0.01, RESOLVER, CLIENT, tcp(53, PORT, 99, 10, SYN | ACK), 6),
            *(
                sent(0.1, *ends, tcp(*ports, seq + start, 1, ACK, payload[start:end]), 6)
                for payload, seq, ends, ports in (
                    (ask, 10, (CLIENT, RESOLVER), (PORT, 53)), (told, 100, (RESOLVER, CLIENT), (53, PORT))
                )
                for start, end in zip((0, *cuts), (*cuts, len(payload)), strict=True)
            ),
        ]  # fmt: skip
        found, counters = named([*frames, flow(), flow(client=OTHER)])
        assert found == {CLIENT: NAME, OTHER: NAME}, cuts
        assert counters["dns_messages"] == 2


def test_messages_one_after_the_other_over_tcp_are_read_whole_or_not():
    """A connection that is read in compiled code is handed over with its first piece; nothing is read twice."""
    names = [f"{number}.video.example" for number in range(6)]
    frames, seqs = [], [10, 100]
    for number, name in enumerate(names):
        payload = message([(name, A)], [(name, A, f"192.0.2.{210 + number}", 60)])
        for side, (sent_message, ends, ports) in enumerate(
            ((dns_query(payload), (CLIENT, RESOLVER), (PORT, 53)), (payload, (RESOLVER, CLIENT), (53, PORT)))
        ):
            stream = len(sent_message).to_bytes(2) + sent_message
            cut = 0 if number < 2 else 25
            for piece in filter(None, (stream[:cut], stream[cut:], stream[cut:])):  # the last one sent twice
                seq = seqs[side] + (len(stream) - len(piece) if piece != stream[:cut] else 0)
                frames.append(sent(number / 10, *ends, tcp(*ports, seq, 1, ACK, piece), 6))
            seqs[side] += len(stream)
    flows = [flow(2, server=f"192.0.2.{210 + number}", port=50_000 + number) for number in range(6)]
    run = replay_frames(plan(), [*frames, *flows])
    assert sorted(record["domain"] for record in run.records if record["matched_by"] == "dns") == names
    assert run.counters["dns_messages"] == 12


def test_an_alias_and_its_addresses_may_come_in_answers_of_their_own():
    first = message([(NAME, A)], [(NAME, CNAME, "edge.cdn.test", 300)])
    second = message([("edge.cdn.test", A)], [("edge.cdn.test", CNAME, "x.cdn.test", 300)])
    third = message([("x.cdn.test", A)], [("x.cdn.test", A, SERVER, 60)])
    lookups = [
        frame for number, payload in enumerate((first, second, third))
        for frame in (query(number, answer=payload), answer(number + 0.1, payload=payload))
    ]  # fmt: skip
    assert named([*lookups, flow(4), flow(4, client=OTHER)])[0] == {CLIENT: NAME, OTHER: NAME}
    assert named([*lookups[2:], flow(4)])[0] == {}
    late = [
        query(0, answer=first),
        answer(0.1, payload=first),
        query(400, answer=second),
        answer(400.1, payload=second),
    ]
    late += [query(401, answer=third), answer(401.1, payload=third)]
    assert named([*late, flow(402)])[0] == {}  # the first alias does not hold any more
    elsewhere = [query(2, client=OTHER, answer=third), answer(2.1, client=OTHER, payload=third)]
    assert named([*lookups[:4], *elsewhere, flow(4, client=OTHER)])[0] == {}


def test_hints_and_targets_of_service_bindings_name_flows():
    hints = [(1, b"\2h2"), (4, bytes([192, 0, 2, 200]))]
    given = with_bindings([(NAME, HTTPS)], [binding(NAME, 1, "", hints, 300)])
    assert named([query(answer=given), answer(payload=given), flow()])[0] == {CLIENT: NAME}
    alias = with_bindings([(NAME, HTTPS)], [binding(NAME, 0, "edge.cdn.test", [], 300)])
    second = message([("edge.cdn.test", A)], [("edge.cdn.test", A, SERVER, 60)])
    frames = [query(answer=alias), answer(payload=alias), query(0.2, answer=second), answer(0.3, payload=second)]
    assert named([*frames, flow()])[0] == {CLIENT: NAME}


def test_multicast_names_nothing():
    told = [sent(0, CLIENT, "224.0.0.251", udp(5353, 5353, ANSWER)), sent(0, CLIENT, OTHER, udp(5355, PORT, ANSWER))]
    found, counters = named([*told, flow(), flow(client=OTHER)])
    assert not found
    assert counters["dns_messages"] == 0


def test_a_query_that_tells_no_names_is_not_remembered_without_end():
    """The bound is on all queries: the oldest ones are forgotten."""
    run = replay_frames(plan(), [query(number / 1000, port=number) for number in range(1, 1000)])
    record = run.workers[0].services.answers.record
    assert int(record["queries"]["hand"][0]) == 999
    assert int(record["queries"]["entries_count"][0]) == 1 << 16


def test_answers_take_effect_in_the_order_of_the_trace_for_any_number_of_workers():
    other = message(
        [
            (NAME, A),
        ],
        [(NAME, A, "192.0.2.201", 60)],
    )
    frames = [flow(0), query(0.1), flow(0.15, port=50_001), answer(0.2), flow(0.25, port=50_002), query(0.3, answer=other),
              flow(0.35, port=50_003, server="192.0.2.201"), answer(0.4, payload=other),
              flow(0.45, port=50_004, server="192.0.2.201")]  # fmt: skip
    runs = [replay_frames(plan(), frames, partitions=partitions, sizes=sizes)
            for partitions in (1, 2, 3) for sizes in ((1,), (3, 2), (64,))]  # fmt: skip
    assert len({"\n".join(run.lines) for run in runs}) == 1
    assert [record["client_port"] for record in runs[0].records if record["matched_by"] == "dns"] == [50_002, 50_004]
    assert len({tuple(run.counters[name] for name in run.counters if name.startswith("dns_")) for run in runs}) == 1


def test_flows_of_encrypted_dns_are_counted_by_kind():
    frames = [
        sent(0, CLIENT, "9.9.9.9", tcp(40_000, 853, 1, 1, ACK, b"x"), 6),
        sent(0, CLIENT, "9.9.9.9", tcp(40_000, 853, 2, 1, ACK, b"x"), 6),
        sent(0, CLIENT, "9.9.9.9", udp(40_000, 853, b"x" * 1200)),
    ]
    for partitions in (1, 2):
        counters = replay_frames(plan(), frames, partitions=partitions).counters
        assert (counters["dot_flows"], counters["doq_flows"], counters["doh_flows"]) == (1, 1, 0)


def test_floods_are_bounded_by_the_budget_and_counted():
    """Messages with more addresses than compiled code takes, pieces of streams, names that expressions are asked about."""
    crowd = message([(NAME, A)], [(NAME, A, f"192.0.2.{number}", 60) for number in range(1, 120)])
    floods = {
        "crowds": [frame for number in range(300)
                   for frame in (query(number / 100, answer=crowd), answer(number / 100, payload=crowd))],
        "pieces": [sent(number / 100, RESOLVER, CLIENT, tcp(53, 1_000 + number, 1, 1, ACK, b"\1\0" + ANSWER), 6)
                   for number in range(300)],
        "names": [frame for number in range(300)
                  for payload in [message([(f"r{number}---x.test", A)], [(f"r{number}---x.test", A, SERVER, 60)])]
                  for frame in (query(number / 1000, answer=payload), answer(number / 1000, payload=payload))],
    }  # fmt: skip
    for kind, frames in floods.items():
        unlimited = replay_frames(plan(), frames)
        assert unlimited.counters["dns_over_budget"] == 0, kind
        counters = replay_frames(plan(), frames, settings=Settings(dns_units_per_second=40)).counters
        assert 180 < counters["dns_over_budget"] < 300, kind
        assert counters["packets"] == len(frames)


def test_a_piece_that_completes_many_messages_is_paid_for_by_their_number():
    """64 KiB of messages of 14 bytes behind a hole, and the byte that fills it."""
    tiny = b"\0\x0c" + b"\0\1\x81\x80" + bytes(8)
    stream = tiny * 400
    pieces = [(1, 3), (3, len(stream)), (0, 1)]
    frames = [sent(0, RESOLVER, CLIENT, tcp(53, PORT, 99, 10, SYN | ACK), 6)] + [
        sent(0.1, RESOLVER, CLIENT, tcp(53, PORT, 100 + start, 1, ACK, stream[start:end]), 6) for start, end in pieces
    ]
    late = [sent(0.2, RESOLVER, CLIENT, tcp(53, 9_999, 1, 1, ACK, b"\1\0" + ANSWER), 6)]
    run = replay_frames(plan(), [*frames, *late], settings=Settings(dns_units_per_second=200))
    assert run.counters["dns_messages"] == 400
    assert run.counters["dns_over_budget"] == 1


def test_ordinary_answers_need_no_budget():
    """Neither those of services nor others, known names nor new ones."""
    frames = []
    for number in range(1_000):
        name = f"host{number}.{('video.example', 'other.test', 'streamy.test')[number % 3]}"
        payload = message([(name, A)], [(name, CNAME, "a.b", 5), ("a.b", A, f"192.0.2.{number % 200}", 60)])
        frames += [query(number / 1000, answer=payload), answer(number / 1000, payload=payload)]
    run = replay_frames(plan(), frames, settings=Settings(dns_units_per_second=1))
    assert run.counters["dns_over_budget"] == 0
    assert len(run.workers[0].services.names) == 667


def test_a_forged_answer_does_not_name_flows_of_another_client(shared_cases):
    found = replay_files(Plan.of(load_config(shared_cases / "named.json")), [shared_cases / "spoof.pcap"])
    assert {record["matched_by"] for record in found.records} == {"prefix"}


def test_the_table_of_addresses_grows_and_is_replaced_from_compiled_code():
    """512 entries at first; at most those of the configuration."""
    frames = []
    for number in range(1_500):
        payload = message([(NAME, A)], [(NAME, A, f"192.{number >> 8}.{number & 255}.9", 60)])
        frames += [query(number / 1000, answer=payload), answer(number / 1000, payload=payload)]
    run = replay_frames(plan(), frames)
    addresses = run.workers[0].services.addresses
    assert len(addresses) == 3_000
    assert addresses.get(ANY_CLIENT, (0, 0xFFFF << 32 | struct.unpack(">I", bytes([192, 5, 3, 9]))[0]), START_NS)
    small = replay_frames(plan(ServiceMap={"MaxAddresses": 100}), frames).workers[0].services.addresses
    assert len(small) == 100
    assert small.replaced_total == 3_000 - 100


def test_a_snap_length_cuts_answers_not_the_worker():
    for bytes_kept in range(len(answer().data)):
        cut = answer()._replace(data=answer().data[:bytes_kept])
        _, counters = named([query(), cut])
        assert counters["packets"] == 2
        assert counters["dns_messages"] in {1, 2}
