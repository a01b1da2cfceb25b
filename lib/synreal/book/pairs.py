"""Pairs of checkpoints, the real one first, as the parameters of chapters name them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from synreal.errors import InputError
from synreal.models import load_card


def read_pairs(
    pairs: Mapping[str, Sequence[str]],
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Each checkpoint by the label that tables give it, and the two labels of each pair.

    A label is the card's role; its name where two cards share the role; and where they share that too, what
    the parameter says. Raises InputError unless each pair names two checkpoints, and as `load_card`.
    """
    for title, pair in pairs.items():
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"pairs: {title!r} names {list(pair)}, expected a real and a synthetic one")
    if not pairs:
        raise InputError("pairs: found none, expected one or more, such as {mine: [real, synthetic]}")
    names = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
    cards = {name: load_card(name) for name in names}
    labels = {name: card.role for name, card in cards.items()}
    for other in (lambda name: cards[name].name, str):
        count = Counter(labels.values())
        labels = {name: label if count[label] == 1 else other(name) for name, label in labels.items()}
    titled = {title: (labels[real], labels[synthetic]) for title, (real, synthetic) in pairs.items()}
    return {label: name for name, label in labels.items()}, titled
