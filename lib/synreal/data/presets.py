"""The named image sets: each takes the folder in which it lies and returns an image set."""

from synreal.data.cifar import cifar10
from synreal.data.imagenet import cmc_classes, imagenet1k, imagenet100, imagenetv2, imagenetx

__all__ = ["cifar10", "cmc_classes", "imagenet1k", "imagenet100", "imagenetv2", "imagenetx"]
