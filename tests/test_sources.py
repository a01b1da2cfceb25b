"""Loading image sets: each kind of source in its real form on disk, and what must be refused."""

import io
import json
import os
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.data.decode import to_arrays
from synreal.data.imageset import UnreadableImages, check_image_set, class_names, load_image_set
from synreal.data.worlds import open_world
from synreal.errors import InputError
from tars import tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(colour, kind="PNG", mode="RGB", side=16):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def photograph(kind="JPEG", side=64):
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for name in ("1.png", "2.png"):
        write(root / "cat" / name, encoded("red"))
    write(root / "dog" / "deep" / "1.jpg", encoded("blue", "JPEG"))
    return root


def rows(**changes):
    columns = {
        "image": [encoded("red"), encoded("blue")],
        "label": [0, 1],
        "class_name": ["cat", "dog"],
        "path": ["a/1.png", "b/1.png"],
        "caption": ["a cat", "a dog"],
    }
    columns.update(changes)
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


def parquet(tmp_path, name="set.parquet", **changes):
    rows(**changes).to_parquet(tmp_path / name)
    return tmp_path / name


def test_folder(folder):
    ds = load_image_set(folder)
    check_image_set(ds, "pets")
    assert ds["id"][:] == ["cat/1.png", "cat/2.png", "dog/deep/1.jpg"]
    assert class_names(ds) == ["cat", "dog"] and ds["label"][:] == [0, 0, 1]
    assert set(ds["source"]) == {"pets"}
    assert to_arrays(ds)[0][0, 0, 0].tolist() == [255, 0, 0]


def test_folder_split_is_part_of_the_id(tmp_path, folder):
    root = tmp_path / "root"
    root.mkdir()
    folder.rename(root / "val")
    assert load_image_set(root, split="val")["id"][0] == "val/cat/1.png"
    with pytest.raises(InputError, match="are splits, not classes"):
        load_image_set(root)
    with pytest.raises(InputError, match=r"no subfolder named test .*\[val\]"):
        load_image_set(root, split="test")
    write(root / "notes.txt", b"x")
    write(root / "train" / "cat" / "1.png", encoded("red"))
    write(root / "spare" / "1.png", encoded("red"))
    with pytest.raises(InputError, match=r"subfolders \[train, val\] are splits, not classes"):
        load_image_set(root)


def test_numbers_as_folder_names_are_ordered_as_numbers(tmp_path):
    for name in ("0", "2", "10"):
        write(tmp_path / "set" / name / "1.png", encoded("red"))
    assert class_names(load_image_set(tmp_path / "set")) == ["0", "2", "10"]


def test_folder_class_names_set_the_order(folder):
    ds = load_image_set(folder, class_names=["dog", "bird", "cat"])
    assert class_names(ds) == ["dog", "bird", "cat"] and ds["label"][:] == [2, 2, 0]
    with pytest.raises(InputError, match=r"\[dog\] are not among class_names"):
        load_image_set(folder, class_names=["cat", "dgo"])


def test_folder_metadata_becomes_columns(folder):
    names = ["dog/deep/1.jpg", "cat/1.png", "cat/2.png"]
    pd.DataFrame({"file_name": names, "seed": [3, 1, 2]}).to_csv(folder / "metadata.csv", index=False)
    assert load_image_set(folder)["seed"][:] == [1, 2, 3]
    pd.DataFrame({"file_name": names[:2], "seed": [3, 1]}).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(InputError, match=r"not listed: \[cat/2.png\]"):
        load_image_set(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b""),
        ("metadata.csv", "file_name,caption\ncat/1.png,caf\u00e9\n".encode("latin-1")),
        ("metadata.jsonl", b'{"file_name": "cat/1.png"}\n{half'),
        ("metadata.parquet", b"PAR1"),
    ],
)
def test_metadata_that_cannot_be_read_is_named(folder, name, content):
    write(folder / name, content)
    with pytest.raises(InputError, match=rf"pets/{name}: not readable: "):
        load_image_set(folder)


def test_flat_folder_with_labels_in_its_metadata(tmp_path):
    lines = []
    for i, label in enumerate(["dog", "cat"]):
        write(tmp_path / "flat" / f"{i}.png", encoded("red"))
        lines.append(json.dumps({"file_name": f"{i}.png", "label": label}))
    (tmp_path / "flat" / "metadata.jsonl").write_text("\n".join(lines))
    ds = load_image_set(tmp_path / "flat")
    assert class_names(ds) == ["cat", "dog"] and ds["label"][:] == [1, 0]


def test_bad_folders_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; expected an image folder"):
        load_image_set(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder is empty"):
        load_image_set(tmp_path / "empty")
    write(tmp_path / "text" / "cat" / "notes.txt", b"x")
    with pytest.raises(InputError, match="no image among"):
        load_image_set(tmp_path / "text")
    (folder / "bird").mkdir()
    with pytest.raises(InputError, match=r"no image in the class subfolders \[bird\]"):
        load_image_set(folder)
    write(folder / "stray.png", encoded("red"))
    with pytest.raises(InputError, match=r"1 images lie directly in the folder: \[stray.png\]"):
        load_image_set(folder)


def damaged():
    jpeg, png = photograph("JPEG"), photograph("PNG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "corrupt.png": png[:2000] + bytes(50) + png[2050:],
        "header.jpg": b"\0" * 20 + jpeg[20:],
        "zero.jpg": b"",
    }


@pytest.mark.parametrize("name", sorted(damaged()))
def test_damaged_images_stop_the_load_by_name(folder, name):
    write(folder / "cat" / name, damaged()[name])
    with pytest.raises(InputError, match=rf"1 of 4 images cannot be decoded, the first is cat/{name}"):
        load_image_set(folder)


def test_damaged_images_are_dropped_and_named(folder):
    for name, content in damaged().items():
        write(folder / "cat" / name, content)
    with pytest.warns(UnreadableImages, match="5 unreadable images were dropped") as caught:
        ds = load_image_set(folder, unreadable="drop")
    assert ds["id"][:] == ["cat/1.png", "cat/2.png", "dog/deep/1.jpg"]
    warning = next(w.message for w in caught if isinstance(w.message, UnreadableImages))
    assert sorted(warning.ids) == sorted(f"cat/{name}" for name in damaged())
    assert "zero bytes" in warning.reasons


def test_a_set_with_no_readable_image_is_refused(tmp_path):
    write(tmp_path / "set" / "cat" / "1.jpg", b"")
    with pytest.raises(InputError, match="1 of 1 images cannot be decoded"):
        load_image_set(tmp_path / "set", unreadable="drop")
    with pytest.raises(InputError, match="expected 'stop' or 'drop'"):
        load_image_set(tmp_path / "set", unreadable="ignore")


def test_good_images_raise_no_warning(folder):
    write(folder / "cat" / "cmyk.jpg", encoded("red", "JPEG", "CMYK"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadableImages)
        assert len(load_image_set(folder, unreadable="drop")) == 4


def test_parquet_names_come_from_the_class_name_column(tmp_path):
    file = tmp_path / "set.parquet"
    rows().astype({"class_name": "category", "label": "int8"}).to_parquet(file)
    ds = load_image_set(file)
    assert class_names(ds) == ["cat", "dog"] and ds["id"][:] == ["a/1.png", "b/1.png"]
    assert ds["caption"][:] == ["a cat", "a dog"]
    assert to_arrays(ds)[0][1, 0, 0].tolist() == [0, 0, 255]


def test_parquet_integers_without_names_are_refused(tmp_path):
    file = parquet(tmp_path, class_name=None)
    with pytest.raises(InputError, match="nothing names the classes; give class_names"):
        load_image_set(file)
    assert class_names(load_image_set(file, class_names=["cat", "dog"])) == ["cat", "dog"]
    with pytest.raises(InputError, match=r"1 labels lie outside 0\.\.0"):
        load_image_set(file, class_names=["cat"])


def test_parquet_names_that_contradict_labels_are_refused(tmp_path):
    with pytest.raises(InputError, match="do not pair"):
        load_image_set(parquet(tmp_path, class_name=["cat", "cat"]))


def test_parquet_with_other_columns_is_refused_before_loading(tmp_path):
    file = parquet(tmp_path, label=None)
    with pytest.raises(InputError, match=r"set.parquet: no column \[label\]; found \[image, class_name"):
        load_image_set(file)
    assert load_image_set(file, label_column="class_name")["label"][:] == [0, 1]
    with pytest.raises(InputError, match="expected encoded images"):
        load_image_set(file, image_column="caption", label_column="class_name")
    write(tmp_path / "bad.parquet", b"not parquet")
    with pytest.raises(InputError, match="not a parquet file"):
        load_image_set(tmp_path / "bad.parquet")


def test_parquet_missing_labels_and_repeated_paths_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 of 2 rows have no label"):
        load_image_set(parquet(tmp_path, label=["cat", None]))
    with pytest.raises(InputError, match="column path would become the id but repeats"):
        load_image_set(parquet(tmp_path, name="b.parquet", path=["a", "a"]))


def test_parquet_ids_become_text(tmp_path):
    assert load_image_set(parquet(tmp_path, id=[7, 8]))["id"][:] == ["7", "8"]


def test_parquet_damaged_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"1 of 2 images cannot be decoded, the first is b/1.png"):
        load_image_set(parquet(tmp_path, image=[encoded("red"), b"broken"]))


def test_parquet_folder_with_splits(tmp_path):
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, colour in (
        ("train-00000-of-00002", "red"),
        ("train-00001-of-00002", "red"),
        ("test-00000", "blue"),
    ):
        rows(path=None, image=[encoded(colour)] * 2).to_parquet(tmp_path / "hub" / "data" / f"{name}.parquet")
    ds = load_image_set(tmp_path / "hub", split="train")
    assert len(ds) == 4 and ds["id"][3] == "row-00000003" and ds["source"][0] == "hub/train"
    with pytest.raises(InputError, match=r"holds the splits \[test, train\]"):
        load_image_set(tmp_path / "hub")
    with pytest.raises(InputError, match="no file of the split val"):
        load_image_set(tmp_path / "hub", split="val")


def test_parquet_written_by_datasets_keeps_its_class_names(tmp_path, folder):
    load_image_set(folder).to_parquet(tmp_path / "set.parquet")
    ds = load_image_set(tmp_path / "set.parquet")
    assert class_names(ds) == ["cat", "dog"] and ds["id"][2] == "dog/deep/1.jpg" and ds["source"][0] == "pets"


def test_saved_dataset_and_splits(tmp_path, folder):
    ds = load_image_set(folder)
    ds.save_to_disk(str(tmp_path / "one"))
    loaded = load_image_set(tmp_path / "one")
    for column in ("id", "label", "source"):
        assert loaded[column][:] == ds[column][:]
    assert np.array_equal(to_arrays(loaded)[0], to_arrays(ds)[0])
    datasets.DatasetDict({"test": ds}).save_to_disk(str(tmp_path / "many"))
    assert len(load_image_set(tmp_path / "many", split="test")) == 3
    with pytest.raises(InputError, match=r"expected one of \['test'\]"):
        load_image_set(tmp_path / "many")


def test_webdataset_with_class_numbers(tmp_path):
    samples = [
        ("s1.jpg", encoded("red", "JPEG")), ("s1.cls", b"1"), ("s1.txt", b"a dog"),
        ("s2.jpg", encoded("blue", "JPEG")), ("s2.cls", b"0"), ("s2.txt", b"a cat"),
    ]  # fmt: skip
    file = tar(tmp_path / "part-0.tar", samples)
    ds = load_image_set(file, class_names=["cat", "dog"])
    assert ds["id"][:] == ["s1", "s2"] and ds["label"][:] == [1, 0] and ds["caption"][0] == "a dog"
    tar(tmp_path / "part-1.tar", samples)
    both = load_image_set(str(tmp_path / "part-*.tar"), class_names=["cat", "dog"])
    assert both["id"][:] == ["part-0/s1", "part-0/s2", "part-1/s1", "part-1/s2"]
    with pytest.raises(InputError, match="nothing names the classes"):
        load_image_set(file)


def test_webdataset_with_json(tmp_path):
    samples = []
    for key, label in (("s1", "dog"), ("s2", "cat")):
        samples.append((f"{key}.png", encoded("red")))
        samples.append((f"{key}.json", json.dumps({"label": label, "seed": 7}).encode()))
    ds = load_image_set(tar(tmp_path / "part.tar", samples))
    assert class_names(ds) == ["cat", "dog"] and ds["label"][:] == [1, 0] and ds["seed"][:] == [7, 7]


def test_webdataset_sample_without_its_image_is_counted(tmp_path):
    files = (("jpg", encoded("red", "JPEG")), ("cls", b"0"))
    samples = [(f"s{i}.{end}", content) for i in range(6) for end, content in files]
    file = tar(tmp_path / "part.tar", [*samples, ("s9.cls", b"0")])
    with pytest.raises(InputError, match="the first is s9: the row holds no image"):
        load_image_set(file, class_names=["cat"])


def test_webdataset_whose_first_samples_lack_files_keeps_them_as_holes(tmp_path):
    label = json.dumps({"label": "cat"}).encode()
    samples = [("s0.json", label), ("s1.jpg", encoded("red", "JPEG"))]
    for key in range(2, 8):
        samples += [(f"s{key}.jpg", encoded("red", "JPEG")), (f"s{key}.json", label)]
    file = tar(tmp_path / "part.tar", samples)
    with pytest.raises(InputError, match="1 of 8 rows have no label"):
        load_image_set(file)
    file = tar(tmp_path / "other.tar", [*samples[:1], *samples[2:]])
    with pytest.raises(
        InputError, match="1 of 7 images cannot be decoded, the first is s0: the row holds no"
    ):
        load_image_set(file)
    with pytest.warns(UnreadableImages):
        ds = load_image_set(file, unreadable="drop")
    assert class_names(ds) == ["cat"] and len(ds) == 6


def test_webdataset_of_other_kinds_of_files_is_refused(tmp_path):
    mixed = tar(tmp_path / "mixed.tar", [("a.jpg", b""), ("a.cls", b"0"), ("b.png", b""), ("b.cls", b"0")])
    reason = r"sample a of .*mixed\.tar holds \[jpg, cls\], but sample b of .* holds \[png, cls\]"
    with pytest.raises(InputError, match=reason):
        load_image_set(mixed)
    with pytest.raises(InputError, match=r"empty\.tar: 1 tar file\(s\) cannot be read: no sample"):
        load_image_set(tar(tmp_path / "empty.tar", []))
    write(tmp_path / "broken.tar", b"no tar" * 200)
    with pytest.raises(InputError, match=r"broken\.tar: 1 tar file\(s\) cannot be read: "):
        load_image_set(tmp_path / "broken.tar")


def test_tars_win_over_the_tables_that_img2dataset_writes_beside_them(tmp_path):
    for name in ("00000", "00001"):
        tar(tmp_path / f"{name}.tar", [("s1.jpg", encoded("red", "JPEG")), ("s1.cls", b"0")])
        parquet(tmp_path, f"{name}.parquet")
        write(tmp_path / f"{name}_stats.json", b"{}")
    for place in (tmp_path, tmp_path / "*"):
        ds = load_image_set(place, class_names=["cat"])
        assert ds["id"][:] == ["00000/s1", "00001/s1"]
    parquet(tmp_path, "more.parquet")
    with pytest.raises(InputError, match=r"files of the kinds \['\.parquet', '\.tar'\]"):
        load_image_set(tmp_path)


def test_hub_sets_need_their_prefix_a_split_and_the_network(monkeypatch):
    with pytest.raises(InputError, match="hub:owner/name"):
        load_image_set("owner/name")
    for place, split in (("hub:owner/name", None), ("hub:owner/name#", None), ("hub:owner/name#val", "test")):
        with pytest.raises(InputError, match="expected hub:owner/name and the name of one split"):
            load_image_set(place, split=split)

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match="hub could not be reached"):
        load_image_set("hub:owner/name", split="test")


def test_the_split_of_a_hub_set_may_be_part_of_its_place(monkeypatch):
    def published(name, *, split, cache_dir):
        return datasets.Dataset.from_dict(
            {"image": [{"bytes": encoded("red"), "path": None}] * 2, "label": ["cat", "dog"]},
            features=datasets.Features(image=datasets.Image(), label=datasets.Value("string")),
        ).add_column("asked", [f"{name} {split}"] * 2)

    monkeypatch.setattr(datasets, "load_dataset", published)
    found = open_world("hub:owner/name#test", hierarchy="none")
    assert found.images["asked"][0] == "owner/name test"
    assert found.name == found.images["source"][0] == "hub:owner/name#test"


def test_a_pattern_or_file_of_another_kind_is_refused(tmp_path):
    write(tmp_path / "set.csv", b"a,b")
    with pytest.raises(InputError, match=r"files of the kinds \['.csv'\]; expected an image folder"):
        load_image_set(tmp_path / "set.csv")


def shared_cifar():
    shared = os.environ.get("SYNREAL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(shared) / "cifar10" / "test.parquet"


@pytest.mark.skipif(not shared_cifar().is_file(), reason="real CIFAR-10 photographs are not at hand")
def test_real_photographs_load_from_parquet():
    ds = load_image_set(shared_cifar())
    pixels, labels = to_arrays(ds)
    assert pixels.shape == (10_000, 32, 32, 3) and np.bincount(labels).tolist() == [1000] * 10
    assert class_names(ds)[:2] == ["airplane", "automobile"] and ds["id"][0] == "test/airplane/0000.jpg"
