"""Renders the book: stages pages and executed notebooks together, generates three pages, runs Jupyter Book.

Nothing is executed here. A build with a warning is a failed build.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml

from synreal.book.api import api_page
from synreal.book.ledger import ledger_page
from synreal.book.record import read_notebook_results
from synreal.book.references import settle_references
from synreal.book.run_folder import RunFolder
from synreal.book.status import status_page
from synreal.errors import InputError
from synreal.paths import repository_root

STORED = """:::{note}
This chapter was not executed in this run. It shows the outputs stored in the repository, and the ledger of
this book counts none of its measurements.
:::"""


def render(run: Path | None, out: Path) -> Path:
    """The path of index.html, after the pages were written to `out` (replaced when it holds an earlier book).

    run: folder of the run to show; None shows the outputs stored in the repository's notebooks. A notebook
    that the run did not execute is shown as stored and says so. Raises InputError when `run` holds no
    executed notebook, when `out` is something else than a book, or when a page has a broken reference.
    """
    _check_target(out)
    build = repository_root() / "_build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stage-", dir=build) as folder:
        stage = Path(folder) / "book"
        _stage(run, stage)
        pages = _build(stage, Path(folder))
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(pages, out)
    return out / "index.html"


def _check_target(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        raise InputError(f"--out {out}: holds files that are no book; name a new or empty folder")


def _stage(run: Path | None, stage: Path) -> None:
    root, executed = repository_root(), _executed(run) if run else {}
    shutil.copytree(root / "book", stage / "book")
    shutil.copy(root / "_config.yml", stage)
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    notebooks = _stage_notebooks(executed, toc, stage)
    settle_references(stage, root / "notebooks")
    (stage / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
    _generate(stage / "book" / "ledger.md", ledger_page(_results(executed, notebooks)))
    _generate(stage / "book" / "status.md", status_page(notebooks))
    _generate(stage / "book" / "api.md", api_page(Path(__file__).resolve().parents[1]))


def _executed(run: Path) -> dict[str, Path]:
    """The notebooks that the run finished, by file name."""
    folder = RunFolder(run)
    executed = {path.name: path for path in sorted((run / "notebooks").glob("*.ipynb"))}
    finished = {name: path for name, path in executed.items() if folder.finished(path.stem) is not None}
    if not finished:
        raise InputError(f"--run {run}: holds no executed notebook; name a folder that `synreal run` wrote")
    return finished


def _results(executed: dict[str, Path], notebooks: list[Path]) -> pd.DataFrame:
    """What the finished notebooks of a run measured; without a run, what the stored ones did."""
    return read_notebook_results(list(executed.values()) or notebooks)


def _stage_notebooks(executed: dict[str, Path], toc: dict[str, Any], stage: Path) -> list[Path]:
    """The staged notebooks, chapters of `toc` first; notebooks of the run that are no chapter join `toc`."""
    chapters = [Path(f"{name}.ipynb") for name in _files(toc) if name.startswith("notebooks/")]
    others = [name for name in executed if name not in {chapter.name for chapter in chapters}]
    (stage / "notebooks").mkdir()
    for chapter in chapters:
        _stage_chapter(chapter, executed.get(chapter.name), bool(executed), stage)
    for name in others:
        shutil.copy(executed[name], stage / "notebooks" / name)
    if others:
        files = [{"file": f"notebooks/{Path(name).stem}"} for name in others]
        toc["parts"].append({"caption": "Also in this run", "chapters": files})
    return [stage / chapter for chapter in chapters] + [stage / "notebooks" / name for name in others]


def _stage_chapter(chapter: Path, executed: Path | None, of_a_run: bool, stage: Path) -> None:
    source = executed or repository_root() / chapter
    if not source.exists():
        raise InputError(f"{source}: _toc.yml names this chapter, but there is no such notebook")
    notebook = nbformat.read(source, as_version=4)
    if of_a_run and not executed:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(STORED))
    nbformat.write(notebook, stage / chapter)


def _files(toc: Any) -> list[str]:
    """Every `file:` of a table of contents, in order."""
    if isinstance(toc, list):
        return [name for entry in toc for name in _files(entry)]
    if not isinstance(toc, dict):
        return []
    return [name for k, v in toc.items() for name in ([v] if k == "file" else _files(v))]


def _generate(page: Path, content: str) -> None:
    """Puts generated content where the page says `<!-- generated -->`."""
    before, mark, after = page.read_text().partition("<!-- generated -->\n")
    if not mark:
        raise InputError(f"{page.name}: has no line <!-- generated -->; put it where the content belongs")
    page.write_text(before + content + after)


def _build(stage: Path, folder: Path) -> Path:
    command = ["build", str(stage), "--path-output", str(folder), "-W", "--keep-going"]
    program = "from jupyter_book.cli.main import main; main()"  # this interpreter's, whatever PATH says
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)  # without colours
        output = plain.replace(f"{stage}/", "").splitlines()
        problems = [line for line in output if "WARNING" in line or "ERROR" in line] or output[-20:]
        raise InputError("the book does not render without warnings:\n" + "\n".join(problems))
    return folder / "_build" / "html"
