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

from synreal.book.claims import ledger_page
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
    for path in (stage / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _settled(cell.source, path.stem, absent)
        nbformat.write(notebook, path)


def _absent(staged: Path, stored: Path) -> Iterator[tuple[str, set[str]]]:
    for path in staged.glob("*.ipynb"):
        if (original := stored / path.name).exists():
            yield path.stem, published_keys(original) - published_keys(path)


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


def status_page(notebooks: list[Path]) -> str:
    """Markdown from executed notebooks: a row for each, then machine and versions for all that share them."""
    head = ["| notebook | profile | executed (UTC) | minutes | parameters changed |", "|---|---|---|---|---|"]
    rows = [_row(path) for path in notebooks]
    kept = {path.stem: published_environment(path) for path in notebooks}
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
    return f"| {path.stem} | {profile} | {end[:16].replace('T', ' ')} | {took} | {changed} |"


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
