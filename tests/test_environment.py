"""One environment, written three times: what the project asks for, the lock, and conda's file agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from synreal.book.run import locked_versions, package_versions

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = locked_versions(ROOT / "requirements.lock")
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def asked_for() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [
        Requirement(text) for text in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]
    ]


@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_lock_satisfies_the_project(requirement):
    assert LOCK[canonicalize_name(requirement.name)] in requirement.specifier


def test_conda_pins_what_the_lock_pins():
    """`make lock` changed a version? Write the pip section of environment.yml as shown on failure."""
    names = sorted(canonicalize_name(requirement.name) for requirement in asked_for())
    assert CONDA[-1] == {"pip": [f"{name}=={LOCK[name]}" for name in names] + ["-e ."]}
    assert "python=3.11" in CONDA


def test_lock_is_hashed_and_holds_no_address():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(LOCK) > 100
    for entry in entries:
        assert re.fullmatch(
            r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+( ; [^\\]+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n)?)+", entry
        )


def test_torch_and_torchvision_are_the_pair_built_for_each_other():
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.14.1", "0.29.1")


def test_build_tool_is_locked_so_that_installing_the_project_needs_no_network():
    assert int(LOCK["setuptools"].split(".")[0]) >= 77


def test_this_environment_is_the_locked_one():
    assert package_versions() == LOCK


def test_no_file_of_the_project_names_a_path_of_one_machine():
    for name in (
        "pyproject.toml",
        "requirements.lock",
        "environment.yml",
        "Makefile",
        ".ci/run",
        "README.md",
    ):
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp|opt)/", (ROOT / name).read_text()), name
