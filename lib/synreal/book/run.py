"""Runs of notebooks: the run folder with what is needed to run again, and papermill under strict checks."""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from synreal.book.parameters import (
    DEFAULT,
    book_notebooks,
    read_notebook,
    read_parameters,
    read_profile,
    resolve,
    unknown,
)
from synreal.cache import damaged, file_hash, file_hashes, read_record, write_text
from synreal.errors import InputError
from synreal.paths import located, repository_root, zoo_dir
from synreal.strict_yaml import dump_yaml, read_yaml

ZOO_FILES = {".yaml", ".json", ".safetensors", ".parquet"}  # what ships there, not what is made from it


def describe_environment() -> dict[str, Any]:
    """Python, system, processor, cores, torch threads and devices, and the version of each locked package."""
    import torch  # a second or two: only a run pays it

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Version of each installed package of the lock; of every installed one where there is no lock."""
    installed = {_canonical(d.name): d.version for d in importlib.metadata.distributions() if d.name}
    lock = repository_root() / "requirements.lock"
    names = locked_versions(lock).keys() if lock.exists() else installed.keys()
    return {name: installed[name] for name in sorted(names) if name in installed}


def locked_versions(lock: Path) -> dict[str, str]:
    """Version by canonical package name, from a lock file."""
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", lock.read_text(), flags=re.MULTILINE)
    return {_canonical(name): version for name, version in pinned}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    )
    return found.group(1) if found else platform.processor() or platform.machine()


def git_state() -> dict[str, Any]:
    """The checked-out revision and whether files differ from it; both None outside a git checkout."""
    revision = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=repository_root(), capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def source_hashes(notebook: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of all that a notebook's result depends on besides its parameters' `values`.

    These are its cells (not their outputs), the library, the zoo, and the files that parameters name.
    """
    package = Path(__file__).resolve().parents[1]
    library = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {
        "notebook": _hash_cells(notebook),
        "library": _hash_files(library, package),
        "zoo": _hash_files((p for p in zoo_dir().rglob("*") if p.suffix in ZOO_FILES), zoo_dir()),
        "inputs": _hash_inputs(_named_files(values)),
    }


def _named_files(value: Any) -> Iterator[Path]:
    """The files of each place outside the zoo that a parameter names, alone or as in `imagenet1k:folder`."""
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _named_files(part)
    elif isinstance(value, str):
        texts = {os.path.expandvars(text) for text in (value, value.partition(":")[2]) if text}
        for place in (Path(located(text)) for text in texts if "$" not in text):
            if zoo_dir() not in place.absolute().parents:
                yield from place.rglob("*") if place.is_dir() else [place]


def _hash_inputs(paths: Iterable[Path]) -> str:
    files = sorted({path for path in paths if path.is_file()})
    lines = [f"{path} {digest}" for path, digest in zip(files, file_hashes(files), strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _hash_cells(notebook: Path) -> str:
    cells = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in read_notebook(notebook).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _hash_files(paths: Iterable[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(base).as_posix()}\0".encode())
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


# A run on disk. Nothing overwrites another run, and a run killed at any moment goes on where it stopped.
#
#     run.json                     when it was made, profile, machine and package versions, git revision
#     parameters/<notebook>.yaml   every parameter's value, written before the notebook starts
#     partial/<notebook>.ipynb     the notebook while it executes, and after a cell failed
#     notebooks/<notebook>.ipynb   the executed notebook: only complete ones
#     results/<notebook>.jsonl     measurements, written by `Study`, which starts the file anew when it opens
#     results.jsonl                all of them together
#     finished/<notebook>.json     written last: parameters, seeds, source hashes, git revision, seconds
#
# A notebook is finished when its record in finished/ exists and names the current parameters and sources.


Values = Mapping[str, Any]


def default_run_path(profile: str) -> Path:
    """`_build/runs/<profile>-<time>`, the time in UTC; a counter follows when two runs share a second."""
    stem = f"{Path(profile).stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    runs = repository_root() / "_build" / "runs"
    paths = (runs / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))
    return next(path for path in paths if not path.exists())


def _earlier(path: Path) -> dict[str, Any]:
    """The parameters of an earlier run, from its file."""
    found = read_yaml(path, "parameters")
    if not isinstance(found, dict):
        raise damaged(path, f"holds {type(found).__name__}, not parameters")
    return found


class RunFolder:
    """The folder of one run, new or taken up again. Raises InputError when `path` is something else."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {path}: is a file; name a folder")
        # hidden files are the lock and half-written files: a run killed at once leaves nothing else
        strangers = [p.name for p in self.path.glob("[!.]*")]
        if strangers and not (self.path / "run.json").is_file():
            raise InputError(
                f"--out {path}: holds {strangers[0]!r} and no run.json, so it is not a run folder; "
                "name a new or empty folder"
            )

    def notebook(self, name: str) -> Path:
        """Where the executed notebook lies once it is complete."""
        return self.path / "notebooks" / f"{name}.ipynb"

    def partial(self, name: str) -> Path:
        """Where the notebook lies while it executes, and after it failed."""
        return self.path / "partial" / f"{name}.ipynb"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out. The system frees the lock however this process ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"--out {self.path}: another run is writing here; wait or name another"
                ) from error
            yield

    def check_configuration(self, configuration: Mapping[str, Values]) -> None:
        """Raises InputError naming the first parameter or package in which an earlier run here differs."""
        for name, values in configuration.items():
            path = self.path / "parameters" / f"{name}.yaml"
            earlier = _earlier(path) if path.exists() else values
            for key in sorted({*earlier, *values}):
                if earlier.get(key) != values.get(key):
                    raise InputError(
                        f"--out {self.path}: this run has {name} with {key} = {earlier.get(key)!r}, "
                        f"now it is {values.get(key)!r}; name another folder, or go back to the old value"
                    )
        packages = self.described().get("environment", {}).get("packages", {})
        for name, now in package_versions().items() if packages else ():
            if packages.get(name) != now:
                raise InputError(
                    f"--out {self.path}: this run began with {name} {packages.get(name)}, now it is {now}; "
                    "name another folder, or install what requirements.lock says"
                )
        profiles = {values["profile"] for values in configuration.values()}
        if self.described() and profiles != {self.described()["profile"]}:
            raise InputError(
                f"--out {self.path}: this run has profile {self.described()['profile']!r}, "
                f"now it is {profiles.pop()!r}; name another folder"
            )

    def described(self) -> dict[str, Any]:
        """The content of run.json; empty before the run begins."""
        path = self.path / "run.json"
        return read_record(path, ("profile", "environment", "git")) if path.exists() else {}

    def begin(self, profile: str, configuration: Mapping[str, Values]) -> None:
        """Writes run.json once, and each notebook's parameters."""
        if not self.described():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            about: dict[str, Any] = {"created": created, "profile": profile}
            about |= {"git": git_state(), "environment": describe_environment()}
            write_text(self.path / "run.json", json.dumps(about, indent=2))
        for name, values in configuration.items():
            write_text(self.path / "parameters" / f"{name}.yaml", dump_yaml(dict(values)))

    def finished(self, name: str) -> dict[str, Any] | None:
        """The record of a notebook that ended well, or None."""
        path = self.path / "finished" / f"{name}.json"
        if not (path.exists() and self.notebook(name).exists()):
            return None
        return read_record(path, ("parameters", "sources", "seconds"))

    def start(self, name: str) -> None:
        """Withdraws what an earlier attempt at the notebook left, its record first."""
        for path in (
            self.path / "finished" / f"{name}.json",
            self.path / "results" / f"{name}.jsonl",
            self.notebook(name),
            self.partial(name),
        ):
            path.unlink(missing_ok=True)
        for folder in ("partial", "notebooks", "results"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        self.collect_results()

    def finish(self, name: str, notebook: str, record: Mapping[str, Any]) -> None:
        """Moves the notebook (its JSON text) among the complete ones; the record is written last."""
        write_text(self.notebook(name), notebook)
        self.partial(name).unlink(missing_ok=True)
        self.collect_results()
        write_text(self.path / "finished" / f"{name}.json", json.dumps(record, indent=2))

    def fail(self, name: str) -> None:
        """Sets the failed notebook's measurements aside: the run's results are those of finished ones."""
        rows = self.path / "results" / f"{name}.jsonl"
        if rows.exists():
            rows.replace(self.partial(name).with_suffix(".jsonl"))

    def collect_results(self) -> None:
        """Writes results.jsonl from the notebooks' own files."""
        files = sorted((self.path / "results").glob("*.jsonl"))
        write_text(self.path / "results.jsonl", "".join(f.read_text(encoding="utf-8") for f in files))


# Executes notebooks into a run folder: a strict layer over papermill.
#
# Everything a user can get wrong is checked before the first cell runs. The kernel is always this
# interpreter, started in the repository root, with `SYNREAL_RUN_DIR` naming the run folder.


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
    folder.finish(notebook.stem, _as_stored(executed, notebook), record)


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


def _as_stored(executed: nbformat.NotebookNode, notebook: Path) -> str:
    """The notebook as JSON text, without what papermill and the kernel note in it and no page shows: folders,
    which name the user's machine, and the times of cells, which differ from run to run."""
    executed.metadata.papermill.update(input_path=notebook.name, output_path=notebook.name)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    return nbformat.writes(executed)
