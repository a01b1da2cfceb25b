"""Between image sets and arrays of pixels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import cv2
import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from synreal.data.decode import DECODING_ERRORS, open_record, to_rgb
from synreal.errors import InputError

ROWS_PER_BATCH = 1000  # Arrow's binary arrays hold at most 2 GiB each
OWN_COLUMNS = ("image", "label")


def to_arrays(ds: datasets.Dataset, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a set: uint8 [N, H, W, 3] RGB in 0..255, and int64 [N].

    With `size`, the shorter side is resized to it (bicubic, antialiased) and the centre square is cropped.
    Without, images keep their size; raises InputError when sizes differ, and on an image that cannot be
    decoded. Colour modes become RGB as `decode.to_rgb` says.
    """
    if size is not None and size < 1:
        raise InputError(f"size: found {size}, expected pixels, 1 or more")
    if len(ds) == 0:
        raise InputError("to_arrays: the image set is empty; expected at least one image")
    pixels = np.empty(0, np.uint8)
    raw = ds.select_columns(["image", "id"]).cast_column("image", datasets.Image(decode=False))
    for row, (record, key) in enumerate(_records(raw)):
        image = _decode(record, key, size)
        if row == 0:
            pixels = np.empty((len(ds), *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            raise InputError(_sizes_differ(key, image, pixels))
        pixels[row] = image
    return pixels, np.asarray(ds.with_format("numpy")["label"][:], dtype=np.int64)


def from_arrays(
    images: np.ndarray | Sequence[np.ndarray],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
    encoding: Literal["png", "webp"] = "png",
) -> datasets.Dataset:
    """An image set with the images encoded, every pixel value kept: as PNG, or a quarter smaller as WebP.

    images: uint8 [N, H, W, 3] RGB, or a sequence of [H, W, 3] of different sizes. labels: [N], numbers of
    `class_names`. columns: further columns of length N; `id` defaults to the row number, `source` to
    "arrays".
    """
    columns = dict(columns or {})
    columns.setdefault("id", [f"{row:08d}" for row in range(len(images))])
    columns.setdefault("source", ["arrays"] * len(images))
    _check_arrays(images, labels, class_names, columns)
    texts = ("id", "source")
    plain = {
        name: pa.array(values, pa.string() if name in texts else None) for name, values in columns.items()
    }
    numbers = pa.array(np.asarray(labels, dtype=np.int64))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(class_names)),
            **datasets.Features.from_arrow_schema(pa.table(plain).schema),
        }
    )
    table = pa.table({"image": _encode_all(images, encoding), "label": numbers, **plain}).cast(
        features.arrow_schema
    )
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _records(raw: datasets.Dataset) -> Iterator[tuple[dict[str, Any] | None, str]]:
    for batch in raw.with_format("arrow").iter(batch_size=ROWS_PER_BATCH):
        yield from zip(batch["image"].to_pylist(), batch["id"].to_pylist(), strict=True)


def _decode(record: dict[str, Any] | None, key: str, size: int | None) -> np.ndarray:
    try:
        image = to_rgb(open_record(record))
    except DECODING_ERRORS as error:
        raise InputError(
            f"image {key}: cannot be decoded ({error}); load the set with unreadable='drop'"
        ) from error
    if size is None:
        return np.asarray(image)
    return np.asarray(_shorter_side(image, size))


def _shorter_side(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC, centering=(0.5, 0.5))


def _sizes_differ(key: str, image: np.ndarray, pixels: np.ndarray) -> str:
    height, width = image.shape[:2]
    return (
        f"image {key}: {width}x{height} pixels, but the first image has {pixels.shape[2]}x{pixels.shape[1]}; "
        "expected one size, or give size to resize the shorter side and crop the centre"
    )


def _encode_all(images: np.ndarray | Sequence[np.ndarray], encoding: str) -> pa.ChunkedArray:
    kind = datasets.Image().pa_type
    chunks = []
    for start in range(0, len(images), ROWS_PER_BATCH):
        batch = images[start : start + ROWS_PER_BATCH]
        encoded = pa.array([_encode(image, encoding) for image in batch], pa.binary())
        paths = pa.nulls(len(encoded), pa.string())
        chunks.append(pa.StructArray.from_arrays([encoded, paths], ["bytes", "path"]).cast(kind))
    return pa.chunked_array(chunks, kind)


def _encode(image: np.ndarray, encoding: str) -> bytes:
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if encoding == "webp" else []  # above 100 means lossless
    done, buffer = cv2.imencode(f".{encoding}", image[..., ::-1], lossless)  # OpenCV reads blue first
    if not done:
        raise InputError(f"images: OpenCV could not encode an array of shape {image.shape} as {encoding}")
    return buffer.tobytes()


def _check_arrays(
    images: np.ndarray | Sequence[np.ndarray],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
) -> None:
    wrong = next((x for x in images if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 3), None)
    if wrong is not None:
        raise InputError(
            f"images: found {wrong.dtype} of shape {wrong.shape}; expected uint8 of shape [H, W, 3]"
        )
    if taken := [name for name in OWN_COLUMNS if name in columns]:
        raise InputError(f"columns: {taken} are given by images and labels; leave them out")
    lengths = {name: len(values) for name, values in {"labels": labels, **columns}.items()}
    if unequal := {name: n for name, n in lengths.items() if n != len(images)}:
        raise InputError(f"columns of another length than the {len(images)} images: {unequal}")
    numbers = np.asarray(labels)
    if not len(numbers):
        return
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(class_names):
        raise InputError(
            f"labels: found {numbers.dtype} in {numbers.min()}..{numbers.max()}; expected integers in "
            f"0..{len(class_names) - 1} for the {len(class_names)} class names"
        )
