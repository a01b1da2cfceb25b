"""Images of several sets below each other, the real ones on top, with what was measured under each."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

INCHES = 0.85  # a cell
LARGEST = 160  # pixels of a side: a cell has fewer, and a page stays small
ROOM = 0.15  # of a cell, for each line of words below an image

Captioned = tuple[Image.Image, str]


def worst_cases(rows: Mapping[str, Sequence[Captioned]], *, title: str = "") -> Figure:
    """A row of images for each set, named at its left, each image with its words below it.

    Images keep their proportions; small ones are enlarged without smoothing, so that 32x32 stays honest.
    Raises ValueError when there is no image.
    """
    columns = max((len(row) for row in rows.values()), default=0)
    if not columns:
        raise ValueError("worst_cases: found no image in any set, expected at least one")
    lines = max(words.count("\n") + 1 for row in rows.values() for _, words in row)
    height = 1.1 + ROOM * lines
    fig, axes = plt.subplots(
        figsize=(INCHES * (columns + 1.5), INCHES * height * len(rows) + 0.3 * bool(title))
    )
    size = 6 * max(1.0, columns / 8)  # points; a page scales wide sheets down
    for number, (name, row) in enumerate(rows.items()):
        axes.text(-0.1, number * height + 0.5, name, ha="right", va="center", fontsize=size + 2, wrap=True)
        for column, (image, words) in enumerate(row):
            _place(axes, image, words, column, number * height, size)
    axes.set(xlim=(-1.5, columns), ylim=(len(rows) * height, 0), aspect="equal", title=title)
    axes.set_axis_off()
    plt.close(fig)  # or Jupyter would show it a second time, without alt text
    return fig


def _place(axes: Axes, image: Image.Image, words: str, left: float, top: float, points: float) -> None:
    """The image in the cell [left, left + 1] x [top, top + 1], 5 % free on each side."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    width, height = 0.9 * np.array(small.size) / max(small.size)
    x, y = left + (1 - width) / 2, top + (1 - height) / 2
    axes.imshow(np.asarray(small), extent=(x, x + width, y + height, y), interpolation="nearest")
    axes.text(left + 0.5, top + 1, words, ha="center", va="top", fontsize=points)
