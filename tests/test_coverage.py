"""Do 95 % intervals hold the truth as often as they say? Simulated trainings, of which the truth is known."""

import numpy as np
import pytest

from synreal.evaluate.repeated import Effect, crossed_interval

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


@pytest.mark.parametrize(("trainings", "least"), [(3, 0.92), (5, 0.93)])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("per_photograph", [1, 4])
def test_differences_of_retrained_models_are_covered(trainings, least, spread, per_photograph):
    """At a spread of .04 or .06, a bootstrap of three trainings covers .90 or .85."""
    rng, clusters = np.random.default_rng(0), np.arange(IMAGES) // per_photograph
    held = 0
    for _ in range(1500):
        found = difference(simulated(rng, trainings, spread, per_photograph)).estimate(clusters)
        held += found.ci_low <= TRUTH <= found.ci_high
    assert held / 1500 >= least


def test_satterthwaite_is_at_worst_a_little_narrow():
    """Where three trainings vary about three times as much as the photographs, .92 are covered, not .95."""
    rng, draws = np.random.default_rng(0), 50_000
    for ratio, least in ((0.0, 0.945), (1.0, 0.94), (8.0, 0.92), (1000.0, 0.945)):
        trainings = ratio * rng.chisquare(2, draws) / 2
        value = rng.normal(0, (1 + ratio) ** 0.5, draws)
        low, high, p = crossed_interval(value, (trainings, 2), (1.0, 599))
        held = (low <= 0) & (high >= 0)
        assert held.mean() >= least
        assert np.array_equal(held, p >= 0.05)
