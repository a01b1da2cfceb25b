"""Time and memory of the full report on an ImageNet-sized prediction file, beside a plain NumPy loop.

    python benchmarks/evaluate_report.py

Prints seconds (wall and CPU) and growth of resident memory of (1) loading the parquet file and the report
with 2,000 bootstrap draws, (2) the paired comparison of two such files, (3) a loop that resamples images for
each factor, which gives only the intervals of the relative measure; the loop is measured on fewer draws
and scaled, as it says. Each runs in a process of its own.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from synreal.data.hierarchy import Hierarchy
from synreal.data.published import imagenet_class_names, imagenet_x_factors, imagenet_x_labels
from synreal.evaluate import Predictions, compare, correct, report

DRAWS = 2000
LOOP_DRAWS = 50  # of the plain loop, scaled to DRAWS


def write_predictions(path: Path, skill: float, seed: int) -> None:
    """50,000 x 1,000 normal logits, the true class raised by `skill`, with ImageNet's ids and labels."""
    labels = imagenet_x_labels()
    logits = np.random.default_rng(seed).standard_normal((len(labels), 1000), dtype=np.float32)
    logits[np.arange(len(labels)), labels] += skill
    ids, names = labels.index.to_numpy().astype(str), imagenet_class_names()
    Predictions(ids, labels.to_numpy(), logits, names, path.stem, "h", "p", "imagenet/val").save(path)


def measured(task: Callable[[], int]) -> dict[str, float]:
    """Wall and CPU seconds of a task, growth of the peak memory in MiB, and what the task returns."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    rows = task()
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return seconds | {"MiB": growth, "rows": rows}


def full_report(folder: Path) -> dict[str, float]:
    hierarchy, factors = Hierarchy.imagenet_x(), imagenet_x_factors()
    return measured(
        lambda: len(report(Predictions.load(folder / "a.parquet"), hierarchy, factors, draws=DRAWS))
    )


def paired_comparison(folder: Path) -> dict[str, float]:
    hierarchy, factors = Hierarchy.imagenet_x(), imagenet_x_factors()
    files = [folder / "a.parquet", folder / "b.parquet"]
    return measured(lambda: len(compare(*map(Predictions.load, files), hierarchy, factors, draws=DRAWS)))


def plain_loop(folder: Path) -> dict[str, float]:
    factors = imagenet_x_factors()
    hit = correct(Predictions.load(folder / "a.parquet"))
    flags = factors.reindex(hit.index, fill_value=False)
    return measured(lambda: len([loop_interval(hit.to_numpy(), flags[name].to_numpy()) for name in flags]))


def loop_interval(hit: np.ndarray, flag: np.ndarray) -> np.ndarray:
    """Bounds of the relative measure of one factor, as one writes it without thinking of speed."""
    rng, values = np.random.default_rng(0), []
    for _ in range(LOOP_DRAWS):
        pick = rng.integers(0, len(hit), len(hit))
        overall = hit[pick].mean()
        values.append((hit[pick][flag[pick]].mean() - overall) / overall)
    return np.quantile(values, [0.025, 0.975])


def alone(task: Callable[..., dict[str, float]], folder: Path) -> dict[str, float]:
    """The task's figures from a fresh process, so that memory of one does not hide that of another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(task, folder).result()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_predictions(folder / "a.parquet", 3.0, seed=0)
        write_predictions(folder / "b.parquet", 3.2, seed=1)
        for label, task in {"load and report": full_report, "load and compare": paired_comparison}.items():
            found = alone(task, folder)
            print(f"{label}: {clock(found)}, {found['MiB']:.0f} MiB, {found['rows']} rows with intervals")
        found = alone(plain_loop, folder)
        scaled = clock(found, DRAWS / LOOP_DRAWS)
        print(f"plain loop: {scaled}, {found['rows']} intervals, scaled from {LOOP_DRAWS} to {DRAWS} draws")


def clock(found: dict[str, float], scale: float = 1.0) -> str:
    return f"{found['wall'] * scale:.1f} s ({found['cpu'] * scale:.1f} s CPU)"


if __name__ == "__main__":
    main()
