"""The report of SynBench: the page, its files, its verdict, and what may go wrong on the way."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.book.plots import (
    boxes_in_words,
    confusion_maps,
    confusions_in_words,
    quantile_boxes,
    worst_cases,
)
from synreal.book.synbench_report import synbench
from synreal.book.tables import p_value
from synreal.data.decode import from_arrays
from synreal.data.hierarchy import SCENES_HIERARCHY, Hierarchy
from synreal.data.imageset import UnreadableImages
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import World, open_world
from synreal.errors import InputError
from synreal.generate.rerender import Defects, rerendered_set
from synreal.synbench.backends import open_measures
from synreal.synbench.compare import Range
from synreal.synbench.detect import COLUMNS, PersonOverlap, Scale
from synreal.synbench.measures import YES_NO, Brightness

TOPS = SCENES_HIERARCHY.groups["tops"]
ALONE = {name: (name,) for name in CLASS_NAMES if name not in TOPS}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


class Finds:
    """A detector that finds the same boxes on every image."""

    class_names = ("garment", "person")
    fingerprint = "finds"

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, images):
        rows = [(key, *box) for key in images["id"] for box in self.boxes]
        return pd.DataFrame(rows, columns=list(COLUMNS))


class Fake:
    """A measure that asks a function; its calls are counted."""

    fingerprint = "fake"

    def __init__(self, function, name="made", unit="units"):
        self.function, self.name, self.unit, self.calls = function, name, unit, 0

    def values(self, images):
        self.calls += 1
        return pd.Series(self.function(images), pd.Index(images["id"][:], name="id"), dtype=float)


def fails(error):
    def function(images):
        raise error

    return function


def counting(images):
    return range(len(images))


def world(count=40, name="real", classes=("cat", "dog"), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return World(name, from_arrays(pixels, np.arange(count) % 2, classes), None, None)


def other(**given):
    return world(**{"name": "a", "seed": 1} | given)


def summary(outcome):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((outcome.page.parent / "summary.json").read_text(), parse_constant=refuse)


def rerendered(count, name, **doses):
    images = rerendered_set("val", count, Defects(**doses), seed=1)
    clusters = pd.Series(images["cluster"][:], pd.Index(images["id"][:], name="id"))
    return World(name, images, None, None, clusters)


# --- the whole report ---


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A judge and brightness on scenes, and on scenes that are confused and of one brightness."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNREAL_CACHE", str(out / "cache"))
        real = replace(open_world("scenes/test", 200), hierarchy=Hierarchy("tops", {"tops": TOPS} | ALONE))
        dull = rerendered(200, "<dull> & confused", confusion=0.5, brightness=1)
        measures = open_measures(real.images.features["label"].names, judge="Judge")
        limits = {
            "brightness/range_ratio": Range(min=0.9),
            "consistency/corrected_consistency": Range(max=0.95),
            "consistency/unrestricted_consistency_difference/tops": Range(min=-0.9),
            "brightness/mean_difference/bag": Range(min=-1e-9, max=1e-9),
        }
        yield synbench(real, [dull], measures, out / "report", limits, draws=200)


def test_the_page_stands_alone_and_describes_every_image(report):
    page = Page(report.page)
    assert page.tags[0][0] == "html" and page.all("title")
    references = [a[k] for _, a in page.tags for k in ("src", "href", "srcset", "data", "action") if k in a]
    assert references and all(place.startswith("data:image/png;base64,") for place in references)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "url(" not in report.page.read_text() and "@import" not in report.page.read_text()
    assert all(len(image["alt"]) > 40 and int(image["width"]) > 300 for image in page.all("img"))
    assert "<dull> & confused" in page.text and "dull" not in dict(page.tags)


def test_the_page_shows_each_measure(report):
    page = Page(report.page)
    words = [image["alt"] for image in page.all("img")]
    groups = [text for text in words if text.startswith("Heat maps of")]
    assert [text.split(".")[0] for text in groups] == ["Heat maps of tops"]  # all others are alone
    [shares] = [text for text in words if "dots with error bars" in text]
    assert shares.startswith("4 dots") and "judged as labelled, tops, <dull> & confused at 0." in shares
    [sheet] = [text for text in words if "seen:" in text]
    assert sheet.count("seen:") == 20
    [boxes] = [text for text in words if text.startswith("Boxes of brightness (L*)")]
    assert "real: median" in boxes
    [ends] = [text for text in words if text.startswith("A row of images") and text != sheet]
    assert "real: " in ends and "<dull> & confused: " in ends
    assert "The lowest and the highest brightness of each set" in page.text
    for caption in ("At a glance", "Corrected for the judge's own errors", "Class by class", "Coarse groups"):
        assert caption in page.text


def test_the_files_hold_the_same_numbers(report):
    folder = report.page.parent
    table = pd.read_csv(folder / "measurements.csv").set_index(["measure", "statistic", "group"])
    assert table.index.is_unique
    found = summary(report)["synthetic"]["<dull> & confused"]
    inside = found["consistency"]["inside_share_real/tops"]["value"]
    assert inside == pytest.approx(table.loc[("consistency", "inside_share_real", "tops"), "value"])
    assert found["brightness"]["ks"]["value"] == pytest.approx(
        table.loc[("brightness", "ks", "all"), "value"]
    )
    share = pd.read_parquet(folder / "images.parquet").loc["scenes/test", "consistency"].mean()
    assert share == table.loc[("consistency", "proportion_real", "all"), "value"]
    counts = pd.read_csv(folder / "confusion.csv")
    assert list(counts) == ["measure", "set", "group", "label", "judged", "count"]
    assert counts.groupby("set")["count"].sum().tolist() == [80, 80]


def test_verdicts_decide_on_intervals_by_set_and_by_group(report):
    assert report.checks["verdict"].tolist() == ["fail", "pass", "pass", "undecided"]
    assert not report.passed and report.failures == []
    assert [check["verdict"] for check in summary(report)["checks"]] == report.checks["verdict"].tolist()
    marked = [a["class"] for a in Page(report.page).all("td") if "class" in a]
    assert marked == report.checks["verdict"].tolist()


def test_the_judge_is_corrected_and_the_defects_are_found(report):
    found = summary(report)["synthetic"]["<dull> & confused"]
    assert found["brightness"]["range_ratio"]["ci_high"] < 1
    corrected = found["consistency"]["corrected_consistency"]
    assert corrected["ci_low"] < 0.55 < corrected["ci_high"]  # half of all but bags are confused
    assert found["consistency"]["unrestricted_consistency_difference/tops"]["ci_high"] < 0


# --- known defects ---


def test_a_defect_of_known_dose_narrows_its_measure_and_no_other(tmp_path):
    doses = ("brightness", "scale")
    defective = [rerendered(400, f"{dose} cut", **{dose: 0.7}) for dose in doses]
    # the truth stands for a detector: it is the comparison that is tested
    measures = [Brightness(), Fake(lambda images: images["scale"][:], "scale", "share of the side")]
    outcome = synbench(rerendered(400, "scenes"), defective, measures, tmp_path, draws=200)
    for dose, other in (doses, doses[::-1]):
        found = summary(outcome)["synthetic"][f"{dose} cut"]
        assert found[dose]["range_ratio"]["value"] < found[dose]["range_ratio"]["ci_high"] < 1
        assert found[other]["range_ratio"]["ci_high"] > 0.95


# --- what may go wrong ---


def test_a_failed_measure_is_named_everywhere_and_the_rest_is_kept(tmp_path):
    bad = Fake(fails(InputError("the <endpoint> is silent")), "person blocking", YES_NO)
    outcome = synbench(world(), [other()], [bad, Brightness()], tmp_path, draws=20)
    reason = "InputError: the <endpoint> is silent"
    assert outcome.failures == [("real", "person blocking", reason), ("a", "person blocking", reason)]
    assert not outcome.passed
    assert [failed["reason"] for failed in summary(outcome)["failed_measures"]] == [reason, reason]
    page = Page(outcome.page)
    assert "Not measured" in page.text and reason in page.text and "brightness (L*)" in page.text
    assert set(pd.read_csv(tmp_path / "measurements.csv")["measure"]) == {"brightness"}


def test_a_threshold_on_a_failed_measure_is_missing_where_others_have_it(tmp_path):
    small = Fake(lambda images: counting(images) if len(images) == 40 else 1 / 0)
    sets, limits = [other(), other(name="b", count=30)], {"made/ks": Range(max=1)}
    outcome = synbench(world(), sets, [small, Brightness()], tmp_path, limits, draws=20)
    assert outcome.checks["verdict"].tolist() == ["pass", "missing"] and not outcome.passed
    assert summary(outcome)["checks"][1]["value"] is None
    assert "missing" in [a.get("class") for a in Page(outcome.page).all("td")]


def test_a_threshold_that_no_interval_can_decide_does_not_pass(tmp_path):
    constant, limits = Fake(lambda images: [1] * len(images)), {"made/mean_difference": Range(max=1)}
    outcome = synbench(world(), [other()], [constant], tmp_path, limits, draws=20)
    assert outcome.checks["verdict"].tolist() == ["missing"] and not outcome.passed
    assert outcome.checks["value"].tolist() == [0]


def test_a_report_without_any_measure_still_says_why(tmp_path):
    measures, limits = [Fake(fails(ValueError("broken")))], {"made/ks": Range(max=1)}
    outcome = synbench(world(), [other()], measures, tmp_path, limits, draws=20)
    assert not outcome.passed and outcome.checks.empty
    assert summary(outcome)["synthetic"] == {} and "ValueError: broken" in Page(outcome.page).text


def test_names_are_shown_as_they_are_and_not_set_as_formulas(tmp_path):
    sets = [other(name="$x^$ at 5"), other(name="$x^$")]
    outcome = synbench(world(), sets, [Brightness()], tmp_path, draws=20)
    assert outcome.passed and "$x^$ at 5, $x^$" in Page(outcome.page).text


def test_a_second_run_computes_nothing_again(tmp_path):
    measure = Fake(counting)
    first = synbench(world(), [other()], [measure], tmp_path, draws=20)
    numbers = (tmp_path / "measurements.csv").read_text()
    again = synbench(world(), [other()], [measure], tmp_path, draws=20)
    assert measure.calls == 2 and first.page == again.page
    assert (tmp_path / "measurements.csv").read_text() == numbers


def test_sets_without_a_person_or_an_object_are_reported(tmp_path):
    nothing, person = Finds(), Finds(("person", 0.9, 0.3, 0.0, 0.7, 1.0))
    for number, detector in enumerate((nothing, person)):
        measures = [Scale(detector), PersonOverlap(detector, detector)]
        outcome = synbench(world(), [other()], measures, tmp_path / str(number), draws=20)
        assert outcome.passed and "40 of 40 real images have no value" in Page(outcome.page).text
        assert summary(outcome)["synthetic"]["a"]["object scale"]["mean_real"] == {
            "value": None, "ci_low": None, "ci_high": None, "n_real": 0, "n_synthetic": 0, "p_holm": None
        }  # fmt: skip
    garment = Finds(("garment", 0.9, 0.2, 0.2, 0.8, 0.8))
    outcome = synbench(world(), [other()], [PersonOverlap(garment, nothing)], tmp_path, draws=20)
    [blocked] = summary(outcome)["synthetic"]["a"].values()
    assert blocked["proportion_difference"]["value"] == 0


def test_bad_input_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    measure = Fake(counting)
    pets = replace(world(), hierarchy=Hierarchy("pets", {"pets": ("cat", "dog")}))
    cases = {
        "class names differ": {"synthetic": [other(classes=("cat", "cow"))]},
        "names .* are taken": {"synthetic": [other(), other()]},
        "expected one of the measures": {"thresholds": {"scale/ks": Range(max=1)}},
        "expected one of the statistics": {"thresholds": {"made/inside_share_real": Range(max=1)}},
        "expected one of the classes": {"thresholds": {"made/ks/cow": Range(max=1)}},
        "classes or coarse groups that ks": {
            "thresholds": {"made/ks/pets": Range(max=1)},
            "real": pets,
            "synthetic": [replace(pets, name="a")],
        },
        "file: found a file": {"out": tmp_path / "file"},
        "file: found a file, expected a folder": {"out": tmp_path / "file" / "deep" / "report"},
        "expected different ones": {"measures": [measure, measure]},
        "at least one": {"measures": []},
    }
    given = {"real": world(), "synthetic": [other()], "measures": [measure], "out": tmp_path / "report"}
    for message, options in cases.items():
        with pytest.raises(InputError, match=message):
            synbench(**given | options)
    assert measure.calls == 0 and not (tmp_path / "report").exists()


# --- images of all kinds ---


def save_modes(folder):
    """One image of 20 x 12 pixels in every mode and file format that generators write."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))
    deep = Image.fromarray(np.linspace(0, 65535, 240).reshape(12, 20).astype(np.uint16))
    kinds = {
        "rgb.png": pixels, "grey.png": pixels.convert("L"), "palette.png": pixels.convert("P"),
        "deep.png": deep, "cmyk.jpg": pixels.convert("CMYK"), "grey.jpg": pixels.convert("L"),
        "see-through.png": pixels.convert("RGBA"), "one-bit.png": pixels.convert("1"),
        "moving.gif": pixels.convert("P"), "wide.webp": pixels.resize((40, 12)),
    }  # fmt: skip
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for file, image in kinds.items():
            image.save(folder / name / file)
    return folder


def test_images_of_all_modes_are_measured_and_shown(tmp_path):
    folder = save_modes(tmp_path / "images")
    sets = [open_world(str(folder)), open_world(str(folder), name="again")]
    outcome = synbench(sets[0], sets[1:], [Brightness()], tmp_path / "report", draws=20)
    assert outcome.passed
    values = pd.read_parquet(tmp_path / "report" / "images.parquet").loc["again", "brightness"]
    assert len(values) == 20 and values.between(1, 99).all()


def test_truncated_images_are_refused_or_dropped(tmp_path):
    folder = save_modes(tmp_path / "images")
    broken = folder / "cat" / "rgb.png"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(InputError, match="1 of 20 images cannot be decoded, the first is cat/rgb.png"):
        open_world(str(folder))
    with pytest.warns(UnreadableImages, match="1 unreadable images were dropped"):
        kept = open_world(str(folder), unreadable="drop")
    outcome = synbench(kept, [replace(kept, name="a")], [Brightness()], tmp_path / "report", draws=20)
    assert outcome.passed and "Images: 19 real, 19 of a" in Page(outcome.page).text


# --- figures ---


def test_boxes_are_quantiles_and_name_every_set():
    values = {"real": pd.Series([*range(101), np.nan]), "a": pd.Series(range(50, 61))}
    fig = quantile_boxes(values, xlabel="x")
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ["real (n = 101)", "a (n = 11)"]
    assert boxes_in_words(values) == "real: median 50, from 5 to 95; a: median 55, from 50.5 to 59.5"
    with pytest.raises(ValueError, match=r"no value in \['none'\]"):
        quantile_boxes(values | {"none": pd.Series([np.nan])}, xlabel="x")


def test_sheets_keep_proportions_and_have_words_below():
    wide = Image.new("RGB", (40, 20))
    axes = worst_cases({"real": [(wide, "1.5")], "a": [(wide, "2"), (wide, "3\nseen: bag")]}).axes[0]
    assert len(axes.images) == 3
    assert [text.get_text() for text in axes.texts] == ["real", "1.5", "a", "2", "3\nseen: bag"]
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(2)
    with pytest.raises(ValueError, match="found no image"):
        worst_cases({"real": []})


def test_confusions_are_shares_of_each_label():
    names = ["cat", "dog"]
    real = pd.DataFrame([[8, 2], [0, 5]], names, names).assign(elsewhere=[0, 5])
    counts = {"real": real, "a": real * 0}
    fig = confusion_maps(counts, title="pets")
    shares = fig.axes[0].collections[0].get_array()
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0.0], [0.0, 0.5, 0.5]])
    rows = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert rows == ["cat (n = 10)", "dog (n = 10)"] and fig.axes[1].collections[0].get_array().mask.all()
    assert confusions_in_words(counts) == (
        "real: 65% of 20 taken for their label, most often cat for dog (20%); a: no image"
    )


def test_p_values_are_never_a_bare_zero():
    assert [p_value(p) for p in (0.0, 2e-5, 1e-4, 0.25, float("nan"))] == [
        "< 0.0001", "< 0.0001", "0.0001", "0.2500", "",
    ]  # fmt: skip
