"""Sprites: disjoint splits, the full Fashion-MNIST files, and the subset that ships."""

import gzip
from itertools import combinations

import numpy as np
import pytest

from synreal.data import sprites
from synreal.data.sprites import CLASS_NAMES, SPLITS, load_sprites, write_compact
from synreal.errors import InputError

# The same cut of files as in the package, on sets of 30 and 10 photographs.
TINY = {
    "upstream": ("train", 0, 10, 6),
    "train": ("train", 10, 20, 15),
    "val": ("train", 20, 30, 25),
    "test": ("t10k", 0, 10, 5),
}


def write_idx(folder, part, images, labels):
    """Fashion-MNIST's own files: magic number and sizes, big-endian, then bytes; gzipped."""
    for kind, magic, array in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels)):
        header = np.array([magic, *array.shape], ">i4").tobytes()
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A folder of tiny files in the real format, with every class in every split."""
    monkeypatch.setattr(sprites, "SPLITS", TINY)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path, part, images, (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


@pytest.fixture
def fresh_cache():
    load_sprites.cache_clear()
    yield
    load_sprites.cache_clear()


def test_the_shipped_splits_share_no_photograph():
    held = {split: {image.tobytes() for image in load_sprites(split).images} for split in SPLITS}
    assert {split: len(load_sprites(split).images) for split in SPLITS} == {
        "upstream": 12_000,
        "train": 6_000,
        "val": 2_000,
        "test": 4_000,
    }
    for a, b in combinations(SPLITS, 2):
        assert not held[a] & held[b], (a, b)


@pytest.mark.parametrize("split", SPLITS)
def test_every_photograph_has_one_of_ten_classes_and_something_opaque(split):
    shown = load_sprites(split)
    assert shown.images.shape == shown.alpha.shape == (len(shown.images), 28, 28)
    assert shown.images.dtype == shown.alpha.dtype == np.uint8
    rows = np.sort(np.concatenate(shown.by_class))
    assert len(shown.by_class) == 10 and np.array_equal(rows, np.arange(len(shown.images)))
    assert min(len(rows) for rows in shown.by_class) > 150
    assert set(np.unique(shown.alpha)) == {0, 255} and shown.alpha.reshape(len(rows), -1).max(1).min() == 255
    assert shown.alpha[shown.images > 12].min() == 255  # garment is never see-through


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="split: found 'valid', expected one of upstream, train, val, test"):
        load_sprites("valid")


def test_the_full_files_are_cut_as_the_split_says(full):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (30, 10))
    for split, (_, start, stop, _) in TINY.items():
        shown = load_sprites(split, str(full))
        assert np.array_equal(shown.images, test if split == "test" else train[start:stop])
        assert [rows.tolist() for rows in shown.by_class] == [[label] for label in range(len(CLASS_NAMES))]


def test_a_folder_without_the_files_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte.gz; expected the four Fashion-MNIST"):
        load_sprites("train", str(tmp_path))


def test_broken_or_short_files_are_refused(full):
    images = full / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    for damaged in (b"not gzip", whole[: len(whole) // 2]):
        images.write_bytes(damaged)
        with pytest.raises(InputError, match="images-idx3-ubyte.gz: cannot be unpacked"):
            load_sprites("val", str(full))
    write_idx(full, "train", np.zeros((12, 28, 28), np.uint8), np.zeros(12, np.uint8))
    with pytest.raises(InputError, match="train holds 12 images and 12 labels, expected .* 30 or more"):
        load_sprites("val", str(full))
    write_idx(full, "train", np.zeros((12, 28, 28), np.uint8), np.zeros(30, np.uint8))
    with pytest.raises(InputError, match="holds 12 images and 30 labels"):
        load_sprites("val", str(full))


def test_the_compact_file_holds_the_first_photographs_of_each_split(full, monkeypatch, fresh_cache):
    compact = full / "compact.npz"
    write_compact(full, compact)
    monkeypatch.setattr(sprites, "COMPACT", compact)
    for split, (_, start, _, stop) in TINY.items():
        shipped, whole = load_sprites(split), load_sprites(split, str(full))
        assert len(shipped.images) == stop - start
        assert np.array_equal(shipped.images, whole.images[: stop - start])
        assert [rows.tolist() for rows in shipped.by_class][: stop - start] == [
            [label] for label in range(stop - start)
        ]


def test_writing_the_compact_file_twice_gives_the_same_bytes(full):
    for name in ("a.npz", "b.npz"):
        write_compact(full, full / name)
    assert (full / "a.npz").read_bytes() == (full / "b.npz").read_bytes()
