"""The plan of a large corpus: its arithmetic, and that the page says what the function computes."""

import pytest

from synreal.paths import repository_root
from synreal.retrieve.index import MEASURED, Rates, ivf_pq_shape, laion_plans, plan, plan_table

RATES = Rates(gflops=10.0, codes=1e7, encoder_gflops=20.0)


def test_a_plan_worked_by_hand():
    found = plan(1_000_000, 512, image_gflops=36.0, queries=1000, rates=RATES, cores=2)
    assert found.shape == ivf_pq_shape(1_000_000, 512)
    assert (found.embedding_bytes, found.flat_bytes) == (1_024_000_000, 2_048_000_000)
    assert found.index_bytes == 1_000_000 * (128 + 8) + 4 * 512 * 4000
    assert found.embed_hours == pytest.approx(36e6 / (20 * 2) / 3600)
    assert found.train_hours == pytest.approx(2 * 512 * 4000 * 256_000 * 10 / 20e9 / 3600)
    assert found.add_hours == pytest.approx(2 * 512 * (4000 + 256) * 1e6 / 20e9 / 3600)
    scan, centres = 1000 * 1e6 * 63 / 4000 / 2e7, 2 * 512 * 4000 * 1000 / 20e9
    assert found.search_hours == pytest.approx((scan + centres) / 3600)


def test_machines_share_everything_but_the_training():
    one, four = (plan(10**8, 512, 36.0, 1000, RATES, cores=16, nodes=n) for n in (1, 4))
    assert four.train_hours == one.train_hours and four.index_bytes == one.index_bytes
    for name in ("embed_hours", "add_hours", "search_hours"):
        assert getattr(one, name) == pytest.approx(4 * getattr(four, name))


def test_the_page_shows_the_plan_that_the_function_computes():
    page = (repository_root() / "book" / "retrieval_scaling.md").read_text(encoding="utf-8")
    assert plan_table(laion_plans()) in page
    gflops = [f"{rate} GFLOP/s" for rate in (MEASURED.gflops, MEASURED.encoder_gflops)]
    assert all(f"| {rate} |" in page for rate in (*gflops, f"{MEASURED.codes / 1e6:g} million/s"))


def test_units_of_the_table():
    table = plan_table({"tiny": plan(1000, 4, 1e-9, 1, RATES, cores=1)})
    assert "| embeddings, float16 | 8 kB |" in table and "| exact index | 16 kB |" in table
    assert table.splitlines()[0] == "|  | tiny |"
