"""The two training sets of chapter 04_retrieval, made alike for each task, and every adaptation to them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from datasets import Dataset, concatenate_datasets

from synreal.cache import compute
from synreal.data.decode import image_set_hash
from synreal.data.hierarchy import SCENES_HIERARCHY, Hierarchy
from synreal.data.imageset import load_image_set
from synreal.data.overlap import refuse_overlap
from synreal.data.tasks import Task, of_classes
from synreal.generate.sample import Sampling, open_generator, perturbed_set
from synreal.models.predictions import Predictions
from synreal.paths import cache_dir
from synreal.retrieve.embed import Encoder
from synreal.retrieve.filters import Filters, decontaminate
from synreal.retrieve.manifest import save_account
from synreal.retrieve.retrieve import Retrieved, retrieve
from synreal.retrieve.semantic import Embedded, Lookup, embed_corpus
from synreal.train.adapt import CONTRACT, READINGS, Adaptation, Adapted, adapt_and_predict, mixture, targeted


@dataclass(frozen=True)
class Sources:
    """Targeted training images of both kinds for tasks that share classes, decontaminated alike."""

    tasks: tuple[Task, ...]  # the first has all classes, the others some of them
    account: Retrieved  # how the real images were found, and what was rejected
    retrieved: Dataset
    synthetic: Dataset
    refused: pd.DataFrame  # the synthetic images rejected: the columns of sieve.LEDGER
    rejected: dict[str, tuple[int, int]]  # by source: images too close to the tasks' own, images checked
    sensitivity: dict[str, pd.DataFrame]  # by source: how many would be too close, by threshold


@dataclass(frozen=True)
class Run:
    """One adaptation and the tasks that it is judged on."""

    source: str
    images: Dataset
    tasks: tuple[Task, ...]
    seed: int
    adapted: bool = True
    readings: tuple[str, ...] = READINGS


def embed_pool(
    corpus: Dataset, model: str, captions: bool = False, column: str = "", device: str = "cpu"
) -> Embedded:
    """What a CLIP makes of a corpus's images, and of its captions where they are searched; in the cache.

    column: of embeddings by this CLIP that the corpus carries; empty where it carries none.
    """
    encoder = Encoder(model, device)
    folder = cache_dir() / "embeddings" / f"{image_ids_hash(corpus)}-{encoder.fingerprint}"
    return embed_corpus(corpus, encoder, folder, captions, column or None)


def image_ids_hash(corpus: Dataset) -> str:
    """16 hexadecimal digits of the ids; the embeddings check the images themselves."""
    return hashlib.sha256("\n".join(corpus["id"]).encode()).hexdigest()[:16]


def families(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """The tasks, together where one has classes of another, which comes first."""
    found: list[tuple[Task, ...]] = []
    for task in sorted(tasks, key=lambda task: -len(task.class_names)):
        home = next(
            (n for n, own in enumerate(found) if set(task.class_names) <= set(own[0].class_names)), None
        )
        if home is None:
            found.append((task,))
        else:
            found[home] += (task,)
    return found


def named_hierarchy(name: str, names: Sequence[str]) -> Hierarchy:
    """The coarse groups of these classes: "scenes", "imagenet" (ImageNet-X's), or a YAML file's."""
    known = {"scenes": lambda: SCENES_HIERARCHY, "imagenet": Hierarchy.imagenet_x}
    found = known[name]() if name in known else Hierarchy.from_yaml(name)
    return found.restricted_to(names)


def make_sources(
    corpus: Dataset,
    embedded: Embedded,
    synthetic: Dataset,
    tasks: tuple[Task, ...],
    lookup: Lookup,
    per_class: int,
    filters: Filters,
    seed: int = 0,
) -> Sources:
    """Retrieve from the corpus, take the synthetic images of the same classes, and clean both alike.

    Both lose what is too near to an image of any split of the tasks: `filters.contamination` by the
    checkpoint that embedded the corpus. Where fewer than `per_class` are left, there are fewer.
    Raises InputError when a test image is still in one of them.
    """
    against = {split: _union([getattr(task, split) for task in tasks]) for split in ("train", "val", "test")}
    names, (matcher, semantic) = tasks[0].class_names, lookup.ways("caption" in corpus.column_names)
    account = retrieve(
        corpus, lookup.queries(names), per_class, matcher=matcher, semantic=semantic, embedded=embedded,
        filters=filters, against=against, seed=seed, allow_fewer=True,
    )  # fmt: skip
    own = of_classes(synthetic, names)
    descriptor = None if filters.contamination is None else embedded.encoder
    clean, ledger, curve = decontaminate(own, against, descriptor, filters.contamination)
    refused = int(account.ledger["reason"].isin(["close to", "same pixels as"]).sum())
    checked = (
        refused + int(account.counts["kept"].sum()) + int((account.ledger["reason"] == "not drawn").sum())
    )
    for images in (account.images, clean):
        refuse_overlap(images, against["test"])
    return Sources(
        tasks, account, account.images.select_columns(CONTRACT), clean.select_columns(CONTRACT), ledger,
        {"retrieved": (refused, checked), "synthetic": (len(ledger), len(own))},
        {"retrieved": account.sensitivity, "synthetic": curve},
    )  # fmt: skip


def save_accounts(sources: Sequence[Sources], corpus: str, folder: Path) -> None:
    """Write, for the first task of each, how both sets came about, with a row for every image rejected.

    In a subfolder called like the task: what `save_account` writes, and synthetic_ledger.csv.
    """
    for part in sources:
        own = folder / part.tasks[0].name.replace(" ", "-")
        own.mkdir(parents=True, exist_ok=True)
        save_account(part.account, own, corpus)
        part.refused.to_csv(own / "synthetic_ledger.csv", index=False)


def _union(parts: Sequence[Dataset]) -> Dataset:
    """Every image of the sets once, by id: a part of the classes repeats images of the whole."""
    clustered = ["cluster"] if all("cluster" in part.column_names for part in parts) else []
    kept: list[Dataset] = []
    known: set[str] = set()
    for part in parts:
        new = [row for row, key in enumerate(part["id"]) if key not in known]
        known.update(part["id"])
        if new:
            kept.append(part.select(new).select_columns(["image", "id", *clustered]))
    return concatenate_datasets(kept)


def budgets_of(
    task: Task, whole: Task, budgets: Sequence[int], part_budgets: Sequence[int]
) -> tuple[str, Sequence[int]]:
    """The name of the parameter with this task's budgets, and these: `whole` is the first of its family."""
    alike = task.class_names == whole.class_names
    return ("budgets", budgets) if alike else ("part_budgets", part_budgets)


def planned(
    sources: Sources, budgets: Sequence[int], part_budgets: Sequence[int], beyond: int, seeds: int
) -> list[Run]:
    """Every adaptation of the study, for the tasks of one `Sources`.

    budgets: images in all, of both kinds; part_budgets: for tasks with a part of the classes. At the largest,
    also half of each kind. beyond: synthetic images past that, as many as there are.
    Raises InputError, as `targeted` does, for a budget above the images that there are.
    """
    whole, runs = sources.tasks[0].class_names, []
    for names in dict.fromkeys(tuple(task.class_names) for task in sources.tasks):
        tasks = tuple(task for task in sources.tasks if tuple(task.class_names) == names)
        sizes = sorted(budgets_of(tasks[0], sources.tasks[0], budgets, part_budgets)[1])
        real, drawn = (of_classes(images, names) for images in (sources.retrieved, sources.synthetic))
        runs.append(Run("unadapted", targeted(real, sizes[0]), tasks, 0, adapted=False))
        for seed in range(seeds):
            runs += [Run("retrieved", targeted(real, size, seed), tasks, seed) for size in sizes]
            most = min(beyond, len(drawn))
            past = [most] if most > sizes[-1] else []
            runs += [Run("synthetic", targeted(drawn, size, seed), tasks, seed) for size in [*sizes, *past]]
            if list(names) == whole:
                runs.append(Run("mixture", mixture([real, drawn], sizes[-1], seed), tasks, seed))
    return runs


def perturbed_runs(
    images: Dataset,
    tasks: tuple[Task, ...],
    generator: str | Path,
    strengths: Sequence[float],
    steps: int,
    seeds: int,
    workers: int = 1,
) -> tuple[dict[float, Dataset], list[Run]]:
    """The images as they are (strength 0) and perturbed, by strength, and every adaptation to them."""
    longest_first = sorted(strengths, reverse=True)
    jobs = [(images, generator, strength, Sampling(steps=steps)) for strength in longest_first]
    drawn = compute(perturbed_once, jobs, workers)
    by_strength = dict(zip(longest_first, drawn, strict=True))
    sets = {0.0: images} | {strength: by_strength[strength] for strength in strengths}
    plain = {strength: part.select_columns(CONTRACT) for strength, part in sets.items()}
    runs = [
        Run(f"{s:g}", part, tasks, seed, readings=("zero-shot",))
        for s, part in plain.items()
        for seed in range(seeds)
    ]
    return sets, runs


def zero_shot_by_strength(
    results: Sequence[Adapted], strengths: Iterable[float]
) -> dict[float, list[Predictions]]:
    """The zero-shot predictions of `perturbed_runs`, one per training."""
    return {s: [r.predictions["zero-shot"] for r in results if r.source == f"{s:g}"] for s in strengths}


def perturbed_once(images: Dataset, generator: str | Path, strength: float, sampling: Sampling) -> Dataset:
    """`perturbed_set`, kept in the cache under the hashes of images, generator and settings."""
    weights = open_generator(generator).fingerprint()[:12]
    settings = f"{strength:g}-{sampling.guidance_scale:g}-{sampling.steps}-{sampling.seed}"
    path = cache_dir() / "perturbed" / f"{image_set_hash(images)}-{weights}-{settings}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        perturbed_set(images, generator, strength, sampling).to_parquet(partial)
        partial.replace(path)
    return load_image_set(path)


def adapt_all(
    checkpoint: str, runs: Sequence[Run], adaptation: Adaptation, workers: int = 2, device: str = "cpu"
) -> list[Adapted]:
    """The results of all runs, in their order; each is trained at most once, and kept."""
    jobs = [
        (
            checkpoint,
            run.images,
            run.tasks,
            run.source,
            adaptation,
            run.seed,
            run.adapted,
            run.readings,
            device,
        )
        for run in runs
    ]
    return [result for results in compute(adapt_and_predict, jobs, workers) for result in results]
