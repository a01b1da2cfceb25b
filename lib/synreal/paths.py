"""Where things lie, resolved from the repository root whatever the current folder is."""

import os
from pathlib import Path


def repository_root() -> Path:
    """The nearest folder above this file, or else above the current folder, that holds `_toc.yml`.

    Falls back to the current folder, so that an installed package works outside a checkout.
    """
    here = Path(__file__).resolve()
    for folder in (*here.parents, *Path.cwd().resolve().parents):
        if (folder / "_toc.yml").exists():
            return folder
    return Path.cwd()


def zoo_dir() -> Path:
    """Folder of the shipped checkpoints and their cards; `SYNREAL_ZOO` overrides it."""
    return Path(os.environ.get("SYNREAL_ZOO", repository_root() / "zoo"))


def cache_dir() -> Path:
    """Folder of memoised results, safe to delete; `SYNREAL_CACHE` overrides it."""
    return Path(os.environ.get("SYNREAL_CACHE", repository_root() / ".cache"))
