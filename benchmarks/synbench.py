"""Seconds that SynBench takes: each measure on scenes, and the report of two sets with all of them.

    python benchmarks/synbench.py [SCENES]

The judge and the detector are the zoo's; object scale and person blocking share the detector's boxes, so that
the first of them pays. Nothing is taken from an earlier run. Seconds are of the clock, beside those of the
processor (more than the clock's where several cores work).
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synreal.book.synbench_report import all_numbers, report
from synreal.data.decode import image_set_hash
from synreal.data.imageset import class_names
from synreal.data.worlds import open_world
from synreal.synbench.backends import open_measures
from synreal.synbench.compare import measure_all


@contextmanager
def timed(what: str) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.process_time()
    yield
    seconds, used = time.perf_counter() - clock, time.process_time() - processor
    print(f"{what}: {seconds:.1f} s ({used:.1f} s of the processor)", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with timed(f"making two sets of {count} scenes"):
        real = open_world("scenes/test", count)
        other = open_world("scenes/val", count, name="other")
    with timed("hash of a set"):
        image_set_hash(real.images)
    measures = open_measures(class_names(real.images), judge="Judge", detector="detector")
    with timed("all measures of a set"):
        for measure in measures:
            with timed(f"  {measure.name}"):
                measure.values(real.images)
    found = [measure_all(world, measures) for world in (real, other)]
    with timed("comparison of two sets, 2,000 draws"):
        all_numbers(found[0], found[1:], measures, {})
    with timed("report of two sets"):
        report(found[0], found[1:], measures, Path(os.environ["SYNREAL_CACHE"]), {}, 2000, 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SYNREAL_CACHE"] = folder
        main()
