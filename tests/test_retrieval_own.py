"""Retrieval and its chapter on one's own tasks, corpora and classes; what is refused before embedding."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.book import retrieval_inputs as inputs
from synreal.book import run
from synreal.book.retrieval_sets import Sources
from synreal.book.study import read_results
from synreal.data.decode import from_arrays
from synreal.data.scenes import scene_set
from synreal.data.tasks import Counts, of_classes, open_task
from synreal.errors import InputError
from synreal.retrieve.corpus import check_corpus, open_corpus
from synreal.retrieve.manifest import MANIFEST, save_retrieved
from synreal.retrieve.match import ClassQuery
from synreal.retrieve.retrieve import need_captions, refuse_unmatched, retrieve
from synreal.retrieve.semantic import Lookup
from synreal.train.adapt import SCENES as SCENES_RECIPE

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
    tasks = [open_task("scenes", SCENES)]
    captions = ["a coat"] * 20 + ["a bag"] * 20
    corpus = from_arrays(PIXELS, [0] * 40, ["thing"], {"caption": captions})
    with pytest.raises(InputError, match=r"classes that match nothing: \[t-shirt, .*sandal"):
        inputs.check_corpus_for(corpus, Lookup(), tasks)
    inputs.check_corpus_for(corpus, Lookup(nearest=3), tasks)  # neighbours there are for every class
    plain, without = corpus.remove_columns("caption"), [ClassQuery(name="coat", exclude=("bag",))]
    for refused in (
        lambda: inputs.check_corpus_for(plain, Lookup(nearest=3), tasks),
        lambda: refuse_unmatched(plain, without, "tokens"),
        lambda: need_captions(plain, without, None),
    ):
        with pytest.raises(InputError, match="need a column caption"):
            refused()
    inputs.check_corpus_for(plain, Lookup(matcher="none", nearest=3), tasks)


def test_parameters_that_do_not_fit_the_tasks_are_refused(own):
    scenes, tops, mine = (open_task(name, SCENES) for name in ("scenes", "scenes:tops", f"mine:{own}"))
    drawn = scene_set("train", 30)
    inputs.check_tasks([scenes, tops], drawn, Lookup(), ["coat"])
    for tasks, shown, message in (
        ([], [], r"tasks: found \[\]"),
        ([scenes, scenes], [], "expected one or more of different names"),
        ([mine], [], r"synthetic_set: the classes \[blue, red\] are not among \[t-shirt"),
        ([scenes], ["hat"], r"shown: the classes \[hat\] are not among"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.check_tasks(tasks, drawn, Lookup(), shown)


def test_budgets_that_cannot_be_filled_are_refused():
    tasks = [open_task(name, SCENES) for name in ("scenes", "catalogue", "scenes:tops")]
    inputs.check_sizes(tasks, [10, 40], [16], 4)
    for budgets, parts, message in (
        (
            [50],
            [16],
            r"budgets: found \[50\], expected different numbers from 1 to 40: per_class 4 .* all classes",
        ),
        ([0, 10], [16], r"budgets: found \[0, 10\]"),
        ([10, 10], [16], r"budgets: found \[10, 10\]"),
        (
            [10],
            [],
            r"part_budgets: found \[\], expected different numbers from 1 to 16: per_class 4 .* of tops",
        ),
    ):
        with pytest.raises(InputError, match=message):
            inputs.check_sizes(tasks, budgets, parts, 4)


def test_a_perturbation_without_generator_or_fine_group_is_refused(own, tmp_path):
    scenes = [open_task("scenes", SCENES)]
    partly = tmp_path / "groups.yaml"
    partly.write_text("name: partly\ngroups: {few: [coat, bag]}")
    inputs.check_perturbation(scenes, "zoo/generator", "scenes", "tops", [0.2, 1.0], 5)
    for generator, hierarchy, group, strengths, message in (
        ("zoo/generator", "scenes", "bags", [0.5], "fine_group: found 'bags', expected one of .*tops"),
        ("zoo/generator", str(partly), "few", [0.5], "partly.* are in no group"),
        ("zoo/generator", "scenes", "tops", [], "strengths: found none"),
        ("zoo/generator", "scenes", "tops", [0.5, 0.1], "strength: found 0.1 of 5 steps"),
        (str(tmp_path / "none"), "scenes", "tops", [0.5], "holds no weights"),
        ("zoo/generator-sing", "scenes", "tops", [0.5], "no model_index.json"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.check_perturbation(scenes, generator, hierarchy, group, strengths, 5)


def test_trainings_without_seed_or_checkpoint_are_refused(own):
    tasks = [open_task(f"mine:{own}")]
    inputs.check_trainings("CLIP-Real-24k", tasks, SCENES_RECIPE, 1)
    with pytest.raises(InputError, match="seeds: found 0"):
        inputs.check_trainings("CLIP-Real-24k", tasks, SCENES_RECIPE, 0)
    with pytest.raises(InputError, match="no card named 'CLIP'"):
        inputs.check_trainings("CLIP", tasks, SCENES_RECIPE, 1)
    with pytest.raises(InputError, match="settings were chosen on scenes/val"):
        inputs.check_trainings("CLIP-Real-24k", [replace(tasks[0], reported="scenes/val")], SCENES_RECIPE, 1)


def test_too_few_images_left_are_named_by_kind_before_training(own):
    mine = open_task(f"mine:{own}")
    part = replace(mine, name="part", test=of_classes(mine.test, ["red"]))
    unused = pd.DataFrame()
    sources = Sources((mine, part), None, mine.train, mine.test, unused, {}, {})
    inputs.check_left([sources], [4, 16], [8], perturbed=16)
    for budgets, parts, perturbed, message in (
        ([4, 17], [8], None, "budgets: found 17, expected 1 to 16, the retrieved images left .* of mine"),
        ([16], [9], None, "part_budgets: found 9, expected 1 to 8, the retrieved images left .* of part"),
        ([16], [8], 17, "perturbed: found 17, expected 1 to 16"),
        ([16], [8], 0, "perturbed: found 0, expected 1 to 16"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.check_left([sources], budgets, parts, perturbed)
    none = replace(sources, synthetic=mine.test.select([]))
    with pytest.raises(InputError, match="budgets: found 4, expected 1 to 0, the synthetic images left"):
        inputs.check_left([none], [4], [4])


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
    notebooks, options = run.find_notebooks(["04_retrieval"]), {"profile": "quick", "progress": False}
    folder = run.run(notebooks, given=list(given.items()), out=tmp_path / "run", **options)
    rows = read_results(folder)
    assert {"mine", "all tasks"} == set(rows["data"]) and not rows["metric"].str.startswith("perturbed").any()
    assert rows.loc[rows["metric"] == "zero-shot/advantage", "model"].tolist() == [
        "retrieved vs synthetic, 20", "retrieved vs synthetic, 40",
    ]  # fmt: skip
    manifest = json.loads((folder / "retrieved" / "mine" / MANIFEST).read_text())
    assert manifest["corpus"] == str(tmp_path / "corpus.parquet") and manifest["semantic"]["k"] == 3
    assert manifest["classes"][1] == {"name": "coat", "synonyms": ["jacket"]}
