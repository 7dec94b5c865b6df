"""The log of learnt names: readers see every entry, whatever the writer does meanwhile; files are whole or refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trafficrefinery.daemon.channels import name_log
from trafficrefinery.daemon.channels.name_log import Learned, LogReader, LogWriter, NameLog, decode, encode, load

NUMBER = st.integers(0, 2**64 - 1)
ENTRY = st.builds(
    Learned,
    st.tuples(NUMBER, NUMBER),
    st.tuples(NUMBER, NUMBER),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.text("abcdefghijklmnopqrstuvwxyz.-0123456789", max_size=80),
)


def entry(number: int, expires_ns: int = 1000, learnt_ns: int = 0) -> Learned:
    return Learned((0, 1), (0, number), expires_ns, learnt_ns, f"host{number}.video.example")


def test_a_reader_gets_what_is_new_once():
    log = NameLog(1000)
    writer, reader = LogWriter(log), LogReader(log)
    assert reader.new() == []
    writer.append(entry(1))
    writer.append(entry(2))
    assert reader.new() == [entry(1), entry(2)]
    assert reader.new() == []
    writer.append(entry(3))
    assert reader.new() == [entry(3)]
    assert LogReader(log).new() == [entry(1), entry(2), entry(3)], "a restarted worker gets all"
    log.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRY, max_size=20), st.data())
def test_damaged_or_cut_entries_end_the_list(entries, data):
    whole = b"".join(map(encode, entries))
    assert [found for found, _ in decode(whole)] == entries
    if whole:
        cut = data.draw(st.integers(0, len(whole) - 1))
        kept = [found for found, _ in decode(whole[:cut])]
        assert kept == entries[: len(kept)]
        spoilt = bytearray(whole)
        spoilt[cut] ^= 1 + data.draw(st.integers(0, 254))
        kept = [found for found, _ in decode(bytes(spoilt))]
        assert kept == entries[: len(kept)]
        assert len(kept) < len(entries)


def test_a_full_half_keeps_the_youngest_that_still_hold(monkeypatch):
    monkeypatch.setattr(name_log, "_BYTES_PER_ADDRESS", 0)
    log = NameLog(0)
    log.half_bytes = 4096
    writer, reader = LogWriter(log), LogReader(log)
    seen: list[Learned] = []
    for number in range(500):
        writer.append(entry(number, expires_ns=number + 10, learnt_ns=number))
        if number % 7 == 0:
            seen += reader.new()
    seen += reader.new()
    assert int(log.header["generation"]) > 5
    assert {item.server[1] for item in seen} == set(range(500)), "who reads often misses nothing"
    late = LogReader(log).new()
    assert late[-1] == entry(499, 509, 499)
    assert all(item.expires_ns >= 480 for item in late)
    log.close()


def test_a_slow_reader_gets_all_that_is_left():
    log = NameLog(0)
    log.half_bytes = 4096
    writer, reader = LogWriter(log), LogReader(log)
    for number in range(1000):
        writer.append(entry(number, expires_ns=10**6))
        if number in (100, 900):
            reader.new()
    assert reader.new()[-1].server == (0, 999)
    assert writer.forgotten_total > 0
    log.close()


def test_a_file_gives_back_what_still_holds(tmp_path):
    log = NameLog(1000)
    writer = LogWriter(log)
    for number in range(10):
        writer.append(entry(number, expires_ns=number))
    writer.save(tmp_path / "names")
    assert load(tmp_path / "names", 5) == [entry(number, number) for number in range(5, 10)]
    assert [path.name for path in tmp_path.iterdir()] == ["names"]
    assert (tmp_path / "names").stat().st_mode & 0o777 == 0o600
    (tmp_path / "names").write_bytes((tmp_path / "names").read_bytes()[:-3])
    assert load(tmp_path / "names", 5) == [entry(number, number) for number in range(5, 9)]
    (tmp_path / "names").write_bytes(b"something else")
    assert load(tmp_path / "names", 0) == []
    assert load(tmp_path / "none", 0) == []
    log.close()


def test_an_answer_that_is_repeated_is_written_again_only_when_it_holds_markedly_longer():
    log = NameLog(1000)
    writer, reader = LogWriter(log), LogReader(log)
    for learnt_ns in range(200):
        writer.append(entry(1, expires_ns=learnt_ns + 1000, learnt_ns=learnt_ns))
    assert [found.learnt_ns for found in reader.new()] == [0, 100]
    log.close()


def test_a_reader_may_take_a_few_at_a_time():
    log = NameLog(1000)
    writer, reader = LogWriter(log), LogReader(log)
    for number in range(25):
        writer.append(entry(number))
    found = [reader.new(10) for _ in range(4)]
    assert [len(part) for part in found] == [10, 10, 5, 0]
    assert [item for part in found for item in part] == [entry(number) for number in range(25)]
    log.close()
