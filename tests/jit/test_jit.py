"""Kernels and callbacks are the same functions in all modes, and compiled ones are found again by the next process."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from support import replay_runs as runs
from support import traces
from trafficrefinery.jit import COMPILED, call_at, callback, kernel, records

pytestmark = pytest.mark.modes

compiled_only = pytest.mark.skipif(not COMPILED, reason="nothing is compiled")


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


@kernel
def several(record, table, pair, whole, real, truth, hashed):
    record[0].n += whole
    table[1, 2] = real
    pair.right[:] = pair.left
    return len(table), record[0].n, truth, hashed


@kernel
def one(values):
    return values[1] + 0


@kernel
def nothing(values):
    values[0] = 7


@kernel
def owner(count):
    return np.ones(count).sum()


@callback("void(int64, float64)")
def refuse(step, number):
    for _ in range(0, 3, step):
        number += 1


@kernel
def call(address, step):
    call_at(address, (step, 0.5))
    return step


def test_kernels_take_arrays_numbers_and_tuples():
    record, table = records(np.zeros(1, [("n", "i8"), ("m", "f4")])), np.zeros((3, 4))
    pair = Pair(np.arange(5), np.zeros(5, np.int64))
    found = several(record, table, pair, 3, 2.5, True, np.uint64(2**64 - 1))
    assert found == (3, 3, True, 2**64 - 1)
    assert (record["n"][0], table[1, 2], table.sum(), pair.right.tolist()) == (3, 2.5, 2.5, [0, 1, 2, 3, 4])


def test_arrays_of_another_type_are_not_taken_for_the_first():
    assert [one(np.array([1, -2], kind)) for kind in (np.int64, np.int16, np.float32)] == [-2, -2, -2.0]
    assert one(np.array([[1, 2], [3, 4]]).T[0]) == 3
    frozen = np.zeros(2)
    nothing(frozen)
    assert frozen[0] == 7


def test_what_is_raised_at_an_address_reaches_python():
    assert call(refuse, 1) == 1
    with pytest.raises(ValueError, match="must not be zero"):
        call(refuse, 0)


@compiled_only
def test_a_kernel_refuses_what_it_cannot_be_given():
    with pytest.raises(TypeError, match="not str"):
        one("text")


@compiled_only
def test_code_that_needs_the_compiler_to_run_is_compiled_all_the_same():
    assert owner(5) == 5.0


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import kernels
print(kernels.answer(4), "numba" in sys.modules)
"""


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """A module with a kernel, in a process of its own."""
    monkeypatch.setenv("TRAFFICREFINERY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def run(expression: str) -> list[str]:
        path = tmp_path / "kernels.py"
        path.write_text(
            f"from trafficrefinery.jit import helper, kernel\n@helper\ndef inner(x):\n    return {expression}\n\n"
            "@kernel\ndef answer(x):\n    return inner(x)\n"
        )
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return run


@compiled_only
def test_the_next_process_needs_no_compiler_until_the_source_changes(answer, tmp_path):
    assert answer("x + 1") == ["5", "True"]
    assert answer("x + 1") == ["5", "False"]
    assert answer("x + 2") == ["6", "True"]
    for path in tmp_path.glob("cache/*/objects/*.o"):
        path.write_bytes(path.read_bytes()[:-1])
    assert answer("x + 2") == ["6", "True"]
    assert answer("x + 2") == ["6", "False"]


REPLAY = """
import sys
from trafficrefinery.cli import main
status = main._run(["replay", *sys.argv[1:], "--quiet"])
print(status, "numba" in sys.modules)
"""


@compiled_only
def test_a_second_replay_needs_no_compiler(tmp_path):
    trace, config = traces.write_trace(tmp_path / "trace.pcap", runs.frames()), runs.configuration(tmp_path)
    for _ in range(2):
        command = [sys.executable, "-c", REPLAY, trace, "-c", config, "-o", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["0", "False"]
