"""Every notebook of the book runs at profile quick, and its stored outputs can be checked by nbval."""

import json
from pathlib import Path

import nbformat
import pytest

from synreal.book import runner
from synreal.book.record import read_results

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ holds no notebook: nothing below was tested"


@pytest.mark.notebook
@each
def test_runs_at_profile_quick(path, tmp_path):
    folder = runner.run([path], profile="quick", out=tmp_path / "run", progress=False)
    record = json.loads((folder / "finished" / f"{path.stem}.json").read_text())
    assert record["parameters"]["profile"] == "quick"
    rows = read_results(folder)
    assert len(rows) and set(rows["study"]) == {path.stem} and set(rows["profile"]) == {"quick"}


@each
def test_outputs_are_stored_in_order(path):
    """nbval never compares a cell without execution count, so a stripped notebook would pass in vain."""
    counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), f"run `make store`: {path.name} is not as executed"
    errors = [o for cell in code_cells(path) for o in cell.outputs if o.output_type == "error"]
    assert not errors


@each
def test_nbval_has_something_to_compare(path):
    checked = [cell for cell in code_cells(path) if "nbval-check-output" in tags(cell)]
    assert checked and all(cell.outputs for cell in checked)


@each
def test_stored_notebook_is_the_mini_profile_and_names_no_machine(path):
    assert not any("injected-parameters" in tags(cell) for cell in code_cells(path))
    assert "/site-packages/" not in path.read_text() and "SYNREAL_RUN_DIR" not in path.read_text()
