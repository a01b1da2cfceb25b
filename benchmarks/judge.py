"""Images per second that a judge answers about: in batches, as SynBench asks, and image by image.

    python benchmarks/judge.py [SCENES [MODEL]]

The judge of consistency is the zoo's; both ways read and decode the same stored images, and how far their
logits are apart is printed. MODEL is the folder of a vision-language model: it is then asked about person
blocking as well, in the batches of `LocalJudge` and one by one, on a tenth of the scenes. Both ways use all
cores; the best of three is told, after a first call.
"""

import sys
from collections.abc import Callable
from functools import partial

import datasets
import numpy as np
from timing import rate

from synreal.data.decode import to_rgb
from synreal.data.scenes import scene_set
from synreal.models.load import load_classifier
from synreal.models.predictions import predict
from synreal.synbench.vlm import PERSON_BLOCKING, LocalJudge

Way = Callable[[datasets.Dataset], object]


def report(name: str, images: datasets.Dataset, batched: Way, alone: Way) -> None:
    fast, slow = rate(batched, images), rate(alone, images)
    print(
        f"{name}: {fast:,.0f} images per second in batches, {slow:,.0f} image by image; batches are "
        f"{fast / slow:.1f} times as fast ({len(images)} scenes)"
    )


def consistency(images: datasets.Dataset) -> None:
    classifier = load_classifier("Judge")
    few = images.select(range(len(images) // 10))
    apart = np.abs(predict(classifier, few).logits - predict(classifier, few, 1).logits).max()
    report(
        f"consistency, logits at most {apart:.0e} apart",
        images,
        partial(predict, classifier),
        partial(predict, classifier, batch_size=1),
    )


def person_blocking(images: datasets.Dataset, folder: str) -> None:
    judge, question = LocalJudge(folder), PERSON_BLOCKING.format(class_name="garment")

    def asked(part: datasets.Dataset, step: int) -> list[str]:
        pictures = [to_rgb(image) for image in part["image"]]
        groups = [pictures[start : start + step] for start in range(0, len(pictures), step)]
        return [answer for group in groups for answer in judge.ask(group, [question] * len(group))]

    ways = (partial(asked, step=judge.batch_size), partial(asked, step=1))
    same = np.mean([a == b for a, b in zip(*(way(images) for way in ways), strict=True)])
    report(f"person blocking, {same:.1%} of the answers alike", images, *ways)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    images = scene_set("val", count)
    consistency(images)
    if len(sys.argv) > 2:
        person_blocking(images.select(range(count // 10)), sys.argv[2])


if __name__ == "__main__":
    main()
