"""What the papers report, what they claim, and which claims hold here: the ledger."""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import pandas as pd
import yaml
from IPython.display import Markdown
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from synreal.book.study import Measurement, Study, differing, measurement_of, read_results, select
from synreal.errors import InputError


def paper_table(paper: str, table: str) -> pd.DataFrame:
    """A table of a paper, one row per model; percentages as fractions, so that 78.64 % reads 0.7864.

    `.attrs` holds where it stands ("where"), what it shows ("what") and a "note" when the print is doubtful.
    Raises InputError listing what there is for an unknown paper or table.
    """
    entry = _choose(_choose(_papers(), paper, "paper")["tables"], table, f"table of {paper}")
    frame = pd.DataFrame(entry["rows"])
    if entry["unit"] == "percent":
        measured = frame.select_dtypes("float").columns  # sizes are integers
        frame[measured] = (frame[measured] / 100).round(6)
    frame.attrs = {key: entry.get(key, "") for key in ("where", "what", "note")}
    return frame


def paper_value(paper: str, table: str, *, column: str = "accuracy", **row: str) -> float:
    """One number, e.g. `paper_value("P1", "table2", column="darker", model="CLIP-Syn-371M")`.

    row: what the row says in its other columns, enough to single it out. Raises InputError listing what there
    is otherwise.
    """
    frame = paper_table(paper, table)
    for name in (column, *row):
        _choose({c: c for c in frame}, name, f"column of {paper} {table}")
    chosen = frame[(frame[list(row)] == pd.Series(row)).all(axis="columns")]
    if len(chosen) != 1:
        known = "; ".join(frame.select_dtypes(exclude="number").agg(", ".join, axis="columns"))
        raise InputError(f"{paper} {table}: {row} selects {len(chosen)} rows, expected one of: {known}")
    return float(chosen[column].iloc[0])


def _choose(entries: dict[str, Any], key: str, what: str) -> Any:
    if key not in entries:
        raise InputError(f"{what} {key!r} is not in papers.yaml; there is: {', '.join(entries)}")
    return entries[key]


@cache
def _papers() -> dict[str, Any]:
    return yaml.safe_load((files("synreal.book") / "papers.yaml").read_text())


# The papers' claims as predicates on measurements: the entries of `claim_lists/`, one file per section.
#
# The claims are in our words. Each chapter's notebook says how it names its measurements; an effect without
# `data` takes the measurement on whatever data the profile used.


NUMBER = r"-?\d+(?:\.\d+)?"
FORMS = {
    "more": re.compile(rf"> (?P<than>{NUMBER})"),
    "less": re.compile(rf"< (?P<than>{NUMBER})"),
    "share": re.compile(r">= (?P<count>\d+) of (?P<of>\d+)"),
    "near": re.compile(rf"within (?P<margin>{NUMBER}) of (?P<target>{NUMBER}|P\d\.\w+)"),
}


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Effect(_Entry):
    """Which measurement a condition looks at. It selects one row of a run; what is not said may be any."""

    study: str
    metric: str
    model: str | None = None
    data: str | None = None
    where: dict[str, str | int | float] = {}  # facets

    @property
    def columns(self) -> dict[str, str | int | float]:
        """What the row says, column by column."""
        return self.model_dump(exclude_none=True, exclude={"where"}) | self.where

    def __str__(self) -> str:
        facets = (part if isinstance(part, str) else f"{name} {part}" for name, part in self.where.items())
        parts = ", ".join(part for part in (self.model, *facets) if part is not None)
        return f"{self.metric} of {parts}" if parts else self.metric


def _known_form(text: str) -> str:
    if not any(form.fullmatch(text) for form in FORMS.values()):
        raise ValueError(
            f'{text!r} is none of "> x", "< x", ">= k of n", "within x of y", "within x of P1.table1"'
        )
    return text


class Condition(_Entry):
    """A predicate on one effect, decided on its 95 % interval and never on the point alone."""

    effect: Effect
    claims: Annotated[str, AfterValidator(_known_form)]

    def decide(self, low: float, high: float, n: int) -> bool | None:
        """True: the whole interval fulfils the predicate. False: none of it does. None: it holds both.

        low, high: ends of the interval of the effect. n: what a count is out of; "12 of 16" compares
        shares, so that a world with fewer factors can still decide it.
        """
        lower, upper = self._accepted(n)
        strict = self.claims[:2] in ("> ", "< ")  # the bound itself does not fulfil "more than"
        inside = (lower < low and high < upper) if strict else (lower <= low and high <= upper)
        outside = (high <= lower or low >= upper) if strict else (high < lower or low > upper)
        return True if inside else False if outside else None

    def _accepted(self, n: int) -> tuple[float, float]:
        name, match = next((k, m) for k, form in FORMS.items() if (m := form.fullmatch(self.claims)))
        infinity = float("inf")
        if name == "more":
            return float(match["than"]), infinity
        if name == "less":
            return -infinity, float(match["than"])
        if name == "share":
            return int(match["count"]) / int(match["of"]) * n, infinity
        target, margin = self._target(match["target"]), float(match["margin"])
        return target - margin, target + margin

    def _target(self, text: str) -> float:
        if re.fullmatch(NUMBER, text):
            return float(text)
        paper, table = text.split(".")
        return paper_value(paper, table, model=str(self.effect.model))


class Claim(_Entry):
    """One statement of a paper: decided by conditions, not testable here, or inconsistent in itself."""

    id: str
    paper: str
    where: str  # section, table, figure
    says: str  # in our words
    chapter: str  # the notebook that measures it
    conditions: tuple[Condition, ...] = ()
    given: tuple[Condition, ...] = ()  # its premise: where that does not hold, the claim says nothing
    not_testable: str | None = None
    inconsistent: str | None = None

    @model_validator(mode="after")
    def _one_way_to_decide(self) -> "Claim":
        if sum(map(bool, (self.conditions, self.not_testable, self.inconsistent))) != 1:
            raise ValueError(f"claim {self.id}: give exactly one of conditions, not_testable, inconsistent")
        return self


@cache
def load_claims() -> tuple[Claim, ...]:
    """Every claim of the ledger, in the order of the papers. Raises ValueError for a malformed entry."""
    lists = sorted((files("synreal.book") / "claim_lists").iterdir(), key=lambda file: file.name)
    entries = [entry for file in lists for entry in yaml.safe_load(file.read_text())]
    claims = tuple(Claim.model_validate(entry) for entry in entries)
    twice = {claim.id for claim in claims if sum(other.id == claim.id for other in claims) > 1}
    if twice:
        raise ValueError(f"claim_lists: these ids occur twice: {sorted(twice)}")
    return claims


# The ledger of claims: what each paper says, and what the measurements of a run say to it.


class Verdict(StrEnum):
    """What a run says to a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided at this n"
    NOT_MEASURED = "not measured in this run"
    NOT_TESTABLE = "not testable here"
    INCONSISTENT = "paper inconsistent"


MEANING = {
    Verdict.HOLDS: "every condition holds on its whole 95 % interval",
    Verdict.FAILS: "at least one condition is contradicted by its whole 95 % interval",
    Verdict.UNDECIDED: "an interval leaves both answers open; more images would decide",
    Verdict.NOT_MEASURED: "no notebook of this run measured it, or it measured other models",
    Verdict.NOT_TESTABLE: "needs what this book or world lacks, or its premise fails; the reason is given",
    Verdict.INCONSISTENT: "the paper contradicts itself, so there is nothing definite to test",
}
PHOTOS = "photos"  # the profile whose measurements have a ledger of their own
ON_PHOTOS = "The claims of the chapters that were also executed on photographs, judged on those alone."
BADGES = {
    Verdict.HOLDS: "success",
    Verdict.FAILS: "danger",
    Verdict.UNDECIDED: "warning",
    Verdict.NOT_MEASURED: "muted",
    Verdict.NOT_TESTABLE: "muted",
    Verdict.INCONSISTENT: "info",
}


def ledger_table(results: pd.DataFrame, chapter: str | None = None) -> pd.DataFrame:
    """One row per claim: id, paper, where, chapter, says, verdict, evidence (a list of sentences).

    results: measurements as `read_results` returns them. chapter: only the claims this notebook measures.
    Raises InputError when an effect selects more than one measurement.
    """
    claims = [claim for claim in load_claims() if chapter in (None, claim.chapter)]
    rows = []
    for claim in claims:
        verdict, evidence = judge(claim, results)
        rows.append({"id": claim.id, "paper": claim.paper, "where": claim.where, "chapter": claim.chapter}
                    | {"says": claim.says, "verdict": str(verdict), "evidence": evidence})  # fmt: skip
    return pd.DataFrame(rows, columns=["id", "paper", "where", "chapter", "says", "verdict", "evidence"])


def verdict_counts(table: pd.DataFrame) -> dict[str, int]:
    """How many claims of a ledger table got each verdict, in the ledger's order, zeros included."""
    return {str(verdict): int((table["verdict"] == verdict).sum()) for verdict in Verdict}


def judge(claim: Claim, results: pd.DataFrame) -> tuple[Verdict, list[str]]:
    """The verdict on one claim, and the sentences it rests on."""
    if claim.inconsistent:
        return Verdict.INCONSISTENT, [claim.inconsistent]
    if claim.not_testable:
        return Verdict.NOT_TESTABLE, [claim.not_testable]
    premise, assumed = _judge_all(claim.given, results)
    if premise is not Verdict.HOLDS:
        verdict = Verdict.NOT_TESTABLE if premise is Verdict.FAILS else premise
        return verdict, [f"its premise: {text}" for text in assumed]
    return _judge_all(claim.conditions, results)


def _judge_all(conditions: Sequence[Condition], results: pd.DataFrame) -> tuple[Verdict, list[str]]:
    """The verdict on all of them together; no condition at all holds."""
    judged = [_judge_condition(condition, results) for condition in conditions]
    found = {verdict for verdict, _ in judged}
    worst_first = (Verdict.FAILS, Verdict.NOT_TESTABLE, Verdict.NOT_MEASURED, Verdict.UNDECIDED)
    verdict = next((verdict for verdict in worst_first if verdict in found), Verdict.HOLDS)
    return verdict, [text for _, text in judged]


def _judge_condition(condition: Condition, results: pd.DataFrame) -> tuple[Verdict, str]:
    effect = condition.effect
    wanted = f"{effect} {condition.claims}"
    row = _select(effect, results)
    if row is None:
        return Verdict.NOT_MEASURED, f"{wanted}: no such measurement from {effect.study}"
    if row.value is None:
        return Verdict.NOT_TESTABLE, f"{wanted}: {row.sentence()}"
    if row.ci_low is None or row.ci_high is None:
        return Verdict.UNDECIDED, f"{wanted}: {row.sentence()}, recorded without an interval"
    answer = condition.decide(row.ci_low, row.ci_high, row.n)
    verdicts = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.UNDECIDED}
    return verdicts[answer], f"{wanted}: {row.sentence()}"


def _select(effect: Effect, results: pd.DataFrame) -> Measurement | None:
    rows = select(results, effect.columns)
    if len(rows) > 1:
        raise InputError(
            f"ledger: {effect.columns} selects {len(rows)} measurements, expected one; "
            f"they differ in {differing(rows)}; name that in the claim or render one profile at a time"
        )
    return measurement_of(rows.iloc[0]) if len(rows) else None


def judge_claims(study: Study, quote: Sequence[str] = ()) -> pd.DataFrame:
    """The ledger of one notebook, from what it has recorded, which is stored in the notebook with it.

    quote: claims whose verdict prose quotes, under the claim's id. Also glues how many claims hold, under
    "claims holds", and so on.
    """
    study.publish()
    table = ledger_table(read_results(study.folder), chapter=study.name)
    verdicts = table.set_index("id")["verdict"]
    for claim in quote:
        study.glue(claim, verdicts[claim])
    for verdict, count in verdict_counts(table).items():
        study.glue(f"claims {verdict}", count)
    return table


def claims_markdown(table: pd.DataFrame) -> Markdown:
    """A ledger table to look at in a notebook: verdict, what the paper says, evidence."""
    lines = ["| verdict | the paper says | evidence |", "|---|---|---|"]
    for claim in table.to_dict("records"):
        evidence = "<br>".join(claim["evidence"])
        lines.append(f"| **{claim['verdict']}** | {claim['says']} ({claim['where']}) | {evidence} |")
    return Markdown("\n".join(lines))


def ledger_page(results: pd.DataFrame) -> str:
    """The generated part of the ledger page, in Markdown: counts with the legend, then every claim with its
    verdict and evidence; below, the same for the chapters that were executed on photographs."""
    on_photos = results["profile"] == PHOTOS
    page = _verdicts(ledger_table(results[~on_photos]))
    if on_photos.any():
        table = ledger_table(results[on_photos])
        measured = table["chapter"].isin(results.loc[on_photos, "study"])
        page += f"\n## On photographs\n\n{ON_PHOTOS}\n\n{_verdicts(table[measured])}"
    return page


def _verdicts(table: pd.DataFrame) -> str:
    legend = ["| verdict | claims | means |", "|---|---|---|"]
    legend += [f"| {_badge(v)} | {n} | {MEANING[Verdict(v)]} |" for v, n in verdict_counts(table).items()]
    parts = ["\n".join(legend)]
    for (paper, chapter), claims in table.groupby(["paper", "chapter"]):
        options = ":header-rows: 1\n:widths: 18 41 41\n:class: ledger"
        head = f"### {paper}, measured by {chapter}\n\n:::{{list-table}}\n{options}\n"
        body = "".join(_row(claim) for claim in claims.to_dict("records"))
        parts.append(f"{head}\n* - verdict\n  - the paper says\n  - evidence\n{body}:::")
    return "\n\n".join(parts) + "\n"


def _row(claim: dict[str, object]) -> str:
    evidence = claim["evidence"]
    lines = evidence if isinstance(evidence, list) else [str(evidence)]
    bullets = "\n    ".join(f"- {line}" for line in lines)
    says = f"{claim['says']} ({claim['where']}; `{claim['id']}`)"
    return f"* - {_badge(str(claim['verdict']))}\n  - {says}\n  - {bullets}\n"


def _badge(verdict: str) -> str:
    return f"{{bdg-{BADGES[Verdict(verdict)]}}}`{verdict}`"
