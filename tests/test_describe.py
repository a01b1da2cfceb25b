"""The description of the scenes world that its chapter prints."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from synreal.data import scenes
from synreal.data.scenes import VALUES, factor_shares, scene_arrays, shared_garments
from synreal.data.sprites import Sprites


def test_shares_have_the_wilson_interval_and_the_designed_rate():
    flags = pd.DataFrame({"dark": [True] * 3 + [False] * 97, "never": [False] * 100})
    table = factor_shares(flags, {"dark": 0.04}).set_index("factor")
    assert table.loc["dark", ["value", "n", "designed"]].tolist() == [0.03, 100, 0.04]
    interval = binomtest(3, 100).proportion_ci(method="wilson")
    assert np.allclose(table.loc["dark", ["ci_low", "ci_high"]].to_list(), interval)
    assert table.loc["never", "value"] == 0 and np.isnan(table.loc["never", "designed"])
    assert 0 < table.loc["never", "ci_high"] < 0.05


def test_no_photograph_is_in_two_splits(monkeypatch):
    assert shared_garments() == 0
    black, white = np.zeros((1, 28, 28), np.uint8), np.full((1, 28, 28), 255, np.uint8)
    held = {"upstream": black, "train": white, "val": black, "test": np.concatenate([black, white])}
    monkeypatch.setattr(scenes, "load_sprites", lambda split: Sprites(held[split], held[split], ()))
    # black in upstream, val and test: three pairs; white in train and test: one
    assert shared_garments() == 4


def test_every_described_value_is_a_column_of_the_truth_and_lies_where_its_words_say():
    truth = scene_arrays("val", 800)[1]
    assert set(VALUES) <= set(truth.columns)
    assert truth["scale"].between(0.6, 0.9).mean() > 0.8
    assert truth["exposure"].between(-0.6, 0.6).mean() > 0.85
    turned = truth["rotation"].abs()
    assert turned.lt(30).mean() > 0.9 and not turned.between(15, 35).any() and turned.max() <= 180
    assert truth["visible"].gt(0.95).mean() > 0.7
