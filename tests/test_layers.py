"""The library's packages import from their left only."""

import ast
from pathlib import Path

import pytest

import synreal

LIBRARY = Path(synreal.__file__).parent
BASE = {"errors", "paths", "cache", "strict_yaml"}
LAYERS = (
    BASE, {"data"}, {"generate"}, {"models"}, {"train"},
    {"evaluate", "synbench", "retrieve", "text"}, {"zoo"}, {"book"}, {"cli"},
)  # fmt: skip
# What stands in one layer has an order of its own.
BESIDE = {"evaluate": set(), "synbench": {"evaluate"}, "retrieve": {"evaluate"}, "text": {"evaluate"}}


def layer_of(package: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if package in names)


def imported(path: Path) -> set[str]:
    """The parts of synreal that a file imports, also where a function or a type check imports them."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in modules if name.startswith("synreal.")}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_module_imports_from_its_left_only(path: Path) -> None:
    package = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    if package in ("__init__", "__main__"):
        return
    for other in imported(path) - {package}:
        beside = other in BESIDE.get(package, set()) or package in BASE
        assert beside or layer_of(other) < layer_of(package), f"{package} imports {other}"
