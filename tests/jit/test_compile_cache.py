"""The cache of compiled code: damage, full disks and other users cost time or are refused; they never end a start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.feature_cases import load_case, write_case
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.errors import FeatureError
from trafficrefinery.jit import COMPILED
from trafficrefinery.system.files import owner_fault, write_fault

compiled_only = pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

SCRIPT = """
import os, sys
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.engine.feature_classes.registry import Registry
try:
    classes = (Registry().get("PacketSizes"),)
    if sys.argv[1:]:  # from here on as another user, who may not be able to read what was imported
        os.setgroups([])
        os.setresgid(54_321, 54_321, 54_321)
        os.setresuid(54_321, 54_321, 54_321)
    step = fuse([Profile(classes, 10**10)])
except TrafficRefineryError as error:
    sys.exit(f"error: {error}")
print(len(step.profiles), "numba" in sys.modules, step.source)
"""


class Done:
    def __init__(self, process):
        self.status, self.errors = process.returncode, process.stderr.splitlines()
        words = process.stdout.split()
        self.compiled, self.source = words[1:] or (None, None)
        self.text = process.stdout + process.stderr


@pytest.fixture
def fused(tmp_path):
    """Fuse a class in a process of its own."""

    def run(cache=None, *arguments, **options):
        environment = {name: value for name, value in os.environ.items() if name != "TRAFFICREFINERY_CACHE_DIR"}
        environment |= {"TMPDIR": str(tmp_path), **options.pop("env", {})}
        if cache is not None:
            environment["TRAFFICREFINERY_CACHE_DIR"] = str(cache)
        for name in options.pop("without", ()):
            environment.pop(name, None)
        command = [sys.executable, "-c", SCRIPT, *arguments]
        return Done(subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options))

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that has all, to be copied."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    environment = {**os.environ, "TRAFFICREFINERY_CACHE_DIR": str(cache), "TMPDIR": str(cache.parent)}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=environment)
    return cache


@pytest.fixture
def cache(filled, tmp_path):
    made = tmp_path / "cache"
    subprocess.run(["cp", "-r", filled, made], check=True)
    return made


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def cut_in_the_head(path):
    path.write_bytes(path.read_bytes()[:9])


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@compiled_only
def test_the_next_process_finds_all_in_the_cache(fused, cache):
    done = fused(cache)
    assert (done.status, done.compiled, done.errors) == (0, "False", [])
    assert not list(cache.rglob("*.nb?")), "Numba keeps nothing of its own"
    assert not list(cache.rglob("*.pyc")), "nor does Python"


@compiled_only
@pytest.mark.parametrize("damage", [empty, cut, cut_in_the_head, changed, a_pipe])
@pytest.mark.parametrize("kind", ["name_*", "step_*.py"])
def test_a_damaged_step_is_made_anew_with_one_line(fused, cache, kind, damage):
    (path,) = cache.glob(f"*/steps/{kind}")
    before = path.read_bytes()
    damage(path)
    done = fused(cache)
    reason = " cannot be read (not a regular file)" if damage is a_pipe else " is damaged"
    assert done.errors == [f"warning: {path}{reason}; it is made anew"]
    assert (done.status, path.read_bytes()) == (0, before)
    assert fused(cache).errors == []


@compiled_only
@pytest.mark.parametrize("damage", [empty, changed])
def test_damaged_machine_code_is_compiled_anew_with_one_line_each(fused, cache, damage):
    paths = sorted(cache.glob("*/objects/*.o"))
    for path in paths:
        damage(path)
    done = fused(cache)
    assert (done.status, done.compiled) == (0, "True")
    assert sorted(done.errors) == [f"warning: {path} is damaged; it is made anew" for path in paths]
    assert (fused(cache).compiled, fused(cache).errors) == ("False", [])


@compiled_only
def test_several_processes_may_start_at_once(fused, cache):
    for path in (*cache.glob("*/steps/*"), *cache.glob("*/objects/*.o")):
        empty(path)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: fused(cache), range(3)))
    assert [done.status for done in found] == [0, 0, 0], [done.text for done in found]
    assert not list(cache.rglob("*.tmp"))
    assert (fused(cache).compiled, fused(cache).errors) == ("False", [])


WARNING = r"warning: compiled code is kept in (\S+), because it cannot be where it should \(.+\); set TRAFFICREFINERY_CACHE_DIR to a directory that you can write to"


def in_private_dir(done, reason):
    """One warning, with a reason."""
    assert done.status == 0, done.text
    assert len(done.errors) == 1
    private = re.fullmatch(WARNING, done.errors[0])[1]
    assert reason in done.errors[0]
    assert Path(private).stat().st_mode & 0o777 == 0o700
    assert done.source.startswith(private)


def test_a_cache_that_cannot_be_made_is_a_private_one_the_same_in_the_next_run(fused, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "cache"
    in_private_dir(fused(place), "Not a directory")
    if COMPILED:
        again = fused(place)
        assert (again.status, again.compiled, again.errors) == (0, "False", [])


def test_a_full_disk_is_no_hindrance(fused, small_disk):
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(255 << 10))
    done = fused(small_disk / "cache")
    if COMPILED:
        in_private_dir(done, "No space left on device")
    else:
        assert done.status == 0


@pytest.fixture
def everybodys_folder():
    """As /tmp is; tmp_path is in a directory that is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


somebody_only = pytest.mark.skipif(
    COMPILED or os.geteuid() != 0, reason="only root can be another user, who may not be able to import the compiler"
)


@somebody_only
def test_a_cache_without_permission_is_private(fused, everybodys_folder):
    place = everybodys_folder / "roots"
    place.mkdir(0o755)
    done = fused(place / "cache", "somebody", env={"TMPDIR": str(everybodys_folder)})
    in_private_dir(done, "Permission denied")


@somebody_only
def test_a_user_without_home_has_a_private_cache(fused, everybodys_folder):
    without = ("HOME", "XDG_CACHE_HOME", "CACHE_DIRECTORY")
    done = fused(None, "somebody", without=without, env={"TMPDIR": str(everybodys_folder)})
    in_private_dir(done, "this user has no home directory")


@pytest.fixture
def no_common_place():
    """What an earlier run kept in the folder for temporary files would be found there."""
    place = Path("/tmp") / f"trafficrefinery-{os.geteuid()}"
    shutil.rmtree(place, ignore_errors=True)
    yield
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.usefixtures("no_common_place")
def test_where_nothing_can_be_written_is_an_error(fused, tmp_path):
    (tmp_path / "file").write_text("")
    done = fused(tmp_path / "file" / "cache", env={"TMPDIR": str(tmp_path / "file")}, cwd="/proc")
    if done.status == 0:  # some /tmp, /var/tmp is there all the same
        in_private_dir(done, "Not a directory")
    else:
        assert "no directory for compiled code: " in done.text


# What somebody else can write is not run.


def test_a_cache_that_others_can_write_is_refused(fused, tmp_path):
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    done = fused(place)
    assert done.status == 1
    (line,) = done.errors
    assert re.fullmatch(
        rf"error: {place}/\w+-\w+: {place} can be written by every user: its mode is 0777; compiled code is kept there "
        r"and run: make it yours alone, or set TRAFFICREFINERY_CACHE_DIR",
        line,
    )


@root_only
def test_a_cache_of_another_user_is_refused(fused, tmp_path):
    place = tmp_path / "other"
    place.mkdir(0o700)
    os.chown(place, 54_321, 54_321)
    done = fused(place)
    assert done.status == 1
    assert f"{place} belongs to user 54321, not to 0, who runs this" in done.text


@pytest.fixture
def feature_folder(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir(0o755)
    write_case(folder, "    def add_packet(self, pkt: Packet) -> None:\n        self.n += 1\n")
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777, 0o775])
def test_feature_paths_that_others_can_write_are_refused(feature_folder, mode):
    Registry([feature_folder])
    if os.geteuid() == 0:
        os.chown(feature_folder, 0, 54_321)
    elif mode == 0o775:
        pytest.skip("the group is the user's own")
    feature_folder.chmod(mode)
    with pytest.raises(FeatureError) as caught:
        Registry([feature_folder])
    who = "every user" if mode & 0o002 else "group 54321"
    assert str(caught.value) == (
        f"{feature_folder}: can be written by {who}: its mode is {mode:04o}; what is there is run: make it yours alone"
    )


def test_a_feature_file_that_others_can_write_is_refused(feature_folder):
    (feature_folder / "case.py").chmod(0o666)
    for place in (feature_folder, feature_folder / "case.py"):
        with pytest.raises(
            FeatureError, match=r"case.py: can be written by every user: its mode is 0666; what is there"
        ):
            Registry([place])


def test_a_directory_above_that_others_can_write_is_refused(feature_folder, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(FeatureError, match=rf"features: {tmp_path} can be written by every user: its mode is 0777"):
        Registry([feature_folder])
    tmp_path.chmod(0o1777)  # as /tmp is: nobody can exchange what is another's
    Registry([feature_folder])


@root_only
def test_feature_paths_of_another_user_are_refused_but_for_who_became_root(feature_folder, monkeypatch):
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(feature_folder, 54_321, 54_321)
    with pytest.raises(FeatureError, match=r"belongs to user 54321, not to 0, who runs this"):
        Registry([feature_folder])
    monkeypatch.setenv("SUDO_UID", "54321")
    Registry([feature_folder])


def test_nothing_of_python_lies_beside_a_feature_file(feature_folder):
    """A compiled file that is cut ends an import, and one of somebody else's would be run."""
    load_case(feature_folder / "case.py")
    assert [path.name for path in feature_folder.iterdir()] == ["case.py"]


def test_a_pipe_among_the_feature_files_is_no_wait(feature_folder):
    os.mkfifo(feature_folder / "pipe.py")
    with pytest.raises(FeatureError, match=r"pipe.py: cannot be read: not a regular file"):
        Registry([feature_folder])


def test_what_is_mine_has_no_fault(tmp_path):
    assert write_fault(tmp_path) == ""
    assert owner_fault(tmp_path.stat()) == ""
    assert write_fault(tmp_path / "not" / "there") == ""
