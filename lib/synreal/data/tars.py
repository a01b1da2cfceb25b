"""The fields of WebDataset tars, also where samples lack some."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import datasets
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from synreal.data.labels import shorten

KEY, URL = "__key__", "__url__"  # WebDataset's own names: the stem of a sample's files, and the tar it is in
FIRST_SAMPLES = 5  # that say which fields there are


def tar_features(paths: Sequence[str]) -> datasets.Features:
    """The fields of the fullest among the first samples; the others may lack some, such as the image.

    The library alone would refuse tars in which they do. Raises ValueError when a sample has a field that the
    fullest lacks, and when there is no sample.
    """
    first = sorted(_first_samples(paths), key=len, reverse=True)
    if not first:
        raise ValueError("no sample in them; expected files such as 0000.jpg and 0000.txt")
    if other := [sample for sample in first if sample.keys() - first[0].keys()]:
        raise ValueError(
            f"{_told(first[0])}, but {_told(other[0])}; expected the same kinds of files in every sample"
        )
    features = datasets.Dataset.from_list(first).features
    images = {name: datasets.Image() for name in features if _is_image(name)}
    return datasets.Features(features | images)


def _first_samples(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A few, and on to the first that holds an image."""
    open_tar, seen = datasets.DownloadManager().iter_archive, False
    tars = (WebDataset._get_pipeline_from_tar(path, open_tar(path)) for path in paths)
    for number, sample in enumerate(chain.from_iterable(tars), start=1):
        yield sample
        seen = seen or any(map(_is_image, sample))
        if seen and number >= FIRST_SAMPLES:
            return


def _is_image(field: str) -> bool:
    return field.rsplit(".", 1)[-1].lower() in WebDataset.IMAGE_EXTENSIONS


def _told(sample: dict[str, Any]) -> str:
    fields = [name for name in sample if name not in (KEY, URL)]
    return f"sample {sample[KEY]} of {sample[URL]} holds {shorten(fields)}"
