"""A run on disk. Nothing overwrites another run, and a run killed at any moment goes on where it stopped.

    run.json                     when it was made, its profile, the machine and package versions, git revision
    parameters/<notebook>.yaml   every parameter's value, written before the notebook starts
    partial/<notebook>.ipynb     the notebook while it executes, and after a cell failed
    notebooks/<notebook>.ipynb   the executed notebook: only complete ones
    results/<notebook>.jsonl     measurements, written by `Study`, which starts the file anew when it opens
    results.jsonl                all of them together
    finished/<notebook>.json     written last: parameters, seeds, source hashes, git revision, seconds

A notebook is finished when its record in finished/ exists and names the current parameters and sources.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from synreal.book.environment import describe_environment, git_state, package_versions
from synreal.errors import InputError
from synreal.paths import repository_root

Values = Mapping[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """Writes the whole text or nothing: a reader, or a kill, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def default_run_path(profile: str) -> Path:
    """`_build/runs/<profile>-<time>`, the time in UTC; a counter follows when two runs share a second."""
    stem = f"{Path(profile).stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    runs = repository_root() / "_build" / "runs"
    paths = (runs / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))
    return next(path for path in paths if not path.exists())


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
            earlier = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else values
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
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def begin(self, profile: str, configuration: Mapping[str, Values]) -> None:
        """Writes run.json once, and each notebook's parameters."""
        if not self.described():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            about: dict[str, Any] = {"created": created, "profile": profile}
            about |= {"git": git_state(), "environment": describe_environment()}
            write_atomically(self.path / "run.json", json.dumps(about, indent=2))
        for name, values in configuration.items():
            text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
            write_atomically(self.path / "parameters" / f"{name}.yaml", text)

    def finished(self, name: str) -> dict[str, Any] | None:
        """The record of a notebook that ended well, or None."""
        path = self.path / "finished" / f"{name}.json"
        if not (path.exists() and self.notebook(name).exists()):
            return None
        return json.loads(path.read_text(encoding="utf-8"))

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
        write_atomically(self.notebook(name), notebook)
        self.partial(name).unlink(missing_ok=True)
        self.collect_results()
        write_atomically(self.path / "finished" / f"{name}.json", json.dumps(record, indent=2))

    def fail(self, name: str) -> None:
        """Sets the failed notebook's measurements aside: the run's results are those of finished ones."""
        rows = self.path / "results" / f"{name}.jsonl"
        if rows.exists():
            rows.replace(self.partial(name).with_suffix(".jsonl"))

    def collect_results(self) -> None:
        """Writes results.jsonl from the notebooks' own files."""
        files = sorted((self.path / "results").glob("*.jsonl"))
        write_atomically(self.path / "results.jsonl", "".join(f.read_text(encoding="utf-8") for f in files))
