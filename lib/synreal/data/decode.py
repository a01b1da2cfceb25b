"""Decoding of images, as they are asked for or once into memory, and the hash of what was decoded."""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image, ImageFile, ImageOps

from synreal.cache import file_hashes
from synreal.errors import InputError

# What Pillow raises on damaged files; UnidentifiedImageError is an OSError, a broken PNG a SyntaxError.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    RuntimeError,  # AVIF, which is common behind .jpg on the web
    NotImplementedError,  # BLP and DDS
)
ROWS_PER_TASK = 256


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, turned upright by its EXIF orientation.

    Transparency is composited over white. 16-bit grey (modes I;16 and I) is scaled from 0..65535 to 0..255,
    not clipped. Grey, palette, CMYK and the other 8-bit modes are converted by Pillow.

    Raises ValueError for mode F and for 32-bit values outside 0..65535, which have no agreed range.
    """
    if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("mode F (floats) has no agreed range; store the image with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _scale_16_bit(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values {values.min()}..{values.max()} of mode {image.mode} lie outside 0..65535")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def open_record(record: dict[str, Any] | None) -> Image.Image:
    """The still undecoded image of one row of a `datasets.Image(decode=False)` column.

    Raises one of `DECODING_ERRORS` when there is nothing that Pillow can identify.
    """
    if record is None or (record["bytes"] is None and record["path"] is None):
        raise ValueError("the row holds no image")
    content = Path(record["path"]).read_bytes() if record["bytes"] is None else record["bytes"]
    if not content:
        raise ValueError("zero bytes")
    return Image.open(io.BytesIO(content))


def unreadable_images(ds: datasets.Dataset) -> dict[int, str]:
    """Row number -> reason, for every image of column `image` that does not decode to its last byte.

    JPEGs are decoded at an eighth of their size, which still reads the whole file. Runs on all cores.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, so truncated images would be filled with grey and "
            "pass as good ones; set it to False"
        )
    raw = ds.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)).with_format("arrow")

    def reasons(start: int) -> dict[int, str]:
        records = raw[start : start + ROWS_PER_TASK]["image"].to_pylist()
        found = ((start + i, _why_unreadable(record)) for i, record in enumerate(records))
        return {row: reason for row, reason in found if reason}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(reasons, range(0, len(ds), ROWS_PER_TASK)))
    return {row: reason for part in parts for row, reason in part.items()}


def _why_unreadable(record: dict[str, Any] | None) -> str:
    try:
        with open_record(record) as image:
            image.draft(None, (1, 1))
            image.load()
            if image.mode in ("F", "I"):
                to_rgb(image)
    except DECODING_ERRORS as error:
        return _one_line(error, record)
    return ""


def _one_line(error: Exception, record: dict[str, Any] | None) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"  # Pillow's own words name a memory address
    path = (record or {}).get("path")
    return " ".join(str(error).split()).replace(str(path), "file") or type(error).__name__


# Rows of an image set as they are stored: the bytes to hash, and the image only when it is needed.


ROWS_AHEAD = 1000


def undecoded(images: datasets.Dataset) -> datasets.Dataset:
    """The set's ids and images; a row costs no decoding."""
    return images.select_columns(["id", "image"]).cast_column("image", datasets.Image(decode=False))


def stored_batches(images: datasets.Dataset, size: int = ROWS_AHEAD) -> Iterator[list[dict[str, Any]]]:
    """The rows of `undecoded` in order, `size` at a time: many times faster than one by one."""
    for table in undecoded(images).with_format("arrow").iter(batch_size=size):
        yield table.to_pylist()


def stored_bytes(row: dict[str, Any]) -> bytes:
    """The encoded image of a row of `undecoded`."""
    image = row["image"]
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def decoded(row: dict[str, Any]) -> Image.Image:
    """The RGB image of a row of `undecoded`. Raises InputError, with its id, when it cannot be decoded."""
    try:
        return to_rgb(open_record(row["image"]))
    except DECODING_ERRORS as error:
        raise InputError(
            f"image {row['id']}: cannot be decoded ({error}); load the set with unreadable='drop'"
        ) from error


# What an image set is, in 16 hexadecimal digits.


def image_set_hash(images: Dataset) -> str:
    """16 hexadecimal digits of ids, labels and image bytes, wherever the images lie.

    Files on disk are read for it once (see `cache.file_hashes`).
    """
    digest = hashlib.sha256(repr(images.features["label"].names).encode())
    labels = iter(images["label"][:])
    for rows in stored_batches(images):
        on_disk = [Path(row["image"]["path"]) for row in rows if not row["image"]["bytes"]]
        hashes = iter(file_hashes(on_disk) if on_disk else [])
        for row, label in zip(rows, labels, strict=False):
            digest.update(f"{row['id']} {label} ".encode())
            digest.update(row["image"]["bytes"] or next(hashes).encode())
    return digest.hexdigest()[:16]


# Sets of small images, decoded once for all the networks that are tuned or examined on them.


SMALL = 64  # pixels of a side; sets of images up to here are held in memory
KEPT = 8  # sets; one of 2,000 images of 32 pixels takes 6 MB


def image_batches(images: Dataset, size: int) -> Iterator[np.ndarray | list[np.ndarray] | list[Image.Image]]:
    """The images of a set in order, `size` at a time: arrays, uint8 RGB, where they are small, or else PIL's.

    Raises InputError, naming its id, for an image that cannot be decoded.
    """
    first = decoded(undecoded(images)[0]).size
    if max(first) > SMALL:
        yield from ([decoded(row) for row in rows] for rows in stored_batches(images, size))
        return
    pixels = _pixels(_Set(image_set_hash(images), images))
    yield from (pixels[start : start + size] for start in range(0, len(pixels), size))


@dataclass(frozen=True)
class _Set:
    """A set that is known by its hash."""

    digest: str
    images: Dataset = field(compare=False)


@lru_cache(maxsize=KEPT)
def _pixels(known: _Set) -> np.ndarray | list[np.ndarray]:
    pixels = [np.asarray(decoded(row)) for rows in stored_batches(known.images) for row in rows]
    return np.stack(pixels) if len({image.shape for image in pixels}) == 1 else pixels


# Between image sets and arrays of pixels.


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
