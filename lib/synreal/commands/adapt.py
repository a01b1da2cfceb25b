"""`synreal adapt`: what a set of training images is worth to a pretrained classifier, as P2 measures it."""

from pathlib import Path
from typing import Annotated

import typer


def adapt(
    checkpoint: Annotated[
        str, typer.Option(help="Classifier to adapt: a name, folder or card; CLIP as in P2.")
    ],
    images: Annotated[str, typer.Option(help="Labelled images: a folder, file or hub:NAME#SPLIT.")],
    classes: Annotated[Path, typer.Option(help="YAML list of class names, as for `synreal retrieve`.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and report.")],
    test: Annotated[str, typer.Option(help="Labelled images that accuracy is reported on.")],
    probe: Annotated[
        str | None,
        typer.Option(help="Labelled images that the linear probe learns from. [default: --images]"),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(help="Cosine, by --checkpoint, at which an image learned from counts as a test image."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="P2, 'P2 ImageNet' or scenes.")] = "scenes",
    seed: Annotated[int, typer.Option(help="Of the order of images.")] = 0,
    count: Annotated[int, typer.Option(help="Scenes, where a set is scenes/SPLIT.")] = 1000,
) -> None:
    """Adapt a classifier to images and report its accuracy on others, before and after.

    Zero-shot: by the tuned head, which starts as class texts. Probe: by a linear classifier of the features.
    A test image among the images to learn from is refused; with --contamination, what is as close to one is
    left out, and listed in rejected.csv. Exit status: 0 done, 2 bad input.
    """
    from synreal.book.adapt_report import adapt_report, cleaned, open_images
    from synreal.retrieve.match import read_classes
    from synreal.train.adapt import adaptation_named

    names = [query.name for query in read_classes(classes)]
    learned, shown, probed = (open_images(place, names, count) for place in (images, test, probe or images))
    if contamination is not None:
        learned, probed = cleaned({"images": learned, "probe": probed}, shown, checkpoint, contamination, out)
    print(adapt_report(checkpoint, learned, shown, probed, out, adaptation_named(recipe), seed))
