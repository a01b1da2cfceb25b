"""A CLIP so small that tests can make one with random weights."""

import torch

from synreal.models import Card, build_module, save_checkpoint
from synreal.retrieve.embed import Encoder

CARD = Card(
    name="tiny-clip", role="tiny", library="open_clip", architecture="tiny", activation="gelu",
    architecture_args={
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    weights="model.safetensors", image_size=16, resize=16, crop="none", interpolation="bilinear",
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), head="zero-shot", templates=("a {}", "my {}"),
    class_names=("red", "blue"), license="MIT",
)  # fmt: skip


def random_encoder(folder, seed=0):
    """An encoder saved in a folder, with weights that make its vectors differ."""
    torch.manual_seed(seed)
    module = build_module(CARD)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return Encoder(save_checkpoint(folder, module, CARD))
