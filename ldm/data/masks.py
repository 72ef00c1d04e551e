"""Random regions to fill in: strokes of three thicknesses, and boxes."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

MASK_KINDS = ("thin", "medium", "thick", "box")

# Shares of the image's smaller side: width of a stroke, length of one of its pieces; then how many strokes and pieces.
_STROKES = {
    "thin": ((0.02, 0.06), (0.1, 0.35), (2, 5), (3, 9)),
    "medium": ((0.06, 0.14), (0.15, 0.4), (1, 4), (2, 6)),
    "thick": ((0.14, 0.3), (0.15, 0.45), (1, 3), (2, 5)),
}
_BOXES, _BOX_SIDES = (1, 3), (0.2, 0.55)
_MOST_COVERED = 0.7
_TRIES = 20


def draw_mask(
    rng: np.random.Generator, height: int, width: int, kinds: Sequence[str] = MASK_KINDS
) -> NDArray[np.float32]:
    """A mask (height, width) of a kind drawn from `kinds`, 1 where to be filled in; at least a pixel, at most 70 %.

    Strokes are polylines with round joints that turn at random, as in Yu et al. 2019 (free-form inpainting); thin,
    medium and thick as in Suvorov et al. 2022, sized by the image.
    """
    kind = kinds[int(rng.integers(len(kinds)))]
    for _ in range(_TRIES):
        drawn = _boxes(rng, height, width) if kind == "box" else _strokes(rng, height, width, kind)
        if 0 < drawn.mean() <= _MOST_COVERED:
            return drawn
    centre = np.zeros((height, width), np.float32)
    centre[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = 1.0
    return centre


def _strokes(rng: np.random.Generator, height: int, width: int, kind: str) -> NDArray[np.float32]:
    thickness, length, strokes, pieces = _STROKES[kind]
    side = min(height, width)
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for _ in range(_count(rng, strokes)):
        wide = max(1, round(side * rng.uniform(*thickness)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        heading = rng.uniform(0, 2 * math.pi)
        points = [(x, y)]
        for _ in range(_count(rng, pieces)):
            heading += rng.normal(0, 0.8)
            reach = side * rng.uniform(*length)
            x = float(np.clip(x + reach * math.cos(heading), 0, width - 1))
            y = float(np.clip(y + reach * math.sin(heading), 0, height - 1))
            points.append((x, y))
        pen.line(points, fill=1, width=wide, joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill=1)
    return np.asarray(canvas, np.float32)


def _boxes(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    drawn = np.zeros((height, width), np.float32)
    for _ in range(_count(rng, _BOXES)):
        high, wide = (max(1, round(side * rng.uniform(*_BOX_SIDES))) for side in (height, width))
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        drawn[top : top + high, left : left + wide] = 1.0
    return drawn


def _count(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))
