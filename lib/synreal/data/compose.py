"""From factors to pixels: background, objects, blockers, style, exposure."""

import cv2
import numpy as np

from synreal.data.factors import Factors
from synreal.data.sprites import Sprites

SIDE = 32
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
_CLOTH_Y, _CLOTH_X = np.mgrid[0:28, 0:28]
MOTIFS = {
    "stripes": np.where(_CLOTH_X // 3 % 2, 1.0, 0.35).astype(np.float32),
    "checks": np.where((_CLOTH_X // 4 + _CLOTH_Y // 4) % 2, 1.0, 0.35).astype(np.float32),
    "dots": np.where((_CLOTH_X % 6 < 3) & (_CLOTH_Y % 6 < 3), 0.3, 1.0).astype(np.float32),
}
Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the side
NO_BOX: Box = (np.nan, np.nan, np.nan, np.nan)
SENSOR_NOISE = np.float32(0.012)
SKIN = np.array([[0.95, 0.76, 0.65], [0.78, 0.57, 0.44], [0.45, 0.31, 0.24]], np.float32)


def compose(
    factors: Factors, sprites: Sprites, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float]]:
    """One scene, uint8 [32, 32, 3], and what can be measured on it (see `scenes.render`)."""
    canvas = _background(factors.clutter, rng)
    boxes = {"person_": NO_BOX, "second_": NO_BOX}
    if factors.person == "beside":
        beside = _person(rng, side=1 if rng.random() < 0.5 else -1)
        _blend(canvas, *beside)
        boxes["person_"] = _box_of(beside[1])
    if factors.second_label >= 0:
        second = _second_object(factors, sprites, rng)
        _blend(canvas, *second)
        boxes["second_"] = _box_of(second[1])
    colour, alpha, whole = _object(factors, sprites, rng)
    _blend(canvas, colour, alpha)
    shown = alpha
    if factors.blocker == "object":
        front = _box(rng, factors)
        _blend(canvas, *front)
        shown = shown * (1 - front[1])
    if factors.person == "in front":
        front = _person(rng, side=0)
        _blend(canvas, *front)
        boxes["person_"] = _box_of(front[1])
        shown = shown * (1 - front[1])
    if factors.drawing:
        canvas = _as_drawing(canvas)
    canvas = canvas * np.float32(2.0**factors.exposure) + SENSOR_NOISE * rng.standard_normal(
        canvas.shape, np.float32
    )
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    covered = shown.sum()
    return image, {
        "area": float(covered / shown.size),
        "visible": min(float(covered / max(whole, 1e-6)), 1.0),
        **_edges(_box_of(alpha)),
        **_edges(boxes["person_"], "person_"),
        **_edges(boxes["second_"], "second_"),
    }


def _background(clutter: float, rng: np.random.Generator) -> np.ndarray:
    """A wall and a floor in muted tones; clutter adds coarse coloured blotches."""
    wall, floor = 0.3 + 0.4 * rng.random(2)
    tint = (0.94 + 0.12 * rng.random((2, 3))).astype(np.float32)
    horizon = np.float32(0.55 + 0.35 * rng.random())
    height = _Y[:, :1, None]
    below = np.clip((height - horizon) * 12, 0, 1)
    plain = (wall * tint[0]) * (1 - below) * (1 - 0.25 * height) + (floor * tint[1]) * below
    blotches = rng.random((6, 6, 3), np.float32) - 0.5
    coarse = cv2.resize(blotches, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return (plain + 1.2 * clutter * coarse).astype(np.float32)


def _object(
    factors: Factors, sprites: Sprites, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Colour, opacity, and the opacity's sum had nothing been cut by the frame."""
    row = sprite_row(factors, sprites)
    surface = _surface(sprites.images[row], factors, rng)
    opacity = sprites.alpha[row].astype(np.float32) / 255
    matrix = _placement(
        factors.scale, factors.aspect, factors.rotation, factors.center_x, factors.center_y, factors.flip
    )
    colour = cv2.warpAffine(
        surface, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    alpha = cv2.warpAffine(opacity, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return colour, alpha, float(opacity.mean()) * 28 * 28 * abs(float(np.linalg.det(matrix[:, :2])))


def _surface(grey: np.ndarray, factors: Factors, rng: np.random.Generator) -> np.ndarray:
    """The garment's photograph, coloured, patterned and grained: float [28, 28, 3]."""
    light = 0.12 + 0.8 * grey.astype(np.float32) / 255
    if factors.motif != "plain":
        light = light * MOTIFS[factors.motif]
    light = light + factors.grain * (rng.random((28, 28), np.float32) - 0.5)
    return light[..., None] * _rgb(factors.hue, factors.saturation)


def _second_object(
    factors: Factors, sprites: Sprites, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A smaller object of another class near a corner, behind the labelled one."""
    row = _pick(sprites, factors.second_label, int(rng.integers(1 << 30)))
    x, y = 0.2 + 0.6 * rng.integers(2, size=2)
    matrix = _placement(0.62 * min(factors.scale, 0.8), 1.0, 0.0, x, y, bool(rng.random() < 0.5))
    light = 0.12 + 0.8 * sprites.images[row].astype(np.float32) / 255
    surface = light[..., None] * _rgb(rng.random(), 0.35 * rng.random())
    opacity = sprites.alpha[row].astype(np.float32) / 255
    return cv2.warpAffine(surface, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), cv2.warpAffine(
        opacity, matrix, (SIDE, SIDE)
    )


def sprite_row(factors: Factors, sprites: Sprites) -> int:
    """Which photograph of the split the scene shows: a row of `sprites.images`."""
    return _pick(sprites, factors.label, factors.sprite)


def _pick(sprites: Sprites, label: int, draw: int) -> int:
    rows = sprites.by_class[label]
    return int(rows[draw % len(rows)])


def _placement(scale: float, aspect: float, rotation: float, x: float, y: float, flip: bool) -> np.ndarray:
    """The 2x3 matrix from sprite pixels to image pixels."""
    k = scale * SIDE / 28
    sx, sy = k * aspect**0.5 * (-1 if flip else 1), k / aspect**0.5
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    linear = np.array([[c * sx, -s * sy], [s * sx, c * sy]])
    return np.column_stack([linear, np.array([x, y]) * SIDE - 0.5 - linear @ [13.5, 13.5]])


def _box(rng: np.random.Generator, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """A plain box, post or ball in front of the object."""
    cx, cy = factors.center_x + 0.3 * (rng.random(2) - 0.5) * factors.scale
    w, h = factors.scale * (0.2 + 0.25 * rng.random(2))
    if rng.random() < 0.3:
        inside = ((_X - cx) / w) ** 2 + ((_Y - cy) / w) ** 2 < 0.5
    else:
        inside = (abs(_X - cx) < w * 0.7) & (abs(_Y - cy) < h)
    return np.broadcast_to(_rgb(rng.random(), 0.8) * np.float32(0.3 + 0.5 * rng.random()), (SIDE, SIDE, 3)), (
        inside.astype(np.float32)
    )


def _person(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A person seen from the waist up: in front of the middle (side 0), or at the left or right border."""
    x = 16 + 13 * side + (rng.random() - 0.5) * (14 if side == 0 else 3)
    top, size = 6 + 6 * rng.random(), 1.0 if side == 0 else 0.8
    skin, cloth = SKIN[rng.integers(3)], _rgb(rng.random(), 0.9) * np.float32(0.3 + 0.4 * rng.random())
    colour, alpha = np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.float32)
    cx, cy = int(2 * x), int(2 * top)
    for part, paint in (("torso", cloth), ("arms", skin), ("head", skin)):
        mask = np.zeros((64, 64), np.uint8)
        if part == "torso":
            cv2.ellipse(mask, (cx, cy + int(26 * size)), (int(9 * size), int(19 * size)), 0, 0, 360, 255, -1)
        elif part == "arms":
            reach = int((9 + 8 * rng.random()) * size)
            cv2.line(mask, (cx, cy + int(14 * size)), (cx - reach, cy + int(32 * size)), 255, int(5 * size))
            cv2.line(mask, (cx, cy + int(14 * size)), (cx + reach, cy + int(32 * size)), 255, int(5 * size))
        else:
            cv2.circle(mask, (cx, cy), int(6 * size), 255, -1)
        colour[mask > 0], alpha[mask > 0] = paint, 1
    return cv2.resize(colour, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.resize(
        alpha, (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )


def _as_drawing(canvas: np.ndarray) -> np.ndarray:
    """Dark contours on light paper."""
    grey = cv2.cvtColor(np.clip(canvas, 0, 1), cv2.COLOR_RGB2GRAY)
    edges = abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.repeat(0.85 - 0.75 * np.clip(edges[..., None], 0, 1), 3, axis=2).astype(np.float32)


def _blend(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    canvas += alpha[..., None] * (colour - canvas)


def _box_of(alpha: np.ndarray) -> Box:
    x, y, width, height = cv2.boundingRect((alpha > 0.3).view(np.uint8))
    return x / SIDE, y / SIDE, (x + width) / SIDE, (y + height) / SIDE


def _edges(box: Box, prefix: str = "") -> dict[str, float]:
    x0, y0, x1, y1 = box
    return {prefix + "x0": x0, prefix + "y0": y0, prefix + "x1": x1, prefix + "y1": y1}


def _rgb(hue: float, saturation: float) -> np.ndarray:
    """HSV at full value to RGB, float32 [3]."""
    ramps = (min(max(abs((hue * 6 + start) % 6 - 3) - 1, 0), 1) for start in (0.0, 4.0, 2.0))
    return np.array([1 - saturation * (1 - ramp) for ramp in ramps], np.float32)
