"""The world of photographs: CIFAR-10, and what Stable Diffusion 1.4 drew of its classes (CIFAKE).

`synreal get photos` brings both into one folder, as three parquet files of JPEG images at 32x32 pixels. Both
are in the same encoding (Pillow's quality 75), so that no classifier can tell them apart by that.
"""

import hashlib
import http.client
import io
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torchvision
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from tqdm import tqdm

from synreal.cache import atomic
from synreal.data.imageset import Unreadable, load_image_set, not_generated
from synreal.data.overlap import pixel_hashes
from synreal.errors import InputError
from synreal.paths import cache_dir, photos_dir
from synreal.strict_yaml import parse_yaml

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = {"real": "real-train.parquet", "test": "real-test.parquet", "synthetic": "synthetic.parquet"}
GENERATOR = "stable-diffusion-v1-4"
BATCHES = torchvision.datasets.CIFAR10.base_folder
CIFAKE = "https://codeload.github.com/jordan-bird/CIFAKE-Real-and-AI-Generated-Synthetic-Images/tar.gz/"
COMMIT = "e112a942abaecd02b6b1f6f646c807d56be8fb62"
# CIFAKE's own names: the number, and the class less one, where it is not the first
NAME = re.compile(r"(?:.*/)?train/FAKE/(\d+)(?: \((\d+)\))?\.jpg")
BLOCK = 1 << 20  # bytes


def open_photos(part: str, unreadable: Unreadable = "stop") -> Dataset:
    """An image set of the world of photographs; the folder is `paths.photos_dir`.

    real: CIFAR-10's 50,000 training images. synthetic: 49,080 images by Stable Diffusion 1.4, of 50,000 less
    those whose pixels another one has. test: CIFAR-10's 10,000 test images; test-A and test-B are its halves
    by a hash of the pixels, the first to choose settings on, the second to report.
    Raises InputError when the folder lacks the file, and for an unknown part.
    """
    name = part.partition("-")[0]
    if part not in (*FILES, "test-A", "test-B"):
        raise InputError(f"photos/{part}: expected photos/ and one of {[*FILES, 'test-A', 'test-B']}")
    place = photos_dir() / FILES[name]
    if not place.is_file():
        raise InputError(f"photos/{part}: {place} is missing; fetch it with `synreal get photos`")
    images = load_image_set(place, class_names=CLASSES, unreadable=unreadable)
    keys = pd.Series(images["pixels"][:])
    if name == "synthetic":
        return images.select(np.flatnonzero(~keys.duplicated()))
    half = keys.map(lambda key: "AB"[int(key[:8], 16) % 2])
    chosen = images if part == name else images.select(np.flatnonzero(half == part[-1]))
    return not_generated(chosen)


def get_photos(into: Path | None = None, source: Path | None = None) -> Path:
    """The folder, with the three files of the world of photographs; those that are there are kept.

    source: a folder that holds them already, at any depth: CIFAR-10 as torchvision's `cifar-10-batches-py` or
    as train.parquet and test.parquet; CIFAKE as synthetic.parquet, as its folder train/FAKE or as its
    repository's .tar.gz. Without it, they are downloaded; an interrupted download goes on.
    Raises InputError for what is missing, cut off or of another version.
    """
    folder = into or photos_dir()
    for part, file in FILES.items():
        if not (folder / file).is_file():
            _write(_rows(part, source), part, folder / file)
    return folder


def _rows(part: str, source: Path | None) -> Iterator[dict[str, Any]]:
    if part == "synthetic":
        return _cifake(source)
    return _cifar(source, {"real": "train", "test": "test"}[part])


def _write(rows: Iterator[dict[str, Any]], part: str, place: Path) -> None:
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]))
    if not len(table):
        raise InputError(f"{part}: found no image, expected {reference()[part]['images']:,}")
    table = table.append_column("pixels", pa.array(pixel_hashes(_images(table))))
    check_version(table, part)
    with atomic(place) as partial:
        pq.write_table(table, partial)


def _images(table: pa.Table) -> Dataset:
    """The images of a table with a column of encoded bytes, as a set."""
    columns = [table[name].combine_chunks() for name in ("image", "id")]
    images = Dataset(pa.table({"image": pa.StructArray.from_arrays(columns, ["bytes", "path"])}))
    return images.cast_column("image", ImageFeature())


def check_version(table: pa.Table, part: str) -> None:
    """Raises InputError unless a part has the images that it is known by, class by class."""
    known, found = reference()[part], class_hashes(table)
    if other := [name for name in CLASSES if found.get(name) != known["classes"][name]]:
        counts = table.to_pandas().groupby("class_name").size().to_dict()
        raise InputError(
            f"photos, {part}: the images of {other} are of another version or not complete: found "
            f"{counts}, expected {known['images']:,} images in all with the pixels that photos.yaml names; "
            "fetch them again"
        )


def class_hashes(table: pa.Table) -> dict[str, str]:
    """16 hexadecimal digits of the pixels of each class's images, in whatever order they come."""
    frame = table.select(["class_name", "pixels"]).to_pandas()
    joined = frame.groupby("class_name")["pixels"].agg(lambda keys: "".join(sorted(keys)))
    return {str(name): hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in joined.items()}


@cache
def reference() -> Mapping[str, Any]:
    """By part: `images`, their number, and `classes`, the hash of the pixels of each class."""
    return parse_yaml((files("synreal.data") / "photos.yaml").read_text(encoding="utf-8"), "photos.yaml")


# Where they come from.


def _cifar(source: Path | None, split: str) -> Iterator[dict[str, Any]]:
    if source is not None and (table := _table(source, f"{split}.parquet")):
        return _of_table(table, f"CIFAR-10 {split}")
    batches = next(iter(sorted(source.rglob(BATCHES))), None) if source is not None else None
    if source is not None and batches is None:
        raise InputError(
            f"--from {source}: found neither {BATCHES}/ nor {split}.parquet; expected CIFAR-10 as "
            "torchvision has it or as parquet files"
        )
    root = batches.parent if batches else cache_dir() / "downloads"
    try:
        arrays = torchvision.datasets.CIFAR10(root, train=split == "train", download=batches is None)
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        raise InputError(
            f"CIFAR-10 could not be read or downloaded ({error}); without a network, put "
            "cifar-10-python.tar.gz, unpacked, into a folder, and say --from FOLDER"
        ) from error
    return _of_arrays(arrays.data, arrays.targets, split)


def _of_arrays(pixels: np.ndarray, labels: list[int], split: str) -> Iterator[dict[str, Any]]:
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")  # as the synthetic images are encoded
        yield _row(file.getvalue(), label, f"{split}/{row:05d}", f"CIFAR-10 {split}")


def _of_table(file: Path, source: str) -> Iterator[dict[str, Any]]:
    try:
        table = pq.read_table(file, columns=["image", "label", "path"])
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{file}: not a table with the columns image, label and path ({error})") from error
    for row in table.to_pylist():
        yield _row(row["image"], row["label"], row["path"], source)


def _cifake(source: Path | None) -> Iterator[dict[str, Any]]:
    if source is None:
        place = cache_dir() / "downloads" / f"cifake-{COMMIT}.tar.gz"
        return _of_archive(download(f"{CIFAKE}{COMMIT}", place))
    if table := _table(source, "synthetic.parquet"):
        return _of_table(table, "CIFAKE")
    if archive := next(iter(sorted(source.rglob("*.tar.gz"))), None):
        return _of_archive(archive)
    if folder := next(iter(sorted(source.rglob("train/FAKE"))), None):
        return _of_files((f"train/FAKE/{file.name}", file.read_bytes()) for file in folder.iterdir())
    raise InputError(
        f"--from {source}: found neither synthetic.parquet nor a .tar.gz nor a folder train/FAKE; expected "
        f"CIFAKE as its repository has it ({CIFAKE}{COMMIT})"
    )


def _of_archive(archive: Path) -> Iterator[dict[str, Any]]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tqdm(tar, desc=archive.name, unit=" files", delay=5):
                file = tar.extractfile(member) if NAME.fullmatch(member.name) else None
                if file is not None:
                    yield from _of_files([(member.name, file.read())])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            f"{archive}: cut off or no archive ({error}); delete it and fetch it again"
        ) from error


def _of_files(named: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    for name, content in named:
        if match := NAME.fullmatch(name):
            label = int(match[2] or 1) - 1
            if label >= len(CLASSES):
                raise InputError(
                    f"CIFAKE: {name} would be of class {label}, expected 0 to {len(CLASSES) - 1}"
                )
            yield _row(content, label, f"train/FAKE/{name.rpartition('/')[2]}", "CIFAKE")


def _row(image: bytes, label: int, key: str, source: str) -> dict[str, Any]:
    generator = GENERATOR if source == "CIFAKE" else None
    named = {"image": image, "label": label, "class_name": CLASSES[label], "id": key}
    return named | {"source": source} | ({"generator": generator} if generator else {})


def _table(source: Path, name: str) -> Path | None:
    """The first table of images of a name below a folder."""
    found = (file for file in sorted(source.rglob(name)) if "image" in pq.read_schema(file).names)
    return next(found, None)


def download(url: str, place: Path) -> Path:
    """The file of a URL, kept at `place`; what an interrupted download brought is not fetched again.

    Raises InputError, with what to put where, when the network fails.
    """
    if place.is_file():
        return place
    partial = place.with_name(f"{place.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply, partial.open("ab") as file:
            if reply.status != 206:  # the server begins anew
                file.truncate(0)
            bar = tqdm(desc=place.name, initial=file.tell(), unit="B", unit_scale=True, delay=2)
            left = int(reply.headers.get("Content-Length", 0))
            while block := reply.read(BLOCK):
                bar.update(file.write(block))
                left -= len(block)
            if left > 0:
                raise ConnectionError(f"it ended {left:,} bytes too early")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url}: could not be fetched ({error}); the same command goes on where it stopped. Without a "
            f"network, fetch it elsewhere, put it into a folder, and say --from FOLDER"
        ) from error
    partial.replace(place)
    return place
