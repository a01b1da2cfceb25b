"""Encoded image bytes to RGB, and the search for images that cannot be decoded."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageFile, ImageOps

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
