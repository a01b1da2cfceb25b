"""Top-1 accuracy from predictions."""

import numpy as np
import pandas as pd

from synreal.evaluate.predictions import Predictions
from synreal.evaluate.tally import Tally, proportion


def correct(predictions: Predictions) -> pd.Series:
    """Whether the class of the largest logit is the label: bool [N], indexed by image id.

    Of equal logits the first class counts.
    """
    hit = np.argmax(predictions.logits, axis=1) == predictions.labels
    return pd.Series(hit, index=pd.Index(predictions.ids, name="id"), name="correct")


def accuracy_tally(hit: pd.Series) -> Tally:
    """Overall accuracy from per-image correctness (bool, indexed by id)."""
    columns = pd.DataFrame({"images": True, "correct": hit})
    return Tally(columns, (proportion("accuracy", "all", "correct", "images"),))
