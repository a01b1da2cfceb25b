"""A small residual network for images of 32 pixels, registered with timm, so that it is built by name.

Every 3x3 convolution halves the image, and one makes a block: of networks of this kind, it learns the scenes
in the least time on a CPU, where many small convolutions cost more than their arithmetic.
"""

from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "resnet_small_32"
WIDTHS = (16, 32, 64, 128)
default_cfgs = generate_default_cfgs(  # read by timm
    {NAME: {"input_size": (3, 32, 32), "num_classes": 10, "classifier": "fc", "first_conv": "stem.0"}}
)


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

    def __init__(self, num_classes: int = 10, widths: tuple[int, ...] = WIDTHS, in_chans: int = 3) -> None:
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
    return timm.models.build_model_with_cfg(SmallResNet, NAME, False, **kwargs)
