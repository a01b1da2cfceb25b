import numpy as np
import pytest

from synreal.data.hierarchy import SCENES_HIERARCHY, Hierarchy
from synreal.data.published import imagenet_wnids
from synreal.errors import InputError

SCENES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def yaml_file(tmp_path, text):
    path = tmp_path / "groups.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_members_are_ascending_indices_of_the_class_names():
    members = SCENES_HIERARCHY.members(SCENES)
    assert {coarse: indices.tolist() for coarse, indices in members.items()} == {
        "tops": [0, 2, 4, 6],
        "footwear": [5, 7, 9],
        "long garments": [1, 3],
        "bags": [8],
    }


def test_a_users_yaml_file(tmp_path):
    path = yaml_file(tmp_path, "name: pets\ngroups:\n  cat: [tabby, siamese]\n  dog: [pug]\n")
    hierarchy = Hierarchy.from_yaml(path)
    assert hierarchy == Hierarchy("pets", {"cat": ("tabby", "siamese"), "dog": ("pug",)})
    assert hierarchy.members(["pug", "siamese", "tabby"])["cat"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ngroups:\n  a: [p, q]\n  b: [q]\n", r"class 'q' is listed 2 times, in \['a', 'b'\]"),
        ("name: x\ngroups:\n  a: [p, p]\n", r"class 'p' is listed 2 times, in \['a', 'a'\]"),
        ("name: x\ngroups:\n  a: [p]\n  a: [q]\n", "'a' is given twice"),
        ("name: x\ngroups:\n  a: []\n", "group 'a' is empty"),
        ("name: x\ngroups: {}\n", "found no group"),
        ("name: x\ngroups:\n  a: p\n", "group 'a': found 'p', expected a list"),
        ("name: x\ngroups:\n  a: [true, p]\n", "found the name True, a bool; put it in quotes"),
        ("name: x\ngroups: [p]\n", "groups must map each coarse name to a list"),
        ("groups:\n  a: [p]\n", r"found the keys \['groups'\], expected name and groups"),
        ("name: x\ngroups: {a: [p}\n", "not valid YAML"),
        ("- p\n", "found list, expected the keys"),
    ],
)
def test_a_wrong_yaml_file_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        Hierarchy.from_yaml(yaml_file(tmp_path, text))


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "groups.yaml").write_bytes("name: x\ngroups: {pâtes: [p]}\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"groups.yaml: cannot be read as YAML in UTF-8"):
        Hierarchy.from_yaml(tmp_path / "groups.yaml")


def test_a_missing_yaml_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        Hierarchy.from_yaml(tmp_path / "absent.yaml")


def test_a_label_outside_the_hierarchy_is_refused_by_name():
    with pytest.raises(InputError, match=r"1 classes \('hat'\) are in no group"):
        SCENES_HIERARCHY.members([*SCENES, "hat"])


def test_a_class_unknown_to_the_image_set_is_refused_and_can_be_dropped():
    names = [name for name in SCENES if name not in ("bag", "coat")]
    with pytest.raises(InputError, match=r"2 classes \('bag', 'coat'\) are unknown to the image set"):
        SCENES_HIERARCHY.members(names)
    members = SCENES_HIERARCHY.restricted_to(names).members(names)
    assert {coarse: len(indices) for coarse, indices in members.items()} == {
        "tops": 3,
        "footwear": 3,
        "long garments": 2,
    }


def test_imagenet_x_metaclasses():
    hierarchy = Hierarchy.imagenet_x()
    sizes = {coarse: len(classes) for coarse, classes in hierarchy.groups.items()}
    assert len(sizes) == 100
    assert sum(sizes.values()) == 1000
    assert sum(size > 1 for size in sizes.values()) == 63
    assert (sizes["dog"], sizes["bird"], sizes["snake"]) == (118, 59, 17)
    assert "Golden Retriever" in hierarchy.groups["dog"]
    assert "n02099601" in Hierarchy.imagenet_x(imagenet_wnids()).groups["dog"]


def test_imagenet_x_metaclasses_under_other_class_names():
    names = [f"class {index}" for index in range(1000)]
    members = Hierarchy.imagenet_x(names).members(names)
    assert 207 in members["dog"]
    assert np.array_equal(np.sort(np.concatenate(list(members.values()))), np.arange(1000))
    with pytest.raises(InputError, match="class_names: found 10, expected the 1000"):
        Hierarchy.imagenet_x(names[:10])
