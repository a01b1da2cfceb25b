from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synreal.errors import InputError
from synreal.evaluate import Predictions, check_same_images, predict

CLASSES = ("cat", "dog", "fox")


def made(n=12, seed=0, **changes):
    rng = np.random.default_rng(seed)
    parts = {
        "ids": np.array([f"image-{index:03d}" for index in range(n)]),
        "labels": rng.integers(0, 3, n),
        "logits": rng.standard_normal((n, 3), dtype=np.float32),
        "class_names": CLASSES,
        "model": "vit-real",
        "model_hash": "abc",
        "preprocess_hash": "def",
        "image_set": "scenes/test",
    }
    return Predictions(**(parts | changes))


def test_a_file_gives_back_what_was_saved(tmp_path):
    saved = made()
    path = saved.save(tmp_path / "folder" / "vit.parquet")
    loaded = Predictions.load(path)
    for field in ("ids", "labels", "logits"):
        assert np.array_equal(getattr(loaded, field), getattr(saved, field))
        assert getattr(loaded, field).dtype == getattr(saved, field).dtype
    for field in ("class_names", "model", "model_hash", "preprocess_hash", "image_set"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert [file.name for file in path.parent.iterdir()] == ["vit.parquet"]


def test_the_file_is_plain_parquet_with_the_hashes_in_its_schema(tmp_path):
    schema = pq.read_schema(made().save(tmp_path / "vit.parquet"))
    assert [str(field.type) for field in schema][:2] == ["string", "int64"]
    assert (schema.field("logits").type.list_size, str(schema.field("logits").type.value_type)) == (
        3,
        "float",
    )
    assert b'"preprocess_hash": "def"' in schema.metadata[b"synreal.predictions"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array(["a"] * 12)}, "ids are not unique"),
        ({"labels": np.full(12, 3)}, "found labels 3 to 3, expected 0 to 2"),
        ({"labels": np.full(12, -1)}, "found labels -1 to -1, expected 0 to 2"),
        ({"labels": np.zeros(12, np.int32)}, "found labels of int32"),
        ({"labels": np.zeros(11, np.int64)}, r"labels \(11,\)"),
        ({"logits": np.zeros((12, 4), np.float32)}, r"found logits \(12, 4\)"),
        ({"logits": np.zeros((12, 3))}, "logits of float64"),
        (
            {"logits": np.full((12, 3), np.nan, np.float32)},
            "logits of 12 images are not finite, first .'image-000'",
        ),
        ({"class_names": ("cat", "cat", "fox")}, "class names are not unique"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        made(**changes)


def test_no_image_is_refused():
    with pytest.raises(InputError, match="found no image"):
        made(0)


def rewritten(tmp_path, change):
    path = made().save(tmp_path / "vit.parquet")
    pq.write_table(change(pq.read_table(path)), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("label"), "found the columns id: string, logits"),
        (lambda table: table.append_column("extra", table["label"]), "extra: int64"),
        (lambda table: table.set_column(1, "label", table["label"].cast(pa.int32())), "label: int32"),
        (lambda table: table.replace_schema_metadata(None), "found the metadata .., expected"),
        (
            lambda table: table.replace_schema_metadata({b"synreal.predictions": b'{"model": "x"}'}),
            r"\['model'\]",
        ),
        (
            lambda table: table.set_column(0, "id", pa.array([None] * 12, pa.string())),
            "empty cells {'id': 12}",
        ),
    ],
)
def test_any_other_parquet_file_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        Predictions.load(rewritten(tmp_path, change))


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.parquet: no such file"):
        Predictions.load(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match=r"broken.parquet: not readable as parquet"):
        Predictions.load(tmp_path / "broken.parquet")


def test_predictions_of_the_same_images_in_another_order_match():
    a, order = made(), np.random.default_rng(1).permutation(12)
    check_same_images(a, made(ids=a.ids[order], labels=a.labels[order], model="vit-syn"))


def test_predictions_of_other_images_are_refused_with_how_many_and_which():
    a = made()
    ids = a.ids.copy()
    ids[3] = "another"
    with pytest.raises(
        InputError, match=r"2 ids are in one of the two only, first \['another', 'image-003'\]"
    ):
        check_same_images(a, made(ids=ids))
    with pytest.raises(InputError, match=r"1 ids are in one of the two only, first \['image-011'\]"):
        check_same_images(a, made(11))


def test_predictions_with_other_labels_or_classes_are_refused():
    a = made()
    labels = a.labels.copy()
    labels[[2, 7]] = (labels[[2, 7]] + 1) % 3
    with pytest.raises(InputError, match=r"labels differ on 2 images, first \['image-002', 'image-007'\]"):
        check_same_images(a, made(labels=labels))
    with pytest.raises(InputError, match="class names differ"):
        check_same_images(a, made(class_names=("dog", "cat", "fox")))


class BrightnessClassifier:
    """Tells classes apart by the mean pixel: a classifier whose answers are known."""

    model_hash, preprocess_hash = "abc", "def"
    card = SimpleNamespace(name="brightness")

    def __init__(self, class_names):
        self.class_names = class_names

    def logits(self, images, batch_size=256):
        means = np.array([np.asarray(image).mean() for image in images])
        return (-np.abs(means[:, None] - 100 * np.arange(len(self.class_names)))).astype(np.float32)


def image_set(names, labels):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(names)),
            "id": datasets.Value("string"),
            "source": datasets.Value("string"),
        }
    )
    images = [np.full((4, 4, 3), 100 * CLASSES.index(names[label]), np.uint8) for label in labels]
    columns = {"image": images, "label": labels, "id": [f"i{k}" for k in range(len(labels))]}
    return datasets.Dataset.from_dict(columns | {"source": ["drawn"] * len(labels)}, features=features)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_predict_matches_labels_by_name_whatever_the_batch_size(batch_size):
    found = predict(BrightnessClassifier(CLASSES), image_set(("fox", "cat"), [0, 1, 1, 0, 1]), batch_size)
    assert found.labels.tolist() == [2, 0, 0, 2, 0]
    assert np.array_equal(found.logits.argmax(axis=1), found.labels)
    assert found.ids.tolist() == ["i0", "i1", "i2", "i3", "i4"]
    assert (found.class_names, found.model, found.image_set) == (CLASSES, "brightness", "drawn")


def test_predict_refuses_an_unknown_class_and_an_empty_image_set():
    with pytest.raises(InputError, match=r"does not know 1 classes of the image set, first \['fox'\]"):
        predict(BrightnessClassifier(CLASSES[:2]), image_set(("fox", "cat"), [0, 1]))
    with pytest.raises(InputError, match="the image set holds no image"):
        predict(BrightnessClassifier(CLASSES), image_set(CLASSES, []))
