"""Averages of weights whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

A power-function average after step n weighs the weights of step k by (k/n)^(g+1) - ((k-1)/n)^(g+1), the integral over
that step of its profile p(t; n, g) = (g + 1) t^g / n^(g+1), 0 < t <= n. Its length is named by the standard deviation
of the profile over n, sqrt((g + 1) / ((g + 2)^2 (g + 3))): 0.1 averages over about a tenth of the training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldm.training.ema import Average

LONGEST = 0.28
"""A flat average over all of the training, g = 0, has a relative standard deviation of 0.289."""

STORED_LENGTHS = (0.05, 0.1)
"""Of the two averages that a training keeps, from whose snapshots others are reconstructed; the authors'."""


def exponent(length: float) -> float:
    """g of an average of that length, the largest root of (g + 2)^2 (g + 3) = (g + 1) / length^2.

    Raises: ValueError for a length outside 0 to `LONGEST`.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(f"no power-function average has the length {length}: it is above 0 and up to {LONGEST}")
    inverse = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


class PowerAverage(Average):
    """The average of a module's parameters over all steps so far, with its buffers as they are."""

    def __init__(self, module: nn.Module, length: float) -> None:
        super().__init__(module)
        self.exponent = exponent(length)

    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after step 1, 2, ...; what was there before the first counts nothing."""
        self.move(module, 1 - (1 - 1 / step) ** (self.exponent + 1))


@dataclass(frozen=True)
class Profile:
    """The average of relative standard deviation `length` as it was after `step` steps."""

    length: float
    step: int


def _inner(one: Profile, other: Profile) -> float:
    """The integral of the product of two profiles."""
    a, b, shorter = exponent(one.length), exponent(other.length), min(one.step, other.step)
    powers = (a + 1) * math.log(shorter / one.step) + (b + 1) * math.log(shorter / other.step)
    return (a + 1) * (b + 1) / (a + b + 1) / shorter * math.exp(powers)


@dataclass(frozen=True)
class Reconstruction:
    """What each snapshot counts in an average that was not stored; `error` of the profile, relative to its norm."""

    weights: NDArray[np.float64]
    error: float


def reconstruction(stored: Sequence[Profile], wanted: Profile) -> Reconstruction:
    """The combination of stored profiles that is nearest to the wanted one in the mean square, of weights of sum 1.

    The sum, which each profile's integral is, leaves weights of a network that never moved exactly where they are.
    Shapes: (snapshots,), float64. Source: Karras et al. 2024, section 3.2 and Appendix C, without the constraint.
    """
    gram = np.array([[_inner(one, other) for other in stored] for one in stored])
    with_wanted, square = np.array([_inner(one, wanted) for one in stored]), _inner(wanted, wanted)
    scale = np.sqrt(np.diag(gram))  # to profiles of norm 1, whose Gram matrix is better conditioned
    ones = 1 / scale
    system = np.block([[gram / np.outer(scale, scale), ones[:, None]], [ones[None, :], np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.append(with_wanted / scale, 1.0), rcond=1e-13)[0][:-1] / scale
    left = square - 2 * found @ with_wanted + found @ gram @ found
    return Reconstruction(found, math.sqrt(max(left, 0.0) / square))


def combined(snapshots: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The named tensors of snapshots, summed with these weights in float64; whole numbers are those of the last."""
    result: dict[str, Tensor] = {}
    for name, last in snapshots[-1].items():
        if not last.is_floating_point():
            result[name] = last
            continue
        total = torch.zeros_like(last, dtype=torch.float64)
        for snapshot, weight in zip(snapshots, weights, strict=True):
            total += weight * snapshot[name].double()
        result[name] = total.to(last.dtype)
    return result
