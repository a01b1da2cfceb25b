"""The ledger: predicates, verdicts, the paper's numbers."""

import re

import pandas as pd
import pytest
from pydantic import ValidationError

from synreal.book.claims import (
    Claim,
    Condition,
    Verdict,
    judge,
    ledger_page,
    ledger_table,
    load_claims,
    paper_table,
    paper_value,
    verdict_counts,
)
from synreal.book.study import Measurement, measurements_table
from synreal.errors import InputError

EFFECT = {"study": "s", "metric": "gap", "model": "a vs b"}


def results(*rows: dict) -> pd.DataFrame:
    base = EFFECT | {"profile": "mini", "data": "test", "run": "r", "n": 100, "value": None, "reason": None}
    return measurements_table([Measurement.model_validate(base | row) for row in rows])


def around(low: float, high: float, **more: object) -> dict:
    return {"value": (low + high) / 2, "ci_low": low, "ci_high": high, **more}


def claim(*claims: str, **more: object) -> Claim:
    conditions = [{"effect": EFFECT, "claims": text} for text in claims]
    fields = {
        "id": "c",
        "paper": "P1",
        "where": "sec. 9",
        "says": "so",
        "chapter": "s",
        "conditions": conditions,
    }
    return Claim.model_validate(fields | more)


@pytest.mark.parametrize(
    ("text", "low", "high", "n", "holds"),
    [
        ("> 0", 0.01, 0.2, 9, True),
        ("> 0", 0.0, 0.2, 9, None),
        ("> 0", -0.2, 0.0, 9, False),
        ("< 0", -0.2, -0.01, 9, True),
        ("< 0", -0.2, 0.0, 9, None),
        ("< 0", 0.0, 0.1, 9, False),
        ("> 0.5", 0.4, 0.6, 9, None),
        (">= 12 of 16", 12, 14, 16, True),
        (">= 12 of 16", 11, 14, 16, None),
        (">= 12 of 16", 8, 11, 16, False),
        (">= 12 of 16", 11.25, 14, 15, True),  # the same share of fewer factors
        ("within 0.03 of 0", -0.03, 0.03, 9, True),
        ("within 0.03 of 0", -0.04, 0.02, 9, None),
        ("within 0.03 of 0", 0.04, 0.06, 9, False),
    ],
)
def test_a_condition_is_decided_on_its_whole_interval(
    text: str, low: float, high: float, n: int, holds: bool
) -> None:
    assert Condition.model_validate({"effect": EFFECT, "claims": text}).decide(low, high, n) is holds


def test_a_condition_can_name_a_number_of_the_paper() -> None:
    effect = EFFECT | {"model": "ViT-Real-1M"}
    near = Condition.model_validate({"effect": effect, "claims": "within 0.01 of P1.table1"})
    assert near.decide(0.782, 0.79, 50_000) is True and near.decide(0.7, 0.71, 50_000) is False


@pytest.mark.parametrize("text", ["", ">0", ">= 3", "about 3", "> x"])
def test_an_unknown_predicate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is none of"):
        claim(text)


@pytest.mark.parametrize("more", [{"not_testable": "why"}, {"conditions": []}])
def test_a_claim_is_decided_in_exactly_one_way(more: dict) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        claim("> 0", **more)


@pytest.mark.parametrize(
    ("claims", "rows", "verdict"),
    [
        (["> 0", "< 1"], [around(0.1, 0.2)], Verdict.HOLDS),
        (["> 0", "> 0.15"], [around(0.1, 0.2)], Verdict.UNDECIDED),
        (["> 0.15", "< 0"], [around(0.1, 0.2)], Verdict.FAILS),
        (["> 0"], [], Verdict.NOT_MEASURED),
        (["> 0"], [around(0.1, 0.2, study="other")], Verdict.NOT_MEASURED),
        (["> 0"], [{"value": 0.2}], Verdict.UNDECIDED),
        (["> 0"], [{"reason": "no such image", "n": 0}], Verdict.NOT_TESTABLE),
    ],
)
def test_verdicts(claims: list[str], rows: list[dict], verdict: Verdict) -> None:
    found, evidence = judge(claim(*claims), results(*rows))
    assert found == verdict and len(evidence) == len(claims)


def test_evidence_names_value_interval_and_n() -> None:
    _, evidence = judge(claim("> 0"), results(around(0.1, 0.2, n=1234)))
    assert evidence == ["gap of a vs b > 0: 0.150 (95 % interval 0.100 to 0.200, n = 1,234)"]


@pytest.mark.parametrize("kind", ["inconsistent", "not_testable"])
def test_a_claim_beyond_measurement_gives_its_reason(kind: str) -> None:
    verdict, evidence = judge(claim(**{kind: "because"}), results())
    assert verdict == {"inconsistent": "paper inconsistent", "not_testable": "not testable here"}[kind]
    assert evidence == ["because"]


def test_an_effect_that_fits_two_rows_is_refused_naming_the_difference() -> None:
    with pytest.raises(InputError, match=r"selects 2 measurements.*differ in data"):
        judge(claim("> 0"), results(around(0.1, 0.2), around(0.1, 0.2, data="photos")))


def test_an_effect_selects_by_facets() -> None:
    rows = [around(0.1, 0.2, facets={"factor": "darker", "images": 500})]
    rows += [around(-0.2, -0.1, facets={"factor": "larger"}), around(0.0, 0.3)]
    where = {"factor": "darker", "images": 500}
    chosen = claim(conditions=[{"effect": EFFECT | {"where": where}, "claims": "> 0"}])
    assert judge(chosen, results(*rows)) == (
        Verdict.HOLDS,
        ["gap of a vs b, darker, images 500 > 0: 0.150 (95 % interval 0.100 to 0.200, n = 100)"],
    )
    absent = claim(conditions=[{"effect": EFFECT | {"where": {"kind": "ViT"}}, "claims": "> 0"}])
    assert judge(absent, results(*rows))[0] is Verdict.NOT_MEASURED
    with pytest.raises(InputError, match=r"selects 3 measurements.*ci_high, factor, images"):
        judge(claim("> 0"), results(*rows))


def test_every_claim_of_the_ledger_is_well_formed() -> None:
    claims = load_claims()
    assert {c.paper for c in claims} == {"P1", "P2"}
    for entry in claims:
        assert all(condition.effect.study == entry.chapter for condition in entry.conditions), entry.id
        assert re.search(r"sec\.|Table|Fig\.", entry.where), entry.id


def test_an_empty_run_decides_nothing() -> None:
    counts = verdict_counts(ledger_table(results()))
    assert counts["holds"] == counts["fails"] == counts["undecided at this n"] == 0
    assert counts["paper inconsistent"] >= 3 and sum(counts.values()) == len(load_claims())


def test_the_page_shows_the_verdict_of_a_measured_claim() -> None:
    row = around(
        0.1, 0.2, study="02_classifiers", metric="fine-grained accuracy gap",
        facets={"kind": "ViT", "basis": "equal data", "group": "all"},
    )  # fmt: skip
    page = ledger_page(results(row))
    assert "| {bdg-success}`holds` | 1 |" in page
    assert page.count("`P1-") + page.count("`P2-") == len(load_claims())


def test_photographs_have_a_ledger_of_their_own() -> None:
    facets = {"kind": "ViT", "basis": "equal data", "group": "all"}
    row = {"study": "02_classifiers", "metric": "fine-grained accuracy gap", "facets": facets}
    both = results(around(0.1, 0.2, **row), around(-0.2, -0.1, profile="photos", **row))
    scenes, photographs = ledger_page(both).split("## On photographs")
    assert "`holds` | 1 |" in scenes and "`fails` | 0 |" in scenes
    assert "`holds` | 0 |" in photographs and "`fails` | 1 |" in photographs
    assert "measured by 02_classifiers" in photographs and "measured by 03_synbench" not in photographs


def test_the_paper_s_numbers() -> None:
    table = paper_table("P1", "table1").set_index("model")["accuracy"]
    assert table.to_dict() == {
        "ViT-Real-0.25M": 0.5821, "ViT-Real-1M": 0.7864, "ViT-Syn-1M": 0.5251, "ViT-Syn-2M": 0.5872,
        "CLIP-Real-64M": 0.5512, "CLIP-Real-371M": 0.6677, "CLIP-Syn-371M": 0.5568,
    }  # fmt: skip
    assert paper_value("P1", "table2", column="darker", model="CLIP-Syn-371M") == -0.184
    assert paper_value("P1", "table5", column="brighter", model="ViT-Real-1M") == 0.058
    assert paper_value("P1", "fig2", model="CLIP-Real-64M") == 0.8875
    assert paper_value("P1", "fig3", column="worse", model="CLIP-Syn-371M") == 12
    assert "5.8" in paper_table("P1", "table5").attrs["note"]


@pytest.mark.parametrize(
    ("arguments", "row", "there_is"),
    [
        (("P7", "table1"), {}, "P1"),
        (("P1", "table99"), {}, "table1, pairs"),
        (("P1", "table1"), {"model": "ViT"}, "ViT-Real-0.25M"),
        (("P1", "table1"), {"size": "1M"}, "model, backbone"),
        (("P1", "table1"), {"backbone": "ViT"}, "selects 4 rows"),
    ],
)
def test_an_unknown_number_lists_what_there_is(arguments: tuple, row: dict, there_is: str) -> None:
    with pytest.raises(InputError, match=there_is):
        paper_value(*arguments, **row)


@pytest.mark.parametrize(
    ("premise", "verdict"),
    [
        (around(-0.01, 0.02), Verdict.HOLDS),
        (around(0.02, 0.04), Verdict.UNDECIDED),
        (around(0.05, 0.09), Verdict.NOT_TESTABLE),
        (None, Verdict.NOT_MEASURED),
    ],
)
def test_a_claim_speaks_only_where_its_premise_holds(premise: dict | None, verdict: Verdict) -> None:
    given = {"effect": EFFECT | {"metric": "accuracy_gap"}, "claims": "within 0.03 of 0"}
    rows = [around(0.1, 0.2)] + ([premise | {"metric": "accuracy_gap"}] if premise else [])
    found, evidence = judge(claim("> 0", given=[given]), results(*rows))
    assert found == verdict
    assert evidence[0].startswith("its premise: ") == (verdict != Verdict.HOLDS)
