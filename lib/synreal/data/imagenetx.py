"""The human annotations of ImageNet-X, through the imagenet-x package, as a factor table."""

from typing import Literal

import pandas as pd
from imagenet_x.utils import FACTORS as _FACTORS
from imagenet_x.utils import get_annotation_path, load_annotations

from synreal.errors import InputError

FACTORS: tuple[str, ...] = tuple(_FACTORS)


def imagenet_x_factors(
    which: Literal["top", "multi"] = "top", *, drop_prototypes: bool = True
) -> pd.DataFrame:
    """One row per annotated ImageNet validation image, one bool column per factor, in the order of FACTORS.

    Index `id`: the file name, as in "ILSVRC2012_val_00004487.JPEG".
    "top" keeps the one factor that annotators found the strongest, "multi" all that they ticked.
    Prototypes are the 3 images of each class that the others were compared with; ImageNet-X leaves them
    out of every accuracy.
    Raises InputError for another `which`. Source: Idrissi et al. 2023, as used in P1 sec. 2.1.
    """
    if which not in ("top", "multi"):
        raise InputError(f"which: found {which!r}, expected 'top' or 'multi'")
    annotations = load_annotations(which_factor=which, filter_prototypes=drop_prototypes)
    table = annotations.set_index(annotations["file_name"].astype(str).rename("id"))
    return table[list(FACTORS)].astype(bool).sort_index()


def imagenet_x_labels() -> pd.Series:
    """The label (0 to 999) of each of the 50,000 ImageNet validation images, by file name."""
    table = pd.read_csv(get_annotation_path() / "filename_label.csv")
    return table.set_index(table["file_name"].rename("id"))["label"].sort_index()
