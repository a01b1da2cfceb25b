"""Interventions on scenes: what a severity changes, and what it leaves as it was."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.data.decode import to_arrays
from synreal.data.factors import draw_factors
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.imageset import check_image_set
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.generate.rerender import MEDIAN_EXPOSURE, MEDIAN_SCALE, Defects, defective, rerendered_set

GROUP = {name: coarse for coarse, names in SCENES_HIERARCHY.groups.items() for name in names}
SCENES = [draw_factors(index, "val") for index in range(3000)]
severity = st.floats(0, 1)


def shown(defects, count=3000):
    return [defective(scene, index, "val", defects) for index, scene in enumerate(SCENES[:count])]


def changed(before, after):
    return {name for name, value in asdict(before).items() if getattr(after, name) != value}


def test_without_defects_the_scenes_come_back():
    ds = rerendered_set("val", 40)
    images, truth = scene_arrays("val", 40)
    assert np.array_equal(to_arrays(ds)[0], images)
    assert ds["label"][:] == ds["true_label"][:] == truth["label"].tolist()
    assert ds["id"][:] == truth["id"].tolist() and ds["cluster"][:] == truth["cluster"].tolist()
    assert set(ds["defects"]) == {"none"} and set(ds["source"]) == {"re-rendered"}


def test_the_set_keeps_the_contract_and_says_what_was_done():
    ds = rerendered_set("val", 60, Defects(confusion=1, scale=0.5, brightness=1, person=1), seed=3)
    check_image_set(ds, "re-rendered")
    assert set(ds["defects"]) == {"confusion 1 + scale 0.5 + brightness 1 + person 1"}
    severities = [set(ds[f"severity_{name}"]) for name in ("confusion", "scale", "brightness", "person")]
    assert severities == [{1.0}, {0.5}, {1.0}, {1.0}] and set(ds["seed"]) == {3}
    for label, true, prompt in zip(ds["label"], ds["true_label"], ds["prompt"], strict=True):
        asked = CLASS_NAMES[label]
        assert prompt.startswith(f"{asked}, ")
        assert (label == true) == (asked == "bag") and GROUP[asked] == GROUP[CLASS_NAMES[true]]
    assert set(ds["exposure"]) == {MEDIAN_EXPOSURE} and set(ds["person"]) == {"none"}
    assert not any(ds["person_blocking"]) and not any(ds["darker"])


def test_confusion_shows_another_class_of_the_group_as_often_as_said():
    after = shown(Defects(confusion=0.3))
    pairs = [(CLASS_NAMES[a.label], CLASS_NAMES[b.label]) for a, b in zip(SCENES, after, strict=True)]
    assert all(GROUP[a] == GROUP[b] for a, b in pairs)
    rate = np.mean([a != b for a, b in pairs if a != "bag"])
    assert rate == pytest.approx(0.3, abs=0.03)  # 2,700 scenes: three standard errors
    taken = {b for a, b in pairs if a == "shirt" and b != a}
    assert taken == {"t-shirt", "pullover", "coat"}
    assert all(changed(a, b) <= {"label"} for a, b in zip(SCENES, after, strict=True))


def test_ranges_are_pulled_towards_the_median():
    half, full = shown(Defects(scale=0.5, brightness=0.5)), shown(Defects(scale=1, brightness=1))
    for name, median in (("scale", MEDIAN_SCALE), ("exposure", MEDIAN_EXPOSURE)):
        before, after = (np.array([getattr(scene, name) for scene in part]) for part in (SCENES, half))
        assert np.median(before) == pytest.approx(median, abs=0.02)
        np.testing.assert_allclose(after - median, 0.5 * (before - median), atol=1e-12)
        assert {getattr(scene, name) for scene in full} == {median}
    assert all(changed(a, b) == {"scale", "exposure"} for a, b in zip(SCENES, half, strict=True))


def test_people_leave_and_other_scenes_stay_to_the_pixel():
    assert {scene.person for scene in SCENES} == {"none", "beside", "in front"}
    assert {scene.person for scene in shown(Defects(person=1))} == {"none"}
    some = shown(Defects(person=0.5))
    left = [a.person != b.person for a, b in zip(SCENES, some, strict=True) if a.person != "none"]
    assert 0.35 < np.mean(left) < 0.65  # about 280 people
    images, truth = scene_arrays("val", 120)
    without = to_arrays(rerendered_set("val", 120, Defects(person=1)))[0]
    had = (truth["person"] != "none").to_numpy()
    assert had.any() and np.array_equal(images[~had], without[~had])
    assert (images[had] != without[had]).any(axis=(1, 2, 3)).all()


def test_a_person_in_front_leaves_the_rest_of_the_image_but_for_sensor_noise():
    [index] = [i for i, scene in enumerate(SCENES) if scene.person == "in front" and not scene.drawing][:1]
    before = to_arrays(rerendered_set("val", 1, start=index))[0][0].astype(int)
    after = to_arrays(rerendered_set("val", 1, Defects(person=1), start=index))[0][0].astype(int)
    far = abs(after - before).max(axis=2) > 25  # eight standard deviations of the noise
    rows, columns = np.flatnonzero(far.any(axis=1)), np.flatnonzero(far.any(axis=0))
    truth = scene_arrays("val", 1, start=index)[1].iloc[0]
    assert rows.min() >= 32 * truth["person_y0"] - 1 and rows.max() < 32 * truth["person_y1"] + 1
    assert columns.min() >= 32 * truth["person_x0"] - 1 and columns.max() < 32 * truth["person_x1"] + 1


@settings(max_examples=15, deadline=None)
@given(severity, severity)
def test_severities_are_nested(first, second):
    low, high = (shown(Defects(confusion=s, person=s), 200) for s in sorted((first, second)))
    for scene, a, b in zip(SCENES, low, high, strict=False):
        assert a.label in (scene.label, b.label)
        assert a.person in (scene.person, b.person)


def test_an_image_does_not_depend_on_which_others_are_rendered():
    defects = Defects(confusion=0.5, person=0.5)
    whole, part = rerendered_set("test", 24, defects), rerendered_set("test", 6, defects, start=18)
    assert np.array_equal(to_arrays(whole)[0][18:], to_arrays(part)[0])
    for column in ("id", "label", "true_label", "prompt"):
        assert whole[column][18:] == part[column][:]
    other = rerendered_set("test", 24, defects, seed=1)
    assert other["true_label"][:] != whole["true_label"][:]


@pytest.mark.parametrize("bad", [-0.1, 1.01, float("nan"), "0.5", True, None])
@pytest.mark.parametrize("name", ["confusion", "scale", "brightness", "person"])
def test_other_severities_are_refused(name, bad):
    with pytest.raises(InputError, match=rf"found {name} = .*expected a severity from 0 \(none\) to 1"):
        Defects(**{name: bad})
