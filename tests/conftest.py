"""Fixtures of all tests: where the traces are, which tools there are, and how Hypothesis runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

# Set before the package is imported. Shared by all workers and runs: directories in it are named by the sources.
os.environ.setdefault("TRAFFICREFINERY_CACHE_DIR", str(ROOT / ".cache" / "tests"))

# A first example may compile for seconds, so no deadline. The examples of a test follow from its source, the same on every
# machine: what random search finds (`make fuzz`, profile "fuzz") becomes an explicit one, or a failure could not be seen
# again. Only there is a directory of examples read and written.
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "fuzz", deadline=None, derandomize=False, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden records of the sample anew")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout: for what is not in the wheel (samples, documents)."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded traces with ground truth, which are not part of the project."""
    folder = Path(os.environ.get("TRAFFICREFINERY_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no traces with ground truth: TRAFFICREFINERY_DATA names no folder, and ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs that were read wrongly once, with the right values in a README; not part of the project."""
    folder = Path(os.environ.get("TRAFFICREFINERY_CASES") or ROOT.parent / "shared" / "cases")
    if not folder.is_dir():
        pytest.skip("no small inputs: TRAFFICREFINERY_CASES names no folder, and ../shared/cases is absent")
    return folder


@pytest.fixture(scope="session")
def sample_trace() -> Path:
    """The trace of `make demo`."""
    return ROOT / "samples" / "video.pcap.zst"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder with room for 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted by root only")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"nothing may be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of Chromium, which shows the pages of reports."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    return path or pytest.skip("chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def tshark() -> str:
    """The path of tshark, the peer whose reading of a trace ours is compared with."""
    path = shutil.which("tshark")
    if path is None:
        reason = "tshark is not installed (Debian: apt-get install tshark)"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return path
