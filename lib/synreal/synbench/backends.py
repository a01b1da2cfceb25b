"""Measures by name: P1's backends at full size, the zoo's small ones in the scenes world."""

import os
from collections.abc import Sequence
from pathlib import Path

from synreal.errors import InputError, shorten
from synreal.models.card import load_card, refuse_trained_on
from synreal.models.load import load_classifier
from synreal.paths import cache_dir, zoo_dir
from synreal.synbench.correction import Consistency
from synreal.synbench.detect import (
    PERSON,
    Detector,
    LastSeen,
    PersonFinder,
    PersonOverlap,
    Scale,
    load_detector,
    published_detector,
)
from synreal.synbench.measures import Brightness, Measure
from synreal.synbench.vlm import AnswerCache, Judge, PersonBlocking


def open_measures(
    class_names: Sequence[str],
    judge: str | None = None,
    detector: str | None = None,
    persons: str | None = None,
    vlm: str | None = None,
    device: str = "cpu",
    restricted: bool = False,
    measured: str | None = None,
) -> list[Measure]:
    """Brightness, and the measures whose backend is named.

    judge: a checkpoint, for consistency (P1: ConvNeXt-B); a zero-shot CLIP that lacks one of the classes is
    asked about these classes instead of its card's. detector: a folder or name in the zoo, or the
    file name of published weights that take class names (P1: yolov8s-worldv2.pt), for object scale.
    persons: the same for persons (P1: yolov5su.pt); default: the detector, which is then given "person" too
    if it takes class names. vlm: who is asked whether a person covers the object (`open_vlm`); without one,
    boxes decide. restricted: the judge answers among these classes alone, not among all it knows.
    measured: the name of the real set; a judge that has learned from it would be too sure there.
    Raises InputError when something named cannot be loaded, the judge does not know a class, has learned from
    what is measured (as its card says), who finds persons does not know them, or restricted, persons or a vlm
    come without what they need.
    """
    _check_together(judge, detector, persons, vlm, restricted)
    if judge and measured:
        refuse_trained_on(load_card(judge), measured)
    measures: list[Measure] = [_judge(judge, class_names, restricted, device)] if judge else []
    vocabulary = list(class_names) if persons else list(dict.fromkeys([*class_names, PERSON]))
    objects = LastSeen(_detector(detector, device, vocabulary)) if detector else None
    measures += [Scale(objects)] if objects else []
    measures += [Brightness()]
    people = LastSeen(_detector(persons, device)) if persons else objects
    if people and PERSON not in people.class_names:
        raise InputError(
            f"persons: {persons or detector!r} finds {shorten(list(people.class_names))}, expected one that "
            f"finds {PERSON!r} (P1: yolov5su.pt)"
        )
    if people and vlm:
        answers = AnswerCache(cache_dir() / "answers.sqlite")
        measures += [PersonBlocking(open_vlm(vlm, device), PersonFinder(people), answers)]
    elif people and objects:
        measures += [PersonOverlap(objects, people)]
    return measures


def open_vlm(name: str, device: str = "cpu") -> Judge:
    """The judge in a folder of a transformers model, or at MODEL@URL, an OpenAI-compatible endpoint.

    An endpoint's key is that of the environment variable OPENAI_API_KEY, where it is set.
    """
    model, at, url = name.partition("@")
    if not at:
        from synreal.synbench.vlm import LocalJudge

        return LocalJudge(Path(name), device)
    from synreal.synbench.endpoint import Endpoint

    return Endpoint(model, url, "OPENAI_API_KEY" if "OPENAI_API_KEY" in os.environ else None)


def _check_together(
    judge: str | None, detector: str | None, persons: str | None, vlm: str | None, restricted: bool
) -> None:
    if restricted and not judge:
        raise InputError("restricted: found no judge whose answers to restrict; name a judge")
    if vlm and not (detector or persons):
        raise InputError(f"vlm: {vlm!r} is asked about images with a person; name persons or a detector")
    if persons and not (detector or vlm):
        raise InputError(f"persons: {persons!r} alone finds no object; name a detector, or a vlm to ask")


def _judge(name: str, class_names: Sequence[str], restricted: bool, device: str) -> Consistency:
    """Loaded now, so that missing weights stop a run before it measures."""
    card = load_card(name)
    known = set(card.class_names)
    if unknown := [name for name in class_names if name not in known]:
        if card.head != "zero-shot":
            raise InputError(
                f"judge: {name!r} does not know the classes {shorten(unknown)}; name another judge, or a "
                "zero-shot CLIP, which can be asked about any"
            )
        card = card.model_copy(update={"class_names": tuple(class_names)})
    load_classifier(card)
    return Consistency(card, restricted, device)


def _detector(name: str, device: str, class_names: Sequence[str] | None = None) -> Detector:
    if name.endswith(".pt"):
        return published_detector(name, class_names, device=device)
    return load_detector(name if Path(name).exists() else zoo_dir() / name, device)
