"""The recipes for a link type and for a tunnel: with the files of the page and no other change, both are read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

import trafficrefinery
from support.recipes import recipe_files

ADDED = ("trafficrefinery/packets/", "tests/support/encapsulations/")
COPIED = ("tests/support", "tests/packets", "tests/capture")
USED = """
import numpy as np
from support.naive.blanked import TELLING_PORTS
from support.wrappings import RARE
from trafficrefinery.config import config_schema, parse_config
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.packets.blanking import BLANKED_PORTS
from trafficrefinery.packets.link_types import LINK_TYPES
from trafficrefinery.records.summary.counters import words_of

assert LINK_TYPES[242].name == "IP over InfiniBand"
assert "lisp_not_decapsulated" in COUNTERS
assert words_of("lisp_not_decapsulated").remedy == 'add "lisp" to Decapsulate'
assert 4341 in BLANKED_PORTS
assert TELLING_PORTS == set(BLANKED_PORTS)
key = config_schema()["properties"]["Decapsulate"]
assert "lisp" in key["items"]["pattern"]
assert "LISP (RFC 9300)" in key["description"]
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory, root):
    """A copy of the package and its tests with the files of the page, and how to run Python there."""
    folder = tmp_path_factory.mktemp("checkout")
    package = next(iter(trafficrefinery.__path__))
    shutil.copytree(package, folder / "trafficrefinery", ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "tests/conftest.py", folder / "tests")
    for name in ("pyproject.toml", "features", "samples"):
        (folder / name).symlink_to(root / name)
    blocks = [(title, text) for title, text in recipe_files().items() if title.startswith(ADDED)]
    assert len(blocks) == 4
    for title, text in blocks:
        assert not (folder / title).exists()
        (folder / title).write_text(text)

    def python(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "TRAFFICREFINERY_JIT": "off"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return python


def test_what_the_files_describe_is_in_the_configuration_the_counters_and_the_ports_that_are_hidden(stranger):
    stranger("-c", USED)


def test_the_suite_reads_both_as_its_naive_reading_does_and_so_do_the_programs_of_live_capture(stranger):
    tests = ("tests/packets/test_tunnels.py", "tests/packets/test_parser.py", "tests/capture/test_bpf_programs.py")
    said = stranger(
        "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", *tests, "-k", "lisp or infiniband or fit_into"
    )
    assert int(re.search(r"(\d+) passed", said)[1]) == 8, said
