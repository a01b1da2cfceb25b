"""Embeddings and indices: what is stored, resumed, refused and found."""

import json
from dataclasses import replace

import faiss
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from synreal.data.decode import from_arrays
from synreal.errors import InputError
from synreal.models import build_module, save_checkpoint
from synreal.retrieve.embed import Encoder, Images, embed_set
from synreal.retrieve.embeddings import HASHES, Embeddings, load_embeddings
from synreal.retrieve.index import Index, exact_search, ivf_pq_shape
from synreal.retrieve.semantic import Embedded
from tiny_clip import CARD, random_encoder

PIXELS = np.random.default_rng(0).integers(0, 256, (25, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("clip"))


def corpus(count=25, **columns):
    captions = [f"a thing number {row}" for row in range(count)]
    return from_arrays(PIXELS[:count], [0] * count, ["thing"], {"caption": captions, **columns})


def without(images, rows):
    """The set with no image behind some rows."""
    records = images.cast_column("image", type(images.features["image"])(decode=False))["image"][:]
    records = [None if row in rows else record for row, record in enumerate(records)]
    return images.remove_columns("image").add_column("image", records, feature=images.features["image"])


@torch.no_grad()
def test_vectors_are_those_of_open_clip_itself(encoder, tmp_path):
    images = embed_set(corpus(), encoder, tmp_path / "i", shard=10)
    captions = embed_set(corpus(), encoder, tmp_path / "c", what="caption", shard=10)
    module = encoder._module
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = open_clip.SimpleTokenizer(context_length=12)(corpus()["caption"][:])
    ids = corpus()["id"][:]
    expected = F.normalize(module.encode_image(pixels), dim=-1).numpy()
    np.testing.assert_allclose(images.take(ids), expected, atol=2e-3)
    expected = F.normalize(module.encode_text(tokens), dim=-1).numpy()
    np.testing.assert_allclose(captions.take(ids), expected, atol=2e-3)


def test_shards_are_mapped_and_rows_come_in_any_order(encoder, tmp_path):
    embedded = embed_set(corpus(), encoder, tmp_path, shard=10)
    assert [len(shard) for shard in embedded.shards] == [10, 10, 5]
    assert all(isinstance(shard, np.memmap) and shard.dtype == np.float16 for shard in embedded.shards)
    every = np.concatenate(list(embedded.blocks(rows=4)))
    np.testing.assert_allclose(np.linalg.norm(every, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(25)
    np.testing.assert_array_equal(embedded.take([embedded.ids[row] for row in order]), every[order])
    with pytest.raises(InputError, match=r"1 ids have no image embedding: \[who\]"):
        embedded.take(["who"])


class Killed(BaseException):
    """Not an Exception: nothing between the kill and the test may catch it."""


def counting(monkeypatch, die_at=None):
    """Counts the batches that are encoded; the one numbered `die_at` kills the run."""
    calls, encode = [], Images.encode

    def counted(self, contents):
        if len(calls) == die_at:
            raise Killed
        calls.append(len(contents))
        return encode(self, contents)

    monkeypatch.setattr(Images, "encode", counted)
    return calls


def test_an_interrupted_run_goes_on_where_it_stopped(encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        counting(patch, die_at=2)
        embed_set(corpus(), encoder, tmp_path / "a", shard=10)
    with pytest.raises(InputError, match="1 of 3 shards are not there yet"):
        load_embeddings(tmp_path / "a")
    with monkeypatch.context() as patch:
        calls = counting(patch)
        resumed = embed_set(corpus(), encoder, tmp_path / "a", shard=10)
    assert calls == [5]
    whole = embed_set(corpus(), encoder, tmp_path / "b", shard=10)
    assert (resumed.ids, resumed.content) == (whole.ids, whole.content)
    for one, other in zip(resumed.shards, whole.shards, strict=True):
        np.testing.assert_array_equal(one, other)


def test_vectors_without_their_record_are_computed_again(encoder, tmp_path, monkeypatch):
    embed_set(corpus(), encoder, tmp_path, shard=10)
    (tmp_path / "0000000010.json").unlink()  # as after a kill between the two files
    calls = counting(monkeypatch)
    embed_set(corpus(), encoder, tmp_path, shard=10)
    assert calls == [10]


def test_embeddings_from_before_content_hashes_are_made_again(encoder, tmp_path, monkeypatch):
    embed_set(corpus(), encoder, tmp_path, shard=10)
    record = tmp_path / "0000000010.json"
    old = {key: value for key, value in json.loads(record.read_text()).items() if key != HASHES}
    record.write_text(json.dumps(old))
    with pytest.raises(InputError, match="does not say what each row held; run embed_set again"):
        load_embeddings(tmp_path)
    calls = counting(monkeypatch)
    assert len(embed_set(corpus(), encoder, tmp_path, shard=10)) == len(corpus()) and calls == [10]


def test_a_grown_or_changed_corpus_costs_only_what_is_new(encoder, tmp_path, monkeypatch):
    first = embed_set(corpus(20), encoder, tmp_path, shard=10)
    calls = counting(monkeypatch)
    second = embed_set(corpus(25), encoder, tmp_path, shard=10)
    assert calls == [5] and len(second) == 25 and first.content != second.content
    changed = from_arrays(255 - PIXELS, [0] * 25, ["thing"])
    third = embed_set(changed, encoder, tmp_path, shard=10)
    assert calls == [5, 10, 10, 5] and third.content != second.content
    assert len(embed_set(corpus(10), encoder, tmp_path, shard=10)) == 10


def test_shards_of_another_model_kind_or_size_are_refused(encoder, tmp_path):
    embed_set(corpus(), encoder, tmp_path / "e", shard=10)
    other = random_encoder(tmp_path / "other", seed=1)
    for arguments, changed in (
        ((corpus(), other, tmp_path / "e", "image", 10), "fingerprint"),
        ((corpus(), encoder, tmp_path / "e", "caption", 10), "what image, now caption"),
        ((corpus(), encoder, tmp_path / "e", "image", 5), "shard 10, now 5"),
    ):
        with pytest.raises(InputError, match=f"holds other embeddings .*{changed}"):
            embed_set(*arguments)


def test_rows_without_content_are_listed_and_have_no_vector(encoder, tmp_path):
    holes = without(corpus(), {3, 24})
    images = embed_set(holes, encoder, tmp_path / "i", shard=10)
    assert len(images) == 23 and list(images.missing) == ["00000003", "00000024"]
    captions = embed_set(corpus(caption=["", None, *"x" * 23]), encoder, tmp_path / "c", what="caption")
    assert list(captions.missing) == ["00000000", "00000001"]
    with pytest.raises(InputError, match="none of 5 rows holds an image"):
        embed_set(without(corpus(5), set(range(5))), encoder, tmp_path / "n")


def test_a_column_of_vectors_is_taken_when_this_model_made_it(encoder, tmp_path):
    own = embed_set(corpus(), encoder, tmp_path / "own")
    vectors = [(3 * vector).tolist() for vector in own.take(corpus()["id"][:])]
    vectors[7] = None
    carried = embed_set(corpus(vector=vectors), encoder, tmp_path / "carried", column="vector")
    assert list(carried.missing) == ["00000007"]
    np.testing.assert_allclose(carried.take(carried.ids), own.take(carried.ids), atol=2e-3)


@pytest.mark.parametrize(("size", "reason"), [(16, "not made by tiny-clip"), (4, r"shape \(4,\)")])
def test_a_column_of_another_model_is_refused(encoder, tmp_path, size, reason):
    vectors = np.random.default_rng(1).standard_normal((25, size)).tolist()
    with pytest.raises(InputError, match=reason):
        embed_set(corpus(vector=vectors), encoder, tmp_path, column="vector")


def test_a_column_that_only_begins_with_vectors_of_this_model_is_refused(encoder, tmp_path):
    own = embed_set(corpus(), encoder, tmp_path / "own")
    given = own.take(own.ids)
    given[12:] = np.random.default_rng(1).standard_normal((13, 16))
    with pytest.raises(InputError, match="column vector: not made by tiny-clip"):
        embed_set(corpus(vector=given.tolist()), encoder, tmp_path / "mixed", column="vector")


def test_a_column_of_unequal_lengths_is_refused(encoder, tmp_path):
    own = embed_set(corpus(), encoder, tmp_path / "own")
    for row in range(25):
        given = own.take(own.ids).tolist()
        given[row] = given[row][:5]
        with pytest.raises(InputError, match=r"vectors of shape \(5,\), but tiny-clip makes \(16,\)"):
            embed_set(corpus(vector=given), encoder, tmp_path / f"ragged-{row}", column="vector")


def test_columns_that_are_not_there_are_named(encoder, tmp_path):
    with pytest.raises(InputError, match=r"no column \[vector\]"):
        embed_set(corpus(), encoder, tmp_path, column="vector")
    with pytest.raises(InputError, match="expected image or caption"):
        embed_set(corpus(), encoder, tmp_path, what="text")
    with pytest.raises(InputError, match=r"no embeddings\.json"):
        load_embeddings(tmp_path)


def test_a_model_without_a_text_tower_is_refused(tmp_path):
    fields = {"library": "timm", "architecture": "test_vit", "architecture_args": {"img_size": 16}}
    card = CARD.model_copy(update=fields | {"head": "linear", "templates": ()})
    with pytest.raises(InputError, match="no text tower"):
        Encoder(save_checkpoint(tmp_path, build_module(card), card))


def vectors(count, size=32, seed=0, what="image"):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((50, size))
    made = (centres[rng.integers(0, 50, count)] + 0.7 * rng.standard_normal((count, size))).astype(np.float16)
    ids = [f"item-{row}" for row in range(count)]
    halves = [made[: count // 2], made[count // 2 :]]
    return Embeddings(what, "model", "abc", f"content-{seed}", ids, halves)


def test_the_flat_index_finds_what_brute_force_finds(tmp_path):
    items = vectors(3000)
    queries = items.take(items.ids[:20])
    index = Index.open(items, tmp_path / "index")
    ids, scores = index.search(queries, 7)
    products = queries @ np.concatenate(list(items.blocks())).T
    best = np.argsort(-products, axis=1, kind="stable")[:, :7]
    assert index.exact and len(index) == 3000
    assert ids.tolist() == [[f"item-{row}" for row in rows] for rows in best]
    np.testing.assert_allclose(scores, np.take_along_axis(products, best, axis=1), rtol=1e-5)
    again = exact_search(items, queries, 7)
    assert again[0].tolist() == ids.tolist()
    np.testing.assert_allclose(again[1], scores, rtol=1e-5)


def test_the_compressed_index_says_its_recall(tmp_path, monkeypatch):
    monkeypatch.setattr("synreal.retrieve.index.RERANKED", 1)  # with more it finds all of these
    items = vectors(4000)
    queries = items.take(items.ids[:50])
    index = Index.open(items, tmp_path, kind="ivf-pq")
    truth, found = exact_search(items, queries, 10)[0], index.search(queries, 10)[0]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)])
    assert not index.exact
    assert index.recall(queries, 10) == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert Index.build(items).recall(queries) == 1.0


def test_what_the_codes_find_is_compared_again_by_the_vectors(tmp_path, monkeypatch):
    items = vectors(4000)
    queries = items.take(items.ids[:50])
    index = Index.open(items, tmp_path, kind="ivf-pq")
    ids, scores = index.search(queries, 10)
    np.testing.assert_allclose(scores[3], items.take(ids[3]) @ queries[3], rtol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    reranked = index.recall(queries, 10)
    monkeypatch.setattr("synreal.retrieve.index.RERANKED", 1)
    assert reranked > index.recall(queries, 10) + 0.1
    assert index.search(queries[:1], 4000)[0].tolist()[0].count("") > 0  # lists that were not searched


def test_auto_compresses_above_its_limit(monkeypatch):
    monkeypatch.setattr("synreal.retrieve.index.EXACT_UP_TO", 2000)
    assert Index.build(vectors(2000)).origin.kind == "flat"
    assert Index.build(vectors(2001)).origin.kind == "ivf-pq"


def test_an_index_is_kept_rebuilt_for_other_items_and_refused_for_another_model(tmp_path, monkeypatch):
    items = vectors(300)
    first = Index.open(items, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "build", None)
        kept = Index.open(items, tmp_path)
    queries = items.take(items.ids[:5])
    assert kept.search(queries, 3)[0].tolist() == first.search(queries, 3)[0].tolist()
    assert len(Index.open(vectors(400, seed=1), tmp_path)) == 400
    for field in ({"fingerprint": "def", "model": "other"}, {"what": "caption"}):
        other = replace(items, **field)
        with pytest.raises(InputError, match=r"holds an index of images by model \(abc\)"):
            Index.open(other, tmp_path)


def test_an_index_left_half_written_is_built_again(tmp_path):
    items = vectors(300)
    Index.open(items, tmp_path)
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.faiss").write_bytes(b"half")
    assert Index.open(items, tmp_path).search(items.take(["item-5"]), 1)[0].tolist() == [["item-5"]]
    assert json.loads((tmp_path / "index.json").read_text())["kind"] == "flat"


def test_a_corpus_indexed_by_another_model_is_refused(encoder, tmp_path):
    items = embed_set(corpus(), encoder, tmp_path / "e")
    other = random_encoder(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="the image index was built by tiny-clip"):
        Embedded(other, Index.build(items))


def test_bad_searches_are_refused():
    index = Index.build(vectors(20))
    good = np.ones((1, 32), np.float32)
    assert index.search(good, 50)[0].shape == (1, 20)
    for queries, k, reason in (
        (good[:, :5], 3, "found shape"),
        (good[0], 3, "found shape"),
        (good * np.nan, 3, "expected finite"),
        (good, 0, "expected 1 or more"),
    ):
        with pytest.raises(InputError, match=reason):
            index.search(queries, k)
    with pytest.raises(InputError, match="expected one of auto, flat, ivf-pq"):
        Index.build(vectors(20), kind="hnsw")


def test_sizes_of_compressed_indices():
    shape = ivf_pq_shape(1_000_000, 512)
    assert (shape.lists, shape.code_bytes, shape.probes, shape.training) == (4000, 128, 63, 256_000)
    with pytest.raises(InputError, match="multiple of 4"):
        ivf_pq_shape(1000, 30)


def test_faiss_and_torch_share_a_process():
    """Each brings its own OpenMP; both must answer rightly in turn, on two threads."""
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    items = vectors(3000)
    index, every = Index.build(items), torch.from_numpy(items.take(items.ids))
    try:
        torch.set_num_threads(2)
        faiss.omp_set_num_threads(2)
        for first in range(0, 300, 100):
            queries = every[first : first + 100]
            truth = (queries @ every.T).topk(3).values
            np.testing.assert_allclose(index.search(queries.numpy(), 3)[1], truth, rtol=1e-5)
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])
