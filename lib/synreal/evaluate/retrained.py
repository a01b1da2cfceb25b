"""Mean accuracy over repeated trainings: both the images and the trainings are a sample.

P2 reports mean and one standard deviation over seeds (Fig. 2), which says how much a training varies, but not
how well the test images tell the truth. The bootstrap here resamples both (Owen 2007, the pigeonhole
bootstrap); its draws serve any function of several means, such as the least of their differences.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from synreal.errors import InputError
from synreal.evaluate.accuracy import correct
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import cluster_codes, resampled_sums

Key = TypeVar("Key")


def hits_by_training(repeats: Sequence[Predictions]) -> pd.DataFrame:
    """Whether a training was right: bool, one row per image, sorted by id, and one column per training.

    Raises InputError when the trainings answered different images.
    """
    columns = [correct(predictions).sort_index() for predictions in repeats]
    if any(not column.index.equals(columns[0].index) for column in columns):
        raise InputError("repeats: the trainings were predicted on different images; predict all on the same")
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def resampled_means(
    hits: Mapping[Key, pd.DataFrame], clusters: pd.Series | None, draws: int = 2000, seed: int = 0
) -> dict[Key, np.ndarray]:
    """Mean accuracy in `draws` bootstrap samples, float [draws] by key; all keys share the images of a draw.

    hits: as `hits_by_training`, all of the same images. clusters: names by image id; whole clusters are
    drawn. Of each key's trainings as many are drawn, with replacement.
    """
    frames = list(hits.values())
    images = frames[0].index
    stacked = np.hstack([np.ones((len(images), 1)), *(frame.to_numpy() for frame in frames)])
    sums = resampled_sums(stacked.astype(np.float32), draws, seed, cluster_codes(clusters, images))
    ends = np.cumsum([frame.shape[1] for frame in frames])[:-1]
    shares = np.split(sums[:, 1:] / sums[:, :1], ends, axis=1)
    rng = np.random.default_rng([seed, 1])
    return {
        key: np.take_along_axis(part, rng.integers(0, part.shape[1], part.shape), axis=1).mean(axis=1)
        for key, part in zip(hits, shares, strict=True)
    }
