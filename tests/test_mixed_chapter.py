"""What chapter 03a_mixed records and shows, on made predictions."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from synreal.book import mixed as chapter
from synreal.book import mixed_data as data
from synreal.book import mixed_views as views
from synreal.book.claims import load_claims
from synreal.book.study import Study, read_results
from synreal.data.scenes import scene_set
from synreal.data.worlds import Pool
from synreal.errors import InputError
from synreal.models.predictions import Predictions
from synreal.train.grid import CELLS

RATES = dict(zip(CELLS, np.linspace(0.4, 0.8, len(CELLS)), strict=True))  # rising in the order of CELLS


@pytest.fixture(scope="module")
def pool():
    return Pool.of("scenes/test", scene_set("test", 200))


def predictions(pool, rate, seed):
    """Right on the same share of images in every cell and seed, with some chance."""
    hard = np.random.default_rng(0).random(len(pool.labels))
    luck = np.random.default_rng(seed + 1).normal(scale=0.05, size=len(hard))
    answers = np.where(hard + luck < rate, pool.labels, (pool.labels + 1) % 10)
    logits = np.eye(10, dtype=np.float32)[answers]
    return Predictions(pool.ids, pool.labels, logits, pool.class_names, "m", "h", "p", pool.name)


def found(pool, rates=RATES, networks=("ResNet", "ViT")):
    own = {name: [predictions(pool, rate, seed) for seed in range(3)] for name, rate in rates.items()}
    return dict.fromkeys(networks, own)


@pytest.fixture
def bench(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return chapter.Bench(Study("03a_mixed", "quick"), pool, None, workers=1, draws=200)


def recorded(bench):
    return read_results(bench.study.folder).set_index(["metric", "model"])


def test_accuracies_and_gaps_are_recorded_for_every_network(bench, pool):
    table = bench.record(found(pool), chapter.PAIRS)
    rows = recorded(bench)
    assert len(rows) == 2 * (9 + len(chapter.PAIRS)) and (rows["n"] == 200).all()
    gap = rows.loc["accuracy_gap", "Mix-Real vs Syn-None (ResNet)"]
    assert gap["value"] == pytest.approx(RATES["Mix-Real"] - RATES["Syn-None"], abs=0.05)
    assert 0 < gap["ci_low"] < gap["value"] < gap["ci_high"]
    assert set(table["network"]) == {"ResNet", "ViT"}


def test_an_interval_covers_seeds_as_well_as_photographs(bench, pool):
    same = found(pool, {"Mix-Real": 0.6}, ("ResNet",))
    narrow = bench.record(same).iloc[0]
    spread = {"Mix-None": [predictions(pool, rate, 0) for rate in (0.4, 0.6, 0.8)]}
    wide = bench.record({"ResNet": spread}).iloc[0]
    assert wide["ci_high"] - wide["ci_low"] > 2 * (narrow["ci_high"] - narrow["ci_low"])


def test_a_gain_change_is_the_difference_of_two_gaps(bench, pool):
    rates = {"RealTune": 0.7, "SynTune": 0.5, "RealTune + all": 0.8, "SynTune + all": 0.5}
    table = bench.record(found(pool, rates, ("ResNet",)), fours=chapter.GAIN_CHANGES)
    change = table[table["metric"] == "gain_change"].iloc[0]
    assert change["value"] == pytest.approx(0.1, abs=0.05)


def test_only_what_is_new_is_recorded_beside_what_it_is_compared_with(bench, pool):
    new = {"ResNet": {f"{name} x2": runs for name, runs in found(pool)["ResNet"].items()}}
    table = bench.record(
        chapter.merged(found(pool), new), chapter.ratio_pairs([2.0]), shown=chapter.names(new)
    )
    shown = table[table["metric"] == "accuracy"]["name"]
    assert shown.str.endswith(" x2").all() and len(shown) == 9
    assert "Mix-Real x2 vs Mix-Real" in set(table["name"])


def test_ranking_says_the_order_here(bench, pool):
    table = bench.record(found(pool))
    order = views.ranking(table, chapter.RANKING)
    assert order.loc["ResNet", "order in P1"] == "Mix-Real > Mix-None > Syn-Real > Real-Syn"
    assert order.loc["ViT", "order here"] == "Mix-Real > Mix-None > Syn-Real > Real-Syn"


def test_beside_the_paper_stand_both_networks(bench, pool):
    shown = views.beside_paper(bench.record(found(pool)), "table3")
    assert shown.index.name == "Table 3" and shown.loc["Mix-Real", "P1, ResNet"] == "0.6580"
    assert " to " in shown.loc["Mix-Real", "here, ViT"]
    other = views.beside_paper(bench.record(found(pool, {"balanced": 0.5}, ("ResNet",))), "table13")
    assert other.loc["unbalanced vs balanced", "P1, CLIP"] == "-0.0027"


@pytest.mark.parametrize(
    ("draw", "names", "lines"),
    [
        (views.cells_figure, CELLS, ["not tuned", "tuned on synthetic", "tuned on real"]),
        (views.amounts_figure, [*chapter.RANKING, "Mix-Real x2"], ["x1", "x2"]),
        (views.mixing_figure, ["Mix-None", "Mix-Real", "Mix-Real MixLoss", "Mix-None dup 10"],
         ["MixData", "MixLoss", "dup 10"]),
        (views.augmentation_figure, ["SynTune", "RealTune + crop"], ["not augmented", "crop"]),
        (views.dino_figure, ["DINO-Real probe (own)", "DINO-Syn k-NN"], ["probe (own)", "k-NN"]),
        (views.transfer_figure, ["Real none", "Mix RealTune"], ["none", "RealTune"]),
    ],
)  # fmt: skip
def test_figures_have_a_line_for_each_part_of_a_name(draw, names, lines):
    table = pd.DataFrame({"metric": "accuracy", "network": "ResNet", "name": names, "n": 100})
    table = table.assign(value=0.5, ci_low=0.4, ci_high=0.6)
    labels = [text.get_text() for text in draw(table).axes[0].get_yticklabels()]
    assert [label.partition("  (n")[0] for label in labels] == lines
    assert "ResNet" in views.alt_text(table)


def test_unknown_networks_and_doses_for_photographs_are_refused(pool):
    with pytest.raises(InputError, match="expected tiny or paper, and names of ResNet, ViT"):
        data.networks("tiny", ["CLIP"], 0, 0)
    with pytest.raises(InputError, match="cannot be rendered again; leave shift empty"):
        data.shifted_pool("imagenetv2:data", 10, {"scale": 0.5}, pool, 0, 32)
    assert data.networks("tiny", ["ViT"], 7, 0)["ViT"].pretrain.steps == 7


def test_the_shifted_set_is_rendered_with_narrower_ranges(pool):
    shifted = data.shifted_pool("scenes/upstream", 30, {"brightness": 1.0}, pool, 1, 32)
    assert shifted.real.all() and shifted.class_names == pool.class_names
    light, own = (part.images.mean(axis=(1, 2, 3)).std() for part in (shifted, pool))
    assert light < own


def test_every_claim_names_a_pair_that_the_chapter_records():
    pairs = [*chapter.PAIRS, *chapter.ratio_pairs([2.0]), *chapter.mixing_pairs([10])]
    pairs += [*chapter.AUGMENTATION_PAIRS, *chapter.DINO_PAIRS]
    pairs += [("unbalanced", "balanced"), ("shifted", "balanced"), ("shifted", "Syn-None")]
    made = {f"{kind} {way}": [] for kind in ("Real", "Syn", "Mix") for way in ("none", "SynTune", "RealTune")}
    pairs += chapter.transfer_pairs({"ResNet": made})
    known = {f"{a} vs {b} ({network})" for a, b in pairs for network in ("ResNet", "ViT")}
    known |= {f"{name} (ResNet)" for name in chapter.GAIN_CHANGES}
    claims = [claim for claim in load_claims() if claim.chapter == "03a_mixed"]
    named = {condition.effect.model for claim in claims for condition in claim.conditions}
    assert len(claims) > 12 and named <= known
    assert list(pairwise(chapter.RANKING)) == chapter.PAIRS[:3]


@pytest.mark.parametrize(
    ("bounds", "worthless"), [([0.01, 0.02], False), ([0.01, -0.01], True), ([0.0, 0.02], True)]
)
def test_dino_counts_only_where_every_network_beats_its_first_weights(bounds, worthless):
    table = pd.DataFrame({"name": "DINO-Real probe vs untrained probe", "ci_low": bounds})
    assert (chapter.too_short(table) is not None) == worthless


def test_dino_is_not_judged_without_the_comparison():
    with pytest.raises(KeyError):
        chapter.too_short(pd.DataFrame({"name": ["DINO-Real k-NN vs untrained k-NN"], "ci_low": [0.1]}))


def test_later_studies_are_compared_with_as_many_trainings_of_table_3(pool):
    first = chapter.first_trainings(found(pool), 2)
    assert {len(runs) for results in first.values() for runs in results.values()} == {2}
    with pytest.raises(InputError, match="table3_seeds: found 3, expected at least the 4 of seeds"):
        chapter.first_trainings(found(pool), 4)
