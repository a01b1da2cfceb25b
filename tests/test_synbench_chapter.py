"""What chapter 02_synbench records and shows, on made measurements."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from synreal.book import synbench_views as views
from synreal.book.study import Study, read_results
from synreal.book.synbench import record_against, record_consistency, record_contrasts, record_sets
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.scenes import scene_set
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.models.predictions import Predictions
from synreal.synbench.compare import Measured
from synreal.synbench.measures import YES_NO

SIZES = {"scenes/test": 400, "synthetic": 200, "CFG 4": 100}


@dataclass(frozen=True)
class Named:
    """A measure as far as comparing needs one; the values are made."""

    name: str
    unit: str


MEASURES = (Named("consistency", YES_NO), Named("brightness", "L*"))


class WideJudge:
    """Right on three images of four; knows two classes more than the sets, as a 1,000-way judge does."""

    name, unit = MEASURES[0].name, YES_NO

    def predictions(self, world):
        labels = np.array(world.images["label"][:])
        rng = np.random.default_rng(len(labels))
        answers = np.where(rng.random(len(labels)) < 0.75, labels, rng.integers(0, 10, len(labels)))
        logits = np.eye(12, dtype=np.float32)[answers] * 5
        names = (*CLASS_NAMES, "tench", "snail")
        return Predictions(
            np.array(world.images["id"][:]), labels, logits, names, "wide", "h", "p", world.name
        )


def measured(name, seed=0, spread=1.0):
    n = SIZES[name]
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"{name}-{i}" for i in range(n)], name="id")
    images = scene_set("val", n).remove_columns("id").add_column("id", ids.to_list())
    values = {
        "consistency": (rng.random(n) < 0.7).astype(float),
        "brightness": 50 + spread * rng.normal(size=n),
    }
    labels = pd.Series([CLASS_NAMES[label] for label in images["label"]], ids)
    hierarchy = SCENES_HIERARCHY if name == "scenes/test" else None
    return Measured(World(name, images, hierarchy, None), pd.DataFrame(values, ids), labels, {})


@pytest.fixture(scope="module")
def sets():
    return {name: measured(name, seed, 1 - 0.2 * seed) for seed, name in enumerate(SIZES)}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return Study("02_synbench", "quick")


def recorded(study):
    return read_results(study.folder).set_index(["metric", "model"])


def test_each_number_says_how_many_images_it_rests_on(study, sets):
    real, synthetic, guided = sets.values()
    found = record_sets(study, real, [synthetic], MEASURES, draws=100, seed=0)
    record_against(study, synthetic, [guided], MEASURES, real.name, draws=100, seed=0)
    n = recorded(study)["n"]
    share = "consistency/proportion"
    assert n[f"{share}_real", "synthetic"] == 400 and n[f"{share}_synthetic", "synthetic"] == 200
    assert n[f"{share}_difference", "synthetic"] == 200 and n["brightness/range_ratio", "synthetic"] == 200
    assert n[f"{share}_real", "CFG 4 vs synthetic"] == 200
    shown = views.main_table(found)["n"]
    assert shown["consistency", "proportion_real"] == "400" and shown["brightness", "ks"] == "200"


def test_contrasts_of_generators_are_recorded_under_their_own_names(study, sets):
    real, synthetic, guided = sets.values()
    known = {"synthetic": synthetic, "guided": guided}
    contrasts = {"old vs new": ["synthetic", "guided"], "new vs old": ["guided", "synthetic"]}
    record_contrasts(study, contrasts, known, MEASURES, real.name, 100, 0)
    there, back = (
        recorded(study).loc[("brightness/mean_difference", model), "value"].item() for model in contrasts
    )
    assert there == pytest.approx(-back) and there != 0
    for pair in (["synthetic"], ["synthetic", "cascade"]):
        with pytest.raises(InputError, match="contrasts: 'mine' names .* expected two of synthetic, guided"):
            record_contrasts(study, {"mine": pair}, known, MEASURES, real.name, 100, 0)


def test_a_measure_that_failed_on_any_set_stops_the_chapter(study, sets):
    real, synthetic, _ = sets.values()
    broken = replace(synthetic, failures={"brightness": "InputError: image 3"})
    for pair in ((real, [broken]), (broken, [synthetic])):
        with pytest.raises(InputError, match="1 measures failed: synthetic: brightness: InputError: image 3"):
            record_sets(study, *pair, MEASURES, 100, 0)
    with pytest.raises(InputError, match="synthetic: brightness"):
        record_against(study, synthetic, [broken], MEASURES, real.name, 100, 0)


def test_a_judge_may_know_more_classes_than_the_sets(study, sets):
    real, synthetic, _ = sets.values()
    table = record_consistency(study, WideJudge(), real, [synthetic], SCENES_HIERARCHY, draws=100, seed=0)
    corrected = table.set_index(["metric", "model"]).loc[("corrected_consistency", "synthetic")]
    assert corrected["ci_low"] < 1 < corrected["ci_high"]  # it errs on both sets alike
    assert recorded(study).loc[("inside_share", "real"), "value"].item() > 0
    seen = views.confusions(WideJudge(), {"real": real, "synthetic": synthetic}, SCENES_HIERARCHY)
    assert list(seen) == ["real", "synthetic"] and list(seen["real"].columns)[-1] == "elsewhere"
    assert seen["real"].to_numpy().sum() == 160  # four tops of ten classes


def test_figures_tell_less_from_more(study, sets):
    real, synthetic, guided = sets.values()
    table = record_sets(study, real, [synthetic, guided], MEASURES, draws=200, seed=0)
    figure = views.shares_and_ranges(table)
    assert [axes.get_title("left") or axes.get_title() for axes in figure.axes] == [
        "consistency\nshare of images",
        "brightness\nwidth from 5 to 95 %",
    ]
    assert "Below real: brightness of synthetic, brightness of CFG 4" in views.effects_alt(table)
    median = f"synthetic: median {synthetic.values['brightness'].median():.3g}"
    assert median in views.boxes_alt({"real": real, "synthetic": synthetic}, "brightness")


def test_beside_the_paper_stand_interval_and_n(study, sets):
    real, synthetic, _ = sets.values()
    found = record_sets(study, real, [synthetic], MEASURES, draws=50, seed=0)
    here = views.beside_paper(found)["here"]
    assert here["accuracy of the judge on real images"].endswith("n = 400)")
    assert " to " in here["consistency of synthetic images"]
    assert here["the same of synthetic images"] == "not measured"


def test_examples_show_the_first_images_of_each_set_with_their_class(sets):
    real, synthetic, _ = sets.values()
    shown = views.examples({"scene": real.world.images, "drawn": synthetic.world.images}, 3).axes[0]
    words = [text.get_text() for text in shown.texts]
    expected = [CLASS_NAMES[label] for label in real.world.images["label"][:3]]
    assert len(shown.images) == 6 and words[:4] == ["scene", *expected]
