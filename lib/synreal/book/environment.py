"""What a result depends on besides its parameters: machine, libraries, code, weights."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synreal.book.parameters import read_notebook
from synreal.paths import located, repository_root, zoo_dir

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

    These are its cells (not their outputs), the library, the zoo, and the files that parameters name, of
    which path, size and time of change count.
    """
    package = Path(__file__).resolve().parents[1]
    library = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {
        "notebook": _hash_cells(notebook),
        "library": _hash_files(library, package),
        "zoo": _hash_files((p for p in zoo_dir().rglob("*") if p.suffix in ZOO_FILES), zoo_dir()),
        "inputs": _hash_stamps(_named_files(values)),
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


def _hash_stamps(paths: Iterable[Path]) -> str:
    stamps = sorted(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths if p.is_file())
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def _hash_cells(notebook: Path) -> str:
    cells = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in read_notebook(notebook).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _hash_files(paths: Iterable[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(base).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
