"""Every notebook of the book runs at profile quick, and its stored outputs can be checked by nbval."""

import json
from pathlib import Path

import nbformat
import pytest
import yaml
from PIL import Image

from synreal.book import run
from synreal.book.study import read_notebook_results, read_results
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.paths import zoo_dir

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ON_PHOTOS = sorted((Path(__file__).resolve().parents[1] / "notebooks" / "photos").glob("*.ipynb"))
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
    folder = run.run([path], profile="quick", out=tmp_path / "run", progress=False)
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


@pytest.mark.parametrize("path", ON_PHOTOS, ids=lambda path: path.stem)
def test_a_chapter_on_photographs_is_the_one_of_the_book(path):
    """The same cells, executed with the values of profile photos."""
    original = next(chapter for chapter in NOTEBOOKS if chapter.name == path.name)
    sources = [
        [
            cell.source
            for cell in nbformat.read(file, as_version=4).cells
            if "injected-parameters" not in tags(cell)
        ]
        for file in (original, path)
    ]
    assert sources[0] == sources[1], f"run `make photos`: {path.name} has other cells than notebooks/"
    counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    rows = read_notebook_results([path])
    assert len(rows) and set(rows["profile"]) == {"photos"} and set(rows["study"]) == {path.stem}
    assert not any(text in path.read_text() for text in ("/site-packages/", "SYNREAL_RUN_DIR", "/tmp/"))


@pytest.mark.notebook
def test_classifiers_on_your_own_folder(tmp_path):
    """Any labelled folder, own coarse groups, any two cards: the rows are there, under their own names."""
    images, truth = scene_arrays("val", 120)
    for name, label, image in zip(truth["id"], truth["label"], images, strict=True):
        folder = tmp_path / "photos" / CLASS_NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
    groups = {"worn above": [0, 2, 3, 4, 6], "worn below": [1], "shoes": [5, 7, 9], "carried": [8]}
    named = {coarse: [CLASS_NAMES[c] for c in members] for coarse, members in groups.items()}
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump({"name": "my groups", "groups": named}))
    cards = [str(zoo_dir() / name / "card.yaml") for name in ("ViT-Real-12k", "ViT-Syn-12k")]
    given = [("test_set", str(tmp_path / "photos")), ("hierarchy", str(tmp_path / "groups.yaml"))]
    given += [("pairs", json.dumps({"mine": cards})), ("draws", "200")]
    notebook = next(path for path in NOTEBOOKS if path.stem == "02_classifiers")
    folder = run.run([notebook], profile="mini", given=given, out=tmp_path / "run", progress=False)
    rows = read_results(folder)
    mine = rows[rows["model"] == "mine"]
    assert set(mine["metric"]) == {"accuracy gap", "fine-grained accuracy gap"}
    assert set(mine["group"]) == {"all", "worn above", "shoes"}
    assert set(mine.loc[mine["metric"] == "accuracy gap", "n"]) == {120} and "factor" not in rows
