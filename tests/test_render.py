"""Staging and the generated pages; the whole build is opened by test_browser.py."""

import json
from pathlib import Path

import nbformat
import pytest
import yaml

from synreal.book import render as rendering
from synreal.book.render import api_page, render, status_page
from synreal.book.study import HIDDEN, MEASUREMENTS, Measurement
from synreal.errors import InputError
from synreal.paths import repository_root


def executed(path: Path, environment: dict | None = None) -> Path:
    """A notebook as the runner leaves it."""
    outputs = []
    if environment:
        metadata = {"scrapbook": {"name": "environment", "mime_prefix": HIDDEN}, "environment": environment}
        outputs = [
            nbformat.v4.new_output("display_data", data={HIDDEN + "text/plain": "''"}, metadata=metadata)
        ]
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("1", outputs=outputs)]
    about = {"duration": 90.0, "end_time": "2026-01-02T03:04:05", "parameters": {"seed": 3}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"papermill": about}), path)
    return path


def finished(run: Path, name: str, keys: tuple[str, ...] = ()) -> Path:
    """A notebook that a run finished, with values glued under these keys."""
    path = executed(run / "notebooks" / f"{name}.ipynb")
    glue(path, keys)
    for record in (run / "run.json", run / "finished" / f"{name}.json"):
        record.parent.mkdir(exist_ok=True)
        fields = ("parameters", "sources", "seconds") if record.stem == name else ("environment", "git")
        record.write_text(json.dumps({field: {} for field in ("profile", *fields)}))
    return path


def glue(path: Path, keys: tuple[str, ...], text: str = "'three'") -> None:
    notebook = nbformat.read(path, as_version=4)
    for key in keys:
        metadata = {"scrapbook": {"name": key, "mime_prefix": HIDDEN}}
        data = {HIDDEN + "text/plain": text}
        notebook.cells[1].outputs.append(nbformat.v4.new_output("display_data", data, metadata=metadata))
    nbformat.write(notebook, path)


def test_a_folder_without_executed_notebooks_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no executed notebook"):
        render(tmp_path, tmp_path / "html")


def test_a_folder_that_is_no_book_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds files that are no book"):
        render(None, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of two chapters."""
    root = tmp_path / "repository"
    for name in ("a", "b"):
        executed(root / "notebooks" / f"{name}.ipynb")
    (root / "book").mkdir()
    for page in ("ledger", "status", "api"):
        (root / "book" / f"{page}.md").write_text("# Page\n\n<!-- generated -->\n")
    toc = {
        "format": "jb-book",
        "root": "book/ledger",
        "parts": [{"chapters": [{"file": "notebooks/a"}, {"file": "notebooks/b"}]}],
    }
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "_config.yml").write_text("title: t\n")
    monkeypatch.setattr(rendering, "repository_root", lambda: root)
    return root


def test_a_chapter_that_the_run_left_out_says_so(repository: Path, tmp_path: Path) -> None:
    finished(tmp_path / "run", "a")
    executed(tmp_path / "run" / "notebooks" / "b.ipynb")  # interrupted before its record was written
    rendering._stage(tmp_path / "run", tmp_path / "stage")
    staged = {path.stem: path.read_text() for path in (tmp_path / "stage" / "notebooks").iterdir()}
    assert "was not executed in this run" in staged["b"] and "was not executed" not in staged["a"]


def test_a_notebook_that_is_no_chapter_joins_the_contents(repository: Path, tmp_path: Path) -> None:
    finished(tmp_path / "run", "mine")
    rendering._stage(tmp_path / "run", tmp_path / "stage")
    toc = yaml.safe_load((tmp_path / "stage" / "_toc.yml").read_text())
    assert toc["parts"][-1] == {"caption": "Also in this run", "chapters": [{"file": "notebooks/mine"}]}


def test_a_chapter_on_photographs_stands_beside_the_one_on_scenes(repository: Path, tmp_path: Path) -> None:
    """Each has the outputs of the run at its own profile, and what a run lacks is shown as stored."""
    executed(repository / "notebooks" / "photos" / "a.ipynb", {"profile": "photos"})
    glue(repository / "notebooks" / "photos" / "a.ipynb", ("gap",))
    toc = yaml.safe_load((repository / "_toc.yml").read_text())
    toc["parts"].insert(0, {"caption": "Photographs", "chapters": [{"file": "notebooks/photos/a"}]})
    (repository / "_toc.yml").write_text(yaml.safe_dump(toc))
    (repository / "book" / "api.md").write_text(
        "{glue:text}`/notebooks/photos/a.ipynb::gap:.3f`\n\n<!-- generated -->\n"
    )
    finished(tmp_path / "run", "a")
    rendering._stage(tmp_path / "run", tmp_path / "mini")
    assert "it needs photographs" in (tmp_path / "mini" / "notebooks" / "photos" / "a.ipynb").read_text()
    assert "not executed" not in (tmp_path / "mini" / "notebooks" / "a.ipynb").read_text()
    assert "::gap:" in (tmp_path / "mini" / "book" / "api.md").read_text()
    assert "| photos/a | photos |" in (tmp_path / "mini" / "book" / "status.md").read_text()

    executed(finished(tmp_path / "other", "a"), {"profile": "photos"})
    rendering._stage(tmp_path / "other", tmp_path / "photos")
    assert "was not executed" in (tmp_path / "photos" / "notebooks" / "a.ipynb").read_text()
    assert "not executed" not in (tmp_path / "photos" / "notebooks" / "photos" / "a.ipynb").read_text()
    assert "not measured in this run" in (tmp_path / "photos" / "book" / "api.md").read_text()


def test_what_a_run_did_not_measure_is_said_in_words(repository: Path, tmp_path: Path) -> None:
    glue(repository / "notebooks" / "a.ipynb", ("gap", "gap.text", "figure", "mine"))
    (repository / "book" / "status.md").write_text(
        "# Page\n\n{glue:text}`/notebooks/a.ipynb::gap:.3f`, {glue:text}`/notebooks/a.ipynb::mine:s`,"
        " {glue:text}`/notebooks/a.ipynb::gapp:.3f`\n\n```{glue} figure\n:doc: /notebooks/a.ipynb\n```\n\n"
        "<!-- generated -->\n"
    )
    finished(tmp_path / "run", "a", ("mine",))
    rendering._stage(tmp_path / "run", tmp_path / "stage")
    page = (tmp_path / "stage" / "book" / "status.md").read_text()
    assert page.count("not measured in this run") == 2 and "figure" not in page
    assert "::mine:s`" in page and "::gapp:" in page  # a mistyped key stays, and stops the build


def test_the_ledger_is_judged_on_the_measurements_that_the_notebooks_hold(
    repository: Path, tmp_path: Path
) -> None:
    row = Measurement(
        study="02_classifiers", profile="mini", model="m", data="d", metric="accuracy gap", value=0.1, n=9,
        ci_low=0.05, ci_high=0.2, run="r", facets={"kind": "ViT", "basis": "equal data"},
    )  # fmt: skip
    glue(repository / "notebooks" / "b.ipynb", (MEASUREMENTS,), row.model_dump_json(exclude_defaults=True))
    rendering._stage(None, tmp_path / "stage")
    page = (tmp_path / "stage" / "book" / "ledger.md").read_text()
    assert "| {bdg-success}`holds` | 1 |" in page
    assert "accuracy gap of ViT, equal data > 0: 0.100 (95 % interval 0.050 to 0.200, n = 9)" in page


def test_a_chapter_without_a_notebook_is_named(repository: Path, tmp_path: Path) -> None:
    (repository / "notebooks" / "b.ipynb").unlink()
    with pytest.raises(InputError, match=r"b\.ipynb: _toc\.yml names this chapter"):
        rendering._stage(None, tmp_path / "stage")


def test_a_broken_reference_stops_the_build_and_is_shown(repository: Path, tmp_path: Path) -> None:
    (repository / "book" / "status.md").write_text("# Page\n\n{ref}`nowhere`\n\n<!-- generated -->\n")
    with pytest.raises(InputError, match=r"book/status\.md.*nowhere"):
        render(None, tmp_path / "html")
    assert not (tmp_path / "html").exists()


def test_the_status_page_says_when_how_long_and_where(tmp_path: Path) -> None:
    machine = {
        "cpu": "Chip 9",
        "cores": 2,
        "gpus": [],
        "system": "Linux",
        "python": "3.11",
        "revision": "abc",
    }
    environment = machine | {"dirty": True, "profile": "quick", "packages": {"numpy": "2.4"}}
    page = status_page([executed(tmp_path / "a.ipynb", environment), executed(tmp_path / "b.ipynb")])
    assert "| a | quick | 2026-01-02 03:04 | 1.5 | `seed = 3` |" in page
    assert "Processor: Chip 9, 2 cores; GPU: none" in page and "numpy 2.4" in page
    assert "Revision of this book: abc with uncommitted changes" in page
    assert "Not recorded: executed outside `synreal run`" in page


def test_the_library_page_shows_public_names_and_keeps_markup_plain(tmp_path: Path) -> None:
    source = (
        '"""Module."""\n\ndef shown(a: int = 1) -> str:\n    """Returns <b> for `a < b` and {ref}`x`."""\n\n'
    )
    source += 'def _hidden():\n    """No."""\n'
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "part.py").write_text(source)
    page = api_page(tmp_path / "package")
    assert "## `package.part`" in page and "shown(a: int=1) -> str" in page and "_hidden" not in page
    assert "Returns &lt;b> for `a < b` and &#123;ref}`x`." in page


def test_the_mathematics_library_ships_with_its_licence() -> None:
    folder = repository_root() / "book" / "_extra" / "mathjax"
    assert (folder / "tex-svg.js").stat().st_size > 1_000_000
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_public_pages_name_no_machine() -> None:
    for page in (repository_root() / "book").glob("*.md"):
        assert not {"/root", "/work", "/tmp", "localhost"} & set(json.dumps(page.read_text()).split()), (
            page.name
        )
