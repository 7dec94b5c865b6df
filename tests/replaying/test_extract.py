"""`replay --write-pcap`: each service's packets, all of them and no other, as they were."""

from __future__ import annotations

import socket
from pathlib import Path

import dpkt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import replay_runs as runs
from support import replays, traces
from support.naive.frames import Frame
from support.naive.reference import Reference
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.engine.worker import Settings
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory
from trafficrefinery.replaying.write_pcap import file_stems, write_traces

IDLE_S = 30  # of the configuration of all tests


class Naive(Reference):
    """Also remembers the record of each frame."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.packets = []
        self.row_of_packet = {}

    def give(self, flow, p) -> None:
        self.packets.append((self.counters["packets"] - 1, p))
        super().give(flow, p)

    def feed(self, flow, p) -> None:
        super().feed(flow, p)
        self.row_of_packet[id(p)] = flow.stints[-1].rows[-1]


def expected(config, frames: list[Frame]) -> dict[str, list[Frame]]:
    """Service → its frames."""
    naive = Naive(config).replay(frames)
    found: dict[str, list[Frame]] = {}
    for number, p in naive.packets:
        row = naive.row_of_packet.get(id(p))
        if row is not None and row.service >= 0:
            found.setdefault(config.services[row.service].name, []).append(frames[number])
    return found


def read(path: Path) -> list[Frame]:
    """Frames of a written trace."""
    found = []
    with TraceReader([path]) as reader:
        for buffer, table in reader:
            for row in table:
                data = buffer[row["offset"] : row["offset"] + row["captured_bytes"]].tobytes()
                found.append(Frame(int(row["ts_ns"]), data, int(row["wire_bytes"]), int(row["link_type"])))
    return found


def with_gaps(frames: list[Frame]) -> list[Frame]:
    """The same packets twice, so far apart that their flows are new ones."""
    apart_ns = (IDLE_S + runs.SPAN_S) * traces.SECOND
    return [*frames, *(frame._replace(ts_ns=frame.ts_ns + apart_ns) for frame in frames)]


@pytest.mark.modes
@pytest.mark.parametrize("seed", [1, 2])
def test_each_service_gets_the_packets_of_its_flows_from_the_first_on(tmp_path, seed):
    config = load_config(runs.configuration(tmp_path))
    frames = with_gaps(runs.frames(seed, 25))
    path = traces.write_trace(tmp_path / "trace.pcap", frames)
    result = replay_to_directory(config, [path], tmp_path / "out", ReplayOptions(write_pcap=tmp_path / "traces"))
    wanted = expected(config, frames)
    assert {file.stem: read(file) for file in (tmp_path / "traces").iterdir()} == wanted
    assert result.extracted == {name: len(mine) for name, mine in wanted.items()}
    assert sum(result.extracted.values()) == result.counters["attributed"]
    assert len(wanted) >= 3


def test_the_written_traces_do_not_depend_on_the_number_of_workers(tmp_path):
    config = load_config(runs.configuration(tmp_path))
    path = traces.write_trace(tmp_path / "trace.pcap", with_gaps(runs.frames(4, 60)))
    written = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        replay_to_directory(config, [path], folder, ReplayOptions(workers=workers, write_pcap=folder / "traces"))
        written.append({file.name: file.read_bytes() for file in (folder / "traces").iterdir()})
    assert written[0] == written[1] != {}


def test_lengths_on_the_wire_are_kept_where_the_capture_was_cut(tmp_path):
    config = load_config(runs.configuration(tmp_path))
    frames = [frame._replace(data=frame.data[:80]) for frame in runs.frames(5)]
    path = traces.write_trace(tmp_path / "cut.pcap", frames)
    result = replay_to_directory(config, [path], tmp_path, ReplayOptions(write_pcap=tmp_path / "traces"))
    kept = [frame for file in (tmp_path / "traces").iterdir() for frame in read(file)]
    assert len(kept) == result.counters["attributed"]
    assert any(frame.wire_bytes > len(frame.data) for frame in kept)
    assert set(kept) <= set(frames)


def test_a_written_trace_gives_the_records_of_its_service_again(tmp_path):
    """Of a service by prefix, because names may be in DNS packets that are no service's. The packets come in order of
    time, because what is late depends on the packets of all flows."""
    config = load_config(runs.configuration(tmp_path))
    path = traces.write_trace(tmp_path / "trace.pcap", sorted(runs.frames(6)))
    replay_to_directory(config, [path], tmp_path / "a", ReplayOptions(write_pcap=tmp_path / "traces"))
    first = [record for record in runs.lines(tmp_path / "a" / "records.jsonl") if record["service"] == "Net"]
    replay_to_directory(config, [tmp_path / "traces" / "Net.pcap"], tmp_path / "b")
    assert runs.lines(tmp_path / "b" / "records.jsonl") == first != []


def test_further_link_types_of_a_service_get_files_of_their_own(tmp_path):
    config = load_config(runs.configuration(tmp_path))
    frames = runs.frames(1, 25)
    paths = [
        traces.write_trace(tmp_path / "ethernet.pcap", frames),
        traces.write_trace(tmp_path / "raw.pcap", [without_ethernet(frame) for frame in plain_ip(frames)], 101),
    ]
    result = replay_to_directory(config, paths, tmp_path, ReplayOptions(write_pcap=tmp_path / "traces"))
    files = list((tmp_path / "traces").iterdir())
    assert sum(len(read(file)) for file in files) == result.counters["attributed"]
    kinds = {file.name: {frame.link_type for frame in read(file)} for file in files}
    assert kinds["Video.pcap"] == {1}
    assert kinds["Video.link101.pcap"] == {101}


def plain_ip(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.data[12:14] in (b"\x08\0", b"\x86\xdd")]


def without_ethernet(frame: Frame) -> Frame:
    """Long after: these are other flows."""
    ts_ns = frame.ts_ns + 200 * traces.SECOND
    return Frame(ts_ns, frame.data[14:], frame.wire_bytes - 14, 101)


def test_no_flows_give_no_files(tmp_path):
    config = load_config(runs.configuration(tmp_path))
    path = traces.write_trace(tmp_path / "trace.pcap", runs.frames(1, 5))
    (tmp_path / "traces").mkdir()
    told: list[object] = []
    trail = np.full(200, -1, np.int16)
    with TraceReader([path]) as reader:
        assert write_traces(config, trail, reader, tmp_path / "traces", lambda *what: told.append(what)) == {}
    assert list((tmp_path / "traces").iterdir()) == []
    assert told


def test_netflix_of_the_assignment(shared_data, tmp_path):
    domains = ["netflix.com", "nflxvideo.net", "nflximg.net", "nflxext.com", "nflximg.com", "nflxso.net"]
    service = {"Name": "Netflix", "Filter": {"DomainsString": domains}, "Collect": ["PacketCounters"]}
    trace = shared_data / "netflix_2018.pcap.zst"
    config = parse_config({"Services": [service]})
    replay_to_directory(config, [trace], tmp_path, ReplayOptions(write_pcap=tmp_path))
    with (tmp_path / "Netflix.pcap").open("rb") as file:
        packets = [(ts, dpkt.ethernet.Ethernet(frame).data) for ts, frame in dpkt.pcap.Reader(file)]
    assert len(packets) == 140_472
    not_published = socket.inet_aton("23.57.80.120")  # found by the names that were asked for
    assert sum(not_published not in (ip.src, ip.dst) for _, ip in packets) == 138_633
    assert [ts for ts, _ in packets] == sorted(ts for ts, _ in packets)


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_file_names_are_unlike_each_other_and_no_paths(services):
    stems = file_stems(services)
    assert len({stem.casefold() for stem in stems}) == len(services)
    for stem in stems:
        assert Path(stem).name == stem
        assert not stem.startswith(".")
        assert len(f"{stem}.link276.pcap.12345678.partial".encode()) <= 255


@pytest.mark.parametrize(
    ("services", "stems"),
    [
        (["Disney+", "Amazon Prime Video"], ["Disney+", "Amazon_Prime_Video"]),
        (["../../etc/passwd", "..", ""], ["_.._etc_passwd", "_", "__2"]),
        (["a/b", "A b", "a_b"], ["a_b", "A_b_2", "a_b_3"]),
    ],
)
def test_file_names_are_the_services_where_they_can_be(services, stems):
    assert file_stems(services) == stems


def test_a_flow_that_changes_its_service_late_is_written_as_its_records_say(tmp_path):
    """Its rows before the name are of the one service, those behind it of the other."""
    from support.accounting import packets_of

    config = load_config(runs.configuration(tmp_path, rest=replays.ALL_TRAFFIC))
    frames = packets_of("u" * 20 + "n" + "u" * 3)
    path = traces.write_trace(tmp_path / "trace.pcap", frames)
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        result = replay_to_directory(
            config, [path], folder, ReplayOptions(workers=workers, write_pcap=folder / "traces")
        )
        assert result.extracted == {"Rest": 20, "Video": 4}


def test_blocks_of_any_size_give_the_same_trail(tmp_path):
    frames = with_gaps(runs.frames(7, 25))
    settings = Settings(keeps_trail=True)
    found = [
        replays.replay_frames(replays.usual_plan(), frames, sizes=sizes, settings=settings).workers[0].trail
        for sizes in ([1], [7, 64, 3], [100_000])
    ]
    assert all((other == found[0]).all() for other in found)
    assert (found[0] >= 0).any()


def test_the_trail_does_not_change_the_records():
    frames = with_gaps(runs.frames(7, 25))
    run, other = (
        replays.replay_frames(replays.usual_plan(), frames, settings=Settings(keeps_trail=keeps))
        for keeps in (False, True)
    )
    assert run.lines == other.lines
    assert (other.workers[0].trail >= 0).sum() == run.counters["attributed"]
