"""Statistics of several models on shared images, with answers known by construction."""

import numpy as np
import pandas as pd
import pytest

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate import Predictions
from synreal.evaluate.report import factors_worse, gap_difference

N = 400
NAMES = ("cat", "dog", "car", "van")
GROUPS = Hierarchy("things", {"animals": ("cat", "dog"), "vehicles": ("car", "van")})
IDS = np.array([f"image-{i:03d}" for i in range(N)])
LABELS = np.arange(N) % 4


def predictions(hits, model="m", ids=IDS):
    """Right where `hits`, and elsewhere the other class of the same group."""
    chosen = np.where(hits, LABELS, LABELS ^ 1)
    logits = np.eye(4, dtype=np.float32)[chosen]
    return Predictions(ids, LABELS.astype(np.int64), logits, NAMES, model, "h", "p", "test")


def hits_at(share, rows=slice(None)):
    """Exactly this share of the rows, spread over the classes."""
    hits = np.zeros(N, bool)
    chosen = np.arange(N)[rows]
    hits[np.random.default_rng(0).permutation(chosen)[: round(share * len(chosen))]] = True
    return hits


def shuffled(p, seed=3):
    order = np.random.default_rng(seed).permutation(N)
    return Predictions(
        p.ids[order], p.labels[order], p.logits[order], p.class_names, p.model, "h", "p", p.image_set
    )


PARTS = {"dark": slice(0, 60), "small": slice(60, 120), "turned": slice(120, 180), "rest": slice(180, N)}
FLAGS = pd.DataFrame({name: np.isin(np.arange(N), np.arange(N)[PARTS[name]]) for name in list(PARTS)[:3]})
FACTORS = FLAGS.set_index(IDS)


def by_part(**shares):
    return np.any([hits_at(share, PARTS[part]) for part, share in shares.items()], axis=0)


REAL = predictions(by_part(dark=0.8, small=0.8, turned=0.8, rest=0.8), "real")
SYNTHETIC = predictions(by_part(dark=0.1, small=0.1, turned=0.95, rest=0.6), "syn")


@pytest.mark.parametrize("denominator", ["annotated", "all"])
def test_factors_worse_counts_where_the_synthetic_model_suffers_more(denominator):
    counts = [
        factors_worse(a, b, FACTORS, denominator=denominator, draws=200)
        for a, b in ((REAL, SYNTHETIC), (SYNTHETIC, REAL), (REAL, REAL))
    ]
    assert [value for value, _, _ in counts] == [2, 1, 0]
    # Differences as large as these show in every draw, so there is no interval to tell.
    assert np.isnan([bounds for _, *bounds in counts]).all()


def test_a_difference_that_is_not_sure_widens_the_interval():
    close = predictions(by_part(dark=0.1, small=0.7, turned=0.9, rest=0.8), "close")
    # 0.1 is far below and 0.9 above the overall 0.695, as 0.7 is, by a hair.
    value, low, high = factors_worse(REAL, close, FACTORS, draws=400)
    assert (value, low, high) == (1, 1, 2)


def test_the_relative_accuracy_counts_and_not_the_accuracy():
    # Worse everywhere by the same share: no factor hurts it more than another.
    weak = predictions(by_part(dark=0.4, small=0.4, turned=0.4, rest=0.4), "weak")
    assert factors_worse(REAL, weak, FACTORS, draws=50)[0] == 0


def pairs(a=0.9, b=0.6, c=0.8, d=0.7):
    return (predictions(hits_at(a)), predictions(hits_at(b))), (
        predictions(hits_at(c)),
        predictions(hits_at(d)),
    )


def test_gap_difference_by_hand():
    first, second = pairs()
    value, low, high = gap_difference(first, second, GROUPS, draws=400)
    assert value == pytest.approx((0.9 - 0.6) - (0.8 - 0.7)) and low < value < high
    assert low > 0.05 and high < 0.35
    turned = gap_difference(second, first, GROUPS, draws=400)
    assert turned == pytest.approx((-value, -high, -low))
    none = gap_difference(first, first, GROUPS, draws=50)
    assert none[0] == 0 and np.isnan(none[1:]).all()


def test_the_interval_has_the_width_of_the_normal_approximation():
    first, second = pairs()
    right = [np.argmax(p.logits, axis=1) == p.labels for p in (*first, *second)]
    each = right[0].astype(float) - right[1] - right[2] + right[3]
    _, low, high = gap_difference(first, second, GROUPS, draws=2000)
    assert high - low == pytest.approx(2 * 1.96 * each.std() / N**0.5, rel=0.1)


def test_the_order_of_images_and_nothing_else_leaves_the_answer():
    first, second = pairs()
    mixed = tuple(shuffled(p, seed) for seed, p in enumerate(second))
    assert gap_difference(first, mixed, GROUPS, draws=100, seed=5) == gap_difference(
        first, second, GROUPS, draws=100, seed=5
    )
    close = predictions(by_part(dark=0.7, small=0.75, turned=0.8, rest=0.8))
    mixed_factors = FACTORS.sample(frac=1, random_state=0)
    assert factors_worse(shuffled(REAL), shuffled(close, 4), mixed_factors, draws=100) == factors_worse(
        REAL, close, FACTORS, draws=100
    )
    bounds = [gap_difference(first, second, GROUPS, draws=100, seed=seed)[1:] for seed in (5, 6)]
    assert bounds[0] != bounds[1]


def test_models_on_other_images_are_refused():
    other = predictions(hits_at(0.5), "other", np.array([f"photo-{i:03d}" for i in range(N)]))
    with pytest.raises(InputError, match="'real' and 'other': 800 ids are in one of the two only"):
        factors_worse(REAL, other, FACTORS)
    first, (third, _) = pairs()
    with pytest.raises(InputError, match="'m' and 'other': 800 ids"):
        gap_difference(first, (third, other), GROUPS)
