"""Retrieved sets: what is kept, the account of what is not, corpora of all kinds, and bad input."""

import io
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.data.decode import from_arrays
from synreal.data.imageset import check_image_set, load_image_set
from synreal.errors import InputError
from synreal.retrieve.corpus import MissingImages, check_corpus, open_corpus
from synreal.retrieve.embeddings import sampled_rows
from synreal.retrieve.filters import LEDGER, Filters, decontaminate
from synreal.retrieve.manifest import MANIFEST, rebuild, save_retrieved
from synreal.retrieve.match import ClassQuery
from synreal.retrieve.retrieve import first_per_class, retrieve
from synreal.retrieve.semantic import Embedded, Semantic, embed_corpus
from tars import tar
from tiny_clip import random_encoder

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
CAPTIONS = [f"a {('red', 'blue')[row % 2]} thing {row}" for row in range(40)]
RED, BLUE = ClassQuery(name="red"), ClassQuery(name="blue")


def corpus(pixels=PIXELS, captions=CAPTIONS, **columns):
    return from_arrays(pixels, [0] * len(pixels), ["thing"], {"caption": list(captions), **columns})


def records(images):
    return images.cast_column("image", datasets.Image(decode=False))["image"][:]


def with_images(images, changes):
    """The set with other records behind some rows."""
    new = [changes.get(row, record) for row, record in enumerate(records(images))]
    return images.remove_columns("image").add_column("image", new, feature=datasets.Image())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def embedded(encoder, tmp_path_factory):
    return embed_corpus(corpus(), encoder, tmp_path_factory.mktemp("embedded"))


def test_a_set_is_balanced_labelled_and_says_where_it_is_from():
    found = retrieve(corpus(), [BLUE, RED], 5)
    images = found.images
    check_image_set(images, "retrieved")
    assert images.features["label"].names == ["blue", "red"] and images["label"][:] == [0] * 5 + [1] * 5
    assert all(("blue", "red")[row["label"]] in row["caption"] for row in images)
    assert set(images["matched_by"]) == {"tokens"} and images["corpus_id"][:] == images["id"][:]
    assert images["corpus_label"][:] == [0] * 10
    assert found.counts.loc["red"].to_dict() == {"found": 20, "not drawn": 15, "kept": 5}
    assert len(found.ledger) == 30 and tuple(found.ledger) == LEDGER


def test_every_candidate_is_kept_or_in_the_ledger_once(embedded):
    found = retrieve(
        corpus(), [RED, BLUE], 3, semantic=Semantic(10), embedded=embedded, filters=Filters(0.6, 10, 0.9999)
    )
    kept = pd.DataFrame({"id": found.images["id"][:], "label": found.images["label"][:]})
    assert len(kept) + len(found.ledger) == found.counts["found"].sum()
    by_reason = found.counts.drop(columns=["found", "kept"]).sum(axis=1)
    assert (by_reason + found.counts["kept"] == found.counts["found"]).all()
    final = found.ledger[found.ledger["reason"] != "nearer to another class"]
    assert not set(final["id"]) & set(kept["id"])


def test_small_sets_are_nested_in_large_ones_and_do_not_depend_on_the_order_of_the_corpus():
    large, small = (retrieve(corpus(), [RED, BLUE], n, seed=3).images for n in (8, 3))
    assert first_per_class(large, 3)["id"][:] == small["id"][:]
    turned = retrieve(corpus().select(range(39, -1, -1)), [RED, BLUE], 3, seed=3).images
    assert turned["id"][:] == small["id"][:]
    assert retrieve(corpus(), [RED, BLUE], 3, seed=4).images["id"][:] != small["id"][:]


def test_synonyms_add_and_exclusions_reject_with_the_term():
    query = ClassQuery(name="red", synonyms=("thing 1",), exclude=("4",))
    found = retrieve(corpus(), [query], 5, matcher="phrase")
    assert "00000001" in {*found.images["id"], *found.ledger["id"]}
    out = found.ledger[found.ledger["reason"] == "excluded term"]
    assert out[["id", "detail"]].values.tolist() == [["00000004", "4"]]


def test_patterns_choose_captions_and_the_name_stays_the_label_and_the_text(embedded):
    query = ClassQuery(name="red", patterns=[r"\bred thing [02]\b"])
    found = retrieve(corpus(), [query], 2, matcher="regex", embedded=embedded).images
    assert found.features["label"].names == ["red"] and sorted(found["id"]) == ["00000000", "00000002"]
    named = retrieve(corpus(), [RED], 20, embedded=embedded).images
    scores = dict(zip(named["id"], named["score"], strict=True))
    assert found["score"][:] == [scores[key] for key in found["id"]]


def test_semantic_candidates_are_the_nearest_by_image_and_caption(embedded):
    found = retrieve(corpus(), [RED], 1, matcher=None, semantic=Semantic(k=4), embedded=embedded)
    texts = embedded.encoder.texts(["a red", "my red"])
    nearest = {
        where: {
            key
            for text in texts
            for key in np.array(items.ids)[np.argsort(-(items.take(items.ids) @ text))[:4]]
        }
        for where, items in (("image", embedded.images), ("caption", embedded.caption_index.embeddings))
    }
    seen = {*found.ledger["id"], *found.images["id"]}
    assert seen == nearest["image"] | nearest["caption"]
    both = nearest["image"] & nearest["caption"]
    expected = "image+caption" if found.images["id"][0] in both else None
    assert expected in (None, found.images["matched_by"][0])
    assert found.settings["recall"] == {"image": 1.0, "caption": 1.0}


def test_each_way_of_finding_is_counted(embedded):
    found = retrieve(corpus(), [RED], 1, matcher="tokens", semantic=Semantic(k=4), embedded=embedded)
    ways = found.ways.set_index(["matched_by", "template"])
    assert set(ways["class"]) == {"red"} and len(ways) == 5  # the matcher, and two texts in two indexes
    assert ways.loc[[("image", "a {}"), ("caption", "my {}")], "found"].tolist() == [4, 4]
    named = {
        key for key, text in zip(corpus()["id"], corpus()["caption"], strict=True) if "red" in text.split()
    }
    assert ways.loc[("tokens", ""), "found"].item() == len(named)
    alone = retrieve(corpus(), [RED], 1).ways.iloc[0]
    assert alone["found"] == alone["alone"] == len(named)  # there was no other way


def test_the_recall_of_a_compressed_index_is_told(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("synreal.retrieve.index.RERANKED", 1)  # with more it finds all of these
    pixels = np.random.default_rng(1).integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    many = corpus(pixels, [f"thing {row}" for row in range(400)])
    compressed = embed_corpus(many, encoder, tmp_path, kind="ivf-pq")
    told = retrieve(many, [RED], 1, matcher=None, semantic=Semantic(k=20), embedded=compressed).settings
    texts = encoder.texts(["a red", "my red"])
    for where, index in (("image", compressed.image_index), ("caption", compressed.caption_index)):
        items = index.embeddings
        nearest = np.array(items.ids)[np.argsort(-(texts @ items.take(items.ids).T))[:, :20]]
        hits = [np.isin(a, b).mean() for a, b in zip(nearest, index.search(texts, 20)[0], strict=True)]
        assert told["recall"][where] == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1
    assert told["model"]["kind"] == "ivf-pq"


def test_only_the_top_share_by_clip_score_is_left(embedded):
    found = retrieve(corpus(), [RED], 4, embedded=embedded, filters=Filters(top_share=0.25, cap=4))
    low = found.ledger[found.ledger["reason"] == "low CLIP score"]
    assert len(low) == 15 and min(found.images["score"]) >= low["threshold"].iloc[0] > low["value"].max()
    assert found.counts.loc["red", "above the cap"] == 1
    text = embedded.encoder.classes(["red"])[0]
    vector = embedded.images.take(found.images["id"][:1])[0]
    assert found.images["score"][0] == pytest.approx(float(vector @ text), abs=1e-6)


def test_an_image_of_two_classes_goes_to_the_nearer_or_to_none(embedded):
    thing = ClassQuery(name="thing")
    found = retrieve(corpus(), [RED, thing], 20, embedded=embedded, allow_fewer=True)
    assert found.counts["nearer to another class"].sum() == 20
    for row in found.images:
        scores = embedded.encoder.classes(["red", "thing"]) @ embedded.images.take([row["id"]])[0]
        assert row["score"] == pytest.approx(float(scores[row["label"]]), abs=1e-6)
    without = retrieve(corpus(), [RED, thing], 20, allow_fewer=True)
    assert without.counts["kept"].to_dict() == {"red": 0, "thing": 20}
    assert without.counts["several classes"].tolist() == [20, 20]


def test_copies_are_kept_once(embedded, encoder, tmp_path):
    pixels = PIXELS.copy()
    pixels[2] = pixels[0]
    pixels[4] = pixels[6]
    pixels[4, 0, 0, 0] ^= 1  # another image by its pixels, the same by its embedding
    copied = corpus(pixels)
    found = retrieve(
        copied, [RED], 18,
        embedded=embed_corpus(copied, encoder, tmp_path, captions=False),
        filters=Filters(near_duplicate=0.9999),
    )  # fmt: skip
    pairs = found.ledger[["reason", "id", "nearest"]].values.tolist()
    assert {reason: {one, other} for reason, one, other in pairs} == {
        "same pixels": {"00000000", "00000002"}, "near-duplicate": {"00000004", "00000006"},
    }  # fmt: skip


def test_images_of_the_task_do_not_leak_in(embedded):
    near = np.clip(PIXELS[[2]].astype(int) + 1, 0, 255).astype(np.uint8)
    test = from_arrays(np.concatenate([PIXELS[:1], near]), [0, 0], ["x"], {"id": ["same", "near"]})
    found = retrieve(
        corpus(), [RED], 18, embedded=embedded, against={"test": test}, filters=Filters(contamination=0.9999)
    )
    rows = found.ledger[["id", "reason", "nearest"]].values.tolist()
    assert rows == [["00000000", "same pixels as", "test/same"], ["00000002", "close to", "test/near"]]
    assert found.ledger["value"].iloc[1] >= found.ledger["threshold"].iloc[1] == 0.9999
    curve = found.sensitivity.set_index("threshold")["rejected"]
    assert curve.is_monotonic_decreasing and curve.loc[1.0] >= 1 and curve.iloc[0] >= curve.iloc[-1]
    exact = retrieve(corpus(), [RED], 19, against={"test": test})
    assert exact.ledger["id"].tolist() == ["00000000"]


def test_generated_images_are_decontaminated_too(encoder):
    made = from_arrays(PIXELS[:6], [0, 1] * 3, ["red", "blue"])
    test = from_arrays(PIXELS[4:8], [0] * 4, ["x"], {"id": list("abcd")})
    left, ledger, curve = decontaminate(made, {"test": test}, encoder, 0.9999)
    assert left["id"][:] == ["00000000", "00000001", "00000002", "00000003"]
    assert ledger[["id", "class", "nearest"]].values.tolist() == [
        ["00000004", "red", "test/a"], ["00000005", "blue", "test/b"],
    ]  # fmt: skip
    assert curve["rejected"].iloc[-1] == 2 and (curve["n"] == 6).all()
    with pytest.raises(InputError, match="give both or neither"):
        decontaminate(made, {"test": test}, encoder)


def test_images_that_cannot_be_read_are_rejected_with_the_reason(encoder, tmp_path):
    broken = with_images(corpus(), {0: None, 2: {"bytes": b"x", "path": None}})
    with pytest.warns(MissingImages, match=r"1 of 40 rows hold no image .*\[00000000\]"):
        found = retrieve(broken, [RED], 18)
    expected = {"00000000": "the row holds no image", "00000002": "not an image in a known format"}
    assert dict(zip(found.ledger["id"], found.ledger["detail"], strict=True)) == expected
    with pytest.warns(MissingImages):
        again = retrieve(broken, [RED], 18, embedded=embed_corpus(broken, encoder, tmp_path))
    assert dict(zip(again.ledger["id"], again.ledger["detail"], strict=True)) == expected


def test_a_class_that_matches_nothing_is_named():
    with pytest.raises(InputError, match=r"match nothing: \[green\]"):
        retrieve(corpus(), [RED, ClassQuery(name="green")], 5)
    with pytest.raises(InputError, match=r"match nothing: \[green\]"):
        retrieve(corpus(), [ClassQuery(name="green")], 5, allow_fewer=True)
    found = retrieve(corpus(), [RED, ClassQuery(name="green")], 5, allow_fewer=True)
    assert found.counts["kept"].to_dict() == {"red": 5, "green": 0}


def test_more_than_there_is_says_how_many_there_are():
    with pytest.raises(
        InputError, match="25 images asked for each class, but there are only: red 20, blue 20"
    ):
        retrieve(corpus(), [RED, BLUE], 25)
    assert len(retrieve(corpus(), [RED, BLUE], 25, allow_fewer=True).images) == 40


BROKEN = {row: {"bytes": b"x", "path": None} for row in range(0, 40, 2)}  # behind all that are red


@pytest.mark.parametrize(
    ("pool", "query", "options", "reasons"),
    [
        (with_images(corpus(), BROKEN), RED, {}, "20 candidates; rejected were: no readable image 20"),
        (corpus(), ClassQuery(name="red", exclude=("thing",)), {}, "20 candidates; .*: excluded term 20"),
        (corpus(), ClassQuery(name="thing 2"), {"matcher": "phrase"}, "1 candidates; .*: same pixels as 1"),
    ],
)
@pytest.mark.parametrize("allow_fewer", [False, True])
def test_a_set_without_images_is_refused(pool, query, options, reasons, allow_fewer, encoder):
    against = {"test": corpus().select([2])}
    for descriptor in (None, encoder):
        with pytest.raises(InputError, match=f"no image is left of {reasons}"):
            retrieve(
                pool, [query], 1, against=against, descriptor=descriptor, allow_fewer=allow_fewer, **options
            )


def test_embeddings_of_another_corpus_are_refused(embedded, encoder, tmp_path):
    for pool, count in (
        (corpus().select(range(30)), 10),
        (corpus(id=[f"other-{row}" for row in range(40)]), 80),
    ):
        with pytest.raises(InputError, match=f"embedded: {count} ids are in the corpus or among its image"):
            retrieve(pool, [RED], 1, embedded=embedded)
    fewer = embed_corpus(corpus().select(range(30)), encoder, tmp_path)
    mixed = Embedded(encoder, embedded.image_index, fewer.caption_index)
    with pytest.raises(InputError, match=r"10 ids .* its caption embeddings, .* \[00000030, "):
        retrieve(corpus(), [RED], 1, embedded=mixed)


@pytest.mark.parametrize("column", ["image", "caption"])
def test_embeddings_of_other_content_under_the_same_ids_are_refused(embedded, column):
    pixels, texts = PIXELS.copy(), list(CAPTIONS)
    pixels[7], texts[7] = 255 - pixels[7], "another thing"
    pool = corpus(pixels) if column == "image" else corpus(captions=texts)
    with pytest.raises(InputError, match=rf"1 of 40 rows compared hold another {column} .*: \[00000007\]"):
        retrieve(pool, [RED], 1, embedded=embedded)


def test_of_a_large_corpus_a_sample_and_every_candidate_are_compared(embedded, monkeypatch):
    monkeypatch.setattr("synreal.retrieve.embeddings.SAMPLED", 4)
    seen = {int(key) for key in sampled_rows(corpus())["id"]}
    unseen_red, unseen_blue = (min(set(range(start, 40, 2)) - seen) for start in (0, 1))
    pixels = PIXELS.copy()
    pixels[unseen_blue] = 255 - pixels[unseen_blue]
    assert len(retrieve(corpus(pixels), [RED], 3, embedded=embedded).images) == 3  # nothing of it is taken
    pixels[unseen_red] = 255 - pixels[unseen_red]
    with pytest.raises(InputError, match=f"1 of 20 rows compared .*{unseen_red:08d}"):
        retrieve(corpus(pixels), [RED], 3, embedded=embedded)


@pytest.mark.parametrize("templates", [(), ("a {c}",), ("a photo",), ("a {}", "{} and {}"), ("{{}}",)])
def test_templates_without_exactly_one_place_for_the_class_are_refused(templates):
    with pytest.raises(InputError, match="templates: found .* expected at least one, each with one {}"):
        Semantic(templates=templates)


def test_requests_that_cannot_be_met_are_refused_at_once(embedded):
    plain = corpus().remove_columns("caption")
    for arguments, options, reason in (
        ((corpus(), [RED], 0), {}, "per_class: found 0"),
        ((corpus(), [], 1), {}, "at least one"),
        ((corpus(), [RED, RED], 1), {}, "expected different classes"),
        ((corpus(), [RED], 1), {"matcher": None}, "at least one way"),
        ((plain, [RED], 1), {}, "need a column caption"),
        ((corpus(), [RED], 1), {"semantic": Semantic()}, "semantic: the corpus must be embedded"),
        ((corpus(), [RED], 1), {"filters": Filters(top_share=0.5)}, "top_share: the corpus must be"),
        ((corpus(), [RED], 1), {"filters": Filters(contamination=0.5)}, "no sets in `against`"),
        (
            (corpus(), [RED], 1),
            {"semantic": Semantic(images=False, captions=False), "embedded": embedded},
            "both",
        ),
    ):
        with pytest.raises(InputError, match=reason):
            retrieve(*arguments, **options)
    for field in ({"top_share": 0.0}, {"cap": 0}, {"near_duplicate": 1.5}, {"contamination": 0.0}):
        with pytest.raises(InputError, match=f"{next(iter(field))}: found"):
            Filters(**field)


def test_corpora_that_break_the_contract_are_refused():
    with pytest.raises(InputError, match=r"1 ids occur more than once: \[a\]"):
        check_corpus(corpus(PIXELS[:3], CAPTIONS[:3], id=["a", "a", "b"]))
    with pytest.raises(InputError, match="expected image"):
        check_corpus(corpus().remove_columns("image"))
    with pytest.raises(InputError, match="is empty"):
        check_corpus(corpus().select([]))
    with pytest.raises(InputError, match="none of the 2 rows holds an image"):
        check_corpus(with_images(corpus(PIXELS[:2], CAPTIONS[:2]), {0: None, 1: None}))


def png(row):
    stream = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))


def test_a_table_as_laion_has_it_is_a_corpus(tmp_path, cache):
    frame = {
        "key": [f"{row:09d}" for row in range(6)],
        "jpg": [None if row == 3 else png(row) for row in range(6)],
        "TEXT": ["a red cat", None, "красная акула", "a red dog", "blue", "red"],
        "url": [f"https://example.org/{row}" for row in range(6)],
    }
    pd.DataFrame(frame).to_parquet(tmp_path / "part-0.parquet")
    with pytest.warns(MissingImages, match=r"1 of 6 .*\[000000003\]"):
        pool = open_corpus(tmp_path / "part-0.parquet")
    assert {"image", "id", "source", "caption", "url"} <= set(pool.column_names)
    with pytest.warns(MissingImages):
        found = retrieve(pool, [RED, ClassQuery(name="shark", synonyms=["АКУЛА"])], 1, allow_fewer=True)
    assert found.counts["kept"].tolist() == [1, 1] and found.images["id"][1] == "000000002"
    assert found.counts.loc["red", "no readable image"] == 1


def test_tars_are_a_corpus_and_keys_of_several_tars_differ(tmp_path, cache):
    for name in ("00000", "00001"):
        files = (("png", png), ("txt", lambda _: b"a red thing"))
        samples = [(f"{row:04d}.{suffix}", content(row)) for row in range(3) for suffix, content in files]
        tar(tmp_path / f"{name}.tar", samples)
    pool = open_corpus(tmp_path)
    assert pool["id"][:] == [f"{name}/{row:04d}" for name in ("00000", "00001") for row in range(3)]
    assert pool["caption"][:] == ["a red thing"] * 6
    assert len(retrieve(pool, [RED], 3).images) == 3  # the second tar repeats the first one's images


def test_the_first_samples_of_a_tar_may_lack_their_image(tmp_path, cache):
    samples = [(f"{row:04d}.txt", b"a red thing") for row in range(6)]
    samples += [("0006.png", png(6)), ("0006.txt", b"a red thing")]
    tar(tmp_path / "00000.tar", samples)
    with pytest.warns(MissingImages, match=r"6 of 7 rows hold no image .*\[0000, 0001, "):
        pool = open_corpus(tmp_path)
    assert pool["caption"][:] == ["a red thing"] * 7


def test_saved_and_labelled_sets_and_scenes_are_corpora(tmp_path, cache):
    corpus().save_to_disk(tmp_path / "saved")
    assert open_corpus(tmp_path / "saved")["id"][:] == corpus()["id"][:]
    assert "caption" in open_corpus("scenes/upstream", 3).column_names
    for place, reason in (("scenes/nowhere", "expected scenes/"), (tmp_path / "gone.parquet", "no such")):
        with pytest.raises(InputError, match=reason):
            open_corpus(place, 3)
    pd.DataFrame({"caption": ["a"]}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no column of images"):
        open_corpus(tmp_path / "none.parquet")


def test_a_set_is_rebuilt_from_its_manifest_or_what_changed_is_said(tmp_path, cache):
    found = retrieve(corpus(), [RED, BLUE], 4)
    save_retrieved(found, tmp_path / "set", "colours")
    loaded, again = load_image_set(tmp_path / "set"), rebuild(tmp_path / "set", corpus())
    for images in (loaded, again):
        assert images.features["label"].names == ["red", "blue"]
        assert [images[name][:] for name in ("id", "label", "sha256", "matched_by")] == [
            found.images[name][:] for name in ("id", "label", "sha256", "matched_by")
        ]
    assert records(again) == records(found.images)
    gone, changed = (int(key) for key in found.images["id"][:2])
    with pytest.raises(InputError, match=rf"1 of 8 images are not in the corpus: \[{gone:08d}\]"):
        rebuild(tmp_path / "set", corpus().select([row for row in range(40) if row != gone]))
    other = with_images(corpus(), {changed: {"bytes": png(gone), "path": None}})
    with pytest.raises(InputError, match=rf"1 of 8 images have other pixels .*\[{changed:08d}\]"):
        rebuild(tmp_path / "set" / MANIFEST, other)
    broken = with_images(corpus(), {changed: {"bytes": b"", "path": None}})
    with pytest.raises(InputError, match="1 of 8 images cannot be decoded"), warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingImages)
        rebuild(tmp_path / "set", broken)
    with pytest.raises(InputError, match="is there already"):
        save_retrieved(found, tmp_path / "set", "colours")
    with pytest.raises(InputError, match="no such file"):
        rebuild(tmp_path / "gone", corpus())
