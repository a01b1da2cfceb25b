"""Mean accuracy over repeated trainings: both the images and the trainings are a sample.

P2 reports mean and one standard deviation over seeds (Fig. 2), which says how much a training varies, but not
how well the test images tell the truth. The bootstrap here resamples both (Owen 2007, the pigeonhole
bootstrap); its draws serve any function of several means, such as the least of their differences.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from synreal.errors import InputError
from synreal.evaluate.accuracy import correct
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import cluster_codes, resampled_sums

Key = TypeVar("Key", bound=Hashable)


def hits_by_training(repeats: Sequence[Predictions]) -> pd.DataFrame:
    """Whether a training was right: bool, one row per image, sorted by id, and one column per training.

    Raises InputError when the trainings answered different images.
    """
    columns = [correct(predictions).sort_index() for predictions in repeats]
    if any(not column.index.equals(columns[0].index) for column in columns):
        raise InputError("repeats: the trainings were predicted on different images; predict all on the same")
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def resampled_means(
    hits: Mapping[Key, pd.DataFrame],
    clusters: pd.Series | None,
    draws: int = 2000,
    seed: int = 0,
    training: Callable[[Key], Hashable] | None = None,
) -> dict[Key, np.ndarray]:
    """Mean accuracy in `draws` bootstrap samples, float [draws] by key.

    hits: as `hits_by_training`. A draw is one of all images that occur in them, shared by all keys, so that
    answers to the same image vary together. clusters: names by image id; whole clusters are drawn.
    training: what was trained, by key; where it is the same, one draw of trainings serves. Without it each
    key has trainings of its own. As many are drawn as there are, with replacement.
    """
    images = pd.Index(sorted(set().union(*(frame.index for frame in hits.values()))))
    columns = [
        np.column_stack([images.isin(frame.index), frame.reindex(images, fill_value=False)])
        for frame in hits.values()
    ]
    sums = resampled_sums(np.hstack(columns).astype(np.float32), draws, seed, cluster_codes(clusters, images))
    ends = np.cumsum([part.shape[1] for part in columns])[:-1]
    rng, picked, means = np.random.default_rng([seed, 1]), dict[Hashable, np.ndarray](), {}
    for key, part in zip(hits, np.split(sums, ends, axis=1), strict=True):
        shares, same = part[:, 1:] / part[:, :1], training(key) if training else key
        if same not in picked:
            picked[same] = rng.integers(0, shares.shape[1], shares.shape)
        means[key] = np.take_along_axis(shares, picked[same], axis=1).mean(axis=1)
    return means
