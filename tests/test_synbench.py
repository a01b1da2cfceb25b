"""Measured once, compared, judged: what the SynBench page and chapter are made of."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch

from synreal.book.synbench_report import TIDY, all_numbers
from synreal.data.decode import from_arrays
from synreal.data.hierarchy import Hierarchy
from synreal.data.imageset import class_names
from synreal.data.worlds import World, open_world
from synreal.errors import InputError
from synreal.evaluate.distribution import compare_distributions, compare_proportions
from synreal.evaluate.resampling import holm
from synreal.models import build_module, load_card, save_checkpoint
from synreal.models.predictions import Predictions
from synreal.synbench.backends import open_measures, open_vlm
from synreal.synbench.compare import (
    Measured,
    Range,
    check_known,
    check_thresholds,
    check_worlds,
    compare_all,
    compare_by_class,
    extremes,
    measure_all,
    pictures,
    read_thresholds,
    statistics_of,
)
from synreal.synbench.consistency import consistency_gap
from synreal.synbench.correction import (
    Consistency,
    corrected_consistency,
    disagreements,
    fine_grained,
    group_confusions,
    groups_by_statistic,
)
from synreal.synbench.detect import PersonOverlap
from synreal.synbench.measures import YES_NO, Brightness
from synreal.synbench.vlm import PersonBlocking
from tiny_clip import CARD

PETS = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))


@dataclass
class Fake:
    """A measure with known values, which counts how often it is taken."""

    made: object  # values, or the error to raise
    name: str = "made"
    unit: str = "units"
    fingerprint: str = "1"
    taken: list = field(default_factory=list)

    def values(self, images):
        self.taken.append(len(images))
        if isinstance(self.made, Exception):
            raise self.made
        return pd.Series(self.made[: len(images)], pd.Index(images["id"][:], name="id"), dtype=float)


def world(count=40, name="real", classes=PETS, seed=0, **columns):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = from_arrays(pixels, np.arange(count) % len(classes), classes, columns)
    return World(name, images, None, None)


def measured(values, name="set", labels=None, clusters=None, **more):
    """A Measured without images: columns of values by measure."""
    frame = pd.DataFrame({"made": values, **more})
    frame.index = pd.Index([f"{name}-{i:04d}" for i in range(len(frame))], name="id")
    labels = pd.Series(labels or ["cat"] * len(frame), frame.index)
    groups = None if clusters is None else pd.Series(clusters, frame.index)
    return Measured(World(name, None, None, None, groups), frame, labels, {})


def normal(count, name, seed=0, scale=1.0, **more):
    return measured(np.random.default_rng(seed).normal(0, scale, count), name, **more)


# --- measured once ---


def test_values_are_computed_once_and_kept_for_the_same_images_and_settings():
    first, measure = world(), Fake(np.arange(40.0))
    found = measure_all(first, [measure])
    assert found.values["made"].tolist() == list(range(40))
    assert found.values.index.tolist() == first.images["id"][:]
    assert found.labels.tolist() == ["cat", "dog"] * 20 and found.failures == {}
    pd.testing.assert_frame_equal(measure_all(first, [measure]).values, found.values)
    assert measure.taken == [40]
    measure_all(world(seed=1), [measure])  # other images
    measure_all(first, [Fake(np.zeros(40), fingerprint="2", taken=measure.taken)])  # other settings
    assert measure.taken == [40, 40, 40]


def test_values_that_a_judge_left_open_are_not_kept():
    class Silent(Fake):
        def values(self, images):
            found = super().values(images)
            found.attrs["unanswered"] = 2 - len(self.taken)
            return found

    measure = Silent(np.arange(40.0))
    for _ in range(3):
        assert measure_all(world(), [measure]).values["made"].tolist() == list(range(40))
    assert measure.taken == [40, 40]


def test_a_measure_that_fails_leaves_the_others_and_is_taken_again():
    good, bad = Fake(np.arange(40.0), "good"), Fake(InputError("no answer"), "bad")
    found = measure_all(world(), [bad, good])
    assert found.failures == {"bad": "InputError: no answer"} and list(found.values) == ["good"]
    bad.made = np.zeros(40)
    assert list(measure_all(world(), [bad, good]).values) == ["bad", "good"]
    assert (good.taken, bad.taken) == ([40], [40, 40])


def test_an_interrupted_write_leaves_no_value(monkeypatch):
    measure = Fake(np.arange(40.0))
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, path: path.write_bytes(b"half") and 1 / 0)
    assert "ZeroDivisionError" in measure_all(world(), [measure]).failures["made"]
    monkeypatch.undo()
    assert measure_all(world(), [measure]).failures == {}


def test_classes_may_differ_in_order_alone():
    check_worlds(world(), [world(name="a", classes=("dog", "cat"))])
    with pytest.raises(InputError, match=r"a: class names differ .* missing \[dog\], unknown \[cow\]"):
        check_worlds(world(), [world(name="a", classes=("cat", "cow"))])


@pytest.mark.parametrize("names", [("a", "a"), ("real",), ("photos",)])
def test_names_of_sets_are_not_taken_twice(names):
    with pytest.raises(InputError, match="the names .* are taken"):
        check_worlds(world(name="photos"), [world(name=name) for name in names])


def test_groups_and_clusters_are_checked_before_measuring():
    groups = World("real", world().images, Hierarchy("h", {"animal": ("cat", "cow")}), None)
    with pytest.raises(InputError, match="'dog'.* are in no group"):
        check_worlds(groups, [world(name="a")])
    for part in (world(classes=("all", "dog")), replace(world(), hierarchy=Hierarchy("h", {"all": PETS}))):
        with pytest.raises(InputError, match="real: a class or coarse group is called 'all'"):
            check_worlds(part, [replace(part, name="a")])
    few = open_world("scenes/val", 5, name="few")
    with pytest.raises(InputError, match="clusters: found .*, expected at least 10"):
        check_worlds(open_world("scenes/val", 40), [few])
    with pytest.raises(InputError, match="found none"):
        check_worlds(world(), [])


# --- compared ---


def test_rows_are_those_of_the_comparisons_and_holm_counts_one_question_a_measure():
    yes = {"blocked": np.tile([0.0, 1.0], 60)}
    real, other = normal(120, "real", **yes), normal(120, "other", seed=1, scale=0.5, blocked=[1.0] * 120)
    measures = [Fake(0), Fake(0, "blocked", YES_NO)]
    table = compare_all(real, [other], measures, draws=200)
    direct = compare_distributions(real.values["made"], other.values["made"], draws=200)
    own = table[table["measure"] == "made"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[direct.columns.to_list()], direct)
    shares = compare_proportions(real.values["blocked"], other.values["blocked"])
    assert table.loc[table["measure"] == "blocked", "value"].tolist() == shares["value"].tolist()
    asked = table[table["statistic"].isin(["ks", "proportion_difference"])]
    assert asked["p_holm"].tolist() == holm(asked["p"]).tolist()
    assert table["p_holm"].notna().sum() == 2
    for measure in measures:
        assert statistics_of(measure) == table.loc[table["measure"] == measure.name, "statistic"].tolist()


def test_a_measure_that_failed_on_a_set_is_left_out_there():
    real, other = normal(40, "real", more=np.arange(40.0)), normal(40, "other", seed=1)
    table = compare_all(real, [other], [Fake(0), Fake(0, "more")], draws=20)
    assert set(table["measure"]) == {"made"}
    nothing = compare_all(real, [other], [Fake(0, "more")], draws=20)
    assert nothing.empty and list(nothing) == list(table)


def test_whole_clusters_are_drawn():
    real = open_world("scenes/val", 300)
    dull = open_world("scenes/test", 300, name="dull")
    found = [measure_all(part, [Brightness()]) for part in (real, dull)]
    table = compare_all(found[0], [found[1]], [Brightness()], draws=200).set_index("statistic")
    pair = [part.values["brightness"] for part in found]
    direct = compare_distributions(*pair, real.clusters, dull.clusters, draws=200).set_index("statistic")
    pd.testing.assert_series_equal(table.loc[direct.index, "ci_low"], direct["ci_low"])
    alone = compare_distributions(*pair, draws=200).set_index("statistic")
    assert (table.loc[direct.index, "ci_low"] - alone["ci_low"]).abs().max() > 0


def test_classes_of_yes_or_no_draw_clusters_and_say_where_there_are_too_few():
    labels = ["cat"] * 60 + ["dog"] * 60
    clusters = [f"c{i // 3}" for i in range(60)] + [f"d{i // 20}" for i in range(60)]
    outcome = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 3).astype(float)
    real = measured(outcome, "real", labels, clusters)
    other = measured(1 - outcome, "other", labels, clusters)
    table = compare_by_class(real, other, Fake(0, unit=YES_NO)).set_index(["class", "statistic"])
    cat = slice(0, 60)
    pair = [part.values["made"][cat] for part in (real, other)]
    wide = compare_proportions(*pair, real.world.clusters, other.world.clusters)
    narrow = compare_proportions(*pair)
    assert table.loc["cat", "ci_low"].tolist() == wide["ci_low"].tolist()
    assert wide["ci_low"][0] < narrow["ci_low"][0]
    assert table.loc["dog", "ci_low"].isna().all() and table.loc["dog", "value"].notna().all()
    assert set(table.loc["dog", "note"]) == {"too few clusters (3 < 10)"}
    assert table.loc[("cat", "proportion_difference"), "p_holm"] == wide["p"][2]


# --- extremes ---


def test_extremes_are_the_ends_in_ascending_order():
    part = measured([5.0, np.nan, 1.0, 4.0, 2.0, 3.0])
    rows = extremes(part, "made", 2)
    assert rows["value"].tolist() == [1, 2, 4, 5] and rows["row"].tolist() == [2, 4, 3, 0]
    assert rows["end"].tolist() == ["lowest", "lowest", "highest", "highest"]
    assert extremes(part, "made", 8)["row"].is_unique
    assert extremes(measured([np.nan, np.nan]), "made").empty


def test_of_equal_values_the_seed_decides():
    part = measured(np.tile([0.0, 1.0], 100))
    once, again, other = (extremes(part, "made", 5, seed)["row"].tolist() for seed in (0, 0, 1))
    assert once == again != other


def test_pictures_are_those_rows():
    part = measure_all(world(), [Fake(np.arange(40.0))])
    shown = pictures(part, extremes(part, "made", 1)["row"])
    assert [image.tobytes() for image in shown] == [part.world.images[i]["image"].tobytes() for i in (0, 39)]


# --- thresholds ---


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.8, 1.2), "pass"), ((0.79, 1.0), "undecided"), ((1.0, 1.21), "undecided"), ((0.1, 0.79), "fail"),
        ((1.21, 2.0), "fail"), ((0.0, 3.0), "undecided"), ((np.nan, np.nan), "missing"),
    ],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval(interval, verdict):
    assert Range(min=0.8, max=1.2).verdict(*interval) == verdict


def test_open_sides_always_hold():
    assert Range(max=0.0).verdict(-9.0, -1.0) == "pass" and Range(min=0.0).verdict(-9.0, -1.0) == "fail"
    assert str(Range(min=0.8, max=2)) == "at least 0.8 and at most 2" and str(Range(max=2)) == "at most 2"


@pytest.mark.parametrize(
    "text",
    [
        "", "a list", "- a", "x: 1", "x: {}", "x: {min: 2, max: 1}", "x: {mni: 1}", "x: {min: yes}",
        "x: {min: '1'}", "x: {min: .nan}", "x: {min: 1", "1: {min: 1}", "? [a]\n: {min: 1}",
    ],
)  # fmt: skip
def test_malformed_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(InputError, match="limits.yaml: not (a table of thresholds|valid YAML)"):
        read_thresholds(tmp_path / "limits.yaml")
    with pytest.raises(InputError, match="absent.yaml: no such file"):
        read_thresholds(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "twice"), [("x: {max: 1}\ny: {max: 1}\nx: {max: 2}", "x"), ("x: {min: 1, min: 2}", "min")]
)
def test_repeated_keys_are_refused(tmp_path, text, twice):
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"limits.yaml: not valid YAML: key '{twice}' is given twice"):
        read_thresholds(tmp_path / "limits.yaml")


def test_thresholds_on_what_is_not_measured_are_refused():
    known = {"scale": {"ks": ["all", "cat"], "mean_difference": ["all"], "inside": ["pets"]}}
    keys = ("scale/ks", "scale/ks/cat", "scale/mean_difference", "scale/inside/pets")
    check_known({key: Range(max=1) for key in keys}, known)
    for key, message in {
        "brightness/ks": r"one of the measures, \[scale\]",
        "scale/kz": r"statistics of scale, \[ks, mean_difference, inside\]",
        "scale": "statistics of scale",
        "scale/ks/cow": r"classes or coarse groups that ks is given for, \[cat\]",
        "scale/ks/all": r"that ks is given for, \[cat\]",
        "scale/mean_difference/cat": "that mean_difference is given for",
        "scale/inside": r"that inside is given for, \[pets\]",
    }.items():
        with pytest.raises(InputError, match=message):
            check_known({key: Range(max=1)}, known)


def test_every_set_meets_every_threshold_by_group():
    rows = [("a", "ks", "all", 0.1), ("a", "ks", "cat", 0.9), ("b", "ks", "all", 0.9)]
    table = pd.DataFrame(rows, columns=["synthetic", "statistic", "group", "value"])
    table = table.assign(measure="scale", ci_low=table["value"] - 0.05, ci_high=table["value"] + 0.05)
    checks = check_thresholds(table, {"scale/ks": Range(max=0.5), "scale/ks/cat": Range(max=0.5)})
    assert checks["verdict"].tolist() == ["pass", "fail", "fail", "missing"]
    assert checks["expected"].tolist() == ["at most 0.5"] * 4 and checks["value"].isna().tolist()[3]
    whole = check_thresholds(table[table["group"] == "all"].drop(columns="group"), {"scale/ks": Range(max=1)})
    assert whole["verdict"].tolist() == ["pass", "pass"]
    assert check_thresholds(table, {}).empty


# --- judged ---

CLASSES = ("tabby", "siamese", "pug", "beagle", "cup")
GROUPS = Hierarchy("pets", {"cat": CLASSES[:2], "dog": CLASSES[2:4], "thing": CLASSES[4:]})


def judged(name, right, count=500, seed=0):
    """Of every class, `right` are judged as labelled, the others as the next class."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 5
    answers = np.where(rng.random(count) < right, labels, (labels + 1) % 5)
    logits = (3 * np.eye(5)[answers] + rng.random((count, 5))).astype(np.float32)
    ids = np.array([f"{name}{index:05d}" for index in range(count)])
    return Predictions(ids, labels, logits, CLASSES, "judge", "m", "p", name)


def test_the_fine_grained_table_holds_gaps_values_and_the_correction():
    real, other = judged("real", 0.9), judged("other", 0.6, seed=1)
    table = fine_grained(real, other, GROUPS, draws=100).set_index(["statistic", "group"])
    gap = consistency_gap(real, other, GROUPS, draws=100).set_index(["metric", "group"])
    for metric in ("unrestricted_consistency", "inside_share"):
        for side in ("real", "synthetic"):
            row, expected = table.loc[(f"{metric}_{side}", "cat")], gap.loc[(metric, "cat")]
            assert row["value"] == expected[f"value_{side}"] and row["ci_low"] < row["value"] < row["ci_high"]
        assert table.loc[(f"{metric}_difference", "cat"), "p_holm"] == gap.loc[(metric, "cat"), "p_holm"]
    corrected = corrected_consistency(real, other, draws=100).set_index(["metric", "group"])
    assert table.loc[("corrected_consistency", "all"), "value"] == corrected["value"].iloc[0]
    assert table.index.is_unique
    known = groups_by_statistic(CLASSES, GROUPS) | {"condition_number": ["all"]}
    assert set(table.index) == {(name, group) for name, groups in known.items() for group in groups}
    bare = fine_grained(real, other, draws=20)
    assert set(bare["statistic"]) == {"corrected_consistency", "confidence_gap", "condition_number"}


def test_too_few_real_images_are_no_reason_to_lose_the_rest():
    table = fine_grained(judged("real", 0.9, 20), judged("other", 0.6), GROUPS, draws=20)
    [note] = table.loc[table["statistic"] == "corrected_consistency", "note"]
    assert note.startswith("'real': fewer than 10 images")
    assert (table["statistic"] == "inside_share_difference").any()


def test_disagreements_are_the_surest_wrong_answers():
    answers = judged("other", 0.6)
    found = disagreements(answers, 8)
    assert len(found) == 8 and (found["label"] != found["judged"]).all()
    assert found["confidence"].is_monotonic_decreasing
    assert [answers.ids[row] for row in found["row"]] == found.index.tolist()
    wrong = answers.logits.argmax(axis=1) != answers.labels
    assert len(disagreements(answers, 1000)) == wrong.sum()
    assert disagreements(judged("right", 1.1), 8).empty


def test_groups_of_one_class_have_no_confusion():
    found = group_confusions(judged("other", 0.6), GROUPS)
    assert list(found) == ["cat", "dog"] and found["cat"].to_numpy().sum() == 200


def test_all_numbers_are_tidy():
    real, other = open_world("scenes/test", 200), open_world("scenes/val", 200, name="other")
    measures = open_measures(class_names(real.images), judge="Judge")
    parts = [measure_all(part, measures) for part in (real, other)]
    answers = {"consistency": {part.name: measures[0].predictions(part.world) for part in parts}}
    table = all_numbers(parts[0], parts[1:], measures, answers, draws=50)
    assert list(table) == TIDY
    assert not table.duplicated(["synthetic", "measure", "statistic", "group"]).any()
    own = table[table["statistic"] == "proportion_real"].set_index("group")["value"]
    assert own["all"] == pytest.approx(own.drop("all").mean())  # classes take turns
    assert {"tops", "footwear"} <= set(table.loc[table["statistic"] == "inside_share_real", "group"])


# --- backends ---


def test_only_named_backends_are_measured():
    assert [m.name for m in open_measures(["bag"])] == ["brightness"]
    [judge, _] = open_measures(["bag", "coat"], judge="Judge", restricted=True)
    assert judge.name == "consistency" and judge.restricted


def test_a_judge_is_not_asked_about_what_it_learned_from():
    for other in ("scenes/test", "scenes/val"):
        assert open_measures(["bag"], judge="Judge", measured=other)
    with pytest.raises(InputError, match="Judge learned from scenes/train, and the result is reported on"):
        open_measures(["bag"], judge="Judge", measured="scenes/train")


def test_a_zero_shot_judge_answers_among_the_classes_of_the_set(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "clip", build_module(CARD), CARD)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    pets = World("pets", from_arrays(pixels, [0, 1] * 3, list(PETS)), None, None)
    answers = {}
    for names in (PETS, PETS[::-1], (*PETS, "van")):
        [measure, _] = open_measures(names, judge=str(tmp_path / "clip"))
        found = measure.predictions(pets)
        assert found.class_names == names
        answers[names] = found.logits
    np.testing.assert_allclose(answers[PETS], answers[PETS[::-1]][:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(answers[PETS], answers[(*PETS, "van")][:, :2], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "Judge"}, r"judge: 'Judge' does not know the classes \[cat\]"),
        ({"judge": "absent"}, "absent"),
        ({"detector": "absent"}, "absent: no detector.yaml"),
        ({"detector": "absent.pt"}, "absent.pt: set the environment variable SYNREAL_DETECTOR_DIR"),
        ({"vlm": "gpt@http://x"}, "name persons or a detector"),
        ({"persons": "yolov5su.pt"}, "name a detector, or a vlm"),
        ({"restricted": True}, "restricted: found no judge"),
    ],
)
def test_backends_that_cannot_be_had_are_refused_at_once(options, message, monkeypatch):
    monkeypatch.delenv("SYNREAL_DETECTOR_DIR", raising=False)
    with pytest.raises(InputError, match=message):
        open_measures(["cat", "bag"], **options)


def test_a_vlm_is_asked_about_the_persons_that_a_detector_finds(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask = {"vlm": "llava@http://localhost:8000/v1"}
    [scale, _, blocking] = open_measures(["bag"], detector="detector", **ask)
    assert blocking.name == "person blocking" and isinstance(blocking, PersonBlocking)
    assert "llava" in blocking.fingerprint and scale.detector.fingerprint in blocking.fingerprint
    [_, _, overlap] = open_measures(["bag"], detector="detector")
    assert isinstance(overlap, PersonOverlap) and overlap.fingerprint != blocking.fingerprint


def test_a_detector_that_takes_class_names_finds_persons_where_nobody_else_does(monkeypatch):
    class Published:
        def __init__(self, name, class_names, device):
            own = {"yolov5su.pt": ("person", "car"), "cars.pt": ("car",)}
            self.class_names, self.fingerprint = own.get(name) or tuple(class_names), name

    monkeypatch.setattr("synreal.synbench.backends.published_detector", Published)
    world = "yolov8s-worldv2.pt"
    for names in (["bag", "coat"], ["person", "bag"]):
        [scale, _, _] = open_measures(names, detector=world)
        assert scale.detector.class_names == tuple(dict.fromkeys([*names, "person"]))
    [scale, _, _] = open_measures(["bag"], detector=world, persons="yolov5su.pt")
    assert scale.detector.class_names == ("bag",)
    with pytest.raises(InputError, match=r"persons: 'cars.pt' finds \[car\], expected .* finds 'person'"):
        open_measures(["bag"], detector=world, persons="cars.pt")


def test_a_vlm_is_an_endpoint_or_a_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert open_vlm("llava@http://localhost:8000/v1").name == "llava at http://localhost:8000/v1"
    with pytest.raises(InputError, match="absent"):
        open_vlm(str(tmp_path / "absent"))


def test_a_judge_may_see_the_split_that_it_was_chosen_on():
    """Its card says scenes/val; but here the images are judged, not the judge."""
    world = open_world("scenes/val", 30)
    judge = Consistency(load_card("Judge"))
    assert len(judge.predictions(world).ids) == len(judge.values(world.images)) == 30
