"""The hygiene guard of text: no sentence that a model is tuned on may be one that it is judged on."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from datasets import Dataset

from synreal.errors import InputError

RUN = 13  # words; runs of this length hardly ever agree by chance (as for GPT-3, Brown et al. 2020, app. C)
HALF = RUN // 2 + 1  # words; shorter texts, one by one, prove nothing
FEW, SHARE = 5, 0.05  # different texts below half a run, and their share, that two sets may have in common
# Scripts without spaces. A character is a unit of its own: half a word in Chinese and Japanese, a quarter
# in Thai, Lao, Burmese and Khmer, about as many as words have there.
HALVES = (
    "\u3005\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9d"
    "\U00020000-\U0003ffff"
)
QUARTERS = "\u0e01-\u0e4e\u0e81-\u0ecd\u1000-\u103f\u1780-\u17d3"
UNITS = re.compile(f"[{HALVES}{QUARTERS}]|[^\\W{HALVES}{QUARTERS}]+")
SPACELESS = re.compile(f"[{HALVES}{QUARTERS}]")
QUARTER = re.compile(f"[{QUARTERS}]")
Units = list[str]


def check_disjoint(training: Mapping[str, Sequence[str]], evaluation: Mapping[str, Sequence[str]]) -> None:
    """Refuse texts to train on that share a run of words with texts to evaluate on.

    Letters and digits count, in lower case. A text shorter than a run may not stand as a whole in a text of
    the other set. Below HALF a run that proves nothing ("Yes," said Emma.), so that only more than FEW
    different ones, and more than a SHARE of the texts to evaluate on, are refused.
    Raises InputError that names both sets, how many texts they share, and the first run.
    """
    for judged, others in evaluation.items():
        for name, texts in training.items():
            shared = list(_shared(texts, others)) or _common(texts, others)
            if shared:
                raise InputError(
                    f"{name} and {judged}: {len(shared)} texts of {name} share {RUN} or more words in a row "
                    f"with {judged}, or the whole of a shorter text; the first is text {shared[0][0]}: "
                    f"{shared[0][1]!r}; take them out, or choose sets of different origin"
                )


def check_apart(training: Mapping[str, Dataset], evaluation: Mapping[str, Dataset]) -> None:
    """Refuse texts to train on that share a cluster with texts to evaluate on, such as a prompt or a book.

    Only names in a column of the data say so: where a set brings none, its clusters are its ids. Raises
    InputError that names both sets and a cluster.
    """
    for judged, others in evaluation.items():
        for name, texts in training.items():
            if shared := sorted(_named_clusters(texts) & _named_clusters(others)):
                raise InputError(
                    f"{name} and {judged}: share {len(shared)} clusters, such as {shared[0]!r}; expected "
                    "none, since texts of one cluster resemble each other; split the sets by cluster"
                )


def _named_clusters(texts: Dataset) -> set[str]:
    table = texts.select_columns(["cluster", "id"]).to_pandas().astype(str)
    return set(table["cluster"][table["cluster"] != table["id"]])


def units_of(text: str) -> Units:
    """The words of a text, in lower case, and each character of a script without spaces."""
    return UNITS.findall(text.lower())


def runs(units: Units, run: int = RUN) -> Iterator[str]:
    """Each shortest run of units that amounts to so many words."""
    for start, end in _spans(units, run):
        yield " ".join(units[start:end])


def _spans(units: Units, run: int) -> Iterator[tuple[int, int]]:
    """Where each run begins and ends."""
    if SPACELESS.search("".join(units)) is None:
        yield from ((start, start + run) for start in range(len(units) - run + 1))
        return
    amounts = [_amount(unit) for unit in units]
    end, amount = 0, 0.0
    for start, first in enumerate(amounts):
        while amount < run and end < len(units):
            amount += amounts[end]
            end += 1
        if amount < run:
            return
        yield start, end
        amount -= first


def _amount(unit: str) -> float:
    """How many words a unit amounts to."""
    if len(unit) > 1 or not SPACELESS.match(unit):
        return 1
    return 0.25 if QUARTER.match(unit) else 0.5


def _shared(texts: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Place and words of each text that has a run, or the whole of a shorter text, in common with others."""
    known = {found for other in others for found in runs(units_of(other))}
    short, own = _short(others), _short(texts)
    within = {found for other in others for found in _whole_in(units_of(other), own)}
    for place, text in enumerate(texts):
        units = units_of(text)
        common = chain((found for found in runs(units) if found in known), _whole_in(units, short))
        if " ".join(units) in within:
            yield place, " ".join(units)
        elif found := next(common, None):
            yield place, found


def _short(texts: Sequence[str]) -> dict[str, list[Units]]:
    """The texts of HALF a run or more, but less than one, by the half that they begin with."""
    found = defaultdict(list)
    for text in texts:
        units = units_of(text)
        begin = next(runs(units, HALF), None)
        if begin and next(_spans(units, RUN), None) is None:
            found[begin].append(units)
    return found


def _whole_in(units: Units, short: Mapping[str, list[Units]]) -> Iterator[str]:
    """Each of the short texts that stands in these units."""
    for start, end in _spans(units, HALF) if short else ():
        for whole in short.get(" ".join(units[start:end]), ()):
            if units[start : start + len(whole)] == whole:
                yield " ".join(whole)


def _common(texts: Sequence[str], others: Sequence[str]) -> list[tuple[int, str]]:
    """Place and words of texts below HALF a run that others repeat, where those are many; see SHARE."""
    judged = [tiny for other in others if (tiny := _tiny(other))]
    if len(judged) <= SHARE * len(others):
        return []
    own = [_tiny(text) for text in texts]
    shared = {*own} & {*judged}
    if len(shared) <= FEW or sum(tiny in shared for tiny in judged) <= SHARE * len(others):
        return []
    return [(place, tiny) for place, tiny in enumerate(own) if tiny in shared]


def _tiny(text: str) -> str:
    """The words of a text below HALF a run; "" for others."""
    units = units_of(text)
    return " ".join(units) if sum(map(_amount, units)) < HALF else ""
