"""The published tables: read without running anything, cleaned, and with our names and units."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.old_pickles import calling, frame_pickle, pickled
from support.pandas_pickles import PICKLES
from trafficrefinery.cli.main import _run
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery_lab.published.counterparts import COUNTERPARTS
from trafficrefinery_lab.published.fates import METADATA, fate_of
from trafficrefinery_lab.published.importing import import_published
from trafficrefinery_lab.published.tables import read_any
from trafficrefinery_lab.published.unpickling import read_frame

SAMPLE = {
    "session_id": ["netflix-0_rate", "netflix-0_rate", "home-7", "home-7"],
    "video_id": ["70196252", "70196252", "abc", "abc"],
    "home_id": ["lab10", "lab10", "home1", "home1"],
    "service": ["netflix", "netflix", "youtube", "youtube"],
    "deployment_session_id": ["netflix_00:11:22:33:44:55_1_2"] * 4,
    "absolute_timestamp": [1548881398.4, 1548881408.4, 1.5e9, 1.5e9 + 10],
    "relative_timestamp": [10, 20, 10, 20],
    "is_tcp": [True, True, False, False],
    "resolution": [360, 480, 0, 1080],
    "startup_time": [11489.685, 11489.685, 2000.0, 2000.0],
    "bitrate": [582, 865, 0, 3000],
    "quality": ["bad", "bad", "unknown", "good"],
    "c_resolution_switches": [0, 1, 0, 0],
    "startup10": [False, False, True, True],
    "avg_flow_age": [np.nan, -1548881372453.0, 1.0, 2.0],
    "10_avg_chunksize": [np.nan, 91984.2, 5000.0, np.inf],
    "10_EWMA_chunksizes": [[], [1.0, 2.5], [7.0], [8.0]],
    "10_chunksizes_50R": [1.0, 2.0, 3.0, 4.0],
    "n_prev_down_chunk": [10, 30, 4, 5],
    "up_down_ratio": [1, 2, 2, 2],
    "up_chunk_iat_avg": [461.619, 10.0, 20.0, 30.0],
    "down_chunk_iat_75": [602.0, 1.0, 2.0, 3.0],
    "userAvgRTT": [66511.0, 80963.0, 0.0, 0.0],
    "userMedRTT": [66511.0, 84187.0, 0.0, 0.0],
    "userMaxInterArrivalTime": [5526.23, 45012.0, 1.0, 1.0],
    "userAckFlags": [771, 9, 0, 0],
    "userOneRetransmit": [0.1, 0.0, 0.0, 0.0],
    "service_Video_throughput_down": [1808.0, 1000.0, 10.0, 20.0],
    "service_non_video_throughput_down": [2.0, 3.0, 4.0, 5.0],
    "access_avg": [0, 0, 0, 0],
    "surprise": [1, 2, 3, 4],
}


def written(tmp_path: Path, content: bytes, name: str = "video_dataset.pkl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.fixture
def imported(tmp_path):
    result = import_published(written(tmp_path, frame_pickle(SAMPLE)), tmp_path / "data.parquet")
    return result, pl.read_parquet(tmp_path / "data.parquet")


def test_rows_without_a_valid_resolution_are_left_out_and_counted(imported):
    result, table = imported
    assert (result.rows, result.invalid, result.labelled) == (3, 1, True)
    assert table["resolution"].to_list() == [360, 480, 1080]


def test_columns_have_our_names_and_units(imported):
    _, table = imported
    first = table.row(0, named=True)
    assert first["startup_s"] == pytest.approx(11.489685)
    assert first["application.all_segments"] == 11
    assert first["application.pending_requests"] == 1
    assert first["application.request_iat_s_mean"] == pytest.approx(0.461619)
    assert first["transport.rtt_server_s_mean"] == pytest.approx(0.066511)
    assert first["network.kbps_down"] == 1810
    assert first["network.media_kbps_down"] == 1808
    assert first["published.down_chunk_iat_75"] == 602
    assert (first["video_id"], first["site"], first["service"]) == ("70196252", "lab10", "netflix")
    assert (first["ts_start"], first["ts_end"]) == (0, 10)


def test_a_list_in_a_cell_gives_its_last_element(imported):
    _, table = imported
    assert table["application.last10_bytes_ewma"].to_list() == [None, 2.5, 8.0]


def test_what_is_no_number_is_null(imported):
    _, table = imported
    assert table["application.last10_bytes_mean"].to_list() == [None, 91984.2, None]


def test_quic_has_no_transport_but_nulls(imported):
    _, table = imported
    assert table["transport_observed"].to_list() == [True, True, False]
    for name in ("transport.rtt_server_s_mean", "published.userMedRTT", "transport.ack_up"):
        assert table[name].is_null().to_list() == [False, False, True]


def test_gaps_are_not_longer_than_the_interval(imported):
    _, table = imported
    assert table["network.iat_s_max_up"].to_list() == pytest.approx([5.52623, 10.0, 0.001])


def test_nothing_that_identifies_or_leaks_stays(imported):
    result, table = imported
    text = str(table.to_dicts())
    assert "00:11:22" not in text
    assert "netflix-0_rate" not in text
    assert "15488813" not in text
    assert table["session"].n_unique() == 2
    for name in ("deployment_session_id", "absolute_timestamp", "avg_flow_age", "bitrate", "quality", "startup10",
                 "c_resolution_switches", "10_chunksizes_50R", "userOneRetransmit", "access_avg", "surprise"):  # fmt: skip
        assert result.dropped[name]
        assert not [column for column in table.columns if column.endswith(name)]


def test_the_manifest_says_why_columns_are_gone(imported):
    result, _ = imported
    manifest = json.loads(result.manifest.read_text())
    assert manifest["columns_dropped"]["bitrate"] == "made from the player's log, as the label"
    assert manifest["columns_dropped"]["avg_flow_age"] == "leaks the date of the capture"
    assert manifest["rows_dropped"] == {"resolution not valid": 1}
    assert len(manifest["source"]["sha256"]) == 64


def test_names_with_the_layer_before_them_are_the_same(tmp_path):
    layered = {"L7_n_prev_down_chunk": [3, 4], "L3_service_Video_throughput_up": [1.0, 2.0], "resolution": [240, 360]}
    import_published(written(tmp_path, frame_pickle(layered)), tmp_path / "data.parquet")
    table = pl.read_parquet(tmp_path / "data.parquet")
    assert table["application.all_segments"].to_list() == [4, 5]
    assert table["network.media_kbps_up"].to_list() == [1.0, 2.0]


def test_a_session_without_labels_is_imported(tmp_path):
    result = import_published(written(tmp_path, frame_pickle({"n_chunks_up": [3, 4]})), tmp_path / "data.parquet")
    table = pl.read_parquet(tmp_path / "data.parquet")
    assert not result.labelled
    assert table["resolution"].null_count() == 2
    assert table["ts_end"].to_list() == [10, 20]


def test_each_mapped_column_is_none_that_is_dropped():
    for column in COUNTERPARTS.values():
        fate = fate_of(column.name)
        assert fate.group or fate.reason == "not a known column of the published dataset"
    for name in METADATA:
        assert fate_of(name).group is None


def test_each_mapped_column_is_that_of_one_session_feature():
    assert COUNTERPARTS.keys() <= {field.name for field in SessionRegistry().fields()}
    assert len({column.name for column in COUNTERPARTS.values()}) == len(COUNTERPARTS)


COLUMNS_OF_PANDAS = {
    "session_id": ["u", "v", "w"], "resolution": ["720p", "hd720", None], "n_chunks_up": [1, 2, 3],
    "a": [1.5, 2.0, 3.0], "c": ["x", "y", None], "I": [1, None, 3], "b": [True, None, False], "F": [1.5, None, 2.0],
    "s": ["x", None, "y"], "l": [(1.0, 2), (3,), ()],
}  # fmt: skip


@pytest.mark.parametrize("version", PICKLES)
def test_what_pandas_writes_by_default_is_read(tmp_path, version):
    found = read_any(written(tmp_path, PICKLES[version]))
    assert {name: found[name].tolist() for name in COLUMNS_OF_PANDAS} == COLUMNS_OF_PANDAS
    assert found.get("sa", found["s"]).tolist() == COLUMNS_OF_PANDAS["s"]
    table = imported_from(tmp_path, PICKLES[version])
    assert table["resolution"].to_list() == [720, 720]


def imported_from(tmp_path, content, *resolutions):
    import_published(written(tmp_path, content), tmp_path / "data.parquet", *resolutions)
    return pl.read_parquet(tmp_path / "data.parquet")


def frame_of_now():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"n_chunks_up": [1, 2], "up_chunk_iat_avg": [1.5, 2.5], "resolution": ["720p", "360"]})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_todays_pandas_are_read_too(tmp_path, protocol):
    frame = frame_of_now()
    found = read_frame(written(tmp_path, pickle.dumps(frame, protocol)))
    assert {name: values.tolist() for name, values in found.items()} == frame.to_dict("list")


@pytest.mark.parametrize("name", ["x.pkl", "x.pkl.gz", "x.pkl.xz", "x.pkl.bz2", "x.csv", "x.csv.gz", "x.parquet"])
def test_a_table_is_read_by_its_content_whatever_its_name(tmp_path, name):
    frame, path = frame_of_now(), tmp_path / name
    write = frame.to_pickle if "pkl" in name else frame.to_csv if "csv" in name else frame.to_parquet
    write(path)
    found = read_any(path.rename(tmp_path / "table"))
    assert {one: [str(value) for value in values] for one, values in found.items()} == {
        one: [str(value) for value in values] for one, values in frame.to_dict("list").items()
    }


def test_an_index_with_names_gives_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    names = pandas.MultiIndex.from_tuples([("s", 10), ("s", 20)], names=["session_id", "relative_timestamp"])
    frame = frame_of_now().set_index(names)
    table = imported_from(tmp_path, pickle.dumps(frame))
    assert table["session"].n_unique() == 1
    assert table["ts_end"].to_list() == [10, 20]


@pytest.mark.parametrize(("labels", "lines"), [
    (["720p", "360p60"], [720, 360]), (["hd720", "medium"], [720, 360]), ([720.0, 360.0], [720, 360]),
    (["1280x720", "640x360"], [720, 360]), (["720.0", " 360 "], [720, 360]), ([True, 360], [360]),
    (["unknown", 360], [360]), ([None, 360], [360]), ([float("nan"), 360.0], [360]),
])  # fmt: skip
def test_resolutions_are_understood_however_they_are_written(tmp_path, labels, lines):
    table = imported_from(tmp_path, frame_pickle({"n_chunks_up": [1, 2], "resolution": labels}))
    assert table["resolution"].to_list() == lines


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "bad"], 'it has "bad", "good"; write lines, such as 720, 720p, hd720 or 1280x720'),
        (["144p", "2160p"], "--resolutions 144,2160 takes what there is"),
    ],
)
def test_resolutions_that_are_none_are_told_with_what_would_be_right(tmp_path, labels, message):
    with pytest.raises(TrafficRefineryError, match=message):
        imported_from(tmp_path, frame_pickle({"n_chunks_up": [1, 2], "resolution": labels}))


@given(
    st.dictionaries(
        st.text("abcxyz_10", min_size=1, max_size=8),
        st.one_of(
            st.lists(st.floats(allow_nan=False), min_size=3, max_size=3),
            st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3),
            st.lists(st.text("aé0", max_size=3), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_frame_comes_back_as_it_was(tmp_path_factory, columns):
    path = written(tmp_path_factory.mktemp("frame"), frame_pickle(columns))
    found = read_frame(path)
    assert list(found) == list(columns)
    for name, values in columns.items():
        text = [value.encode().decode("latin1") if isinstance(value, str) else value for value in values]
        assert found[name].tolist() == text


# What is not a table


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("__builtin__", "eval"), ("builtins", "exec"),
        ("__builtin__", "getattr"), ("pandas", "read_pickle"), ("pandas.io.common", "os"), ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"), ("codecs", "open"), ("pandas.core.frame", "DataFrame.eval"),
    ],
)  # fmt: skip
def test_a_malicious_pickle_does_not_run(tmp_path, module, name):
    mark = tmp_path / "executed"
    path = written(tmp_path, pickled({b"x": calling(module, name, f"touch {mark}".encode())}))
    with pytest.raises(UsageError, match="nothing in them is run"):
        read_frame(path)
    assert not mark.exists()


def test_a_malicious_cell_or_state_does_not_run(tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    for thing in (Evil(), [Evil()], {"_data": Evil()}):
        with pytest.raises(UsageError, match="video_dataset.pkl: holds"):
            read_frame(written(tmp_path, pickle.dumps(thing, 2)))
    assert not mark.exists()


def test_a_pickle_cannot_change_what_the_next_one_meets(tmp_path):
    attack = b"\x80\x02cnumpy\nndarray\nN}X\x0c\x00\x00\x00__setstate__I1\ns\x86b."
    with pytest.raises(UsageError):
        read_frame(written(tmp_path, attack))
    assert read_frame(written(tmp_path, frame_pickle({"a": [1.0]})))["a"].tolist() == [1.0]


@given(st.data())
def test_damaged_pickles_are_one_error(tmp_path_factory, data):
    old = frame_pickle({"n_chunks_up": [1, 2, 3], "service": ["a", "b", "c"]})
    whole = data.draw(st.sampled_from([old, *PICKLES.values()]))
    spoiled = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if spoiled:
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.mktemp("damaged"), bytes(spoiled))
    with contextlib.suppress(UsageError):  # anything else fails
        read_frame(path)


WRONG = {
    "web page": (b"<!DOCTYPE html><html>404</html>", "not a pickled DataFrame"),
    "empty": (b"", "not a pickled DataFrame"),
    "other columns": (frame_pickle({"a": [1]}), "none of the columns of the published dataset"),
    "a list": (pickle.dumps([1, 2], 2), "holds a list and no DataFrame"),
    "reference": (b"\x80\x02X\x01\x00\x00\x00aQ.", "refers to something outside"),
    "external object": (pickle.dumps(np.float64(3), 2), "and no DataFrame"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_table_is_one_line_and_nothing_is_written(case, tmp_path, capsys):
    content, message = WRONG[case]
    path, out = written(tmp_path, content), tmp_path / "data.parquet"
    assert _run(["dataset", "import", str(path), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_table_without_valid_rows_says_what_is_allowed(tmp_path):
    path = written(tmp_path, frame_pickle({"n_chunks_up": [1], "resolution": [144]}))
    with pytest.raises(TrafficRefineryError, match="no row has one of 240, 360, 480, 720, 1080"):
        import_published(path, tmp_path / "data.parquet")
    assert import_published(path, tmp_path / "data.parquet", (144,)).rows == 1


def test_the_command_tells_what_it_left_out(tmp_path, capsys):
    path = written(tmp_path, frame_pickle(SAMPLE))
    assert _run(["dataset", "import", str(path), "-o", str(tmp_path / "data.parquet")]) == 0
    said = capsys.readouterr().out
    assert "3 session-intervals; 1 left out" in said
    assert "columns dropped: leaks the date of the capture (absolute_timestamp, avg_flow_age)" in said
