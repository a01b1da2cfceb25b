"""Do 95 % intervals hold the truth as often as they say? Simulated trainings, of which the truth is known."""

import numpy as np
import pytest

from synreal.evaluate.repeated import Effect, Repeats, crossed_interval
from synreal.evaluate.scaling_laws import exchange_rates, fit_curve

TRUTH = 0.05  # by how much the first model is the better one
IMAGES = 600


def simulated(rng, trainings, spread, per_photograph):
    """Answers of two models [2, trainings, IMAGES]: each training and each photograph has its own luck."""
    photographs = np.repeat(rng.normal(0, 0.12, IMAGES // per_photograph), per_photograph)
    chance = (0.5 + np.array([TRUTH, -TRUTH]) / 2)[:, None, None] + rng.normal(0, spread, (2, trainings, 1))
    return rng.random((2, trainings, IMAGES)) < chance + photographs


def difference(answers):
    everything = np.ones(IMAGES, bool)
    first, second = (Effect.of(model.astype(float), everything, "simulated") for model in answers)
    return first - second


@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("per_photograph", [1, 4])
def test_differences_of_retrained_models_are_covered(trainings, spread, per_photograph):
    """At a spread of .04 or .06, a bootstrap of three trainings covers .90 or .85."""
    rng, clusters = np.random.default_rng(0), np.arange(IMAGES) // per_photograph
    held = 0
    for _ in range(1500):
        found = difference(simulated(rng, trainings, spread, per_photograph)).estimate(clusters)
        held += found.ci_low <= TRUTH <= found.ci_high
    assert held / 1500 >= 0.93


def test_three_trainings_are_covered_at_any_ratio_to_the_images():
    """Satterthwaite's rule alone covers .92 where the variance of trainings is eight times that of images."""
    rng, draws = np.random.default_rng(0), 50_000
    for ratio, least in ((0.0, 0.945), (1.0, 0.94), (4.0, 0.93), (8.0, 0.93), (16.0, 0.93), (1000.0, 0.945)):
        trainings = ratio * rng.chisquare(2, draws) / 2
        value = rng.normal(0, (1 + ratio) ** 0.5, draws)
        low, high, p = crossed_interval(value, (trainings, 2), (1.0, 599))
        held = (low <= 0) & (high >= 0)
        assert held.mean() >= least
        assert np.array_equal(held, p >= 0.05)


SIZES = np.array([250, 500, 1000, 2000, 4000])
LAWS = np.array([[0.2, 0.3, 0.6], [0.2, 0.3 * 2**0.6, 0.6]])  # a synthetic image is worth half a real one
SPREAD = np.array([0.04, 0.03, 0.02, 0.015, 0.01])  # between trainings, by size


def law(number, sizes):
    floor, height, rate = LAWS[number]
    return 1 - floor - height * (sizes / 250) ** -rate


@pytest.mark.parametrize("shared", [False, True])
def test_curves_and_exchange_rates_are_covered(shared):
    """A bootstrap of three trainings covers .75 to .9; `shared`: a seed is lucky at all sizes alike."""
    rng, held = np.random.default_rng(0), []
    kind, size, seed = (part.ravel() for part in np.meshgrid([0, 1], range(5), range(3), indexing="ij"))
    for _ in range(100):
        luck = rng.standard_normal(3)[seed] if shared else rng.standard_normal(30)
        accuracies = np.where(kind == 0, law(0, SIZES[size]), law(1, SIZES[size])) + SPREAD[size] * luck / 2
        repeats = Repeats.of(accuracies, list(zip(kind, size, strict=True)), seed if shared else None)
        real, synthetic = (fit_curve(np.where(kind == one, SIZES[size], np.nan), repeats) for one in (0, 1))
        low, high = real.band(SIZES[[0, 2, 4]])
        rate = exchange_rates(real, synthetic, [1000]).iloc[0]
        known = (low <= law(0, SIZES[[0, 2, 4]])) & (law(0, SIZES[[0, 2, 4]]) <= high)
        held.append([*known, rate["worth_low"] <= 0.5 <= rate["worth_high"]])
    assert np.mean(held) >= 0.93 and np.mean(held, axis=0).min() >= 0.9
