"""What several test files share: small notebooks, and the browser."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

if TYPE_CHECKING:
    from torch import nn

PARAMETERS = """profile: str = "mini"  # set by the runner
n: int = 2  # images; cost grows = linearly
rate: float = 0.5  # step size
names: list[str] = ["a"]  # who
seed: int = 0  # of every draw
"""
# Records one measurement, as a chapter does.
RECORD = """from synreal.book.study import Study
Study(NAME, profile).record(metric="n", value=n, model="m", data="test", n=n, seed=seed)"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that of two processes neither is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Writes tmp_path/NAME.ipynb: a parameters cell, then the given code cells; returns its path.

    The cells default to printing three parameters; with `records` a cell that records `n` comes first.
    """

    def write(*cells: str, name: str = "tiny", parameters: str = PARAMETERS, records: bool = False) -> Path:
        sources = [RECORD.replace("NAME", repr(name))] * records + list(cells or ("print(n, rate, names)",))
        code = [nbformat.v4.new_code_cell(source) for source in sources]
        head = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        title = nbformat.v4.new_markdown_cell(f"# Title of {name}")
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[title, head, *code]), path)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier of scenes so small that it is tuned at once."""
    import torch

    from synreal.models import build_module, save_checkpoint
    from synreal.zoo import scenes_card

    card = scenes_card(
        name="tiny", role="ViT-Syn-1k", library="timm", architecture="vit_tiny_patch16_224",
        architecture_args={"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2},
        activation="gelu", head="linear", training={"source": "synthetic"},
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    save_checkpoint(folder, build_module(card), card)
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium. Without it a browser test is skipped, but fails in CI, which must have it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail("CI is set and Chromium is not installed: `.ci/run` should have installed it")
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def random_weights() -> Callable[["nn.Module"], "nn.Module"]:
    """Gives a detector weights that make its answers differ; the first ones of a head are nearly constant."""

    def fill(module: "nn.Module") -> "nn.Module":
        import torch

        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "dfl" not in name:
                    parameter.normal_(std=0.3, generator=generator)
        return module.eval()

    return fill
