"""What is expensive is computed once, written whole or not at all, by several processes side by side."""

import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from joblib import Memory, Parallel, delayed

from synreal.errors import InputError
from synreal.paths import cache_dir

LIMIT = "SYNREAL_WORKERS"
Result = TypeVar("Result")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A place beside `path` to write a file or a folder; it takes the name when the block ends well.

    A reader, or a kill, never sees half of it. The place is no other process's, on this machine or another
    that shares the file system: process numbers repeat between machines. What a failed block wrote goes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    partial = path.with_name(f".{path.stem}.{own}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes the whole text or nothing, and waits until the disk holds it."""
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_record(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object of a file that synreal wrote, which holds at least these keys.

    Raises InputError for one that was changed or cut, with what to delete.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise damaged(path, f"expected an object with {list(keys)}, found {found!s:.80}")
    return found


def damaged(path: Path, problem: str) -> InputError:
    """The error for a file that is no longer what synreal wrote."""
    return InputError(
        f"{path}: damaged ({problem}); delete this file, and what it stands for is computed again, or name "
        "another folder"
    )


@contextmanager
def only_here(folder: str | Path) -> Iterator[None]:
    """Keeps a second process of this machine from writing into `folder`; the system frees the lock however
    this process ends. Raises InputError when another is there."""
    name = hashlib.sha256(str(Path(folder).absolute()).encode()).hexdigest()[:32]
    locks = Path(tempfile.gettempdir()) / f"synreal-locks-{os.getuid()}"
    locks.mkdir(mode=0o700, exist_ok=True)
    with (locks / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"--out {folder}: another process is writing here; wait or name another"
            ) from error
        yield


def file_hash(file: Path) -> str:
    """sha256 of a file's content, in 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(files: Sequence[Path]) -> list[str]:
    """`file_hash` of each file. What was hashed before is remembered in the cache, as long as the file is
    the same: its size, times and place on the disk. The time of its last change cannot be set back, as the
    time of its content can, so that other content under the old name and time is seen.
    """
    keys = [(str(file.absolute()), _state(file)) for file in files]
    with _remembered() as memory:
        ask = "SELECT hash FROM hashes WHERE path = ? AND state = ?"
        known = [memory.execute(ask, key).fetchone() for key in keys]
    hashes = [row[0] if row else file_hash(file) for file, row in zip(files, known, strict=True)]
    fresh = [(*key, value) for key, value, row in zip(keys, hashes, known, strict=True) if row is None]
    with _remembered() as memory:
        memory.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", fresh)
    return hashes


@contextmanager
def _remembered() -> Iterator[sqlite3.Connection]:
    place = cache_dir() / "file-hashes.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(place, timeout=60)) as memory, memory:
        memory.execute("CREATE TABLE IF NOT EXISTS hashes (path PRIMARY KEY, state, hash)")
        yield memory


def _state(file: Path) -> str:
    stat = file.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"


def side_by_side(workers: int, **options: Any) -> Parallel:
    """joblib's Parallel of `workers` processes, or of as many as the variable `SYNREAL_WORKERS` allows.

    The variable is for several runs on one machine. One worker is the calling process itself, with all its
    threads. `options` are Parallel's own.
    Raises InputError when the variable is not a whole number of at least 1.
    """
    allowed = os.environ.get(LIMIT) or str(workers)
    if not allowed.isdecimal() or int(allowed) < 1:
        raise InputError(f"{LIMIT}: is {allowed!r}, expected a whole number of at least 1")
    return Parallel(n_jobs=min(workers, int(allowed)), **options)


def compute(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int = 1
) -> list[Result]:
    """`function(*job)` of each job, in their order, by `workers` processes (see `side_by_side`).

    With more than one asked for, every job computes on one thread, so that their number changes no result.
    On a machine with a GPU, which a forked process cannot use, they are fresh processes with all threads.
    """
    import torch  # seconds, which a command that computes nothing should not wait for

    if workers == 1 or torch.accelerator.is_available():
        return list(side_by_side(workers)(delayed(function)(*job) for job in jobs))
    # Forked, since importing torch and the rest costs a fresh process more than most jobs do.
    parallel = side_by_side(workers, backend="multiprocessing")
    return list(parallel(delayed(_on_one_thread)(function, job) for job in jobs))


def _on_one_thread(function: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    with one_thread():
        return function(*job)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread: the number of workers then changes no result."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Many small trainings side by side, each kept as soon as it is done.


def kept(function: Callable[..., np.ndarray], jobs: Sequence[tuple], workers: int = 2) -> list[np.ndarray]:
    """`function(*job)` for each job, in their order; what was computed before is read from the cache.

    Results are kept under the hashes of the job's arrays and values and of the function's source. Every job
    runs on one thread, so that the number of workers does not change a result.
    """
    remembered = Memory(cache_dir() / "trainings", verbose=0).cache(function)
    return compute(_quietly, [(remembered, job) for job in jobs], workers)


def _quietly(function: Callable[..., np.ndarray], job: tuple[Any, ...]) -> np.ndarray:
    # progress bars of dozens of trainings would fill a page
    with one_thread(), redirect_stderr(io.StringIO()):
        return function(*job)
