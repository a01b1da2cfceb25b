"""Where things lie, resolved from the repository root whatever the current folder is."""

import os
import re
from pathlib import Path

from synreal.errors import InputError


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
    """Folder of memoised results, safe to delete; `SYNREAL_CACHE` overrides it.

    Where the user cannot write into the checkout, such as one that a cluster shares, it is their own.
    """
    root = repository_root()
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synreal"
    return Path(os.environ.get("SYNREAL_CACHE") or (root / ".cache" if os.access(root, os.W_OK) else own))


def photos_dir() -> Path:
    """Folder of the world of photographs (`synreal get photos`); `SYNREAL_PHOTOS` overrides it.

    By default it is in the user's own folder of data, since every checkout can share it.
    """
    own = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return Path(os.environ.get("SYNREAL_PHOTOS") or own / "synreal" / "photos")


def expanded(source: str) -> str:
    """A place with the variables of the environment filled in; InputError for one that is not set."""
    place = os.path.expandvars(source)
    if missing := re.findall(r"\$\{?(\w+)", place):
        raise InputError(f"{source}: set the environment variable {missing[0]} to the folder of the data")
    return place


def located(source: str | Path) -> str:
    """`expanded`; seen from the repository (zoo/...: from the zoo) where the current folder lacks it.

    Notebooks run in several folders, but their parameters name places as one sees them from the repository.
    """
    path = Path(expanded(str(source)))
    zoo = zoo_dir() / path.relative_to("zoo") if path.parts[:1] == ("zoo",) else path
    return str(next((p for p in (path, zoo, repository_root() / path) if p.exists()), expanded(str(source))))
