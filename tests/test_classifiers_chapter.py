"""What chapter 1 records and shows: names, signs, missing cells, the papers' numbers beside its own."""

import numpy as np
import pandas as pd
import pytest

from synreal.book import study as recording
from synreal.book.claims import paper_value
from synreal.book.classifier_views import (
    PAPER_PAIRS,
    alt_text,
    beside_paper,
    factor_table,
    select,
    table_of_models,
)
from synreal.book.classifiers import record_gap_differences, record_models, record_pairs
from synreal.book.study import Study, read_results
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.evaluate import Predictions, relative_accuracy
from synreal.evaluate.metrics import correct
from synreal.models import Card
from synreal.models.card import read_pairs

N = 600
LABELS = np.arange(N) % 10
SIBLING = {"t-shirt": "coat", "pullover": "coat", "coat": "shirt", "shirt": "coat", "sandal": "sneaker",
           "sneaker": "sandal", "ankle boot": "sneaker", "trouser": "dress", "dress": "trouser",
           "bag": "dress"}  # fmt: skip
WRONG = np.array([CLASS_NAMES.index(SIBLING[CLASS_NAMES[label]]) for label in LABELS])
IDS = np.array([f"test-0-{i:06d}" for i in range(N)])
DARK, POSE = np.arange(N) < 100, (np.arange(N) >= 100) & (np.arange(N) < 200)
FACTORS = pd.DataFrame({"darker": DARK, "pose": POSE, "style": False}, index=IDS)
WORLD = World("scenes/test", None, SCENES_HIERARCHY, FACTORS)
EQUAL_DATA, EQUAL_ACCURACY = (f"ViT-Real vs ViT-Syn ({basis})" for basis in ("equal data", "equal accuracy"))


def predictions(model, dark, pose, rest):
    """Right on these shares of dark, turned and other images; wrong answers stay in the coarse class."""
    hits = np.zeros(N, bool)
    for rows, share in ((DARK, dark), (POSE, pose), (~DARK & ~POSE, rest)):
        chosen = np.random.default_rng(1).permutation(np.flatnonzero(rows))
        hits[chosen[: round(share * len(chosen))]] = True
    logits = 4 * np.eye(10, dtype=np.float32)[np.where(hits, LABELS, WRONG)]
    return Predictions(IDS, LABELS, logits, CLASS_NAMES, model, model, "p", "scenes/test")


REAL = predictions("ViT-Real-12k", 0.8, 0.8, 0.8)
SYN = predictions("ViT-Syn-12k", 0.2, 0.7, 0.6)
PAIRS = {EQUAL_DATA: (REAL, SYN)}
OPTIONS = {"denominator": "annotated", "draws": 100, "seed": 3}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study in a folder of its own; `.keys` collects what it glues into the page."""
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path / "run"))
    keys = {}
    monkeypatch.setattr(recording, "publish_hidden", lambda key, value, row=None: keys.update({key: value}))
    made = Study("01_classifiers", "quick")
    made.keys = keys
    return made


def recorded(study):
    table = read_results(study.folder)
    assert set(table["study"]) == {"01_classifiers"} and set(table["data"]) == {"scenes/test"}
    assert set(table["seed"]) == {3}
    return table.set_index("metric")


def test_models_are_recorded_under_the_documented_names(study):
    shown = record_models(study, {"ViT-Real-12k": REAL}, WORLD, **OPTIONS)
    rows = recorded(study)
    groups = SCENES_HIERARCHY.groups
    several = [name for name, fine in groups.items() if len(fine) > 1]
    assert set(rows.index) == set(shown["metric"])
    assert {"accuracy", "calibration_error", "fine_grained_accuracy"} < set(rows.index)
    assert {f"fine_grained_accuracy/{name}" for name in several} <= set(rows.index)
    assert {f"factor/{name}" for name in FACTORS} <= set(rows.index)
    assert set(rows["model"]) == {"ViT-Real-12k"}
    assert rows.loc["accuracy", "value"] == 0.8 and rows.loc["accuracy", "n"] == N
    assert rows.loc["accuracy", "ci_low"] < 0.8 < rows.loc["accuracy", "ci_high"]
    assert rows.loc["factor/darker", "value"] == pytest.approx(0.0) and rows.loc["factor/darker", "n"] == 100


def test_cells_without_images_are_recorded_with_the_reason(study):
    record_models(study, {"ViT-Real-12k": REAL}, WORLD, **OPTIONS)
    record_pairs(study, PAIRS, WORLD, **OPTIONS)
    rows = recorded(study)
    for metric in ("factor/style", "factor_gap/style"):
        assert pd.isna(rows.loc[metric, "value"]) and rows.loc[metric, "n"] == 0
        assert "too few images (0 < 10)" in rows.loc[metric, "reason"]


def test_pairs_have_the_documented_signs(study):
    record_pairs(study, PAIRS, WORLD, **OPTIONS)
    rows = recorded(study)
    assert set(rows["model"]) == {EQUAL_DATA}
    accuracy = (100 * 0.2 + 100 * 0.7 + 400 * 0.6) / N
    assert rows.loc["accuracy_gap", "value"] == pytest.approx(0.8 - accuracy)
    assert rows.loc["fine_grained_gap", "value"] > 0 and rows.loc["fine_grained_gap/tops", "value"] > 0
    gaps = relative_accuracy(correct(SYN), FACTORS) - relative_accuracy(correct(REAL), FACTORS)
    for factor in ("darker", "pose"):
        row = rows.loc[f"factor_gap/{factor}"]
        assert row["value"] == pytest.approx(gaps[factor]) and row["ci_low"] < row["value"] < row["ci_high"]
    assert rows.loc["factor_gap/darker", "value"] < -0.5 and rows.loc["factor_gap/pose", "value"] > 0
    assert rows.loc["factors_worse", ["value", "n"]].tolist() == [1, 3]


def test_the_first_page_finds_the_fine_grained_gap_by_a_short_key(study):
    clip = "CLIP-Real vs CLIP-Syn (equal accuracy)"
    record_pairs(study, PAIRS | {clip: (REAL, SYN), "mine vs yours": (REAL, SYN)}, WORLD, **OPTIONS)
    gap = study.keys["fine_gap_vit_equal_data"]
    assert gap > 0 and study.keys["fine_gap_clip_equal_accuracy"] == gap
    assert study.keys["fine_grained_gap | mine vs yours | scenes/test"] == gap
    assert study.keys[f"accuracy_gap | {clip} | scenes/test"] > 0
    assert "fine_gap_vit_equal_accuracy" not in study.keys


def test_without_groups_and_factors_the_rest_is_recorded(study):
    record_models(study, {"m": REAL}, World("scenes/test", None, None, None), **OPTIONS)
    record_pairs(study, PAIRS, World("scenes/test", None, None, None), **OPTIONS)
    assert set(recorded(study).index) == {"accuracy", "calibration_error", "accuracy_gap"}


def test_gap_differences_need_both_pairs_and_groups(study):
    close = predictions("ViT-Syn-24k", 0.75, 0.75, 0.75)
    both = PAIRS | {EQUAL_ACCURACY: (REAL, close)}
    options = {"draws": 100, "seed": 3}
    assert record_gap_differences(study, PAIRS, WORLD, **options).empty
    assert record_gap_differences(study, both, World("scenes/test", None, None, None), **options).empty
    record_gap_differences(study, both, WORLD, **options)
    [row] = recorded(study).reset_index().to_dict("records")
    alone = (CLASS_NAMES.index("bag") == LABELS).sum()  # bags have no similar class, so they do not count
    assert row["metric"] == "fine_grained_gap_difference" and row["n"] == N - alone
    assert row["model"] == "ViT (equal data minus equal accuracy)"
    assert 0.1 < row["value"] < 0.3 and row["ci_low"] < row["value"] < row["ci_high"]


def rows_of(*rows):
    columns = ["metric", "model", "group", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


GAPS = rows_of(
    ("accuracy_gap", EQUAL_DATA, "all", 0.2, 0.15, 0.25, 600),
    ("accuracy_gap", EQUAL_ACCURACY, "all", -0.01, -0.05, 0.03, 600),
    ("factor_gap/darker", EQUAL_DATA, "darker", -0.3, -0.4, -0.2, 100),
    ("factor_gap/person_blocking", EQUAL_DATA, "person_blocking", -0.1, -0.3, 0.1, 40),
    ("factor_gap/style", EQUAL_DATA, "style", np.nan, np.nan, np.nan, 0),
    ("accuracy_gap", "mine vs yours", "all", 0.5, 0.4, 0.6, 600),
)


def test_checkpoints_are_called_by_role_where_it_is_theirs_alone(tmp_path):
    tuned = card("ViT-Syn tuned")
    paths = {}
    for folder, name in {"a/one": "one", "b/one": "one", "two": "two", "three": "three"}.items():
        own = tuned.model_copy(update={"name": name} | ({"role": "mine"} if name == "three" else {}))
        paths[folder] = str(tmp_path / folder)
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "card.yaml").write_text(own.to_yaml())
    first, second = ([paths["a/one"], paths["two"]], [paths["b/one"], paths["three"]])
    checkpoints, titled = read_pairs({"first": first, "second": second})
    assert checkpoints == {paths["a/one"]: paths["a/one"], "two": paths["two"],
                           paths["b/one"]: paths["b/one"], "mine": paths["three"]}  # fmt: skip
    assert titled == {"first": (paths["a/one"], "two"), "second": (paths["b/one"], "mine")}


@pytest.mark.parametrize("pair", [[], ["one"], ["one", "one"], ["a", "b", "c"], None])
def test_a_pair_is_two_checkpoints(pair):
    pairs = {} if pair is None else {"mine": pair}
    with pytest.raises(InputError, match=r"^pairs: "):
        read_pairs(pairs)


def test_select_takes_whole_metrics_and_all_below_a_slash():
    factors = select(GAPS, "factor_gap/")
    assert factors["group"].tolist() == ["darker", "person_blocking", "style"]
    assert set(factors["kind"]) == {"ViT"} and set(factors["basis"]) == {"equal data"}
    both = select(GAPS, "accuracy_gap", "factor_gap/darker")
    assert both["group"].tolist() == ["all together", "all together", "darker", "all together"]
    assert both["kind"].tolist() == ["ViT", "ViT", "ViT", "mine vs yours"]
    assert both["basis"].tolist() == ["equal data", "equal accuracy", "equal data", ""]
    assert select(GAPS, "accuracy").empty and "kind" not in GAPS


def test_alt_text_tells_extremes_and_what_excludes_zero():
    assert alt_text(select(GAPS, "accuracy_gap", "factor_gap/")) == (
        "5 dots with error bars. The lowest is ViT-Real vs ViT-Syn (equal data), darker at -0.300, the "
        "highest mine vs yours, all together at 0.500; 2 intervals lie above 0 and 1 below."
    )


def card(role, **training):
    return Card(
        name=role, role=role, library="timm", architecture="a", activation="gelu", weights="w.safetensors",
        image_size=32, resize=32, crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3,
        head="linear", class_names=CLASS_NAMES, license="MIT", training=training,
    )  # fmt: skip


def test_the_table_of_models_reads_like_table_1():
    measured = rows_of(
        ("accuracy", "ViT-Real-12k", "all", 0.6781, 0.66, 0.69, 4000),
        ("calibration_error", "ViT-Real-12k", "all", 0.0512, 0.04, 0.06, 4000),
        ("accuracy", "own", "all", 0.5, 0.4, 0.6, 100),
        ("calibration_error", "own", "all", 0.1, 0.05, 0.2, 100),
    )
    table = table_of_models(
        {"ViT-Real-12k": card("ViT-Real-12k", source="real", images=12_000), "own": card("other")}, measured
    )
    shown = " | ".join(table.loc["ViT-Real-12k"])
    assert shown == "real | 12,000 | 0.678 | 0.660 to 0.690 | 4,000 | 0.051"
    assert table.loc["own"].tolist()[:3] == ["unknown", "unknown", "0.500"]


def test_factor_gaps_show_what_survives_and_what_could_have_been_seen():
    columns = {"p_holm": [0.0412, 0.001, np.nan], "mde": [0.07, 0.2, np.nan]}
    found = rows_of(
        ("factor_gap/a", EQUAL_DATA, "a", 0.1, 0.05, 0.15, 50),
        ("factor_gap/b_c", "mine vs yours", "b_c", -0.4, -0.5, -0.3, 60),
        ("factor_gap/b_c", EQUAL_DATA, "b_c", np.nan, np.nan, np.nan, 0),
    )
    table = factor_table(found.assign(**columns))
    assert table.columns.tolist() == ["ViT, equal data", "mine vs yours"]  # a name of one's own is kept
    assert table.loc["a", "ViT, equal data"] == "+0.100* (0.070)"
    assert table.loc["b c"].tolist() == ["no images", "-0.400* (0.200)"]
    insignificant = factor_table(found[:1].assign(p_holm=0.05, mde=np.nan))
    assert insignificant.loc["a"].tolist() == ["+0.100 (?)"]
    assert factor_table(found[:0]).empty


def test_the_papers_numbers_stand_beside_with_their_sign():
    table = beside_paper(GAPS).reset_index().set_index(["pair", "metric"])
    assert len(table) == 4  # what either side lacks is left out
    first = table.loc[("ViT, equal data", "accuracy_gap")]
    assert (first["here"], first["95 % interval"]) == ("+0.200", "+0.150 to +0.250")
    assert first["P1"] == "+0.261" and first["same sign"] == "yes"  # 78.64 - 52.51
    equal = table.loc[("ViT, equal accuracy", "accuracy_gap")]
    assert equal["P1"] == "-0.005" and equal["same sign"] == "yes"  # 58.21 - 58.72
    dark = table.loc[("ViT, equal data", "factor_gap/darker")]
    assert dark["P1"] == "+0.007" and dark["same sign"] == "no"  # -14.5 - (-15.2)
    blocked = table.loc[("ViT, equal data", "factor_gap/person_blocking")]
    assert blocked["P1"] == "-0.100" and blocked["same sign"] == "yes"  # -47.5 - (-37.5)


def test_every_pair_of_the_paper_is_in_its_tables():
    for real, synthetic, factors in PAPER_PAIRS.values():
        for model in (real, synthetic):
            assert 0 < paper_value("P1", "table1", model=model) < 1
            if factors:
                assert paper_value("P1", factors, column="person_blocking", model=model) < 0
