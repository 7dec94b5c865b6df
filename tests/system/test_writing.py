"""Files are whole or not there at all; what the system refuses is one error that names the file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from trafficrefinery.errors import OutputError
from trafficrefinery.system.writing import PARTIAL, Whole, make_directory, output_errors, write_file


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    with Whole(path) as draft:
        draft.write_text("half")
        assert names_in(tmp_path) == [draft.name]
        assert draft.name.endswith(PARTIAL)
    assert names_in(tmp_path) == ["a.json"]
    assert path.read_text() == "half"


def _stop_half_way(path: Path, error: type[BaseException] | BaseException) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_file_is_as_it_was(tmp_path, error):
    path = write_file(tmp_path / "a", "before")
    with pytest.raises(error), Whole(path) as draft:
        _stop_half_way(draft, error)
    assert names_in(tmp_path) == ["a"]
    assert path.read_text() == "before"


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ValueError, match="half"), Whole(tmp_path / "bundle") as draft:
        _stop_half_way(draft / "model", ValueError("half"))
    assert names_in(tmp_path) == []
    with Whole(tmp_path / "bundle") as draft:
        draft.mkdir()
        (draft / "model").write_text("whole")
    assert (tmp_path / "bundle" / "model").read_text() == "whole"


def test_those_that_write_at_once_do_not_mix(tmp_path):
    path, start = tmp_path / "a", threading.Barrier(8)

    def write(letter: str) -> None:
        start.wait()
        for _ in range(20):
            write_file(path, letter * 100_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcdefgh"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert names_in(tmp_path) == ["a"]
    text = path.read_text()
    assert text == text[0] * 100_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_error_names_the_file_and_says_what_helps():
    words = r"^out/a: cannot be written: No space left on device; free some space"
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OutputError, match=words) as got,
        output_errors(Path("out/a")),
    ):
        full.write(b"x")
    assert isinstance(got.value.__cause__, OSError)


def test_a_place_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OutputError, match=f"{tmp_path}/absent/a: cannot be written: No such file or directory"):
        write_file(tmp_path / "absent" / "a", "")


def test_a_directory_is_made_or_the_reason_is_given(tmp_path):
    assert make_directory(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is a file; name a directory"):
        make_directory(tmp_path / "file")
    assert names_in(tmp_path) == ["a", "file"]
    if os.geteuid():
        (tmp_path / "a").chmod(0o500)
        with pytest.raises(OutputError, match="a: cannot be written: Permission denied"):
            make_directory(tmp_path / "a")
