"""The pages of the book: a staged copy, its references, the API, the status page."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml

from synreal.book.claims import PHOTOS, ledger_page
from synreal.book.run import RunFolder
from synreal.book.study import published_environment, published_keys, read_notebook_results
from synreal.errors import InputError
from synreal.paths import repository_root

ABSENT = "not measured in this run"
INLINE = re.compile(r"\{glue:text\}`(?:/notebooks/(?P<doc>[^`:]+)\.ipynb::)?(?P<key>[^`]+?)(?::[^:`]*)?`")
BLOCK = re.compile(r"```\{glue\} (?P<key>.+)\n:doc: /notebooks/(?P<doc>.+)\.ipynb\n```")


def settle_references(stage: Path, stored: Path) -> None:
    """Rewrites the staged pages and notebooks where they refer to what the staged notebooks do not hold.

    stage: the folder of the book to render. stored: the folder of the notebooks as the repository has them.
    """
    absent = dict(_absent(stage / "notebooks", stored))
    if not any(absent.values()):
        return
    for page in (stage / "book").glob("*.md"):
        page.write_text(_settled(page.read_text(), "", absent))
    for path in (stage / "notebooks").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _settled(cell.source, _document(path, stage / "notebooks"), absent)
        nbformat.write(notebook, path)


def _document(path: Path, notebooks: Path) -> str:
    """What pages call a notebook: 05_mixed, or photos/05_mixed."""
    return str(path.relative_to(notebooks).with_suffix(""))


def _absent(staged: Path, stored: Path) -> Iterator[tuple[str, set[str]]]:
    for path in staged.rglob("*.ipynb"):
        if (original := stored / path.relative_to(staged)).exists():
            yield _document(path, staged), published_keys(original) - published_keys(path)


def _settled(text: str, own: str, absent: dict[str, set[str]]) -> str:
    def replace(match: re.Match[str]) -> str:
        return ABSENT if match["key"] in absent.get(match["doc"] or own, ()) else match[0]

    return BLOCK.sub(replace, INLINE.sub(replace, text))


# The API page, written from the sources without importing them: fast, and no machine needs the libraries.
#
# Docstrings of this project are Markdown and are inserted as such.


Documented = ast.FunctionDef | ast.ClassDef


def api_page(package: Path) -> str:
    """Markdown: each module of the package with its public functions and classes, as their docstrings say."""
    modules = [p for p in sorted(package.rglob("*.py")) if not p.name.startswith("_")]
    return "\n\n".join(_module(path, _dotted(path, package)) for path in modules) + "\n"


def _dotted(path: Path, package: Path) -> str:
    return ".".join((package.name, *path.relative_to(package).with_suffix("").parts))


def _module(path: Path, name: str) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [f"## `{name}`", _docstring(tree)]
    parts += [_entry(node, level="###") for node in _public(tree)]
    return "\n\n".join(part for part in parts if part)


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[Documented]:
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


def _entry(node: Documented, level: str) -> str:
    parts = [f"{level} `{node.name}`", f"```python\n{_signature(node)}\n```", _docstring(node)]
    if isinstance(node, ast.ClassDef):
        parts += [_entry(method, level + "#") for method in _public(node)]
    return "\n\n".join(parts)


def _signature(node: Documented) -> str:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returns}"
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
    init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    arguments = ast.unparse(init[0].args).removeprefix("self").removeprefix(", ") if init else ""
    return "\n".join([f"class {node.name}({arguments})", *(f"    {field}" for field in fields)])


def _docstring(node: ast.Module | Documented) -> str:
    """The docstring with everything outside `code` that Markdown would take for markup made plain."""
    text = ast.get_docstring(node) or ""
    pieces = re.split(r"(\{[\w:]+\}`[^`]*`|``.+?``|`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else _plain(piece) for piece in pieces)


def _plain(text: str) -> str:
    for sign, entity in {"<": "&lt;", "{": "&#123;", "$": "&#36;", "*": "&#42;"}.items():
        text = text.replace(sign, entity)
    return text


# Renders the book: stages pages and executed notebooks together, generates three pages, runs Jupyter Book.
#
# Nothing is executed here. A build with a warning is a failed build.


STORED = """:::{note}
This chapter was not executed in this run. It shows the outputs stored in the repository, and the ledger of
this book counts none of its measurements.
:::"""
STORED_PHOTOS = """:::{note}
This chapter was not executed in this run: it needs photographs, which the book does not hold. It shows the
outputs stored in the repository, on which the ledger judges it under "On photographs".
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
    _generate(stage / "book" / "ledger.md", ledger_page(_results(executed, notebooks, stage)))
    _generate(stage / "book" / "status.md", status_page(notebooks))
    _generate(stage / "book" / "api.md", api_page(Path(__file__).resolve().parents[1]))


def _executed(run: Path) -> dict[Path, Path]:
    """The notebooks that the run finished, by their place in the book."""
    folder = RunFolder(run)
    executed = sorted((run / "notebooks").glob("*.ipynb"))
    finished = {_place(path): path for path in executed if folder.finished(path.stem) is not None}
    if not finished:
        raise InputError(f"--run {run}: holds no executed notebook; name a folder that `synreal run` wrote")
    return finished


def _place(executed: Path) -> Path:
    """Where the book shows an executed notebook: those on photographs stand beside those on scenes."""
    on_photos = published_environment(executed).get("profile") == PHOTOS
    return Path("notebooks", PHOTOS if on_photos else "", executed.name)


def _results(executed: dict[Path, Path], notebooks: list[Path], stage: Path) -> pd.DataFrame:
    """What the finished notebooks of a run measured, and without a run, what the stored ones did.

    Those on photographs count as stored where the run has none of them.
    """
    counted = [
        path
        for path in notebooks
        if not executed or path.relative_to(stage) in executed or path.parent.name == PHOTOS
    ]
    return read_notebook_results(counted)


def _stage_notebooks(executed: dict[Path, Path], toc: dict[str, Any], stage: Path) -> list[Path]:
    """The staged notebooks, chapters of `toc` first; notebooks of the run that are no chapter join `toc`."""
    chapters = [Path(f"{name}.ipynb") for name in _files(toc) if name.startswith("notebooks/")]
    others = [place for place in executed if place not in chapters]
    for place in (*chapters, *others):
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
    for chapter in chapters:
        _stage_chapter(chapter, executed.get(chapter), bool(executed), stage)
    for place in others:
        shutil.copy(executed[place], stage / place)
    if others:
        files = [{"file": str(place.with_suffix(""))} for place in others]
        toc["parts"].append({"caption": "Also in this run", "chapters": files})
    return [stage / place for place in (*chapters, *others)]


def _stage_chapter(chapter: Path, executed: Path | None, of_a_run: bool, stage: Path) -> None:
    source = executed or repository_root() / chapter
    if not source.exists():
        raise InputError(f"{source}: _toc.yml names this chapter, but there is no such notebook")
    notebook = nbformat.read(source, as_version=4)
    if of_a_run and not executed:
        note = STORED_PHOTOS if chapter.parent.name == PHOTOS else STORED
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note))
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


def status_page(notebooks: list[Path]) -> str:
    """Markdown from executed notebooks: a row for each, then machine and versions for all that share them."""
    head = ["| notebook | profile | executed (UTC) | minutes | parameters changed |", "|---|---|---|---|---|"]
    rows = [_row(path) for path in notebooks]
    kept = {_called(path): published_environment(path) for path in notebooks}
    groups: dict[str, list[str]] = {}
    for name, found in kept.items():
        groups.setdefault(json.dumps(found, sort_keys=True), []).append(name)
    machines = [_machine(names, json.loads(found)) for found, names in groups.items()]
    return "\n\n".join(["\n".join(head + rows), "## Machine and versions", *machines]) + "\n"


def _row(path: Path) -> str:
    about = nbformat.read(path, as_version=4).metadata.get("papermill", {})
    changed = ", ".join(f"`{k} = {v!r}`" for k, v in about.get("parameters", {}).items()) or "none"
    seconds, end = about.get("duration"), str(about.get("end_time") or "not recorded")
    took = "not recorded" if seconds is None else f"{seconds / 60:.1f}"
    profile = published_environment(path).get("profile", "not recorded")
    return f"| {_called(path)} | {profile} | {end[:16].replace('T', ' ')} | {took} | {changed} |"


def _called(path: Path) -> str:
    return f"{PHOTOS}/{path.stem}" if path.parent.name == PHOTOS else path.stem


def _machine(names: list[str], found: dict[str, Any]) -> str:
    title = f"### {', '.join(names)}"
    if "cpu" not in found:
        return f"{title}\n\nNot recorded: executed outside `synreal run`, for example in Jupyter."
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    revision = found["revision"] or "not under version control"
    changed = " with uncommitted changes" if found["dirty"] else ""
    gpus = ", ".join(found["gpus"]) or "none"
    lines = [
        f"Processor: {found['cpu']}, {found['cores']} cores; GPU: {gpus}",
        f"System: {found['system']}; Python {found['python']}",
        f"Packages: {versions}",
        f"Revision of this book: {revision}{changed}",
    ]
    return f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)
