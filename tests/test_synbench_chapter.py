"""Chapter 03_synbench: what it refuses before it measures anything, and the pieces it is made of."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synreal.data.decode import from_arrays
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.synbench.compare import ends, measure_all

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "03_synbench.ipynb"


def run_until(cell, **given):
    """Executes the code cells up to and with this one, with other parameters; returns what they define."""
    names = {}
    for part in json.loads(NOTEBOOK.read_text())["cells"]:
        if part["cell_type"] == "code":
            exec("".join(part["source"]), names)
            if "parameters" in part["metadata"].get("tags", []):
                names |= given
        if part["id"] == cell:
            return names
    raise AssertionError(f"no cell {cell}")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("pair", [["synthetic"], ["synthetic", "absent"]])
def test_a_contrast_of_unknown_sets_is_refused_first(pair):
    with pytest.raises(InputError, match="contrasts: 'mine' names .* two of synthetic, other prediction"):
        run_until("03-02b", contrasts={"mine": pair})


def test_each_number_says_how_many_images_it_rests_on():
    chapter = run_until("03-04i", images=200, draws=50)
    real, part = (
        chapter["measured_real"],
        measure_all(chapter["open_world"]("scenes/val", 100), chapter["measures"]),
    )
    table = chapter["compare"](real, [part], facets={part.name: {"guidance": 2.0}})
    n = table.set_index(["measure", "metric"])["n"]
    assert n["consistency", "share beside"] == 200 and n["consistency", "share"] == 100
    assert n["consistency", "difference of shares"] == n["brightness", "ratio of ranges"] == 100
    figure = chapter["less_or_more"](table)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[0] == "consistency\nshare of images" and titles[2] == "brightness\nwidth from 5 to 95 %"


@dataclass
class Made:
    """A measure that asks a function."""

    function: object
    name: str = "made"
    unit: str = "units"
    fingerprint: str = "1"

    def values(self, images):
        return pd.Series(self.function(len(images)), pd.Index(images["id"][:], name="id"), dtype=float)


def world(count=20, name="real"):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return World(name, from_arrays(pixels, np.arange(count) % 2, ("cat", "dog")), None, None)


def test_a_measure_that_failed_on_any_set_stops_whoever_needs_all():
    broken = Made(lambda count: 1 / 0, "broken")
    message = "real: 1 measures failed: broken: ZeroDivisionError: .* The others are kept; run again"
    with pytest.raises(InputError, match=message):
        measure_all(world(), [Made(range), broken], strict=True)
    assert list(measure_all(world(), [Made(range), broken]).values) == ["made"]


def test_the_ends_of_a_set_are_pictures_with_their_values():
    rows = ends({"real": measure_all(world(), [Made(range)])}, "made", count=2)
    assert [words for _, words in rows["real"]] == ["0", "1", "18", "19"]
    assert rows["real"][0][0].size == (8, 8)
