"""The guard: images that two sets share, however they are stored, and choices on the reported split."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from synreal.data.decode import from_arrays
from synreal.data.overlap import (
    collapse,
    describe,
    nearest,
    pixel_hashes,
    refuse_overlap,
    refuse_shared_pixels,
    try_pixel_hashes,
)
from synreal.errors import InputError
from synreal.generate.rerender import Defects
from synreal.models.card import refuse_choice_on, refuse_learned
from synreal.train.interventions import (
    SCRATCH,
    Mix,
    Training,
    intervened_arrays,
    intervened_logits,
    train_mixes,
)
from synreal.zoo import scenes_card

CARD = scenes_card(
    name="tiny", role="tiny", library="timm", architecture="resnet18", activation="relu", head="linear"
)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def a_set(pixels, prefix, **columns):
    ids = [f"{prefix}-{row}" for row in range(len(pixels))]
    return from_arrays(pixels, [0] * len(pixels), ["thing"], {"id": ids, **columns})


def with_image(images, row, record):
    records = images.cast_column("image", datasets.Image(decode=False))["image"][:]
    records[row] = record
    return images.remove_columns("image").add_column("image", records, feature=datasets.Image())


class Means:
    """A descriptor for tests: the colours of a 2x2 image, centred."""

    name, fingerprint = "means", "1"
    scale = 1.0

    def __call__(self, images):
        small = np.stack([np.asarray(image.resize((2, 2), Image.Resampling.BOX), float) for image in images])
        flat = small.reshape(len(images), -1) - 128
        return self.scale * flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_sets_that_share_nothing_pass():
    refuse_overlap(a_set(PIXELS[:6], "train"), a_set(PIXELS[6:], "test"))
    refuse_overlap(a_set(PIXELS[:6], "train"), a_set(PIXELS[6:], "test"), Means(), 0.999)


def test_files_of_two_folders_may_bear_the_same_names():
    refuse_overlap(a_set(PIXELS[:6], "a"), a_set(PIXELS[6:], "a"))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"data": "mine/test"}, "tiny learned from mine/test, and the result is reported on mine/test"),
        ({"data": "mine"}, "learned from mine, "),
        ({"data": "mine/train", "chosen_on": "mine/test"}, "settings were chosen on mine/test"),
    ],
)
def test_a_checkpoint_is_not_judged_on_what_its_card_says_it_knows(training, message):
    with pytest.raises(InputError, match=message):
        refuse_learned(CARD.model_copy(update={"training": training}), "mine/test")


def test_a_checkpoint_is_judged_on_a_split_that_its_card_does_not_name():
    for training in ({}, {"data": "mine/train", "chosen_on": "mine/val"}):
        refuse_learned(CARD.model_copy(update={"training": training}), "mine/test")


def test_a_shared_cluster_is_refused():
    train = a_set(PIXELS[:3], "train", cluster=["x", "y", "z"])
    test = a_set(PIXELS[3:6], "test", cluster=["u", "y", "w"])
    with pytest.raises(InputError, match=r"1 of 3 test images belong to a cluster .*\[test-1\]"):
        refuse_overlap(train, test)


def test_shared_pixels_are_refused_under_another_name_and_file_format():
    train, test = a_set(PIXELS[:6], "train"), a_set(PIXELS[6:], "test")
    stream = io.BytesIO()
    Image.fromarray(PIXELS[7]).save(stream, "bmp")
    train = with_image(train, 2, {"bytes": stream.getvalue(), "path": None})
    with pytest.raises(InputError, match=r"1 of 6 test images have the pixels .*\[test-1\]"):
        refuse_overlap(train, test)


def test_a_nearly_equal_image_needs_a_descriptor():
    near = PIXELS[6:7].astype(int) + 3
    train = a_set([*PIXELS[:6], np.clip(near[0], 0, 255).astype(np.uint8)], "train")
    test = a_set(PIXELS[6:], "test")
    refuse_overlap(train, test)
    with pytest.raises(InputError, match=r"1 of 6 test images are within 0.99 \(means\) .*\[test-0\]"):
        refuse_overlap(train, test, Means(), 0.99)


def test_a_descriptor_without_a_threshold_is_refused():
    with pytest.raises(InputError, match="give both or neither"):
        refuse_overlap(a_set(PIXELS[:6], "train"), a_set(PIXELS[6:], "test"), Means())


def test_a_descriptor_whose_vectors_are_not_unit_is_refused():
    means = Means()
    means.scale = 2.0
    with pytest.raises(InputError, match="means: vectors of length 2.000 to 2.000"):
        describe(a_set(PIXELS, "a"), means)


@pytest.mark.parametrize("chosen", ["scenes/test", " Scenes/Test/", "scenes", "scenes/test/half"])
def test_a_choice_on_the_reported_split_is_refused(chosen):
    with pytest.raises(InputError, match="choose on a validation split"):
        refuse_choice_on("scenes/test", chosen)


@pytest.mark.parametrize("chosen", ["scenes/val", "scenes/test2", "test"])
def test_a_choice_on_another_split_passes(chosen):
    assert refuse_choice_on("scenes/test", chosen) is None


def test_splits_without_a_name_are_refused():
    with pytest.raises(InputError, match="expected the names of two splits"):
        refuse_choice_on("scenes/test", "")


def test_hashes_tell_sizes_apart_and_name_what_cannot_be_read():
    white = [np.full(shape, 255, np.uint8) for shape in ((2, 4, 3), (4, 2, 3), (2, 4, 3))]
    first, second, third = pixel_hashes(a_set(white, "white"))
    assert first == third != second
    broken = a_set(PIXELS[:3], "b")
    for row, record in enumerate([{"bytes": b"", "path": None}, {"bytes": b"x", "path": None}, None]):
        broken = with_image(broken, row, record)
    hashes, reasons = try_pixel_hashes(broken)
    assert hashes == ["", "", ""]
    assert reasons == {0: "zero bytes", 1: "not an image in a known format", 2: "the row holds no image"}
    with pytest.raises(InputError, match=r"image b-0: cannot be decoded \(zero bytes\), as 3 of 3"):
        pixel_hashes(broken)


def unit(count, size=6, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_nearest_is_the_largest_product_across_blocks(monkeypatch):
    monkeypatch.setattr("synreal.data.overlap.BLOCK", 7)
    vectors, reference = unit(20), unit(30, seed=1)
    rows, products = nearest(vectors, reference)
    every = vectors @ reference.T
    np.testing.assert_array_equal(rows, every.argmax(axis=1))
    np.testing.assert_allclose(products, every.max(axis=1), rtol=1e-5)


@pytest.mark.parametrize("block", [7, 4096])
def test_of_near_duplicates_the_first_is_kept(monkeypatch, block):
    monkeypatch.setattr("synreal.data.overlap.BLOCK", block)
    vectors = unit(40, size=3)
    twin, value = collapse(vectors, 0.9)
    kept = np.flatnonzero(twin < 0)
    products = vectors @ vectors.T
    assert 1 < len(kept) < 40
    assert (products[np.ix_(kept, kept)] - np.eye(len(kept)) < 0.9).all()
    for row in np.flatnonzero(twin >= 0):
        assert twin[row] in kept[kept < row]
        assert value[row] == pytest.approx(products[row, twin[row]], abs=1e-6) and value[row] >= 0.9


def test_arrays_that_share_an_image_are_refused():
    refuse_shared_pixels(PIXELS[:6], PIXELS[6:])
    refuse_shared_pixels(PIXELS[:6, :4], PIXELS)  # another size is another image
    with pytest.raises(InputError, match="2 of 7 test images have the pixels .* first number 0"):
        refuse_shared_pixels(PIXELS[:7], PIXELS[5:])


@pytest.mark.parametrize("leaky", ["real", "synthetic"])
def test_a_study_of_sizes_refuses_a_test_image_in_either_pool(leaky):
    labels = np.zeros(6, np.int64)
    pools = {"real": PIXELS[:6], "synthetic": PIXELS[:6]}
    test = np.concatenate([PIXELS[6:8], PIXELS[8:9]])
    pools[leaky] = PIXELS[6:]
    with pytest.raises(InputError, match="3 of 3 test images"):
        train_mixes([Mix(2, 0)], (pools["real"], labels), (pools["synthetic"], labels), 1, SCRATCH, 1, test)


def test_the_dial_refuses_its_own_training_scenes_as_a_test():
    training = Training(Defects(), images=20, clean=10, seed=0)
    seen, _ = intervened_arrays(Defects(), 5)
    with pytest.raises(InputError, match="5 of 5 test images"):
        intervened_logits(training, SCRATCH, SCRATCH, seen, "")
