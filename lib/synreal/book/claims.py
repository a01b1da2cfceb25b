"""The papers' claims as predicates on measurements: the entries of `claim_lists/`, one file per section.

The claims are in our words. Each chapter's library file says how it names its measurements; an effect without
`data` takes the measurement on whatever data the profile used.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from synreal.book.papers import paper_value

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
    """Which measurement a condition looks at. It selects one row of a run; without `data`, on any data."""

    study: str
    metric: str
    model: str
    data: str | None = None


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
        return paper_value(paper, table, model=self.effect.model)


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
