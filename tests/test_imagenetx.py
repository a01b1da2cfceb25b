"""ImageNet-X: the package's annotations, golden values of its published predictions, and a small fixture.

tests/data/imagenetx_predictions.csv holds made-up predictions (seeded, about 70 % right) on 20 images or
fewer of each factor and on 60 images without annotation; the tests compute its values a second way.
"""

import json
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imagenet_x.aggregate import compute_factor_accuracies, estimated_calibration_error
from imagenet_x.aggregate import error_ratio as packaged_error_ratio
from imagenet_x.utils import augment_model_predictions, load_annotations

from synreal.data.published import FACTORS, imagenet_x_factors, imagenet_x_labels
from synreal.errors import InputError
from synreal.evaluate import error_ratio, expected_calibration_error, factor_accuracy, relative_accuracy

ROOT = Path(__file__).parents[1]
PUBLISHED = Path(os.environ.get("SYNREAL_SHARED_DATA", ROOT.parent / "shared" / "data")) / "imagenetx"
FIXTURE = Path(__file__).parent / "data" / "imagenetx_predictions.csv"

TOP_COUNTS = {
    "pose": 15064, "background": 14751, "pattern": 5972, "color": 6150, "smaller": 1450, "shape": 679,
    "partial_view": 638, "subcategory": 585, "texture": 282, "larger": 150, "darker": 122,
    "object_blocking": 78, "person_blocking": 60, "brighter": 44, "style": 43, "multiple_objects": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def top():
    return imagenet_x_factors("top")


def read_predictions(path):
    return pd.read_csv(path).set_index("file_name").sort_index()


def correctness(predictions):
    return predictions["predicted_class"] == imagenet_x_labels().reindex(predictions.index)


def published(model):
    path = PUBLISHED / f"{model}.csv"
    if not path.is_file():
        pytest.skip(
            f"no {model}.csv of ImageNet-X's example predictions; SYNREAL_SHARED_DATA/imagenetx has none"
        )
    return correctness(read_predictions(path))


def test_counts_of_the_top_factor(top):
    assert len(top) == 46110
    assert top.sum().to_dict() == TOP_COUNTS
    assert tuple(top) == FACTORS
    assert {str(kind) for kind in top.dtypes} == {"bool"}
    assert top.index.is_unique


def test_prototypes_are_removed_unless_wanted(top):
    everything = imagenet_x_factors("top", drop_prototypes=False)
    prototypes = pd.read_csv(files("imagenet_x") / "annotations" / "prototypical_paths.csv")["file_name"]
    assert len(prototypes) == 3000
    assert not top.index.isin(prototypes).any()
    assert set(everything.index) - set(top.index) == set(prototypes) & set(everything.index)
    assert len(everything) == 48868


def test_multi_keeps_every_ticked_factor(top):
    multi = imagenet_x_factors("multi")
    assert multi.index.equals(top.index)
    assert multi["pose"].sum() > top["pose"].sum()
    assert (multi.sum(axis=1) > 1).any()
    assert (top.sum(axis=1) <= 1).all()


def test_another_kind_of_annotation_is_refused():
    with pytest.raises(InputError, match="which: found 'all', expected 'top' or 'multi'"):
        imagenet_x_factors("all")


def test_labels_agree_with_the_annotations():
    annotations = load_annotations()
    labels = imagenet_x_labels()
    assert len(labels) == 50000
    assert (labels.value_counts() == 50).all()
    assert (labels.loc[annotations["file_name"]].to_numpy() == annotations["class"].to_numpy()).all()


@pytest.mark.parametrize(
    ("model", "ratios", "accuracies"),
    [
        ("ViT", {"pose": 0.740670, "person_blocking": 1.936310, "brighter": 0.782348}, (0.7801, 0.7676)),
        ("ResNet50", {"person_blocking": 2.171276}, (0.7613, 0.7467)),
    ],
)
def test_golden_values_of_the_published_predictions(model, ratios, accuracies, top):
    correct = published(model)
    found = error_ratio(correct, top)
    assert {factor: round(found[factor], 6) for factor in ratios} == ratios
    assert (round(correct.mean(), 4), round(correct[top.index].mean(), 4)) == accuracies


def test_published_predictions_as_the_package_computes_them(top):
    correct = published("ViT")
    frame = read_predictions(PUBLISHED / "ViT.csv").reset_index()
    theirs = compute_factor_accuracies(
        augment_model_predictions(load_annotations(), {"ViT": frame}), list(FACTORS)
    )
    expected = theirs.loc["ViT", list(FACTORS)].astype(float)
    pd.testing.assert_series_equal(factor_accuracy(correct, top), expected, check_names=False, atol=1e-9)
    ratios = packaged_error_ratio(theirs).loc["ViT"].astype(float)
    pd.testing.assert_series_equal(error_ratio(correct, top), ratios, check_names=False, atol=1e-9)


@pytest.fixture(scope="module")
def fixture_predictions():
    return read_predictions(FIXTURE)


def fixture_by_hand(predictions):
    """Hits and images by factor, counted line by line from the package's raw annotations."""
    annotations = files("imagenet_x") / "annotations"
    prototypes = set((annotations / "prototypical_paths.csv").read_text().split())
    guess = predictions["predicted_class"].to_dict()
    counts = {name: [0, 0] for name in (*FACTORS, "annotated")}
    for line in (annotations / "imagenet_x_val_top_factor.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["file_name"] not in guess or row["file_name"] in prototypes:
            continue
        for name in ("annotated", *(factor for factor in FACTORS if row[factor])):
            counts[name][0] += guess[row["file_name"]] == row["class"]
            counts[name][1] += 1
    return counts


def test_fixture_counted_line_by_line(fixture_predictions, top):
    counts = fixture_by_hand(fixture_predictions)
    correct = correctness(fixture_predictions)
    accuracy = {factor: hits / images for factor, (hits, images) in counts.items()}
    annotated, overall = accuracy.pop("annotated"), correct.mean()
    assert counts["annotated"][1] < len(correct)
    assert factor_accuracy(correct, top).to_dict() == pytest.approx(accuracy, abs=1e-12)
    for denominator, base in {"annotated": annotated, "all": overall}.items():
        expected = {factor: (value - base) / base for factor, value in accuracy.items()}
        assert relative_accuracy(correct, top, denominator).to_dict() == pytest.approx(expected, abs=1e-12)
    expected = {factor: (1 - value) / (1 - annotated) for factor, value in accuracy.items()}
    assert error_ratio(correct, top).to_dict() == pytest.approx(expected, abs=1e-12)


def test_fixture_golden_values(fixture_predictions, top):
    correct = correctness(fixture_predictions)
    # 232 of the 320 annotated images are right; of 20 each: pose 14, partial_view 9, brighter 11.
    expected = {"pose": 0.300 / 0.275, "partial_view": 0.550 / 0.275, "brighter": 0.450 / 0.275}
    found = error_ratio(correct, top)
    assert found[list(expected)].to_dict() == pytest.approx(expected, abs=1e-12)
    assert relative_accuracy(correct, top)["pose"] == pytest.approx(-0.034483, abs=5e-7)
    # 278 of all 380 images are right.
    assert relative_accuracy(correct, top, "all")["pose"] == pytest.approx(0.7 * 380 / 278 - 1, abs=1e-12)


def test_fixture_calibration_as_the_package_computes_it(fixture_predictions):
    correct, confidence = correctness(fixture_predictions), fixture_predictions["predicted_probability"]
    theirs = estimated_calibration_error(correct.to_numpy(), confidence.to_numpy())
    assert expected_calibration_error(confidence, correct) == pytest.approx(theirs, abs=1e-12)
    assert not np.isclose(theirs, 0)
