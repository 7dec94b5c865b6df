"""What is installed is whole: its data, its version, its command."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import trafficrefinery
import trafficrefinery_lab
from trafficrefinery.config.paths import configs_dir, features_dir

FOLDERS = {"features": (features_dir, "*.py"), "configs": (configs_dir, "*.json")}


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_carries_the_data_of_the_checkout(root, folder):
    installed_dir, pattern = FOLDERS[folder]
    assert names(installed_dir(), pattern) == names(root / folder, pattern) != []


def test_the_data_of_the_package_is_that_of_the_checkout_byte_for_byte(root):
    for folder, (installed_dir, pattern) in FOLDERS.items():
        for path in (root / folder).glob(pattern):
            assert (installed_dir() / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.skipif("PYTHONSAFEPATH" not in os.environ, reason="only `make test` tests the wheel")
def test_it_is_the_wheel_that_is_tested(root):
    assert Path(trafficrefinery.__file__).parent != root / "trafficrefinery"
    assert version("trafficrefinery") == trafficrefinery.__version__
    (command,) = entry_points(group="console_scripts", name="trafficrefinery")
    assert callable(command.load())


@pytest.mark.skipif("PYTHONSAFEPATH" not in os.environ, reason="only `make test` tests the wheels")
def test_it_is_the_wheel_of_the_lab_that_is_tested(root):
    assert root not in Path(trafficrefinery_lab.__file__).parents[:3]
    assert version("trafficrefinery-lab") == trafficrefinery_lab.__version__


def test_all_that_name_a_version_name_the_same(root):
    assert trafficrefinery_lab.__version__ == trafficrefinery.__version__
    assert f"\nversion: {trafficrefinery.__version__}\n" in (root / "CITATION.cff").read_text()
    needed = tomllib.loads((root / "lab" / "pyproject.toml").read_text())["project"]["dependencies"]
    (package,) = (one for one in map(Requirement, needed) if one.name == "trafficrefinery")
    assert package.specifier.contains(trafficrefinery.__version__, prereleases=True)
