"""Checkpoint cards: what a checkpoint is, how its images are prepared, and what accuracy to expect of it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from synreal.data.published import imagenet_class_names
from synreal.errors import InputError
from synreal.paths import zoo_dir
from synreal.strict_yaml import dump_yaml, read_yaml

CARD_FILE = "card.yaml"
IMAGENET_NAMES = "imagenet-1k"
OPENAI_TEMPLATES = "openai-80"
OPENAI_NAMES = "openai-1k"
PACKAGED_CARDS = Path(__file__).parent / "cards"

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu6", "silu"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Colour = Annotated[tuple[float, float, float], Field(strict=False)]  # one number per RGB channel


@cache
def openai_prompt_names() -> dict[str, str]:
    """What OpenAI's ImageNet prompts call a class, for the classes whose name here is another.

    Two words stand for two classes each there ("missile", "sunglasses"), so their scores are equal.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    pairs = zip(imagenet_class_names(), IMAGENET_CLASSNAMES, strict=True)
    return {name: words for name, words in pairs if name != words}


@cache
def openai_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's ImageNet evaluation, each with one `{}`."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def _named_classes(value: Any) -> Any:
    return imagenet_class_names() if value == IMAGENET_NAMES else value


def _named_templates(value: Any) -> Any:
    return openai_templates() if value == OPENAI_TEMPLATES else value


def _named_prompts(value: Any) -> Any:
    return openai_prompt_names() if value == OPENAI_NAMES else value


Names = Annotated[tuple[str, ...], Field(strict=False)]


class Expected(BaseModel):
    """One accuracy that the checkpoint reaches: `value` and `tolerance` as fractions, on `n` images."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image_set: str
    metric: str
    value: float
    tolerance: float = Field(ge=0)
    n: int = Field(gt=0)


class Card(BaseModel):
    """What a checkpoint is. Immutable; unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1)
    role: str  # short label in tables and figures, such as ViT-Real-20k
    library: Literal["timm", "open_clip"]
    architecture: str  # model name of the library
    # timm: keyword arguments of the model; open_clip: a whole model configuration, or nothing
    architecture_args: dict[str, Any] = {}
    activation: Activation
    weights: str  # file beside the card, or in the folder that the variable `weights_env` names
    weights_env: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # of the weights file
    published_at: str | None = None
    # preparation of images, see synreal.models.classifier
    image_size: int = Field(gt=0)
    resize: int = Field(gt=0)
    crop: Literal["centre", "none"]
    interpolation: Interpolation
    mean: Colour
    std: Colour
    head: Literal["linear", "zero-shot"]
    class_names: Annotated[Names, BeforeValidator(_named_classes)] = Field(min_length=2)
    templates: Annotated[Names, BeforeValidator(_named_templates)] = ()
    # the words in a prompt, for classes that it calls otherwise
    prompt_names: Annotated[dict[str, str], BeforeValidator(_named_prompts)] = {}
    tokenizer: str | None = None  # folder relative to the card; open_clip's own where absent
    training: dict[str, Any] = {}  # source (real | synthetic | mixed), images, data, steps, seconds ...
    license: str
    expected: Annotated[tuple[Expected, ...], Field(strict=False)] = ()

    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """Where the card was read from; None for a card made in memory."""
        return self._file

    @property
    def where(self) -> str:
        """How messages name the card."""
        return str(self._file or f"card {self.name}")

    @field_validator("class_names")
    @classmethod
    def _each_class_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"class names must differ; given twice: {', '.join(twice[:5])}")
        return names

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template holds {{}} once; found {template!r}")
        return templates

    @field_validator("mean", "std")
    @classmethod
    def _finite(cls, colour: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(map(math.isfinite, colour)):
            raise ValueError(f"every number must be finite; found {colour}")
        return colour

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("every standard deviation must be above 0")
        return std

    @model_validator(mode="after")
    def _head_fits_library(self) -> Self:
        if (self.library, self.head) == ("timm", "zero-shot"):
            raise ValueError(
                "head zero-shot does not go with timm: timm models carry a linear head, open_clip models "
                "a zero-shot head, or their image tower a linear one"
            )
        if (self.head == "zero-shot") != bool(self.templates):
            raise ValueError("templates are needed by a zero-shot head, and by no other")
        strangers = sorted(set(self.prompt_names) - set(self.class_names))
        if strangers:
            raise ValueError(
                f"prompt_names holds names that are not in class_names: {', '.join(strangers[:5])}"
            )
        if self.head == "linear" and (self.tokenizer or self.prompt_names):
            raise ValueError("tokenizer and prompt_names belong to a zero-shot head; leave them out")
        return self

    @model_validator(mode="after")
    def _sizes_fit_crop(self) -> Self:
        if self.crop == "none" and self.resize != self.image_size:
            raise ValueError(
                f"crop none needs resize equal to image_size {self.image_size}, found {self.resize}"
            )
        if self.resize < self.image_size:
            raise ValueError(f"resize {self.resize} is below image_size {self.image_size}")
        return self

    @field_serializer("class_names")
    def _short_classes(self, names: tuple[str, ...]) -> Any:
        return IMAGENET_NAMES if names == imagenet_class_names() else list(names)

    @field_serializer("templates")
    def _short_templates(self, templates: tuple[str, ...]) -> Any:
        return OPENAI_TEMPLATES if templates and templates == openai_templates() else list(templates)

    @field_serializer("prompt_names")
    def _short_prompts(self, names: dict[str, str]) -> Any:
        return OPENAI_NAMES if names and names == openai_prompt_names() else names

    def to_yaml(self) -> str:
        """The card as YAML text that `load_card` reads back; fields at their default are left out."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return dump_yaml(fields)


def load_card(reference: str | Path) -> Card:
    """The card in a YAML file, in a checkpoint's folder, or known by name (the zoo's first).

    Raises InputError when there is no such card, naming those there are, or when a field is wrong.
    """
    file = _find(reference)
    fields = read_yaml(file, "a card")
    try:
        card = Card.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{file}: {_faults(error)}") from error
    card._file = file.resolve()
    return card


def list_cards() -> dict[str, Path]:
    """Card files by name: the zoo's (`<name>/card.yaml`) and those packaged for published checkpoints."""
    packaged = {file.stem: file for file in sorted(PACKAGED_CARDS.glob("*.yaml"))}
    zoo = {file.parent.name: file for file in sorted(zoo_dir().glob(f"*/{CARD_FILE}"))}
    return packaged | zoo


def _find(reference: str | Path) -> Path:
    path = Path(reference)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"{path}: no such card")
        return path
    if (path / CARD_FILE).is_file():
        return path / CARD_FILE
    cards = list_cards()
    if str(reference) not in cards:
        raise InputError(
            f"no card named {reference!r}; there are: {', '.join(cards)}. "
            f"Give one of these, or the path of a card.yaml"
        )
    return cards[str(reference)]


def _faults(error: ValidationError) -> str:
    """Every wrong field with what was found in it."""
    return "; ".join(
        f"field {'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}"
        + ("" if fault["type"] == "missing" else f" (found {_short(fault['input'])})")
        for fault in error.errors()
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_pairs(
    pairs: Mapping[str, Sequence[str]],
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Each checkpoint by the label that tables give it, and the two labels of each pair, the real one first.

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


def refuse_choice_on(reported: str, chosen_on: str) -> None:
    """Raise InputError when a setting was chosen on the images whose result is reported.

    Both are names of splits, such as scenes/test; a name holds those that continue it (scenes holds
    scenes/test).
    """
    if _one_holds_the_other(reported, chosen_on):
        raise InputError(
            f"chosen_on: settings were chosen on {chosen_on}, and the result is reported on {reported}, "
            "which makes it too good; choose on a validation split"
        )


def refuse_learned(card: Card, reported: str) -> None:
    """Raise InputError when the result is reported on a split that the checkpoint's card says it knows.

    The card says so under `training`: `data`, what it learned from, and `chosen_on`, on what its settings
    were chosen; each is the name of a split, or missing.
    """
    refuse_trained_on(card, reported)
    if "chosen_on" in card.training:
        refuse_choice_on(reported, card.training["chosen_on"])


def refuse_trained_on(card: Card, reported: str) -> None:
    """Raise InputError when the card says that the checkpoint learned from the split itself.

    This alone is asked of a judge of images, whose own result is not reported.
    """
    learned = card.training.get("data")
    if learned is not None and _one_holds_the_other(reported, learned):
        raise InputError(
            f"{card.where}: {card.name} learned from {learned}, and the result is reported on {reported}; "
            "evaluate on a split that it has not seen"
        )


def _one_holds_the_other(*splits: str) -> bool:
    a, b = (name.strip().rstrip("/").casefold() for name in splits)
    if not a or not b:
        raise InputError(f"splits {splits}: found an empty name, expected the names of two splits")
    return f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/")
