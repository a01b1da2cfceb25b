"""What a notebook opens by name: scenes, presets, own images; their groups and factors."""

import cv2
import numpy as np
import pandas as pd
import pytest

from synreal.data import worlds
from synreal.data.decode import from_arrays
from synreal.data.factors import FACTOR_NAMES
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.imageset import UnreadableImages, class_names
from synreal.data.scenes import factor_table, scene_set
from synreal.data.worlds import World, first_images, open_world
from synreal.errors import InputError
from synreal.paths import located, repository_root


def tree(folder, classes=("cat", "dog", "van")):
    """Two PNG images in each class's subfolder."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for image in range(2):
            pixels = np.full((8, 8, 3), 20 * number + image, np.uint8)
            cv2.imwrite(str(folder / name / f"{image}.png"), pixels)
    return folder


def made(classes, **columns):
    return from_arrays(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], classes, columns)


def test_scenes_come_by_split_count_and_seed():
    world = open_world("scenes/val", 20, seed=2)
    assert world.name == "scenes/val" and world.hierarchy == SCENES_HIERARCHY
    assert world.images["id"][:] == [f"val-2-{i:06d}" for i in range(20)]
    assert world.images["image"][3].tobytes() == scene_set("val", 20, 2)["image"][3].tobytes()
    pd.testing.assert_frame_equal(world.factors, factor_table(world.images))
    assert open_world("scenes/val", 20, hierarchy="none").hierarchy is None


UNKNOWN = [("scenes/holdout", 20), ("scenes/val", None), ("scenes/val", 0), ("scenes/val", -5)]


@pytest.mark.parametrize(("source", "count"), UNKNOWN)
def test_unknown_splits_and_missing_counts_are_refused(source, count):
    with pytest.raises(InputError, match=f"{source}: .* one of upstream, train, val, test, with a count"):
        open_world(source, count)


@pytest.mark.parametrize("source", ["imagenetx:$PLACE_OF_DATA", "${PLACE_OF_DATA}/photos"])
def test_a_variable_that_is_not_set_is_named(source, monkeypatch):
    monkeypatch.delenv("PLACE_OF_DATA", raising=False)
    with pytest.raises(InputError, match="set the environment variable PLACE_OF_DATA to the folder"):
        open_world(source)


def test_an_own_folder_with_an_own_hierarchy(tmp_path, monkeypatch):
    tree(tmp_path / "photos")
    yaml = tmp_path / "groups.yaml"
    yaml.write_text("name: mine\ngroups:\n  animals: [cat, dog]\n  vehicles: [van]\n")
    monkeypatch.setenv("PLACE_OF_DATA", str(tmp_path))
    world = open_world("$PLACE_OF_DATA/photos", hierarchy=str(yaml))
    assert world.name == "$PLACE_OF_DATA/photos" and class_names(world.images) == ["cat", "dog", "van"]
    assert world.hierarchy.groups["animals"] == ("cat", "dog") and world.factors is None
    assert open_world(f"{tmp_path}/photos").hierarchy is None
    with pytest.raises(InputError, match="absent.yaml: no such file"):
        open_world(f"{tmp_path}/photos", hierarchy="absent.yaml")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        open_world(str(tmp_path / "nowhere"))


def test_bool_columns_named_like_factors_are_factors(tmp_path):
    columns = {"pose": [True, False, False, True], "color": ["red", "red", "blue", "red"], "odd": [True] * 4}
    made(["cat", "dog"], **columns).save_to_disk(tmp_path / "own")
    world = open_world(str(tmp_path / "own"))
    assert list(world.factors) == ["pose"] and world.factors["pose"].tolist() == columns["pose"]
    assert world.factors.index.tolist() == world.images["id"][:]
    scene_set("test", 12).save_to_disk(tmp_path / "scenes")
    assert tuple(open_world(str(tmp_path / "scenes")).factors) == FACTOR_NAMES


def test_the_first_images_of_a_set_in_the_order_of_its_classes_are_of_many(tmp_path):
    folders = made(["cat", "dog"]).sort("label")
    world = World("folders", folders, None, None)
    found = first_images(world, 3)
    assert len(set(found["label"])) == 2 and found["id"][:] != folders["id"][:3]
    scenes = open_world("scenes/test", 12)
    assert first_images(scenes, 5)["id"][:] == scenes.images["id"][:5]
    with pytest.raises(InputError, match="folders: found 4 images, expected 5 or more"):
        first_images(world, 5)


def test_factors_of_ones_and_zeros_count_and_images_without_a_flag_are_not_annotated(tmp_path):
    made(["cat", "dog"], pose=[1, 0, 0, 1], style=[True, None, False, True]).save_to_disk(tmp_path / "own")
    world = open_world(str(tmp_path / "own"))
    assert world.factors["pose"].tolist() == [True, False, True]
    assert world.factors["style"].tolist() == [True, False, True]
    assert world.factors.index.tolist() == [world.images["id"][row] for row in (0, 2, 3)]


def test_a_column_called_like_a_factor_that_holds_amounts_is_refused(tmp_path):
    made(["cat", "dog"], larger=[0.5, 0.0, 1.0, 2.0]).save_to_disk(tmp_path / "own")
    with pytest.raises(InputError, match=r"column .larger., a factor.s name: found .*0\.5.*2\.0"):
        open_world(str(tmp_path / "own"))


@pytest.fixture
def presets(monkeypatch):
    """The presets, answering with two classes of ImageNet; returns what they were asked for."""
    asked = []

    def preset(name):
        def load(root, unreadable):
            asked.append((name, root, unreadable))
            return made(["tench", "giant panda"])

        return load

    monkeypatch.setattr(worlds, "PRESETS", {name: preset(name) for name in worlds.PRESETS})
    return asked


def test_presets_get_their_folder(presets, monkeypatch):
    monkeypatch.setenv("PLACE_OF_DATA", "/data")
    for name in worlds.PRESETS:
        assert open_world(f"{name}:$PLACE_OF_DATA/x").name == f"{name}:$PLACE_OF_DATA/x"
    assert presets == [(name, "/data/x", "stop") for name in worlds.PRESETS]
    open_world("imagenet100:x", unreadable="drop")
    assert presets[-1] == ("imagenet100", "x", "drop")


def test_results_may_call_a_world_by_another_name(tmp_path):
    assert open_world("scenes/val", 20, name="mine").name == "mine"
    assert open_world(str(tree(tmp_path / "photos")), name="mine").name == "mine"


def test_images_that_cannot_be_decoded_are_refused_or_dropped(tmp_path):
    tree(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="1 of 6 images cannot be decoded"):
        open_world(str(tmp_path))
    with pytest.warns(UnreadableImages, match="1 unreadable"):
        assert len(open_world(str(tmp_path), unreadable="drop").images) == 5


def test_only_imagenet_has_its_hierarchy_and_only_imagenet_x_its_factors(presets):
    groups = open_world("imagenetv2:x").hierarchy.groups
    assert sorted(sum(groups.values(), ())) == ["giant panda", "tench"]
    assert open_world("cifar10:x").hierarchy is None
    assert open_world("imagenet1k:x").factors is None and open_world("cifar10:x").factors is None
    factors = open_world("imagenetx:x").factors
    assert "ILSVRC2012_val_00000293.JPEG" in factors.index and factors.shape[1] == 16


def test_a_missing_preset_folder_is_refused(tmp_path):
    for name in ("cifar10", "imagenet1k", "imagenet100", "imagenetv2", "imagenetx"):
        with pytest.raises(InputError, match="nowhere"):
            open_world(f"{name}:{tmp_path}/nowhere")


def test_a_folder_that_is_called_like_a_preset_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "imagenet1k", "imagenette"):
        tree(tmp_path / name)
        world = open_world(name)
        assert len(world.images) == 6 and world.hierarchy is None and world.factors is None


def test_a_relative_place_is_seen_from_the_zoo_and_the_repository(tmp_path, monkeypatch):
    """A notebook's kernel may run in its own folder."""
    tree(tmp_path / "zoo" / "photos")
    monkeypatch.setenv("SYNREAL_ZOO", str(tmp_path / "zoo"))
    assert len(open_world("zoo/photos").images) == 6 and open_world("zoo/photos").name == "zoo/photos"
    monkeypatch.chdir(tmp_path)
    assert located("tests/data") == str(repository_root() / "tests/data")
    (tmp_path / "tests" / "data").mkdir(parents=True)
    assert located("tests/data") == "tests/data", "the current folder comes first"
    assert located("zoo/nothing") == "zoo/nothing"
