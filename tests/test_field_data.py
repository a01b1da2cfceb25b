"""Image sets as they lie on people's disks: read as they are meant, or refused with what was found."""

import io
import json
import os
import tarfile

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synreal.data.imageset import class_names, load_image_set
from synreal.errors import InputError
from synreal.retrieve.corpus import open_corpus


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / ".cache"))


def png(value=0):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def folder(place, names=("cat/0.png", "dog/0.png")):
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(png(number))
    return place


def labels_of(ds):
    return [class_names(ds)[number] for number in ds["label"][:]]


def packed(place, files):
    with tarfile.open(place, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return place


@pytest.mark.parametrize(
    "classes", [("None", "dog"), ("NA", "null"), ("01", "02"), ("True", "False"), ("nan", "1e3")]
)
def test_a_class_is_called_what_the_table_calls_it(tmp_path, classes):
    names = [f"{name}.png" for name in classes]
    folder(tmp_path, names)
    pd.DataFrame({"file_name": names, "label": classes}).to_csv(tmp_path / "metadata.csv", index=False)
    ds = load_image_set(tmp_path)
    assert dict(zip(ds["id"][:], labels_of(ds), strict=True)) == dict(zip(names, classes, strict=True))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_digits_of_a_name_are_kept(tmp_path, kind):
    ids, clusters = ["000000012", "000000013", "0114"], ["0012", "12", "012"]
    names = [f"{number}.png" for number in range(3)]
    folder(tmp_path, names)
    table = pd.DataFrame(
        {"file_name": names, "label": ["cat", "dog", "cat"], "cluster": clusters, "old_id": ids}
    )
    if kind == "csv":
        table.to_csv(tmp_path / "metadata.csv", index=False)
    else:
        table.to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    ds = load_image_set(tmp_path)
    assert ds["cluster"][:] == clusters and ds["old_id"][:] == ids


def test_numbers_and_truth_values_of_a_table_keep_their_kind(tmp_path):
    names = ["a.png", "b.png"]
    folder(tmp_path, names)
    table = {
        "file_name": names,
        "label": ["x", "y"],
        "darker": [True, False],
        "scale": ["0.5", "1"],
        "seed": [3, 4],
    }
    pd.DataFrame(table).to_csv(tmp_path / "metadata.csv", index=False)
    ds = load_image_set(tmp_path)
    assert [ds.features[name].dtype for name in ("darker", "scale", "seed")] == ["bool", "float64", "int64"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["cat"], ["dog"]], "expected one class for each image"),
        (["cat", 1], "label is int in one line and str in another"),
    ],
)
def test_labels_of_several_kinds_are_refused(tmp_path, rows, reason):
    names = ["0.png", "1.png"]
    folder(tmp_path, names)
    lines = [json.dumps({"file_name": name, "label": label}) for name, label in zip(names, rows, strict=True)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=reason):
        load_image_set(tmp_path)


def test_lists_of_labels_in_a_table_are_refused(tmp_path):
    pd.DataFrame({"image": [png()] * 2, "label": [["cat"], ["cat", "dog"]]}).to_parquet(
        tmp_path / "a.parquet"
    )
    with pytest.raises(InputError, match="expected one class for each image"):
        load_image_set(tmp_path / "a.parquet")


@pytest.mark.parametrize("column", ["path", "folder"])
def test_a_table_may_have_columns_of_any_name(tmp_path, column):
    folder(tmp_path)
    table = pd.DataFrame({"file_name": ["cat/0.png", "dog/0.png"], column: ["/old/0", "/old/1"]})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    ds = load_image_set(tmp_path)
    assert ds[column][:] == ["/old/0", "/old/1"] and labels_of(ds) == ["cat", "dog"]


def test_a_column_that_stands_for_the_images_is_refused(tmp_path):
    folder(tmp_path)
    table = pd.DataFrame({"file_name": ["cat/0.png", "dog/0.png"], "image": ["a", "b"]})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(InputError, match=r"metadata.csv: the column image would stand for the images"):
        load_image_set(tmp_path)


def test_links_to_the_folder_itself_are_passed_over(tmp_path):
    root = folder(tmp_path / "set")
    for name in ("cat", "dog"):
        (root / name / "again").symlink_to(root)
    assert load_image_set(root)["id"][:] == ["cat/0.png", "dog/0.png"]


def test_a_pipe_among_the_images_is_named(tmp_path):
    root = folder(tmp_path / "set")
    os.mkfifo(root / "cat" / "pipe.jpg")
    with pytest.raises(InputError, match="pipe.jpg: is a pipe"):
        load_image_set(root)


@pytest.mark.parametrize("stray", ["embeddings.parquet", "photos.tar", "state.json"])
def test_what_other_tools_left_beside_image_folders_decides_nothing(tmp_path, stray):
    root = folder(tmp_path / "set")
    if stray.endswith("parquet"):
        pd.DataFrame({"id": ["cat/0.png"], "embedding": [[0.1]]}).to_parquet(root / stray)
    elif stray.endswith("tar"):
        packed(root / stray, [("cat/0.png", png())])
    else:
        (root / stray).write_text('{"epoch": 3}')
    assert labels_of(load_image_set(root)) == ["cat", "dog"]


def test_brackets_of_a_name_are_no_pattern(tmp_path):
    (tmp_path / "set [v2]").mkdir()
    places = {
        tmp_path / "set [v2]" / "all.parquet": 10,
        tmp_path / "run[1].parquet": 20,
        tmp_path / "run1.parquet": 30,
    }
    for place, value in places.items():
        pd.DataFrame({"image": [png(value)] * 2, "label": ["cat", "dog"]}).to_parquet(place)
    found = [load_image_set(place) for place in (tmp_path / "set [v2]", *list(places)[1:])]
    assert [np.asarray(ds[0]["image"])[0, 0, 0] for ds in found] == [10, 20, 30]


@pytest.mark.parametrize("second", [["dog", "cat"], ["dog", "fox"], ["cat", "dog", "fox"]])
def test_files_of_one_set_have_one_list_of_classes(tmp_path, second):
    for number, names in enumerate((["cat", "dog"], second)):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        rows = {"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"part-{number}.parquet")
    with pytest.raises(
        InputError, match=r"part-1.parquet: the classes of label are .* but \[cat, dog\] in part-0"
    ):
        load_image_set(tmp_path)


def test_numbers_are_as_wide_as_any_file_needs(tmp_path):
    for number, scale in enumerate(([1, 2], [0.5, 7.5])):
        table = {"image": [png()] * 2, "label": ["cat", "dog"], "scale": scale}
        pd.DataFrame(table).to_parquet(tmp_path / f"part-{number}.parquet")
    assert load_image_set(tmp_path)["scale"][:] == [1, 2, 0.5, 7.5]


def named(place, paths):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": str(path)} for path in paths], kind)
    pq.write_table(pa.table({"image": image, "label": ["cat", "dog"], "caption": ["a cat", "a dog"]}), place)
    return place


def test_images_beside_a_table_become_part_of_the_set(tmp_path):
    folder(tmp_path / "set")
    table = named(tmp_path / "set" / "table.parquet", ["cat/0.png", "dog/0.png"])
    for ds in (load_image_set(table), open_corpus(table)):
        raw = ds.cast_column("image", datasets.Image(decode=False))
        assert [row["bytes"] for row in raw["image"][:]] == [png(0), png(1)]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "https://example.org/0.png"])
@pytest.mark.parametrize("reader", [load_image_set, open_corpus])
def test_a_table_cannot_name_what_lies_elsewhere(tmp_path, path, reader):
    folder(tmp_path / "set")
    table = named(tmp_path / "set" / "table.parquet", ["cat/0.png", path])
    with pytest.raises(InputError, match="names the image .* store the images in the table, or beside it"):
        reader(table)


def sample(number, **record):
    content = {"label": ["cat", "dog"][number % 2]} | record
    return [(f"{number:04d}.png", png(number)), (f"{number:04d}.json", json.dumps(content).encode())]


def test_json_fields_have_the_type_that_all_samples_need(tmp_path):
    rows = [(2, None)] * 6 + [(7.5, "UNSURE")] * 3
    files = [file for n, (scale, note) in enumerate(rows) for file in sample(n, scale=scale, note=note)]
    ds = load_image_set(packed(tmp_path / "a.tar", files))
    assert ds["scale"][:] == [2] * 6 + [7.5] * 3 and ds["note"][:] == [None] * 6 + ["UNSURE"] * 3


def images_then_captions():
    return [(f"{n}.png", png()) for n in range(3)] + [(f"{n}.txt", b"a dress") for n in range(3)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            images_then_captions(),
            "the files of sample 0 of a.tar do not lie together; pack them with `tar --sort=name`",
        ),
        (
            [("sd1.5_00.png", png()), ("sd1.5_00.txt", b"x")],
            "sd1.5_00.png of a.tar has a dot before the extension",
        ),
        (
            [("0.png", png()), ("0.json", b"[1]")],
            "sample 0 of a.tar: the .json holds list, expected an object",
        ),
        (sample(0, note=1) + sample(1, note="x"), "note of the .json is string, and int64 before"),
        ([("0.png", png()), ("0.json", b"{")], "cannot be read"),
    ],
)
def test_tars_that_say_something_else_are_refused(tmp_path, files, reason):
    with pytest.raises(InputError, match=reason):
        open_corpus(packed(tmp_path / "a.tar", files))


def test_a_tar_that_was_cut_off_is_no_whole_set(tmp_path):
    whole = packed(tmp_path / "a.tar", sample(0) + sample(1)).read_bytes()
    end = whole.index(b"0001.png")  # between two samples, where no reader would notice
    (tmp_path / "cut.tar").write_bytes(whole[:end])
    with pytest.raises(InputError, match="cut.tar was cut off: it lacks the end of an archive"):
        load_image_set(tmp_path / "cut.tar")
