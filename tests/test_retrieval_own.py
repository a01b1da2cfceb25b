"""Retrieval and its chapter on one's own tasks, corpora and classes; what is refused before embedding."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.book import run
from synreal.book.study import read_results
from synreal.data.decode import from_arrays
from synreal.data.hierarchy import hierarchy_named
from synreal.data.scenes import scene_set
from synreal.data.sprites import CLASS_NAMES
from synreal.data.tasks import Counts, families, images_by_split, open_task
from synreal.errors import InputError
from synreal.generate.sample import check_perturbation
from synreal.retrieve.corpus import check_corpus, open_corpus
from synreal.retrieve.manifest import MANIFEST, save_retrieved
from synreal.retrieve.match import ClassQuery
from synreal.retrieve.retrieve import check_captions, need_captions, refuse_unmatched, retrieve
from synreal.retrieve.semantic import Lookup
from synreal.train.adapt import SCENES as SCENES_RECIPE
from synreal.train.adapt import check_budgets, refuse_known

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
SCENES = Counts(20, 20, 60)


def write_split(folder, classes, count, seed):
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def own(tmp_path):
    """A task of two classes without val; its splits repeat the names of files."""
    for seed, split in enumerate(("train", "test")):
        write_split(tmp_path / split, ("red", "blue"), 10, seed)
    return tmp_path


def test_a_folder_of_ones_own_is_a_task(own):
    task = open_task(f"mine:{own}")
    assert (task.name, task.reported, task.class_names) == ("mine", "mine/test", ["blue", "red"])
    assert [len(part) for part in (task.train, task.val, task.test)] == [16, 4, 20]
    ids = [key for part in (task.train, task.val, task.test) for key in part["id"]]
    assert len(set(ids)) == 40 and "mine/test/red/3.png" in ids
    assert np.bincount(task.val["label"][:]).tolist() == [2, 2]


def test_a_val_of_ones_own_is_taken(own):
    write_split(own / "val", ("red", "blue"), 3, 7)
    task = open_task(f"mine:{own}")
    assert [len(part) for part in (task.train, task.val, task.test)] == [20, 6, 20]


def test_splits_of_other_classes_are_refused(own):
    (own / "test" / "red").rename(own / "test" / "green")
    with pytest.raises(InputError, match=r"task mine: train and test differ in the classes \[green, red\]"):
        open_task(f"mine:{own}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_test_images_among_the_others_of_ones_own_task_are_refused(own, split):
    write_split(own / "val", ("red", "blue"), 3, 7)
    copied = Image.open(own / "test" / "red" / "3.png")
    copied.save(own / split / "red" / "copy.bmp")
    with pytest.raises(InputError, match=rf"task mine, {split}: 1 of 20 test .*: \[mine/test/red/3.png\]"):
        open_task(f"mine:{own}")


def test_a_class_inside_anothers_name_excludes_it():
    queries = {query.name: query.exclude for query in Lookup().queries(["shirt", "t-shirt", "coat"])}
    assert queries == {"shirt": ("t-shirt",), "t-shirt": (), "coat": ()}
    unmatched = Lookup(matcher="none", nearest=3).queries(["shirt", "t-shirt"])
    assert [query.exclude for query in unmatched] == [(), ()]


def test_a_file_of_classes_gives_the_queries_in_the_order_asked_for(tmp_path):
    (tmp_path / "classes.yaml").write_text("[{name: bag, synonyms: [purse]}, coat, hat]")
    lookup = Lookup(str(tmp_path / "classes.yaml"))
    assert [query.terms for query in lookup.queries(["coat", "bag"])] == [("coat",), ("bag", "purse")]
    with pytest.raises(InputError, match=r"classes.yaml lacks \[shirt\], which are classes of a task"):
        lookup.queries(["coat", "shirt"])


def test_a_lookup_says_how_to_search():
    assert Lookup(matcher="phrase").ways(True) == ("phrase", None)
    matcher, semantic = Lookup(matcher="none", nearest=5).ways(captioned=False)
    assert matcher is None and (semantic.k, semantic.images, semantic.captions) == (5, True, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"matcher": "words"},
            "matcher: found 'words', expected one of tokens, phrase, regex, substring, none",
        ),
        ({"nearest": -1}, "nearest: found -1, expected 0 or more with matcher tokens"),
        ({"matcher": "none"}, "nearest: found 0, expected 1 or more with matcher none"),
    ],
)
def test_a_lookup_that_finds_nothing_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Lookup(**given)


def test_a_class_that_no_caption_speaks_of_is_named_before_anything_is_embedded():
    queries = Lookup().queries(CLASS_NAMES)
    captions = ["a coat"] * 20 + ["a bag"] * 20
    corpus = from_arrays(PIXELS, [0] * 40, ["thing"], {"caption": captions})
    with pytest.raises(InputError, match=r"classes that match nothing: \[t-shirt, .*sandal"):
        check_captions(corpus, queries, Lookup())
    check_captions(corpus, queries, Lookup(), allow_fewer=True)
    check_captions(corpus, queries, Lookup(nearest=3))  # neighbours there are for every class
    plain, without = corpus.remove_columns("caption"), [ClassQuery(name="coat", exclude=("bag",))]
    for refused in (
        lambda: check_captions(plain, queries, Lookup(nearest=3)),
        lambda: refuse_unmatched(plain, without, "tokens"),
        lambda: need_captions(plain, without, None),
    ):
        with pytest.raises(InputError, match="need a column caption"):
            refused()
    unmatched = Lookup(matcher="none", nearest=3)
    check_captions(plain, unmatched.queries(CLASS_NAMES), unmatched)


def test_tasks_of_shared_classes_belong_together(own):
    tops, scenes, mine = (open_task(name, SCENES) for name in ("scenes:tops", "scenes", f"mine:{own}"))
    assert families([tops, mine, scenes]) == [(scenes, tops), (mine,)]
    together = images_by_split((scenes, tops))
    assert together["test"]["id"][:] == scenes.test["id"][:]  # each once
    other = open_task("catalogue", SCENES)
    assert len(images_by_split((scenes, other))["test"]) == len(scenes.test) + len(other.test)


def test_coarse_groups_that_do_not_fit_are_refused(tmp_path):
    partly = tmp_path / "groups.yaml"
    partly.write_text("name: partly\ngroups: {few: [coat, bag]}")
    assert hierarchy_named("scenes", ["coat", "shirt", "bag"]).large_group("tops") == ("coat", "shirt")
    with pytest.raises(InputError, match="partly.* are in no group"):
        hierarchy_named(str(partly), CLASS_NAMES)
    with pytest.raises(InputError, match="found 'bags', expected one of tops, footwear, long garments, its"):
        hierarchy_named("scenes", CLASS_NAMES).large_group("bags")


def test_a_perturbation_that_cannot_be_is_refused(tmp_path):
    check_perturbation("zoo/generator", [0.2, 1.0], 5)
    for generator, strengths, message in (
        ("zoo/generator", [], "strengths: found none"),
        ("zoo/generator", [0.5, 0.1], "strength: found 0.1 of 5 steps"),
        (str(tmp_path / "none"), [0.5], "holds no weights"),
        ("zoo/generator-sing", [0.5], "no model_index.json"),
    ):
        with pytest.raises(InputError, match=message):
            check_perturbation(generator, strengths, 5)


def test_budgets_that_cannot_be_filled_are_refused():
    check_budgets("budgets", [10, 40], 40)
    for budgets in ([], [50], [0, 10], [10, 10]):
        with pytest.raises(InputError, match=r"budgets: found \[.*\], expected different .* to 40"):
            check_budgets("budgets", budgets, 40)


def test_a_task_that_the_settings_know_is_refused(own):
    task = open_task(f"mine:{own}")
    refuse_known("CLIP-Real-24k", task, SCENES_RECIPE)
    with pytest.raises(InputError, match="settings were chosen on scenes/val"):
        refuse_known("CLIP-Real-24k", replace(task, reported="scenes/val"), SCENES_RECIPE)


def test_a_retrieved_set_is_a_corpus_again(tmp_path):
    captions = [f"a {('red', 'blue')[row % 2]} thing" for row in range(40)]
    corpus = from_arrays(PIXELS, [0] * 40, ["thing"], {"caption": captions})
    queries = [ClassQuery(name="red"), ClassQuery(name="blue")]
    save_retrieved(retrieve(corpus, queries, 6), tmp_path / "first", "corpus")
    again = retrieve(open_corpus(tmp_path / "first"), queries[::-1], 3).images
    assert again["label"][:] == [0] * 3 + [1] * 3
    assert [text.split()[1] for text in again["caption"]] == ["blue"] * 3 + ["red"] * 3
    assert again["corpus_label"][:] == [1] * 3 + [0] * 3  # those of the first set


def test_columns_of_numbers_are_no_captions_and_no_images(tmp_path):
    with pytest.raises(InputError, match="column caption holds .*int64.*; expected text"):
        check_corpus(from_arrays(PIXELS[:2], [0, 0], ["x"], {"caption": [1, 2]}))
    table = tmp_path / "pool.parquet"
    pd.DataFrame({"image": [1, 2], "caption": ["a", "b"]}).to_parquet(table)
    with pytest.raises(InputError, match="column image holds .*int64.*; expected encoded images"):
        open_corpus(table)


def save_as_folders(images, folder, kept):
    names = images.features["label"].names
    for row in images:
        name = names[row["label"]]
        if name in kept:
            (folder / name).mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / name / f"{row['id'].replace('/', '-')}.png")


@pytest.mark.notebook
def test_the_chapter_on_ones_own_task_corpus_and_images(tmp_path):
    """Folders of images, a table of captioned images and a file of classes; no generator to perturb with."""
    classes = ["bag", "coat", "sandal", "shirt"]
    for split in ("train", "test"):
        save_as_folders(scene_set(split, 120), tmp_path / "task" / split, classes)
    save_as_folders(scene_set("train", 300, seed=5), tmp_path / "generated", classes)
    pool = scene_set("upstream", 600).select_columns(["image", "id", "caption"])
    pool.to_parquet(tmp_path / "corpus.parquet")
    (tmp_path / "classes.yaml").write_text("[bag, {name: coat, synonyms: [jacket]}, sandal, shirt]")
    given = {"tasks": json.dumps([f"mine:{tmp_path / 'task'}"]), "corpus": str(tmp_path / "corpus.parquet")}
    given |= {"classes": str(tmp_path / "classes.yaml"), "synthetic_set": str(tmp_path / "generated")}
    given |= {"generator": "", "shown": "[]", "nearest": "3"}
    notebooks, options = run.find_notebooks(["07_retrieval"]), {"profile": "quick", "progress": False}
    folder = run.run(notebooks, given=list(given.items()), out=tmp_path / "run", **options)
    rows = read_results(folder)
    assert {"mine", "all tasks"} == set(rows["data"]) and "cost of perturbation" not in set(rows["metric"])
    assert rows.loc[rows["metric"] == "advantage", "budget"].tolist() == [20, 40, 20, 40]
    manifest = json.loads((folder / "retrieved" / "mine" / MANIFEST).read_text())
    assert manifest["corpus"] == str(tmp_path / "corpus.parquet") and manifest["semantic"]["k"] == 3
    assert manifest["classes"][1] == {"name": "coat", "synonyms": ["jacket"]}
