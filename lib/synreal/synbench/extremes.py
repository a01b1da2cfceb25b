"""The images behind a number: those at the ends of a measure."""

import numpy as np
import pandas as pd
from PIL import Image

from synreal.data.decode import to_rgb
from synreal.synbench.study import Measured


def extremes(measured: Measured, measure: str, count: int = 8, seed: int = 0) -> pd.DataFrame:
    """The `count` images with the lowest and the `count` with the highest value, in ascending order.

    Columns row (place in the image set), value, end ("lowest" or "highest"); indexed by image id. Of equal
    values the seed decides, so that a yes-or-no measure shows a random sample of both answers. Images without
    a value are left out; fewer images than asked for give fewer rows, none of them twice.
    """
    values = measured.values[measure]
    table = pd.DataFrame({"row": np.arange(len(values)), "value": values}).dropna()
    table = table.sample(frac=1, random_state=seed).sort_values("value", kind="stable")
    half = min(count, len(table) // 2)
    ends = {"lowest": table.head(half), "highest": table.tail(half)}
    return pd.concat([rows.assign(end=end) for end, rows in ends.items()])


def pictures(measured: Measured, rows: pd.Series) -> list[Image.Image]:
    """The RGB images at these places of the set."""
    return [to_rgb(image) for image in measured.world.images.select(rows.to_list())["image"]]
