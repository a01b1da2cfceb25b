"""Small networks for images of 32 pixels, registered with timm, so that they are built by name."""

from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

VIT_32, RESNET_32 = "vit_convstem_patch8_32", "resnet_small_32"
STEM_WIDTHS = (48, 96, 128)
default_cfgs = generate_default_cfgs(  # timm reads it when a network is registered: above all of them
    {
        VIT_32: {"input_size": (3, 32, 32), "num_classes": 10},
        RESNET_32: {"input_size": (3, 32, 32), "num_classes": 10, "classifier": "fc", "first_conv": "stem.0"},
    }
)


class ConvStem(nn.Module):
    """Images [N, 3, H, W] to tokens [N, H / 8 * W / 8, embed_dim], in place of timm's `PatchEmbed`."""

    def __init__(self, img_size: int = 32, embed_dim: int = 128, **_: Any) -> None:
        super().__init__()
        self.img_size, self.patch_size = (img_size, img_size), (8, 8)
        self.grid_size = (img_size // 8, img_size // 8)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        for before, width in zip((3, *STEM_WIDTHS), STEM_WIDTHS, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(STEM_WIDTHS[-1], embed_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


@register_model
def vit_convstem_patch8_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """32x32 images, 16 tokens of width 128, 3 blocks, 0.8 M parameters; no published weights."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 4}
    return timm.models.build_model_with_cfg(
        VisionTransformer, VIT_32, False, embed_layer=ConvStem, **(shape | kwargs)
    )


# A small residual network for images of 32 pixels, registered with timm, so that it is built by name.
#
# Every 3x3 convolution halves the image, and one makes a block: of networks of this kind, it learns the
# scenes in the least time on a CPU, where many small convolutions cost more than their arithmetic.


RESNET_WIDTHS = (16, 32, 64, 128)


class Block(nn.Module):
    """[N, before, H, W] to [N, width, H / 2, W / 2]: a convolution beside a shortcut that averages."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, 2, 1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, bias=False)
        self.norm, self.norm_shortcut = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.shortcut(F.avg_pool2d(x, 2))
        return F.relu(self.norm(self.conv(x)) + self.norm_shortcut(kept))


class SmallResNet(nn.Module):
    """Four halvings, three of them residual; `num_classes` 0 leaves out the classifier, as timm has it."""

    def __init__(
        self, num_classes: int = 10, widths: tuple[int, ...] = RESNET_WIDTHS, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.num_features = widths[-1]
        stem = nn.Conv2d(in_chans, widths[0], 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(*map(Block, widths, widths[1:]))
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier in place of the old one."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@register_model
def resnet_small_32(pretrained: bool = False, **kwargs: Any) -> SmallResNet:
    """0.1 M parameters; no published weights."""
    return timm.models.build_model_with_cfg(SmallResNet, RESNET_32, False, **kwargs)
