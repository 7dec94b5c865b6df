"""The worked notebook, executed as it is on the sample: from packets to what deploys a representation."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worked") / "samples"
    shutil.copytree(SAMPLES, folder)
    notebook = nbformat.read(folder / "worked.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=550, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.timeout(600)
def test_ten_cells_run_and_each_shows_something(executed):
    notebook, _ = executed
    cells = code_cells(notebook)
    assert len(cells) == 10
    assert all(cell.outputs for cell in cells[1:])


def test_the_front_and_a_session_are_pictures_and_the_deployed_configuration_is_there(executed):
    notebook, folder = executed
    for number in (6, 9):
        assert any("image/png" in output.get("data", {}) for output in code_cells(notebook)[number].outputs)
    assert (folder / "explored" / "deploy" / "config.json").exists()
