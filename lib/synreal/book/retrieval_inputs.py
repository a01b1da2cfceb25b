"""What chapter 04_retrieval is asked, and refuses before anything is embedded or trained."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from synreal.book.retrieval_sets import Sources, budgets_of, families, named_hierarchy
from synreal.data.imageset import class_names
from synreal.data.tasks import Task
from synreal.errors import InputError, shorten
from synreal.generate.backends import need_pipeline
from synreal.generate.sample import open_generator, refuse_strength
from synreal.paths import located
from synreal.retrieve.retrieve import need_captions, refuse_unmatched
from synreal.retrieve.semantic import Lookup
from synreal.train.adapt import Adaptation, refuse_known


def check_corpus_for(corpus: Dataset, lookup: Lookup, tasks: Sequence[Task]) -> None:
    """Raise InputError for captions that are needed and not there.

    Also for a class that no caption speaks of, where captions are all that is searched.
    """
    matcher, semantic = lookup.ways("caption" in corpus.column_names)
    for family in families(tasks):
        queries = lookup.queries(family[0].class_names)
        need_captions(corpus, queries, matcher)
        if matcher and semantic is None:
            refuse_unmatched(corpus, queries, matcher)


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
    """Raise InputError for a budget said twice, or that `per_class` images of each class cannot fill."""
    for family in families(tasks):
        for task in family:
            asked, sizes = budgets_of(task, family[0], budgets, part_budgets)
            most = per_class * len(task.class_names)
            different = len(set(sizes)) == len(sizes)
            if not sizes or not different or not 1 <= min(sizes) <= max(sizes) <= most:
                raise InputError(
                    f"{asked}: found {list(sizes)}, expected different numbers from 1 to {most}: per_class "
                    f"{per_class} for each class of {task.name}"
                )


def check_trainings(checkpoint: str, tasks: Sequence[Task], adaptation: Adaptation, seeds: int) -> None:
    """Raise InputError without a seed or a checkpoint, and as `refuse_known` for what has seen a task."""
    if seeds < 1:
        raise InputError(f"seeds: found {seeds}, expected 1 or more")
    for task in tasks:
        refuse_known(checkpoint, task, adaptation)


def check_left(
    sources: Sequence[Sources],
    budgets: Sequence[int],
    part_budgets: Sequence[int],
    perturbed: int | None = None,
) -> None:
    """Raise InputError when fewer images of a kind are left than are to be trained on, or perturbed."""
    for part in sources:
        kinds = {"retrieved": part.retrieved, "synthetic": part.synthetic}
        for task in part.tasks:
            asked, sizes = budgets_of(task, part.tasks[0], budgets, part_budgets)
            for kind, images in kinds.items():
                _refuse_few(asked, max(sizes), kind, images, task)
    if perturbed is not None:
        _refuse_few("perturbed", perturbed, "retrieved", sources[0].retrieved, sources[0].tasks[0])


def check_perturbation(
    tasks: Sequence[Task],
    generator: str,
    hierarchy: str,
    fine_group: str,
    strengths: Sequence[float],
    steps: int,
) -> None:
    """Raise InputError for a generator, strengths or coarse groups with which nothing can be perturbed."""
    open_generator(located(generator)).fingerprint()
    need_pipeline(located(generator), "Stable Diffusion pipeline")
    if not strengths:
        raise InputError("strengths: found none, expected one or more above 0 and up to 1")
    for strength in strengths:
        refuse_strength(strength, steps)
    names = families(tasks)[0][0].class_names
    groups = named_hierarchy(hierarchy, names)
    several = [name for name, fine in groups.groups.items() if len(fine) > 1]
    if fine_group not in several:
        raise InputError(
            f"fine_group: found {fine_group!r}, expected one of {several}, groups of {hierarchy} of two or "
            "more classes; or leave the perturbation out: an empty generator asks for none"
        )
    groups.members(names)


def _refuse_few(asked: str, wanted: int, kind: str, images: Dataset, task: Task) -> None:
    labels = np.asarray(images.with_format("numpy")["label"][:])
    count = np.isin(np.asarray(class_names(images))[labels], task.class_names).sum() if len(labels) else 0
    if not 1 <= wanted <= count:
        raise InputError(
            f"{asked}: found {wanted}, expected 1 to {count}, the {kind} images left of the classes of "
            f"{task.name}; the run's folder retrieved says what rejected the others"
        )


def _refuse_unknown(parameter: str, known: Sequence[str], asked: Sequence[str]) -> None:
    if unknown := [name for name in asked if name not in known]:
        raise InputError(f"{parameter}: the classes {shorten(unknown)} are not among {shorten(known, 20)}")
