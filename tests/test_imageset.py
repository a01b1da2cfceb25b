"""The image-set contract: checks, arrays, class order, colour modes."""

import io
import time

import datasets
import numpy as np
import pytest
from PIL import Image, ImageFile

from synreal.data.decode import from_arrays, to_arrays, to_rgb, unreadable_images
from synreal.data.imageset import check_image_set, class_names, match_classes
from synreal.errors import InputError

NAMES = ["cat", "dog", "bird"]


def noise(count, height=6, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def small_set(**columns):
    return from_arrays(noise(3), [0, 1, 2], NAMES, columns)


def test_arrays_survive_the_round_trip_bit_for_bit():
    pixels, labels = to_arrays(small_set())
    assert np.array_equal(pixels, noise(3)) and pixels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2] and labels.dtype == np.int64


def test_webp_keeps_every_pixel_too():
    ds = from_arrays(noise(3), [0, 1, 2], NAMES, encoding="webp")
    assert np.array_equal(to_arrays(ds)[0], noise(3))
    assert ds.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"][8:12] == b"WEBP"


def test_from_arrays_keeps_columns_and_obeys_the_contract():
    ds = small_set(id=["a", "b", "c"], scale=[0.5, 1.0, 2.0], smaller=[True, False, False])
    check_image_set(ds, "small")
    assert (
        ds["id"][:] == ["a", "b", "c"] and ds["scale"][:] == [0.5, 1.0, 2.0] and ds["source"][0] == "arrays"
    )
    assert class_names(ds) == NAMES and ds["image"][0].mode == "RGB"
    assert np.array_equal(np.asarray(ds["image"][2]), noise(3)[2])


def test_ten_thousand_small_images_are_encoded_quickly():
    images = noise(10_000, 32, 32)
    start = time.process_time()
    from_arrays(images, np.zeros(10_000, int), NAMES)
    assert time.process_time() - start < 4  # seconds of one core; about one when it is idle


def test_rows_chosen_from_a_set_keep_their_order():
    pixels, labels = to_arrays(small_set().select([2, 0]))
    assert np.array_equal(pixels, noise(3)[[2, 0]]) and labels.tolist() == [2, 0]


def test_different_sizes_need_a_size():
    ds = from_arrays([noise(1, 4, 8)[0], noise(1, 6, 6)[0]], [0, 1], NAMES)
    with pytest.raises(
        InputError, match=r"image 00000001: 6x6 pixels, but the first image has 8x4.*give size"
    ):
        to_arrays(ds)
    assert to_arrays(ds, size=4)[0].shape == (2, 4, 4, 3)


def test_size_crops_the_centre_of_the_longer_side():
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 200
    assert np.all(to_arrays(from_arrays([image], [0], NAMES), size=4)[0] == 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((noise(3).astype(np.float32), [0, 1, 2], NAMES), "expected uint8"),
        ((noise(3)[..., 0], [0, 1, 2], NAMES), "expected uint8"),
        ((noise(3), [0, 1], NAMES), "another length"),
        ((noise(3), [0, 1, 3], NAMES), r"expected integers in 0\.\.2"),
        ((noise(3), [0, 1, 2], NAMES, {"label": [0, 1, 2]}), "leave them out"),
        ((noise(3), [0, 1, 2], NAMES, {"scale": [1.0]}), "another length"),
    ],
)
def test_from_arrays_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        from_arrays(*arguments)


def test_check_names_repeated_ids():
    with pytest.raises(InputError, match=r"demo: 1 ids occur more than once: \[a\]"):
        check_image_set(small_set(id=["a", "a", "b"]), "demo")


def test_check_refuses_missing_columns_empty_sets_and_wrong_types():
    ds = small_set()
    with pytest.raises(InputError, match="'id': 'missing'"):
        check_image_set(ds.remove_columns("id"), "demo")
    with pytest.raises(InputError, match="empty"):
        check_image_set(ds.select([]), "demo")
    with pytest.raises(InputError, match="'label': 'int64'"):
        check_image_set(ds.cast_column("label", datasets.Value("int64")), "demo")


def test_check_refuses_unlabelled_rows():
    ds = small_set().remove_columns("label")
    ds = ds.add_column("label", [0, -1, 1], feature=datasets.ClassLabel(names=NAMES))
    with pytest.raises(InputError, match=r"1 labels lie outside 0\.\.2, the first is -1"):
        check_image_set(ds, "demo")


def test_match_classes_renumbers_by_name():
    other = from_arrays(noise(3), [0, 1, 2], ["bird", "cat", "dog"])
    matched = match_classes(small_set(), other)
    assert class_names(matched) == NAMES and matched["label"][:] == [2, 0, 1]


def test_match_classes_lists_what_each_side_lacks():
    other = from_arrays(noise(3), [0, 1, 2], ["cat", "dog", "ship"])
    message = r"missing in synthetic: \[bird\]; missing in real: \[ship\]"
    with pytest.raises(InputError, match=message):
        match_classes(small_set(), other, names=("real", "synthetic"))


def rgb_of(image):
    return np.asarray(to_rgb(image))[0, 0].tolist()


def test_sixteen_bits_are_scaled_not_clipped():
    for value, expected in ((0, 0), (257 * 100, 100), (65535, 255)):
        assert rgb_of(Image.fromarray(np.full((2, 2), value, np.uint16))) == [expected] * 3


def test_transparency_is_composited_over_white():
    assert rgb_of(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == [255, 255, 255]
    assert rgb_of(Image.new("RGBA", (2, 2), (200, 0, 0, 255))) == [200, 0, 0]
    assert rgb_of(Image.new("LA", (2, 2), (0, 128)))[0] == pytest.approx(127, abs=1)


def test_palette_grey_and_cmyk_become_rgb():
    palette = Image.new("RGB", (2, 2), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert rgb_of(palette) == [10, 20, 30]
    assert rgb_of(Image.new("L", (2, 2), 77)) == [77, 77, 77]
    assert rgb_of(Image.new("CMYK", (2, 2), (0, 255, 255, 0))) == [255, 0, 0]
    palette.info["transparency"] = 0
    assert rgb_of(palette) == [255, 255, 255]


def test_ranges_without_agreement_are_refused():
    with pytest.raises(ValueError, match="mode F"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(ValueError, match=r"outside 0\.\.65535"):
        to_rgb(Image.fromarray(np.full((2, 2), 70_000, np.int32)))


def test_exif_orientation_turns_the_image():
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    assert to_rgb(Image.open(buffer)).size == (4, 8)


def test_pillows_switch_that_hides_truncation_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match="LOAD_TRUNCATED_IMAGES"):
        unreadable_images(small_set())
