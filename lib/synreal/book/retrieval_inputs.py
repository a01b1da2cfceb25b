"""What chapter 04_retrieval is asked, and refuses before anything is embedded or trained."""

from collections.abc import Sequence

from datasets import Dataset

from synreal.book.retrieval_sets import families, named_hierarchy
from synreal.data.imageset import class_names
from synreal.data.labels import shorten
from synreal.data.tasks import Task
from synreal.errors import InputError
from synreal.generate.sample import open_generator
from synreal.paths import located
from synreal.retrieve.candidates import refuse_unmatched
from synreal.retrieve.lookup import Lookup


def check_corpus_for(corpus: Dataset, lookup: Lookup, tasks: Sequence[Task]) -> None:
    """Raise InputError for a class that no caption speaks of, where captions are all that is searched."""
    matcher, semantic = lookup.ways("caption" in corpus.column_names)
    if matcher and semantic is None:
        for family in families(tasks):
            refuse_unmatched(corpus, lookup.queries(family[0].class_names), matcher)


def check_tasks(tasks: Sequence[Task], synthetic: Dataset, lookup: Lookup, shown: Sequence[str]) -> None:
    """Raise InputError for tasks that cannot be compared.

    Also for classes that the file of classes, the synthetic images or the sheet of images do not know.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise InputError(f"tasks: found {names}; expected one or more of different names")
    wholes = [family[0].class_names for family in families(tasks)]
    for whole in wholes:
        lookup.queries(whole)
        _refuse_unknown("synthetic_set", class_names(synthetic), whole)
    _refuse_unknown("shown", wholes[0], shown)


def check_sizes(
    tasks: Sequence[Task], budgets: Sequence[int], part_budgets: Sequence[int], per_class: int
) -> None:
    """Raise InputError for a budget that `per_class` images of each class of its tasks cannot fill."""
    for family in families(tasks):
        for task in family:
            alike = task.class_names == family[0].class_names
            asked, sizes = ("budgets", budgets) if alike else ("part_budgets", part_budgets)
            most = per_class * len(task.class_names)
            if not sizes or not 1 <= min(sizes) <= max(sizes) <= most:
                raise InputError(
                    f"{asked}: found {list(sizes)}, expected numbers from 1 to {most}: per_class {per_class} "
                    f"for each class of {task.name}"
                )


def check_perturbation(tasks: Sequence[Task], generator: str, hierarchy: str, fine_group: str) -> None:
    """Raise InputError when the perturbation's generator, or the group of its fine question, is not there."""
    open_generator(located(generator)).fingerprint()
    groups = named_hierarchy(hierarchy, families(tasks)[0][0].class_names).groups
    several = [name for name, fine in groups.items() if len(fine) > 1]
    if fine_group not in several:
        raise InputError(
            f"fine_group: found {fine_group!r}, expected one of {several}; or leave the perturbation out: an "
            "empty generator asks for none"
        )


def _refuse_unknown(parameter: str, known: Sequence[str], asked: Sequence[str]) -> None:
    if unknown := [name for name in asked if name not in known]:
        raise InputError(f"{parameter}: the classes {shorten(unknown)} are not among {shorten(known, 20)}")
