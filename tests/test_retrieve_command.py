"""`synreal retrieve`: the set and its account, its options, and those refused before anything is read."""

import json

import numpy as np
import pandas as pd
import pytest

from synreal.cli import main
from synreal.data.decode import from_arrays
from synreal.data.imageset import load_image_set
from synreal.retrieve.embed import embed_set
from tiny_clip import random_encoder

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
CAPTIONS = [f"a {('red', 'blue')[row % 2]} thing {row}" for row in range(40)]


def corpus(**columns):
    return from_arrays(PIXELS, [0] * 40, ["thing"], {"caption": CAPTIONS, **columns})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def retrieve(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns (exit status, standard output, standard error).

    The corpus is pool.parquet, the task's set test.parquet holds its first two images; it writes to out.
    """
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    corpus().to_parquet(tmp_path / "pool.parquet")
    from_arrays(PIXELS[:2], [0, 0], ["x"]).to_parquet(tmp_path / "test.parquet")
    (tmp_path / "classes.yaml").write_text("[red, blue]")

    def run(*options):
        given = ["retrieve", "--corpus", tmp_path / "pool.parquet", "--classes", tmp_path / "classes.yaml"]
        given += ["--per-class", 4, "--out", tmp_path / "out", *options]
        monkeypatch.setattr("sys.argv", ["synreal", *map(str, given)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return run


def against(folder):
    return ["--against", f"test={folder / 'test.parquet'}"]


def card(encoder):
    return ["--checkpoint", encoder._classifier.card.file]


def test_the_command_writes_the_set_and_its_account(retrieve, tmp_path):
    out = tmp_path / "out"
    status, shown, _ = retrieve(*against(tmp_path))
    assert status == 0 and shown.splitlines()[-1] == str(out)
    assert len(load_image_set(out)) == 8
    assert set(json.loads((out / "manifest.json").read_text())["images"][0]) >= {"corpus_id", "sha256"}
    assert pd.read_csv(out / "ledger.csv")["reason"].value_counts().to_dict() == {
        "not drawn": 30,
        "same pixels as": 2,
    }
    page = (out / "summary.md").read_text()
    assert "| red | 20 | 1 | 15 | 4 |" in page and "test (2 images)" in page
    status, _, error = retrieve()
    assert status == 2 and "is there already" in error


def test_the_command_searches_by_meaning(retrieve, encoder, tmp_path):
    status, _, _ = retrieve(
        "--matcher", "none", *card(encoder), "--nearest", 10, "--top-share", 0.9, "--near-duplicate", 0.9999,
        "--per-class", 2, "--embeddings", tmp_path / "embeddings",
    )  # fmt: skip
    ways = load_image_set(tmp_path / "out")["matched_by"][:]
    assert status == 0 and len(ways) == 4 and set(ways) <= {"image", "caption", "image+caption"}
    assert (tmp_path / "embeddings" / "images" / "embeddings.json").is_file()
    assert "Of the truly nearest neighbours" in (tmp_path / "out" / "summary.md").read_text()


def test_a_corpus_without_captions_is_not_embedded_to_be_matched(retrieve, encoder, tmp_path):
    corpus().remove_columns("caption").to_parquet(tmp_path / "pool.parquet")
    status, _, told = retrieve(*card(encoder), "--nearest", 3)
    assert status == 2 and "need a column caption" in told
    assert not (tmp_path / "cache" / "embeddings").exists()
    assert retrieve(*card(encoder), "--nearest", 5, "--matcher", "none", "--allow-fewer")[0] == 0


def test_contamination_is_judged_by_the_checkpoint(retrieve, encoder, tmp_path):
    near = np.clip(PIXELS[[2]].astype(int) + 1, 0, 255).astype(np.uint8)
    from_arrays(near, [0], ["x"], {"id": ["near"]}).to_parquet(tmp_path / "test.parquet")
    status, _, _ = retrieve(*card(encoder), *against(tmp_path), "--contamination", 0.9999)
    ledger = pd.read_csv(tmp_path / "out" / "ledger.csv").set_index("id")
    assert status == 0 and (ledger["reason"] == "close to").sum() == 1
    assert ledger.loc[2, ["reason", "nearest"]].tolist() == ["close to", "test/near"]


def test_embeddings_that_the_corpus_carries_are_taken(retrieve, encoder, tmp_path):
    own = embed_set(corpus(), encoder, tmp_path / "own")
    vectors = own.take(own.ids)
    vectors[2] *= np.nan
    corpus(vector=vectors.tolist()).to_parquet(tmp_path / "pool.parquet")
    status, _, _ = retrieve(*card(encoder), "--embedding-column", "vector")
    ledger = pd.read_csv(tmp_path / "out" / "ledger.csv").set_index("id")
    assert status == 0 and "column vector holds no vector" in ledger.loc[2, "detail"]
    corpus(vector=(-vectors).tolist()).to_parquet(tmp_path / "pool.parquet")
    given = [*card(encoder), "--embedding-column", "vector", "--embeddings", tmp_path / "new"]
    status, _, error = retrieve(*given, "--out", tmp_path / "other")
    assert status == 2 and "column vector: not made by tiny-clip" in error


def test_more_than_there_is_needs_leave_to_write_fewer(retrieve, tmp_path):
    status, _, error = retrieve("--per-class", 50)
    assert status == 2 and "only: red 20, blue 20" in error and not (tmp_path / "out").exists()
    assert retrieve("--per-class", 50, "--allow-fewer")[0] == 0
    assert len(load_image_set(tmp_path / "out")) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "test"], "expected a name and a place"),
        (["--against", "test=a", "--against", "test=b"], "--against: the names ['test'] are taken"),
        (["--nearest", "-5"], "--nearest"),
        (["--nearest", "5"], "--nearest: found no checkpoint to embed the corpus with; give --checkpoint"),
        (["--embedding-column", "vector"], "--embedding-column: found no checkpoint"),
        (["--embeddings", "e", "--top-share", "0.5"], "--embeddings, --top-share: found no checkpoint"),
        (["--contamination", "0.9", "--against", "test=a"], "--contamination: found no checkpoint"),
        (["--contamination", "0.9", "--checkpoint", "c"], "give one as --against"),
    ],
)
def test_options_are_checked_before_anything_is_read(retrieve, tmp_path, monkeypatch, options, message):
    (tmp_path / "pool.parquet").unlink()
    status, _, error = retrieve("--classes", tmp_path / "gone.yaml", *options)
    assert status == 2 and message in error and "gone.yaml" not in error and "Traceback" not in error
