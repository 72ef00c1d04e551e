"""The ladder: how an extractor's kernel distance rises with known damage, and what it puts above what.

Real images are split into two halves. One is the reference; the other is damaged and measured against it. What the
undamaged half measures is the floor, step 0 of every row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.damage import DAMAGES, STRENGTHS, Damage
from ldm.metrics.distribution import distance_interval
from ldm.metrics.intervals import Interval, difference
from ldm.metrics.kernel import kernel_distance
from ldm.randomness import generator

Array = NDArray[np.float32]
See = Callable[[Tensor], Array]
"""uint8 images (N, 3, H, W) -> features (N, d)."""

GENERATED, REFERENCE = 0, 1
"""Which of an estimate's deviations are those of which images."""

HELD, OPEN, REVERSED = "held", "not told apart", "reversed"


@dataclass(frozen=True)
class OrderCheck:
    """Of two damages at their strengths, the one that a good extractor puts above the other."""

    worse: tuple[str, int]
    better: tuple[str, int]

    @property
    def title(self) -> str:
        """Both in words, at a side of 32 pixels."""
        worse, better = (f"{_words(DAMAGES[name], strength)}" for name, strength in (self.worse, self.better))
        return f"{worse} above {better}"


def _words(damage: Damage, strength: int) -> str:
    return f"{damage.title} {damage.amounts[strength - 1]:g} {damage.unit}"


ORDER_CHECKS: Final = (
    OrderCheck(("fields", 5), ("blur", 3)),
    OrderCheck(("patches", 3), ("blur", 5)),
    OrderCheck(("contrast", 5), ("blur", 3)),
    OrderCheck(("saturation", 5), ("blur", 3)),
)
"""Fields of colour, textures without shapes, and wrong colours are worse than shapes that are soft."""


@dataclass(frozen=True)
class Rung:
    """The kernel distance of n images at one strength of a damage."""

    strength: int
    amount: float
    n: int
    distance: Interval


@dataclass(frozen=True)
class Row:
    """A damage from the floor to its last strength.

    `tau`: Kendall's, of distance and strength. `apart`: for each strength whether its distance lies above that of the
    strength below, by the 95 % interval of the difference.
    """

    damage: Damage
    rungs: tuple[Rung, ...]
    tau: float
    apart: tuple[bool, ...]


@dataclass(frozen=True)
class Ladder:
    """All rows of an extractor on a set of images, and the verdict on each of `ORDER_CHECKS`.

    `floor`: what the undamaged images measure.
    """

    floor: Rung
    rows: tuple[Row, ...]
    checks: tuple[str, ...]

    @property
    def tau(self) -> float:
        """The mean over rows."""
        return float(np.mean([row.tau for row in self.rows]))

    @property
    def apart(self) -> float:
        """The share of steps from one strength to the next that are told apart."""
        return float(np.mean([row.apart for row in self.rows]))

    @property
    def held(self) -> int:
        """The number of order checks that hold."""
        return self.checks.count(HELD)


def kendall_tau(values: Sequence[float]) -> float:
    """Pairs that rise less pairs that fall, by all pairs; equal values count as neither (tau-a)."""
    signs = [np.sign(b - a) for a, b in combinations(values, 2)]
    return float(np.mean(signs))


def halves(n: int, seed: int) -> tuple[list[int], list[int]]:
    """The indices of n images in two random halves of one size: the reference, and those to be damaged."""
    order = torch.randperm(n, generator=generator(seed, "ladder")).tolist()
    return order[: n // 2], order[n // 2 : n // 2 * 2]


def climb(
    see: See,
    reference: Tensor,
    images: Tensor,
    labels: Tensor | None = None,
    seed: int = 0,
    on_row: Callable[[int], None] = lambda rows: None,
) -> Ladder:
    """The ladder of one extractor; without labels, damages that need them are left out.

    Both sets must be in random order, as `halves` gives them: blocks of them are left out for the intervals.
    `on_row` gets the number of finished rows. Shapes: both uint8 (N, 3, H, W), N their own; labels those of `images`.
    """
    of_reference, undamaged = see(reference), see(images)
    known = dict(zip(map(_key, images), undamaged, strict=True))

    def rung(damage: Damage | None, strength: int) -> Rung:
        damaged = images if damage is None else damage(images, strength, seed, labels)
        amount = 0.0 if damage is None else damage.amount(strength, min(images.shape[2:]))
        return Rung(strength, amount, len(damaged), distance(_seen(see, damaged, known), of_reference))

    floor, rows = rung(None, 0), []
    for damage in damages(labels is not None):
        rungs = tuple(rung(damage, strength) for strength in STRENGTHS)
        steps = (floor, *rungs)
        tau = kendall_tau([step.distance.value for step in steps])
        rows.append(Row(damage, rungs, tau, tuple(verdict(b, a) == HELD for a, b in pairwise(steps))))
        on_row(len(rows))
    found = {(row.damage.name, rung.strength): rung for row in rows for rung in row.rungs}
    return Ladder(floor, tuple(rows), tuple(verdict(found[one.worse], found[one.better]) for one in ORDER_CHECKS))


def damages(with_labels: bool) -> tuple[Damage, ...]:
    """Those that images with or without labels can be given."""
    return tuple(damage for damage in DAMAGES.values() if with_labels or not damage.needs_labels)


class Measured(Protocol):
    """The kernel distance of n images."""

    @property
    def n(self) -> int: ...

    @property
    def distance(self) -> Interval: ...


def verdict(above: Measured, below: Measured) -> str:
    """Whether one rung lies above another: HELD, OPEN or REVERSED, by the interval of the paired difference."""
    # Rungs of as many images are made of the same ones, in the same order. Pairs of unlike images change no variance.
    shared = (GENERATED, REFERENCE) if above.n == below.n else (REFERENCE,)
    found = difference(above.distance, below.distance, shared)
    return HELD if found.low > 0 else REVERSED if found.high < 0 else OPEN


def distance(features: Array, reference: Array) -> Interval:
    """The kernel distance with its 95 % interval. Shapes: (n, d), (m, d)."""
    return distance_interval(*kernel_distance(features, reference))


def _key(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def _seen(see: See, images: Tensor, known: dict[bytes, Array]) -> Array:
    """Features of images, of which those that damage left alone are known."""
    keys = list(map(_key, images))
    new = [index for index, key in enumerate(keys) if key not in known]
    fresh = dict(zip(new, see(images[new]), strict=True)) if new else {}
    return np.stack([fresh[index] if index in fresh else known[key] for index, key in enumerate(keys)])
