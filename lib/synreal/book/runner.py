"""Executes notebooks into a run folder: a strict layer over papermill.

Everything a user can get wrong is checked before the first cell runs. The kernel is always this interpreter,
started in the repository root, with `SYNREAL_RUN_DIR` naming the run folder.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from synreal.book.environment import git_state, source_hashes
from synreal.book.parameters import read_parameters, unknown
from synreal.book.profiles import DEFAULT, book_notebooks, read_profile, resolve
from synreal.book.run_folder import RunFolder, Values, default_run_path
from synreal.errors import InputError
from synreal.paths import repository_root

# Tags of the cells that papermill adds: they are not cells of the notebook, so they are not counted.
ADDED_CELLS = {"injected-parameters", "papermill-error-cell-tag"}


class ThisPython(AsyncKernelManager):
    """Starts kernels with the interpreter that runs synreal, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _encrypted_where_possible(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"  # else the kernel warns of plain text on each run


@dataclass
class CellFailed(Exception):
    """A notebook stopped; `str()` says where, why, and how to see it."""

    notebook: str
    cell: str  # "cell 3 of 12"
    source: str
    error: str
    partial: Path

    def __str__(self) -> str:
        lines = self.source.strip().splitlines()
        code = "\n".join(f"    {line}" for line in lines[:3] + ["..."] * (len(lines) > 3))
        return (
            f"{self.notebook}, {self.cell} failed:\n\n{code}\n\n{self.error}\n\n"
            f"The notebook up to there, with the traceback: {self.partial}\n"
            f"Open it: jupyter lab {self.partial}   (or any viewer of notebooks)\n"
            "Finished notebooks are kept; the same command with the same --out goes on from here."
        )


def find_notebooks(names: Sequence[str], everything: bool = False) -> list[Path]:
    """The notebooks of these names or paths, or all of the book. Raises InputError for an unknown one."""
    book = book_notebooks()
    if everything == bool(names):
        raise InputError("name the notebooks to run or say --all (one of the two); `synreal list` shows them")
    if everything and not book:
        raise InputError(f"{repository_root() / 'notebooks'}: holds no notebook; run inside a checkout")
    paths = list(book.values()) if everything else [_find(name, book) for name in names]
    stems = [path.stem for path in paths]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(f"notebook {stem!r} is named {stems.count(stem)} times; name it once")
    return paths


def _find(name: str, book: dict[str, Path]) -> Path:
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.absolute()
    if path.name.removesuffix(".ipynb") in book and path.parent in (Path(), Path("notebooks")):
        return book[path.name.removesuffix(".ipynb")]
    if path.suffix == ".ipynb":
        raise InputError(f"{name}: no such notebook; give a path to one, or a name from `synreal list`")
    raise unknown(name, book, "run", "notebook")


def run(
    notebooks: Sequence[Path],
    *,
    profile: str = DEFAULT,
    given: Sequence[tuple[str, str]] = (),
    out: Path | None = None,
    progress: bool = True,
) -> Path:
    """The run folder, after all notebooks are executed in it; those finished before are skipped.

    given: (parameter, text) pairs of the command line. out: default `_build/runs/<profile>-<time>`.
    Raises InputError before anything runs, CellFailed when a notebook stops; both lose nothing.
    """
    configuration = resolve(notebooks, profile, given)
    folder = RunFolder(out or default_run_path(profile))
    with folder.locked():
        folder.check_configuration(configuration)
        folder.begin(read_profile(profile)[0], configuration)
        for notebook in notebooks:
            _run_one(notebook, configuration[notebook.stem], folder, progress)
    return folder.path


def _run_one(notebook: Path, values: Values, folder: RunFolder, progress: bool) -> None:
    wanted = {"parameters": dict(values), "sources": source_hashes(notebook, values)}
    earlier = folder.finished(notebook.stem)
    if earlier and all(earlier[key] == value for key, value in wanted.items()):
        print(f"{notebook.stem}: finished before in {earlier['seconds']:.0f} s, kept", file=sys.stderr)
        return
    folder.start(notebook.stem)
    begun, clock = datetime.now(UTC), time.perf_counter()
    executed = _execute(notebook, values, folder, progress)
    record = wanted | {
        "notebook": notebook.stem,
        "seeds": {name: value for name, value in values.items() if "seed" in name},
        "git": git_state(),
        "started": begun.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 3),
        "cells": _cell_seconds(executed),
    }
    folder.finish(notebook.stem, _without_machine_paths(executed, notebook), record)


def _execute(notebook: Path, values: Values, folder: RunFolder, progress: bool) -> nbformat.NotebookNode:
    """The executed notebook. Only values that differ from the defaults are injected: no cell repeats them."""
    declared = read_parameters(notebook)
    changed = {name: value for name, value in values.items() if value != declared[name].default}
    logging.getLogger("papermill").setLevel(
        logging.ERROR
    )  # its own check misreads comments and warns in vain
    partial = folder.partial(notebook.stem)
    try:
        with _kernel_environment(folder.path):
            return papermill.execute_notebook(
                notebook,
                partial,
                parameters=changed,
                kernel_name="python3",
                language="python",
                cwd=repository_root(),
                start_timeout=600,  # a busy machine is slow; a kernel that dies is noticed at once
                progress_bar={"desc": notebook.stem, "disable": not progress},
                kernel_manager_class=ThisPython,
            )
    except (PapermillExecutionError, DeadKernelError) as error:
        folder.fail(notebook.stem)
        raise _failure(notebook.stem, partial, error) from error


@contextmanager
def _kernel_environment(path: Path) -> Iterator[None]:
    """What the kernel inherits: the run's folder, and no progress bars, which pages would show as text."""
    given = {"SYNREAL_RUN_DIR": str(path), "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _own_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if not ADDED_CELLS & set(cell.metadata.get("tags", []))]


def _failure(name: str, partial: Path, error: PapermillExecutionError | DeadKernelError) -> CellFailed:
    cells = _own_cells(nbformat.read(partial, as_version=4))
    started = [n for n, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    position = started[-1] if started else 0
    if isinstance(error, PapermillExecutionError):
        reason = f"{error.ename}: {error.evalue}"
    else:
        reason = "the kernel died; most often the memory is used up: choose smaller sizes or batches"
    where = f"cell {position + 1} of {len(cells)}"
    return CellFailed(name, where, cells[position].source, reason, partial)


def _cell_seconds(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    timed = enumerate(_own_cells(notebook), start=1)
    return [
        {"cell": number, "seconds": round(cell.metadata.papermill.duration or 0.0, 3)}
        for number, cell in timed
        if cell.cell_type == "code"
    ]


def _without_machine_paths(executed: nbformat.NotebookNode, notebook: Path) -> str:
    """The notebook as JSON text, without the folders papermill notes in it: they name the user's machine."""
    executed.metadata.papermill.update(input_path=notebook.name, output_path=notebook.name)
    return nbformat.writes(executed)
