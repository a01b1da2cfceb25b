"""Consistency as a measure: does the judge see the class that the label names? (P1 sec. 3.1)"""

from dataclasses import dataclass
from functools import cached_property

import datasets
import pandas as pd

from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.evaluate.accuracy import correct
from synreal.evaluate.examine import answers
from synreal.evaluate.predictions import Predictions
from synreal.models.card import Card
from synreal.models.load import load_classifier
from synreal.synbench.consistency import among
from synreal.synbench.measure import YES_NO


@dataclass(frozen=True)
class Consistency:
    """1 where the judge's answer is the label, 0 elsewhere.

    judge: a checkpoint's card. restricted: whether it answers among the classes of the set
    alone, or among all it knows; P1 does not say which. In the scenes both are the same.
    """

    judge: Card
    restricted: bool = False
    device: str = "cpu"
    name: str = "consistency"
    unit: str = YES_NO

    @cached_property
    def fingerprint(self) -> str:
        """The judge's weights and preparation of images, and whom it answers among."""
        classifier = load_classifier(self.judge)
        return f"{classifier.model_hash} {classifier.preprocess_hash} {self.restricted}"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """One value per image, indexed by image id, in the order of the images."""
        return correct(self.predictions(World("", images, None, None))).astype(float).rename(self.name)

    def predictions(self, world: World) -> Predictions:
        """The judge's answers on a set, for the tables of `consistency` and `correction`; kept on disk.

        Raises InputError for a class that the judge does not know.
        """
        found = answers(self.judge, world, device=self.device)
        return among(found, class_names(world.images)) if self.restricted else found
