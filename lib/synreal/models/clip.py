"""CLIP as a classifier: tokenizer, zero-shot head, and its image tower alone."""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.classifier import Classifier, Preprocess

KINDS = (".json", ".txt", ".model")  # of files: all that transformers writes or reads beside weights


def tokenizer_hash(folder: str | Path) -> str:
    """16 hexadecimal digits of a tokenizer's files, and of a network's config where one lies beside them."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in KINDS:
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


# CLIP models of open_clip as zero-shot classifiers: one averaged text embedding per class.


Tokenizer = Callable[[list[str]], Tensor]  # texts -> token ids [N, context length]


class ZeroShotClassifier(Classifier):
    """Scores are scale * cosine(image, class text).

    The class texts are embedded once, here; a module tuned afterwards needs a new classifier.
    """

    module: open_clip.CLIP

    def __init__(
        self, card: Card, module: nn.Module, class_names: Sequence[str], preprocess: Preprocess
    ) -> None:
        super().__init__(card, module, class_names, preprocess)
        prompts = [card.prompt_names.get(name, name) for name in class_names]
        self.text_head = zero_shot_head(module, load_tokenizer(card, module), prompts, card.templates)

    def _beside_weights(self) -> str:
        tokens = tokenizer_hash(_tokenizer_folder(self.card)) if self.card.tokenizer else ""
        return super()._beside_weights() + tokens

    def _scores(self, pixels: Tensor) -> Tensor:
        image = F.normalize(self.module.encode_image(pixels), dim=-1)
        return self.module.logit_scale.exp() * image @ self.text_head.T

    def _features(self, pixels: Tensor) -> Tensor:
        return self.module.encode_image(pixels)


@torch.no_grad()
def zero_shot_head(
    module: nn.Module, tokenizer: Tokenizer, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit text embeddings, float32 [C, D], on the module's device.

    Per class: embed every template, normalise, average, normalise. Source: SynRep's ImageNet evaluation of
    CLIP (google-research/syn-rep-learn, Scaling/clip).
    """
    module.eval()
    device = next(module.parameters()).device
    rows = []
    for name in tqdm(class_names, desc="class prompts", delay=5):
        tokens = tokenizer([template.format(name) for template in templates]).to(device)
        texts = F.normalize(module.encode_text(tokens), dim=-1)  # type: ignore[operator]
        rows.append(F.normalize(texts.mean(dim=0), dim=-1))
    return torch.stack(rows)


def load_tokenizer(card: Card, module: nn.Module) -> Tokenizer:
    """The card's tokenizer, at the module's context length. InputError if its vocabulary does not fit."""
    length: Any = module.context_length
    if card.tokenizer is None:
        tokenizer = open_clip.SimpleTokenizer(context_length=length)
        words = tokenizer.vocab_size
    else:
        tokenizer = open_clip.tokenizer.HFTokenizer(
            str(_tokenizer_folder(card)), context_length=length, clean="lower", local_files_only=True
        )
        words = len(tokenizer.tokenizer)
    if words != module.vocab_size:
        raise InputError(
            f"{card.where}: the tokenizer has {words} tokens, the text tower {module.vocab_size}; "
            "name the tokenizer that the checkpoint was trained with"
        )
    return tokenizer


def build_clip(card: Card) -> nn.Module:
    """The card's open_clip model, untrained. InputError for a configuration that contradicts the card."""
    config = clip_config(card)
    quick = card.activation == "quick_gelu"
    if config.setdefault("quick_gelu", quick) != quick:
        raise InputError(
            f"{card.where}: activation is {card.activation}, but the architecture says quick_gelu: "
            f"{config['quick_gelu']}; make them agree with how the checkpoint was trained"
        )
    _refuse_downloads(card, config)
    try:
        module = open_clip.CLIP(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{card.where}: open_clip cannot build this configuration: {error}") from error
    size = config["vision_cfg"].get("image_size", 224)
    if size != card.image_size:
        raise InputError(
            f"{card.where}: image_size is {card.image_size}, but the vision tower is built for {size}"
        )
    return module


def clip_config(card: Card) -> dict[str, Any]:
    """The card's whole model configuration, as open_clip's JSON files have it."""
    return dict(card.architecture_args) or _registered(card)


def _registered(card: Card) -> dict[str, Any]:
    config = open_clip.get_model_config(card.architecture)
    if config is None:
        near = difflib.get_close_matches(card.architecture, open_clip.list_models(), n=3)
        raise InputError(
            f"{card.where}: open_clip knows no architecture {card.architecture!r}; near it: "
            f"{', '.join(near) or 'none'}"
        )
    return config


def _refuse_downloads(card: Card, config: dict[str, Any]) -> None:
    """Configurations that would fetch weights from the network."""
    for tower, field in (("vision_cfg", "timm_model_pretrained"), ("text_cfg", "hf_model_name")):
        if not isinstance(config.get(tower), dict):
            raise InputError(
                f"{card.where}: architecture_args.{tower} is missing; a whole open_clip model "
                "configuration is needed: embed_dim, vision_cfg, text_cfg"
            )
        if config[tower].get(field):
            raise InputError(
                f"{card.where}: architecture_args.{tower}.{field} would download weights; leave it out"
            )


def _tokenizer_folder(card: Card) -> Any:
    if card.file is None:
        raise InputError(
            f"{card.where}: tokenizer {card.tokenizer!r} is relative to the card's file; save the card"
        )
    folder = card.file.parent / str(card.tokenizer)
    if not folder.is_dir():
        raise InputError(f"{card.where}: no tokenizer folder {folder}")
    return folder


# The image tower of a CLIP with a linear head: what CLIP becomes when it is tuned as a classifier.


class ImageTower(nn.Module):
    """Scores are a linear map of the unit image embedding; the methods are those of timm's models."""

    def __init__(self, visual: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, classes)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Unit embeddings [N, D]."""
        return F.normalize(self.visual(pixels), dim=-1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores [N, C]; the features themselves with `pre_logits`."""
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Linear:
        """The head, by the name that timm gives the method."""
        return self.head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


def build_tower(card: Card) -> ImageTower:
    """The image tower of the card's open_clip model, untrained, with one output per class of the card."""
    visual: Any = build_clip(card).visual
    return ImageTower(visual, clip_config(card)["embed_dim"], len(card.class_names))


def tower_from_zero_shot(classifier: ZeroShotClassifier) -> ImageTower:
    """The classifier's image tower, with a head that gives its zero-shot scores: its class texts, times the
    scale, and no bias. The weights of the tower are shared with the classifier."""
    texts = classifier.text_head.detach()
    tower = ImageTower(classifier.module.visual, texts.shape[1], len(texts))
    tower.head.weight.data = classifier.module.logit_scale.detach().exp() * texts
    nn.init.zeros_(tower.head.bias)
    return tower.to(texts.device).eval()
