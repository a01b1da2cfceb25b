"""Brightness: agreement with scikit-image and with the definition, and sets of mixed images."""

import io

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs
from skimage.color import rgb2lab

from synreal.data.decode import from_arrays, to_rgb
from synreal.errors import InputError
from synreal.synbench import measures
from synreal.synbench.measures import Brightness, batches, decoded, lightness

CHANNEL = st.integers(0, 255)


def noise(count, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def by_skimage(images):
    return np.array([rgb2lab(image)[..., 0].mean() for image in images])


def by_definition(red, green, blue):
    """L* of one colour by IEC 61966-2-1 and CIE 15, whose constants scikit-image rounds otherwise."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in np.divide((red, green, blue), 255)
    ]
    y = np.dot([0.2126, 0.7152, 0.0722], linear)
    return 116 * np.cbrt(y) - 16 if y > (6 / 29) ** 3 else (29 / 3) ** 3 * y


def test_every_grey_and_many_colours_agree_with_scikit_image():
    dark = np.stack(np.meshgrid(*[np.arange(20)] * 3), -1).reshape(-1, 3)  # where lightness is steepest
    colours = np.concatenate([np.arange(256)[:, None].repeat(3, 1), dark, noise(300).reshape(-1, 3)])
    images = colours.astype(np.uint8)[:, None, None]
    assert np.abs(lightness(images) - rgb2lab(images)[:, 0, 0, 0]).max() < 1e-3


def test_photographs_agree_with_scikit_image():
    for photograph in (photographs.astronaut(), photographs.coffee()):
        assert lightness(photograph[None]) == pytest.approx(by_skimage(photograph[None]), abs=1e-4)


@given(CHANNEL, CHANNEL, CHANNEL)
def test_colours_have_the_lightness_of_the_definition(red, green, blue):
    found = lightness(np.full((1, 1, 1, 3), (red, green, blue), np.uint8)).item()
    assert found == pytest.approx(by_definition(red, green, blue), abs=0.01)
    assert 0 <= found <= 100


@pytest.mark.parametrize(
    ("colour", "golden"),
    [  # published CIELAB values of the sRGB primaries and of middle grey
        ((0, 0, 0), 0),
        ((255, 255, 255), 100),
        ((255, 0, 0), 53.24),
        ((0, 255, 0), 87.74),
        ((0, 0, 255), 32.30),
        ((119, 119, 119), 50.03),
    ],
)
def test_known_colours(colour, golden):
    assert lightness(np.full((1, 2, 3, 3), colour, np.uint8)).item() == pytest.approx(golden, abs=6e-3)


@pytest.mark.parametrize("count_and_size", [(7, 300, 300), (3, 700, 500)], ids=["whole images", "by rows"])
def test_a_batch_is_its_images_whatever_is_measured_together(count_and_size):
    images = noise(*count_and_size)
    together = lightness(images)
    assert together.dtype == np.float64 and together.shape == (len(images),)
    assert np.array_equal(together, np.concatenate([lightness(image[None]) for image in images]))
    mirrored = lightness(images[:, :, ::-1])  # a view that runs backwards
    assert mirrored == pytest.approx(together, abs=1e-4)


@pytest.mark.parametrize(
    "images",
    [noise(2).astype(np.float32), noise(1)[0], noise(2)[..., :2], noise(2)[:0], noise(2)[:, :0]],
    ids=["floats", "one image", "two channels", "no image", "no pixel"],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(InputError, match=r"images: found .* expected uint8 \[N, H, W, 3\]"):
        lightness(images)


def test_values_are_in_the_order_of_the_set_and_known_by_id():
    images = [*noise(3, 4, 6), *noise(2, 9, 5, seed=1), *noise(2, 4, 6, seed=2)]
    values = Brightness().values(from_arrays(images, [0] * 7, ["cat"], {"id": list("gfedcba")}))
    assert values.index.tolist() == list("gfedcba") and values.index.name == "id"
    assert values.name == "brightness" and values.dtype == np.float64
    assert values.to_numpy() == pytest.approx(by_skimage(images), abs=1e-3)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_set(contents):
    rows = {
        "image": [{"bytes": content, "path": None} for content in contents],
        "label": [0] * len(contents),
        "id": [f"image-{i}" for i in range(len(contents))],
        "source": ["made"] * len(contents),
    }
    label = datasets.ClassLabel(names=["cat"])
    text = datasets.Value("string")
    features = {"image": datasets.Image(), "label": label, "id": text, "source": text}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_every_colour_mode_is_measured_as_rgb():
    picture = Image.fromarray(noise(1, 12, 10)[0])
    grey = picture.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    contents = [
        encoded(grey, "PNG"),
        encoded(deep, "PNG"),
        encoded(picture.convert("CMYK"), "TIFF"),
        encoded(picture.convert("P"), "GIF"),
        encoded(picture.convert("RGBA"), "PNG"),
        encoded(picture, "JPEG", quality=90),
    ]
    wanted = by_skimage([np.asarray(to_rgb(Image.open(io.BytesIO(content)))) for content in contents])
    values = Brightness().values(image_set(contents))
    assert values.to_numpy() == pytest.approx(wanted, abs=1e-3)
    assert values.iloc[0] == pytest.approx(values.iloc[1], abs=1e-6)  # 16 bits are scaled, not clipped


def test_an_image_that_cannot_be_decoded_is_named():
    good = encoded(Image.fromarray(noise(1)[0]), "PNG")
    with pytest.raises(InputError, match=r"image image-1: cannot be decoded \(.*unreadable='drop'"):
        Brightness().values(image_set([good, good[:-30], good]))


def test_what_is_no_image_set_is_refused_before_anything_is_decoded():
    ds = image_set([b"no image"])
    with pytest.raises(InputError, match="the image set is empty"):
        Brightness().values(ds.select([]))
    with pytest.raises(InputError, match="'id': 'missing'"):
        Brightness().values(ds.remove_columns("id"))


def test_batches_hold_neighbours_of_one_size_up_to_a_number_of_pixels(monkeypatch):
    monkeypatch.setattr(measures, "PIXELS_PER_BATCH", 100)
    monkeypatch.setattr(measures, "ROWS_AHEAD", 2)
    images = [*noise(5, 5, 8), *noise(2, 11, 11), *noise(1, 5, 8)]
    ds = from_arrays(images, [0] * 8, ["cat"])
    sizes = [(len(ids), pixels.shape) for ids, pixels in batches(ds)]
    assert sizes == [
        (2, (2, 5, 8, 3)),
        (2, (2, 5, 8, 3)),
        (1, (1, 5, 8, 3)),
        (1, (1, 11, 11, 3)),
        (1, (1, 11, 11, 3)),
        (1, (1, 5, 8, 3)),
    ]
    assert [key for ids, _ in batches(ds) for key in ids] == ds["id"][:]
    assert all(np.array_equal(a, b) for (_, a), b in zip(decoded(ds), images, strict=True))


def test_images_are_decoded_as_they_are_needed():
    # Flat memory: what lies far behind the image in use has not been touched.
    good, bad = encoded(Image.fromarray(noise(1)[0]), "PNG"), b"no image"
    stream = decoded(image_set([good] * measures.ROWS_AHEAD + [bad]))
    for _ in range(measures.ROWS_AHEAD):
        next(stream)
    with pytest.raises(InputError, match=f"image image-{measures.ROWS_AHEAD}: cannot be decoded"):
        next(stream)
