"""The ledger of claims: what each paper says, and what the measurements of a run say to it."""

from collections.abc import Sequence
from enum import StrEnum

import pandas as pd
from IPython.display import Markdown

from synreal.book.claims import Claim, Condition, Effect, load_claims
from synreal.book.record import Measurement, Study, read_results
from synreal.errors import InputError


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
    wanted = f"{effect.metric} of {effect.model} {condition.claims}"
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
    wanted = effect.model_dump(exclude_none=True)
    rows = results[(results[list(wanted)] == pd.Series(wanted)).all(axis="columns")]
    if len(rows) > 1:
        raise InputError(
            f"ledger: {wanted} selects {len(rows)} measurements, expected one; "
            f"they differ in {_differing(rows)}; name `data` in the claim or render one profile at a time"
        )
    values = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Measurement.model_validate(values[0]) if values else None


def _differing(rows: pd.DataFrame) -> str:
    return ", ".join(column for column in rows if rows[column].nunique(dropna=False) > 1) or "nothing"


def judge_claims(study: Study) -> pd.DataFrame:
    """The ledger of one notebook, from what it has recorded so far; for its last cells.

    Glues each verdict under the claim's id, and how many claims hold under "claims holds" and so on.
    """
    table = ledger_table(read_results(study.folder), chapter=study.name)
    for claim in table.to_dict("records"):
        study.glue(claim["id"], claim["verdict"])
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
    verdict and evidence."""
    table = ledger_table(results)
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
