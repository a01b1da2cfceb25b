"""What chapter 5 refuses before anything is trained, and that its claims find their rows."""

import nbformat
import pytest

from synreal.book.claims import load_claims
from synreal.book.parameters import read_parameters
from synreal.book.study import read_notebook_results, select
from synreal.errors import InputError
from synreal.paths import repository_root

NOTEBOOK = repository_root() / "notebooks" / "05_mixed.ipynb"
TRAINS = "predict_grid(grid"  # a cell that trains says so
SMALL = {"real_images": 160, "images": 60, "real": 4, "synthetic": 8, "table3_seeds": 3, "seeds": 2}


def opened(**given):
    """What the notebook's cells define before the first that trains, with these parameters."""
    names = {name: parameter.default for name, parameter in read_parameters(NOTEBOOK).items()}
    names |= {"profile": "quick"} | SMALL | given
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if TRAINS in cell.source:
            return names
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, names)
    raise AssertionError("no cell trains")


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"networks": ["CLIP"]}, "networks .'CLIP'.; expected tiny or paper, and networks among ResNet, ViT"),
        ({"scale": "huge"}, "found scale 'huge'"),
        ({"networks": []}, "expected one network or more"),
        ({"table3_seeds": 1}, "table3_seeds 1; .* at least the 2 of seeds"),
        ({"shifted_set": "imagenetv2:data"}, "imagenetv2:data cannot be rendered again; leave shift empty"),
        ({"shift": {}, "shifted_set": "zoo/nothing"}, "zoo/nothing"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(given, problem):
    with pytest.raises(InputError, match=problem):
        opened(**given)


def test_steps_shift_and_mixtures_are_as_asked_for():
    names = opened(networks=["ViT"], pretrain_steps=7, dino_steps=8, shift={"brightness": 1.0})
    network, pool, shifted = names["nets"]["ViT"], names["pool"], names["shifted"]
    assert (network.pretrain.steps, network.dino.steps) == (7, 8) and network.tune.steps > 8
    assert shifted.real.all() and shifted.class_names == pool.class_names
    light = [part.images.mean(axis=(1, 2, 3)).std() for part in (shifted, names["test"])]
    assert light[0] < light[1]
    rows = names["rows_of"]("Mix", 0, dup=3)
    assert len(rows) == 3 * 40 + 80 and pool.real[rows].sum() == 120
    assert set(names["rows_of"]("Real", 0)) == set(rows[pool.real[rows]])


def test_every_claim_finds_its_row():
    """In the stored notebook; a claim on one data set alone need not be measured."""
    table = read_notebook_results([NOTEBOOK])
    claims = [claim for claim in load_claims() if claim.chapter == "05_mixed"]
    effects = [condition.effect for claim in claims for condition in claim.conditions]
    found = {str(effect): len(select(table, effect.columns)) for effect in effects if effect.data is None}
    assert len(found) > 30 and set(found.values()) == {1}, found
