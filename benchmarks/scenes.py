"""Scenes per second on one core, beside the same compositing written with Pillow.

    python benchmarks/scenes.py [SCENES]

Both draw the factors, then compose background, garment (coloured, rotated, scaled) and person, adjust the
light and add noise. The Pillow version is the short way to write it; it leaves out motifs, boxes, second
objects, drawings and the measured truth, so it does less.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from synreal.data.factors import Factors, draw_factors
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import Sprites, load_sprites

SIDE = 32


def with_pillow(count: int) -> np.ndarray:
    sprites, rng = load_sprites("train"), np.random.default_rng(0)
    return np.stack([pillow_scene(draw_factors(i, "train"), sprites, rng) for i in range(count)])


def pillow_scene(factors: Factors, sprites: Sprites, rng: np.random.Generator) -> np.ndarray:
    scene = pillow_background(factors.clutter, rng)
    garment = pillow_garment(factors, sprites)
    corner = (
        round(factors.center_x * SIDE - garment.width / 2),
        round(factors.center_y * SIDE - garment.height / 2),
    )
    scene.paste(garment, corner, garment)
    if factors.person == "in front":
        pen = ImageDraw.Draw(scene)
        pen.ellipse((13, 5, 19, 11), fill=(190, 140, 110))
        pen.rectangle((11, 11, 21, 32), fill=(60, 40, 80))
    lit = np.asarray(ImageEnhance.Brightness(scene).enhance(2**factors.exposure))
    return np.clip(lit + rng.normal(0, 3, lit.shape), 0, 255).astype(np.uint8)


def pillow_background(clutter: float, rng: np.random.Generator) -> Image.Image:
    scene = Image.new("RGB", (SIDE, SIDE), (140, 140, 145))
    ImageDraw.Draw(scene).rectangle((0, 22, SIDE, SIDE), fill=(100, 95, 90))
    blotches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    return Image.blend(scene, blotches, clutter / 2)


def pillow_garment(factors: Factors, sprites: Sprites) -> Image.Image:
    rows = sprites.by_class[factors.label]
    row = rows[factors.sprite % len(rows)]
    grey, alpha = Image.fromarray(sprites.images[row]), Image.fromarray(sprites.alpha[row])
    tint = [round(255 * factors.hue), round(255 * factors.saturation), 255]
    colour = Image.new("HSV", grey.size, tuple(tint)).convert("RGB")
    garment = Image.composite(colour, Image.new("RGB", grey.size), grey)
    garment.putalpha(alpha)
    side = max(1, round(factors.scale * SIDE))
    return garment.resize((side, side)).rotate(-factors.rotation, expand=True)


def rate(make: Callable[[int], object], count: int) -> float:
    """Scenes per second of processor time, the best of three, after a first call that loads the sprites."""
    make(10)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        make(count)
        seconds.append(time.process_time() - start)
    return count / min(seconds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    ways = {"synreal": lambda n: scene_arrays("train", n), "Pillow": with_pillow}
    for name, make in ways.items():
        print(f"{name}: {rate(make, count):,.0f} scenes per second and core ({count} scenes, best of 3)")


if __name__ == "__main__":
    main()
