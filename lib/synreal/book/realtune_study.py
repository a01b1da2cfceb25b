"""Which tunings the chapter 03_realtune consists of; each is trained once and kept (`evaluate.tuned`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from datasets import Dataset

from synreal.book.realtune import named
from synreal.models.card import load_card
from synreal.synbench.rare import RARE, rare_images
from synreal.train.adapt import targeted
from synreal.train.finetune import Method
from synreal.train.recipes import Recipe, default_recipe, for_epochs, with_steps
from synreal.train.tuning import Tuning

# For scenes on two cores: few steps, chosen on validation scenes with the learning rate.
SHORT = Recipe(48, 32, 3e-4, weight_decay=0.05, warmup_steps=4)


@dataclass(frozen=True, eq=False)
class Setup:
    """What tunings share: checkpoints by role, the pools that images are drawn from, and how much of each.

    steps: of SHORT; 0 takes the checkpoint's own recipe (`default_recipe`, P1's for large images) instead.
    """

    checkpoints: Mapping[str, str]
    real: Dataset
    synthetic: Dataset
    images: int
    steps: int
    seeds: int

    def settings(self) -> list[Tuning]:
        """SynTune and RealTune of every checkpoint (P1 Fig. 6)."""
        pools = {"SynTune": self.synthetic, "RealTune": self.real}
        return [
            tuning
            for role in self.checkpoints
            for setting, pool in pools.items()
            for tuning in self.repeated(named(role, setting), role, pool)
        ]

    def sizes(self, role: str, sizes: Sequence[int], steps: int = 0) -> list[Tuning]:
        """RealTune on fewer and more images, each for `steps`, or as many as usual (P1 Fig. 7a)."""
        usual = self._recipe(role)
        recipe = with_steps(usual, steps) if steps else usual
        return [
            tuning
            for size in sizes
            for tuning in self.repeated(f"{role}, {size} images", role, self.real, size, recipe)
        ]

    def lengths(self, role: str, epochs: Sequence[int], images: int) -> list[Tuning]:
        """RealTune for shorter and longer, each with its own schedule (P1 Fig. 7b)."""
        base = self._recipe(role)
        return [
            tuning
            for epoch in epochs
            for tuning in self.repeated(
                f"{role}, {epoch} epochs",
                role,
                self.real,
                images,
                with_steps(base, for_epochs(base, epoch, images).steps),
            )
        ]

    def methods(self, role: str, methods: Sequence[Method]) -> list[Tuning]:
        """RealTune by other methods, on the same images for the same steps."""
        return [
            replace(tuning, method=method)
            for method in methods
            for tuning in self.repeated(f"{role}, {method}", role, self.real)
        ]

    def rare(self, role: str, values: pd.DataFrame, images: int) -> list[Tuning]:
        """RealTune on random images, and on as many from the rare end of each measure (P1 Tables 2 and 5)."""
        tunings = self.repeated(f"{role}, random", role, self.real, images)
        for factor, rare in RARE.items():
            tunings += [
                Tuning(
                    f"{role}, rare {factor}",
                    self.checkpoints[role],
                    rare_images(self.real, values[rare.measure], rare, images, seed),
                    replace(self._recipe(role), seed=seed),
                )
                for seed in range(self.seeds)
            ]
        return tunings

    def repeated(
        self, model: str, role: str, pool: Dataset, images: int | None = None, recipe: Recipe | None = None
    ) -> list[Tuning]:
        """One tuning per seed, which draws the images from the pool, and their order."""
        recipe = recipe or self._recipe(role)
        return [
            Tuning(
                model,
                self.checkpoints[role],
                targeted(pool, images or self.images, seed),
                replace(recipe, seed=seed),
            )
            for seed in range(self.seeds)
        ]

    def _recipe(self, role: str) -> Recipe:
        if self.steps:
            return with_steps(SHORT, self.steps)
        return default_recipe(load_card(self.checkpoints[role]), self.images)
