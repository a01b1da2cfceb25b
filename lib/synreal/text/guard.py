"""The hygiene guard of text: no sentence that a model is tuned on may be one that it is judged on."""

import re
from collections.abc import Iterator, Mapping, Sequence

from synreal.errors import InputError

RUN = 13  # words; runs of this length hardly ever agree by chance (as for GPT-3, Brown et al. 2020, app. C)


def check_disjoint(
    training: Mapping[str, Sequence[str]], evaluation: Mapping[str, Sequence[str]], run: int = RUN
) -> None:
    """Refuse texts to train on that share a run of words with texts to evaluate on.

    Letters and digits count, in lower case. A text shorter than a run is compared as a whole with the other
    texts shorter than a run, but only from half a run on: "Yes," said Emma. proves nothing.
    Raises InputError that names both sets, how many texts they share, and the first run.
    """
    for judged, others in evaluation.items():
        known = {found for text in others for found in runs(text, run)}
        for name, texts in training.items():
            shared = [(i, found) for i, text in enumerate(texts) if (found := _first(text, known, run))]
            if shared:
                raise InputError(
                    f"{name} and {judged}: {len(shared)} texts of {name} share {run} or more words in a row "
                    f"with {judged}; the first is text {shared[0][0]}: {shared[0][1]!r}; take them out, or "
                    "choose sets of different origin"
                )


def runs(text: str, run: int = RUN) -> Iterator[str]:
    """Each run of so many words of a text; a shorter text whole, from half a run on."""
    words = re.findall(r"\w+", text.lower())
    if run // 2 < len(words) < run:
        yield " ".join(words)
    for start in range(len(words) - run + 1):
        yield " ".join(words[start : start + run])


def _first(text: str, known: set[str], run: int) -> str | None:
    return next((found for found in runs(text, run) if found in known), None)
