"""Backgrounds of the embedded scenes: plain, gradients and fine textures, drawn with antialiased edges at any size."""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.data.captions import with_article

Kind = Literal["plain", "linear", "radial", "striped", "checked", "dotted", "mottled", "grainy"]
KINDS: tuple[Kind, ...] = ("plain", "linear", "radial", "striped", "checked", "dotted", "mottled", "grainy")
KIND_WEIGHTS = (0.2, 0.17, 0.13, 0.12, 0.1, 0.1, 0.12, 0.06)

Plane = NDArray[np.float32]
Colour = tuple[float, float, float]

PALETTE: dict[str, Colour] = {
    "white": (244, 244, 241),
    "cream": (250, 239, 213),
    "light grey": (205, 208, 213),
    "grey": (142, 146, 152),
    "dark grey": (66, 70, 78),
    "red": (206, 70, 66),
    "orange": (241, 154, 76),
    "yellow": (247, 213, 96),
    "light green": (180, 221, 145),
    "green": (88, 160, 98),
    "teal": (66, 158, 160),
    "light blue": (166, 212, 240),
    "blue": (74, 120, 206),
    "navy blue": (42, 56, 98),
    "purple": (127, 90, 178),
    "lavender": (203, 188, 237),
    "pink": (246, 178, 202),
    "brown": (142, 102, 74),
    "beige": (222, 202, 172),
}
SHADES = {"white": (250.0, 250.0, 250.0), "black": (16.0, 20.0, 32.0)}
MOST_CYCLES = 40.0
FINEST_PERIOD = 4.0
"""Pixels a stripe, a check or a dot takes at least, so that a texture is resolved and not grey."""


@dataclass(frozen=True)
class Background:
    """What is drawn behind the objects. `second` is a named colour for gradients, else a tint of `first`.

    `cycles` counts periods over the image's side, `phase` shifts them (fractions of a period), `angle` in radians.
    """

    kind: Kind
    names: tuple[str, str]
    first: Colour
    second: Colour
    angle: float
    cycles: float
    phase: tuple[float, float]
    duty: float
    seed: int

    @property
    def phrase(self) -> str:
        """The background as a noun phrase, e.g. "a striped blue background"."""
        first, second = self.names
        if self.kind in ("linear", "radial"):
            return with_article(f"{'radial ' if self.kind == 'radial' else ''}{first} to {second} gradient")
        return with_article(f"{self.kind} {first} background")


def draw_background(rng: np.random.Generator, resolution: int, avoid: Colour) -> Background:
    """Draws a background whose colour stands off from `avoid`, the mean colour of what lies before it."""
    kind = KINDS[int(np.searchsorted(np.cumsum(KIND_WEIGHTS), rng.random() * sum(KIND_WEIGHTS)))]
    names = list(PALETTE)
    order = rng.permutation(len(names))
    first = next((i for i in order if _distance(PALETTE[names[i]], avoid) > 90), order[0])
    second = next(i for i in order if i != first and _distance(PALETTE[names[i]], PALETTE[names[first]]) < 260)
    base = _jittered(rng, PALETTE[names[first]])
    tint = _jittered(rng, PALETTE[names[second]]) if kind in ("linear", "radial") else _tint(rng, base)
    most = min(resolution / FINEST_PERIOD, MOST_CYCLES)
    return Background(
        kind=kind,
        names=(names[first], names[second]),
        first=base,
        second=tint,
        angle=float(rng.random() * 2 * np.pi),
        cycles=float(2.0 * (most / 2.0) ** rng.random()),
        phase=(float(rng.random()), float(rng.random())),
        duty=float(0.3 + 0.4 * rng.random()),
        seed=int(rng.integers(2**31)),
    )


def paint(background: Background, resolution: int) -> Plane:
    """The background as float32 (resolution, resolution, 3) in [0, 255]."""
    share = _share(background, resolution)[..., None]
    first, second = (np.asarray(colour, np.float32) for colour in (background.first, background.second))
    return first + share * (second - first)


def _share(background: Background, resolution: int) -> Plane:
    """How much of the second colour each pixel takes, in [0, 1]."""
    kind = background.kind
    if kind == "plain":
        return np.zeros((resolution, resolution), np.float32)
    if kind in ("mottled", "grainy"):
        return _noise(background, resolution)
    x, y = _grid(resolution)
    u, v = _turned(x - 0.5, y - 0.5, background.angle)
    if kind == "linear":
        return np.clip(0.5 + u / (abs(np.cos(background.angle)) + abs(np.sin(background.angle))), 0, 1)
    if kind == "radial":
        centre = (0.3 + 0.4 * background.phase[0], 0.3 + 0.4 * background.phase[1])
        return np.clip(np.hypot(x - centre[0], y - centre[1]) / 0.8, 0, 1)
    u, v = (c * background.cycles + p for c, p in zip((u, v), background.phase, strict=True))
    pixels = resolution / background.cycles  # of one period
    if kind == "striped":
        return _band(u, background.duty, pixels)
    if kind == "checked":
        across, along = _band(u, 0.5, pixels), _band(v, 0.5, pixels)
        return across + along - 2 * across * along
    radius = 0.15 + 0.25 * background.duty
    distance = np.hypot(u - np.round(u), v - np.round(v))
    return np.clip(0.5 + (radius - distance) * pixels, 0, 1).astype(np.float32)


def _band(u: Plane, duty: float, pixels: float) -> Plane:
    """A square wave of period 1, high over `duty` of it, its edges one pixel wide."""
    return np.clip(0.5 + (duty / 2 - np.abs(u - np.round(u))) * pixels, 0, 1).astype(np.float32)


def _noise(background: Background, resolution: int) -> Plane:
    """Smooth random values: octaves from coarse to fine (mottled), or one fine octave (grainy)."""
    rng = np.random.Generator(np.random.PCG64(background.seed))
    if background.kind == "grainy":
        cells = [resolution // 2 if background.duty < 0.5 else resolution]
    else:
        coarsest = 2 + int(background.duty * 6)
        cells = [coarsest * 2**octave for octave in range(4) if coarsest * 2**octave <= resolution // 2] or [2]
    total = np.zeros((resolution, resolution), np.float32)
    for octave, count in enumerate(cells):
        values = rng.random((count, count), dtype=np.float32)
        smooth = Image.fromarray(values).resize((resolution, resolution), Image.Resampling.BICUBIC)
        total += 0.6**octave * (np.asarray(smooth) - 0.5)
    return np.clip(0.5 + total / 1.2, 0, 1)


@functools.lru_cache(maxsize=4)
def _grid(resolution: int) -> tuple[Plane, Plane]:
    centres = ((np.arange(resolution) + 0.5) / resolution).astype(np.float32)
    return np.broadcast_to(centres, (resolution, resolution)), np.broadcast_to(
        centres[:, None], (resolution, resolution)
    )


def _turned(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _distance(a: Colour, b: Colour) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _jittered(rng: np.random.Generator, colour: Colour) -> Colour:
    r, g, b = np.clip(np.asarray(colour) + rng.uniform(-10, 10, 3), 0, 255)
    return float(r), float(g), float(b)


def _tint(rng: np.random.Generator, colour: Colour) -> Colour:
    """A lighter or darker relative of the colour: textures stay tone in tone, so that objects stand out."""
    brightness = sum(colour) / 3
    lighter = brightness < 90 or (brightness < 190 and rng.random() < 0.5)
    shade, amount = SHADES["white" if lighter else "black"], rng.uniform(0.12, 0.42 if lighter else 0.28)
    r, g, b = ((1 - amount) * c + amount * s for c, s in zip(colour, shade, strict=True))
    return float(r), float(g), float(b)
