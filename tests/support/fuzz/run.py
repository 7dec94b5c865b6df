"""The fuzzer of the packet path: `make fuzz`, and a part of it in the tests.

python tests/support/fuzz/run.py --frames 10000000     as many frames, from a seed
python tests/support/fuzz/run.py --minutes 60          so long, and beside it the Hypothesis tests with random examples

All is run in processes of their own, compiled and bounds-checked in turns, so that a crash is found as a broken law is.
What fails is written to a file, made smaller, and printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS))
os.environ.setdefault("TRAFFICREFINERY_CACHE_DIR", str(TESTS.parent / ".cache" / "tests"))

import numpy as np  # noqa: E402

ROUND_FRAMES, ROUND_FILES, ROUNDS_OF_A_CHILD = 100_000, 100, 8
HANG_S = 900
CONTAINERS = "containers"
_SHRINKING_RUNS = 40


class Round(NamedTuple):
    """What a child is to do."""

    scenario: str
    seed: int
    frames: int


class Failure(NamedTuple):
    """What became of a round, and what the child said last."""

    round: Round
    text: str


def rounds(seed: int, frames: int) -> Iterator[Round]:
    """All scenarios in turns, for ever; every third time mixed frames without a limit, as most laws hold of those."""
    from support.fuzz.laws import SCENARIOS

    order = [name for other in (CONTAINERS, *list(SCENARIOS)[1:]) for name in (other, "mixed")]
    number = 0
    while True:
        yield Round(order[number % len(order)], seed + number, frames)
        number += 1


def work(one: Round, folder: Path) -> int:
    """Do a round in this process; the number of frames."""
    from support.fuzz import containers, laws

    rng = np.random.default_rng(one.seed)
    if one.scenario == CONTAINERS:
        return containers.obey(rng, max(1, ROUND_FILES * one.frames // ROUND_FRAMES), folder)
    frames = laws.SCENARIOS[one.scenario].make(rng, one.frames)
    laws.obey(one.scenario, frames, one.seed)
    return len(frames.table)


def child(seed: int, first: int, frames: int, folder: Path) -> None:
    """Some rounds from number `first` on: each is named before it begins and counted when it is over."""
    for one in itertools.islice(rounds(seed, frames), first, first + ROUNDS_OF_A_CHILD):
        print("begin", *one, flush=True)  # noqa: T201
        print("done", work(one, folder), flush=True)  # noqa: T201


def start(mode: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__)), *map(str, arguments)]
    environment = {**os.environ, "TRAFFICREFINERY_JIT": mode, "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Watch:
    """The lines of a child, until it ends or says nothing for too long."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self._lines = process, queue.Queue[str | None]()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def lines(self, until: float) -> Iterator[str]:
        """As long as there is time."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, min(HANG_S, until - time.monotonic())))
            except queue.Empty:
                end(self.process)
                if time.monotonic() < until:
                    yield f"nothing was heard for {HANG_S} s"
                return
            if line is None:
                self.process.wait()
                return
            yield line


def run_child(mode: str, arguments: tuple[object, ...], until: float, limit: int) -> tuple[int, Failure | None, int]:
    """(frames, what failed, rounds) of a child; it is ended after `limit` frames."""
    watch = Watch(start(mode, *arguments))
    current, heard, frames, done = Round("none", 0, 0), list[str](), 0, 0
    try:
        for line in watch.lines(until):
            word, *rest = line.split(" ")
            if word == "begin":
                current, heard = Round(rest[0], int(rest[1]), int(rest[2])), []
            elif word == "done":
                frames, done = frames + int(rest[0]), done + 1
                if frames >= limit:
                    return frames, None, done
            else:
                heard.append(line)
    finally:
        end(watch.process)
    if watch.process.returncode == 0 or time.monotonic() >= until:
        return frames, None, done
    status = watch.process.returncode
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return frames, Failure(current, "\n".join([*heard[-30:], how])), done


def fails(mode: str, path: Path, one: Round) -> bool:
    """Whether the frames of a file break a law, or the process."""
    process = start(mode, "--input", path, "--scenario", one.scenario, "--seed", one.seed)
    try:
        process.communicate(timeout=HANG_S)
    finally:
        end(process)
    return process.returncode != 0


def report(mode: str, failure: Failure, keep: Path) -> str:
    """Write down what failed; how to repeat it, as text."""
    one = failure.round
    here = f"TRAFFICREFINERY_JIT={mode} {sys.executable} {Path(__file__)}"
    if one.scenario in (CONTAINERS, "none"):
        return (
            f"{failure.text}\nthe files are in {keep}\nrepeat: {here} --scenario {one.scenario} --seed {one.seed} "
            f"--size {one.frames}"
        )
    from support.fuzz import laws

    frames = laws.SCENARIOS[one.scenario].make(np.random.default_rng(one.seed), one.frames)
    path = keep / f"{one.scenario}-{one.seed}.npz"
    write(path, frames)
    if fails(mode, path, one):
        shrink(mode, path, one)
    return f"{failure.text}\nthe frames are in {path}\nrepeat: {here} --input {path} --scenario {one.scenario} --seed {one.seed}"


def shrink(mode: str, path: Path, one: Round) -> None:
    """Leave parts of the frames out as long as it fails without them."""
    trial = path.with_name("smaller.npz")
    pieces, runs = 2, 0
    while runs < _SHRINKING_RUNS:
        frames = read(path)
        count, smaller = len(frames.table), False
        for part in range(pieces):
            if runs == _SHRINKING_RUNS or count < pieces:
                break
            keep = np.ones(count, bool)
            keep[part * count // pieces : (part + 1) * count // pieces] = False
            write(trial, frames.chosen(keep))
            runs += 1
            if fails(mode, trial, one):
                trial.replace(path)
                smaller = True
                break
        if not smaller:
            if pieces >= count:
                break
            pieces *= 2
    trial.unlink(missing_ok=True)


def write(path: Path, frames: object) -> None:
    from support.fuzz.frames import packed

    whole = packed(frames)  # type: ignore[arg-type]
    np.savez_compressed(path, buffer=whole.buffer, table=np.asarray(whole.table))


def read(path: Path):
    from support.fuzz.frames import Frames
    from trafficrefinery.jit import records

    with np.load(path) as kept:
        return Frames(kept["buffer"], records(kept["table"]))


def search(seed: int, frames: int, until: float, modes: list[str], keep: Path) -> int:
    """Rounds until there were so many frames, or the time is up; the number of failures."""
    count = dict.fromkeys(modes, 0)
    first = turn = 0
    keep.mkdir(parents=True, exist_ok=True)
    size = max(200, min(ROUND_FRAMES, frames // len(modes) // 8))
    while sum(count.values()) < frames and time.monotonic() < until:
        mode = modes[turn % len(modes)]
        arguments = ("--child", "--seed", seed, "--first", first, "--size", size, "--keep", keep)
        done, failure, made = run_child(mode, arguments, until, frames - sum(count.values()))
        count[mode] += done
        if failure is not None:
            sys.stdout.write(
                f"FAILED after {sum(count.values()):,} frames: {failure.round}\n{report(mode, failure, keep)}\n"
            )
            return 1
        first, turn = first + max(made, 1), turn + 1
        sys.stdout.write(f"{count} frames, rounds up to {first}\n")
        sys.stdout.flush()
    return 0


def hypothesis(until: float) -> int:
    """The Hypothesis tests with random examples, again and again; whether one failed."""
    while time.monotonic() < until:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n0",
            "-m",
            "hypothesis",
            "-p",
            "no:cacheprovider",
            str(TESTS),
        ]
        environment = {**os.environ, "HYPOTHESIS_PROFILE": "fuzz", "CI": ""}
        process = subprocess.Popen(
            command, env=environment, text=True, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return 0
        finally:
            end(process)
        if process.returncode:
            sys.stdout.write(out)
            return 1
        sys.stdout.write(f"{out.splitlines()[-1]}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=0, help="stop after so many")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; Hypothesis tests run beside it")
    parser.add_argument(
        "--seed", type=int, help="of the first round; by default one that was not used before, with --frames 1"
    )
    parser.add_argument(
        "--mode", action="append", choices=["on", "boundscheck", "off"], help="default: on, boundscheck"
    )
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "trafficrefinery-fuzz",
                        help="folder for what fails")  # fmt: skip
    parser.add_argument("--scenario", help="one round of this kind")
    parser.add_argument("--input", type=Path, help="the frames of that round, from a file")
    parser.add_argument("--size", type=int, default=ROUND_FRAMES, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        child(told.seed, told.first, told.size, told.keep)
        return 0
    if told.input is not None:
        from support.fuzz import laws

        laws.obey(told.scenario, read(told.input), told.seed or 0)
        return 0
    if told.scenario is not None:
        told.keep.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(f"{work(Round(told.scenario, told.seed or 0, told.size), told.keep)} frames\n")
        return 0
    modes = told.mode or ["on", "boundscheck"]
    minutes = told.minutes or (0.0 if told.frames else 10.0)
    until = time.monotonic() + (minutes * 60 or 10**9)
    seed = told.seed if told.seed is not None else (1 if told.frames else int(time.time()) << 16)
    sys.stdout.write(f"seed {seed}\n")
    beside: list[int] = []
    other = threading.Thread(target=lambda: beside.append(hypothesis(until)))
    if minutes:
        other.start()
    failed = search(seed, told.frames or 10**15, until, modes, told.keep)
    if minutes:
        other.join()
    return failed or sum(beside)


if __name__ == "__main__":
    sys.exit(main())
