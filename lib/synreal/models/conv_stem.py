"""A ViT with a convolutional stem, registered with timm, so that timm and open_clip both build it by name.

Plain patches make a ViT slow to train on little data; three strided convolutions in their place (Xiao et al.
2021, "Early Convolutions Help Transformers See Better") learn the scenes
in far fewer steps.
"""

from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

NAME = "vit_convstem_patch8_32"
WIDTHS = (48, 96, 128)
default_cfgs = generate_default_cfgs({NAME: {"input_size": (3, 32, 32), "num_classes": 10}})  # read by timm


class ConvStem(nn.Module):
    """Images [N, 3, H, W] to tokens [N, H / 8 * W / 8, embed_dim], in place of timm's `PatchEmbed`."""

    def __init__(self, img_size: int = 32, embed_dim: int = 128, **_: Any) -> None:
        super().__init__()
        self.img_size, self.patch_size = (img_size, img_size), (8, 8)
        self.grid_size = (img_size // 8, img_size // 8)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], embed_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


@register_model
def vit_convstem_patch8_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """32x32 images, 16 tokens of width 128, 3 blocks, 0.8 M parameters; no published weights."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 4}
    return timm.models.build_model_with_cfg(
        VisionTransformer, NAME, False, embed_layer=ConvStem, **(shape | kwargs)
    )
