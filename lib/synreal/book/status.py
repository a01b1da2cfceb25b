"""The status page: what was executed, when, how long it took, on what."""

import json
from pathlib import Path
from typing import Any

import nbformat

from synreal.book.page import published_environment

PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "timm", "open-clip-torch", "datasets",
    "numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib", "seaborn", "papermill",
)  # fmt: skip


def environment_of_run(folder: Path) -> dict[str, Any]:
    """Revision, machine and main packages as the runner noted them; empty outside a run, as in Jupyter."""
    path = folder / "run.json"
    if not path.exists():
        return {}
    about = json.loads(path.read_text(encoding="utf-8"))
    packages = about["environment"]["packages"]
    main = {name: packages[name] for name in PACKAGES if name in packages}
    return about["git"] | about["environment"] | {"packages": main}


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
