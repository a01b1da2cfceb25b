"""Measurements: what is written, what is glued, what is refused."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from synreal.book.plots import image_sheet
from synreal.book.study import (
    HIDDEN,
    Measurement,
    Study,
    measurement_of,
    published_environment,
    published_keys,
    read_notebook_results,
    read_results,
    run_folder,
)
from synreal.errors import InputError
from synreal.paths import repository_root

ROW = {"metric": "accuracy", "value": 0.7, "model": "ViT-Real", "data": "test", "n": 200, "ci": (0.63, 0.76)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def executed(path: Path, action) -> list:
    """What `action` publishes inside Jupyter, as the outputs of a notebook that is saved to `path`."""
    InteractiveShell.instance()
    with capture_output() as captured:
        action()
    outputs = [
        nbformat.v4.new_output("display_data", data=output.data, metadata=output.metadata or {})
        for output in captured.outputs
    ]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return nbformat.read(path, as_version=4).cells[0].outputs


def test_a_row_is_written_as_recorded(run: Path) -> None:
    Study("s", "mini").record(**ROW, seed=3)
    [row] = read_results(run).to_dict("records")
    assert row == {
        "study": "s", "profile": "mini", "model": "ViT-Real", "data": "test", "metric": "accuracy",
        "value": 0.7, "n": 200, "ci_low": 0.63, "ci_high": 0.76, "seed": 3, "run": "run", "reason": None,
    }  # fmt: skip


def test_opening_a_study_again_starts_its_rows_anew_and_leaves_others(run: Path) -> None:
    for value in (0.1, 0.2):
        Study("s", "mini").record(**ROW | {"value": value, "ci": None})
    Study("other", "mini").record(**ROW)
    assert sorted(read_results(run)["value"]) == [0.2, 0.7]


def test_numpy_numbers_become_plain_numbers(run: Path) -> None:
    Study("s", "mini").record(
        **ROW | {"value": np.float32(0.5), "n": np.int64(9), "ci": (np.float64(0.4), 0.6)}
    )
    line = json.loads((run / "results" / "s.jsonl").read_text())
    assert line["value"] == 0.5 and line["n"] == 9 and line["ci_low"] == 0.4


def test_two_nan_bounds_mean_no_interval(run: Path) -> None:
    row = Study("s", "mini").record(**ROW | {"ci": (math.nan, math.nan)})
    assert row.ci_low is None and row.ci_high is None and row.sentence() == "0.700 (n = 200)"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": math.nan}, "finite"),
        ({"value": math.inf, "ci": None}, "finite"),
        ({"value": None, "ci": None}, "reason"),
        ({"reason": "why"}, "reason"),
        ({"value": 0.9}, "must hold the value"),
        ({"ci": (0.76, 0.63)}, "must hold the value"),
        ({"ci": (0.6, math.nan)}, "finite"),
        ({"n": -1}, "greater than or equal to 0"),
        ({"model": ""}, "at least 1 character"),
    ],
)
def test_an_inconsistent_row_is_refused_and_not_written(run: Path, change: dict, problem: str) -> None:
    study = Study("s", "mini")
    with pytest.raises(InputError, match=problem) as caught:
        study.record(**ROW | change)
    assert "study s: cannot record 'accuracy'" in str(caught.value)
    assert read_results(run).empty


def test_the_same_row_twice_is_refused_unless_a_facet_differs(run: Path) -> None:
    study = Study("s", "mini")
    study.record(**ROW, factor="darker", images=np.int64(5))
    study.record(**ROW, factor="darker", images=6)
    with pytest.raises(InputError, match="recorded twice; tell the rows apart by a facet"):
        study.record(**ROW | {"value": 0.65}, images=5, factor="darker")
    rows = read_results(run)
    assert rows["factor"].tolist() == ["darker"] * 2 and rows["images"].tolist() == [5, 6]
    assert "facets" not in rows


def test_a_facet_with_the_name_of_a_column_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"facets \['profile'\] have the names of columns"):
        Study("s", "mini").record(**ROW, profile="mine")


TABLE = pd.DataFrame(
    [
        {"value": 0.7, "ci_low": 0.72, "ci_high": 0.8, "n": 20, "group": "tops", "note": ""},
        {"value": math.nan, "ci_low": math.nan, "ci_high": math.nan, "n": 0, "group": "", "note": "too few"},
        {"value": 0.1, "ci_low": math.nan, "ci_high": math.nan, "n": 9, "group": None, "note": "no draws"},
    ]
).assign(metric=["gap", "gap", "size"], model="m", data="d")


def test_a_table_is_recorded_line_by_line(run: Path) -> None:
    assert Study("s", "mini").record_table(TABLE, facets=["group"], seed=3) is TABLE
    tops, missing, alone = (measurement_of(row) for _, row in read_results(run).iterrows())
    assert (tops.ci_low, tops.value, tops.facets) == (0.7, 0.7, {"group": "tops"}), "widened to hold it"
    assert (missing.value, missing.reason, missing.facets) == (None, "too few", {})
    assert (alone.value, alone.ci_low, alone.reason) == (0.1, None, None)
    assert {tops.seed, missing.seed, alone.seed} == {3}


def test_a_table_without_a_column_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"lacks the columns \['n', 'kind'\]"):
        Study("s", "mini").record_table(TABLE.drop(columns="n"), facets=["kind"])
    assert read_results(run).empty


def test_a_missing_value_keeps_its_reason(run: Path) -> None:
    row = Study("s", "mini").record(**ROW | {"value": None, "ci": None, "n": 0}, reason="no dark image")
    assert read_results(run).loc[0, "reason"] == "no dark image"
    assert row.sentence() == "not available (no dark image)"


def test_sentences_for_prose() -> None:
    fields = {"study": "s", "profile": "p", "model": "m", "data": "d", "metric": "x", "run": "r"}
    share = Measurement(**fields, value=0.7123, n=2000, ci_low=0.69, ci_high=0.733)
    assert share.sentence() == "0.712 (95 % interval 0.690 to 0.733, n = 2,000)"
    assert Measurement(**fields, value=12.0, n=16).sentence() == "12 (n = 16)"


def test_a_broken_results_file_is_named_with_its_line(run: Path) -> None:
    Study("s", "mini").record(**ROW)
    with (run / "results" / "s.jsonl").open("a") as file:
        file.write('{"study": "s"\n')
    with pytest.raises(InputError, match=r"s\.jsonl, line 2"):
        read_results(run)


def test_no_run_named_means_the_interactive_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNREAL_RUN_DIR", raising=False)
    assert run_folder() == repository_root() / "_build" / "interactive"


def glued(outputs: list) -> dict[str, str]:
    return {o.metadata.scrapbook.name: o.data[HIDDEN + "text/plain"] for o in outputs}


def test_the_notebook_carries_what_prose_quotes_and_all_rows_as_one_block(run: Path, tmp_path: Path) -> None:
    def chapter() -> None:
        study = Study("s", "mini")
        study.record(**ROW, factor="darker")
        study.record(**ROW, factor="larger", images=5)
        study.record(**ROW | {"value": None, "ci": None, "reason": "none"})
        study.quote("acc", metric="accuracy", factor="larger")
        study.publish()

    found = glued(executed(tmp_path / "a.ipynb", chapter))
    assert set(found) == {"environment", "acc", "acc.text", "measurements"}
    assert found["acc"] == "0.7" and found["acc.text"] == "'0.700 (95 % interval 0.630 to 0.760, n = 200)'"
    assert len(found["measurements"].splitlines()) == 3
    assert published_keys(tmp_path / "a.ipynb") == set(found)
    pd.testing.assert_frame_equal(read_notebook_results([tmp_path / "a.ipynb"]), read_results(run))


def test_a_missing_value_still_formats_as_a_number(run: Path, tmp_path: Path) -> None:
    def chapter() -> None:
        study = Study("s", "mini")
        study.record(**ROW | {"value": None, "ci": None, "reason": "none"})
        study.quote("acc", metric="accuracy")

    found = glued(executed(tmp_path / "a.ipynb", chapter))
    assert f"{float(found['acc']):.3f}" == "nan" and found["acc.text"] == "'not available (none)'"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"metric": "acuracy"}, "selects 0 rows of s, not one; metric is one of: accuracy"),
        ({"metric": "accuracy", "kind": "ViT"}, "kind is one of: "),
        ({"metric": "accuracy"}, "selects 2 rows of s, not one; they differ in images"),
    ],
)
def test_a_quote_singles_out_one_row(run: Path, columns: dict, problem: str) -> None:
    study = Study("s", "mini")
    for images in (5, 6):
        study.record(**ROW, images=images)
    with pytest.raises(InputError, match=problem):
        study.quote("acc", **columns)


def test_a_key_is_used_once(run: Path) -> None:
    study = Study("s", "mini")
    study.record(**ROW)
    study.quote("acc", metric="accuracy")
    for key in ("acc", "acc.text", "measurements"):
        with pytest.raises(InputError, match="used twice"):
            study.glue(key, 1)


def test_the_notebook_says_where_it_ran(run: Path, tmp_path: Path) -> None:
    about = {
        "git": {"revision": "abc", "dirty": False},
        "environment": {"cpu": "x", "packages": {"numpy": "2", "y": "1"}},
    }
    run.mkdir()
    (run / "run.json").write_text(json.dumps(about))
    executed(tmp_path / "a.ipynb", lambda: Study("s", "quick"))
    found = published_environment(tmp_path / "a.ipynb")
    assert found == {
        "profile": "quick",
        "revision": "abc",
        "dirty": False,
        "cpu": "x",
        "packages": {"numpy": "2"},
    }


def test_a_figure_reaches_the_page_with_alt_text_and_caption(run: Path, tmp_path: Path) -> None:
    fig = plt.figure()
    figure = {"caption": "Gap & <interval>", "alt": 'A "dot"'}
    outputs = executed(tmp_path / "a.ipynb", lambda: Study("s", "mini").figure("dots", fig, **figure))
    shown = outputs[-1].data["text/html"]
    assert (
        'alt="A &quot;dot&quot;"' in shown and "<figcaption>Gap &amp; &lt;interval&gt;</figcaption>" in shown
    )
    assert outputs[-1].metadata.scrapbook == {"name": "dots", "mime_prefix": ""}
    assert not plt.fignum_exists(fig.number), "an open figure is shown a second time, without alt text"


def test_a_figure_of_plots_brings_its_own_alt_text(run: Path, tmp_path: Path) -> None:
    sheet = image_sheet(np.zeros((3, 4, 4, 3), np.uint8))
    outputs = executed(tmp_path / "a.ipynb", lambda: Study("s", "mini").figure("sheet", sheet, caption="c"))
    assert 'alt="3 small images in rows of 3."' in outputs[-1].data["text/html"]
    with pytest.raises(InputError, match="alt is empty"):
        Study("s", "mini").figure("plain", plt.figure(), caption="c")


@pytest.mark.parametrize("empty", ["caption", "alt"])
def test_a_figure_without_words_is_refused(run: Path, empty: str) -> None:
    words = {"caption": "c", "alt": "a"} | {empty: " "}
    with pytest.raises(InputError, match=empty):
        Study("s", "mini").figure("dots", plt.figure(), **words)


def test_names_with_unicode_line_breaks_are_read_back(run: Path) -> None:
    Study("s", "mini").record(**ROW | {"model": "a\u2028b\u0085c"})
    assert read_results(run)["model"].tolist() == ["a\u2028b\u0085c"]
