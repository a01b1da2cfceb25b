"""The judge of the scenes world, in the role of P1's ConvNeXt-B (sec. 3.1): it says what an image shows.

A small residual network, trained on many more scenes than any classifier of the zoo. They show garments of
the train split, so it never saw one that it judges: real scenes show those of the test split, and the
generator learned from those of the upstream split. Do not let it judge scenes of the train split.
"""

import time
from pathlib import Path

import torch

from synreal.data.scenes import scene_arrays
from synreal.models.card import Card, load_card
from synreal.models.load import build_module
from synreal.paths import cache_dir, zoo_dir
from synreal.train.loop import Recipe
from synreal.train.plans import save_measured, scenes_card
from synreal.train.pretrain import train_classifier

SCENES = 60_000
JUDGE = Recipe(steps=1900, batch_size=128, learning_rate=2e-3, weight_decay=0.05)
CARD = scenes_card(
    name="Judge",
    role="judge",
    library="timm",
    # ResNet-18 made for 32 pixels: a stem of three small convolutions, and its first two stages (8x8, 4x4)
    architecture="resnet18",
    architecture_args={
        "stem_type": "deep", "stem_width": 24, "channels": [64, 128, 128, 128], "layers": [2, 2, 0, 0],
    },
    activation="relu",
    head="linear",
)  # fmt: skip


def train_judge(out: Path, work: Path) -> Card:
    """The card of the judge in folder `out`, trained unless it is there already.

    `work`: where interrupted training goes on. The accuracy expected is measured on validation scenes.
    """
    folder = out / CARD.name
    if (folder / "card.yaml").exists():
        return load_card(folder)
    images, truth = scene_arrays("train", SCENES)
    labels = torch.tensor(truth["label"].to_numpy())
    torch.manual_seed(0)
    start = time.time()
    module = build_module(CARD).to(memory_format=torch.channels_last)
    train_classifier(module, torch.from_numpy(images), labels, JUDGE, work / CARD.name)
    cost = {"steps": JUDGE.steps, "batch_size": JUDGE.batch_size, "wall_seconds": round(time.time() - start)}
    data = {"source": "real", "data": "scenes/train", "images": SCENES, "chosen_on": "scenes/val"}
    return save_measured(folder, module, CARD.model_copy(update={"training": data | cost}))


if __name__ == "__main__":
    train_judge(zoo_dir(), cache_dir() / "zoo")
