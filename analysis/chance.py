"""How probable it is that each of several cells is the best, from their means and the errors of all differences.

Estimates are taken as normal about the cells' true values, with the variances of differences of `analysis.compare`, so
that what cells owe to the same noise and reference images drops out. True values are taken as drawn from one normal
distribution whose mean and spread nobody knows: without that, the luckiest of equal cells would be called best with a
probability of about a half. Where cells lie further apart than their errors, it changes nothing. The variances
themselves are estimates, so draws scatter as Student's distribution with the least of the degrees of freedom that
differences to the first cell have.

Sources: Berger and Deely 1988, JASA 83 (best of several means under a hierarchical prior); Gelman et al., Bayesian Data
Analysis, chapter 5 (a flat prior of the spread).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from analysis.compare import Measured, SeedFactor, error_of_difference

DRAWS = 20_000
SEED = 0
FAR = 6.0
"""Standard deviations of the difference beyond which a cell has no chance against the first."""

SPREADS = 200
"""Values of the spread of true values over which draws are spread."""

SCALES = 32
"""Values of the factor by which variances may be off."""

Array = NDArray[np.float64]


def draws(cells: Sequence[Measured], factor: SeedFactor, sign: float) -> Array | None:
    """Draws of how far each cell is behind the best of them, (draws, cells); None where nothing tells some error.

    Infinite for cells that are too far behind the one of the best mean to matter. `sign`: 1 where lower is better, -1
    where higher is.
    """
    values = sign * np.array([cell.mean for cell in cells])
    found = np.full((DRAWS, len(cells)), np.inf)
    first = int(values.argmin())
    near, freedom = [first], math.inf
    for index, cell in enumerate(cells):
        if index != first:
            error = error_of_difference(cell, cells[first], factor)
            if error is None:
                return None
            if values[index] - values[first] < FAR * math.sqrt(error.variance):
                near.append(index)
                freedom = min(freedom, error.freedom)
    variances = np.zeros((len(near), len(near)))
    for i, a in enumerate(near):
        for j, b in enumerate(near[:i]):
            error = error_of_difference(cells[a], cells[b], factor)
            if error is None:
                return None
            variances[i, j] = variances[j, i] = error.variance
    drawn = true_values(values[near], variances, freedom)
    found[:, near] = drawn - drawn.min(axis=1, keepdims=True)
    return found


def true_values(values: Array, variances: Array, freedom: float = math.inf) -> Array:
    """Draws of the true values up to what all have in common, (DRAWS, n), given estimates of them.

    `variances`: of the differences of each two estimates, (n, n).
    """
    n, random = len(values), np.random.default_rng(SEED)
    if n == 1:
        return np.zeros((DRAWS, 1))
    # Orthonormal contrasts, in which the estimates' common error has no part; then their principal axes.
    contrasts = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, :-1]]))[0][:, 1:].T
    error, axes = np.linalg.eigh(-contrasts @ variances @ contrasts.T / 2)
    error = np.maximum(error, 1e-12 * variances.max())
    seen = axes.T @ contrasts @ values
    middle = (np.arange(SCALES) + 0.5) / SCALES
    scale = freedom / chdtri(freedom, middle) if math.isfinite(freedom) else np.ones(1)
    widest = 3 * math.sqrt(float((seen**2).max() + error.max()))
    spread = (np.arange(SPREADS) + 0.5) / SPREADS * widest
    own = scale[:, None, None] * error
    prior = np.broadcast_to(spread[None, :, None] ** 2, (len(scale), SPREADS, n - 1))
    fit = -(np.log(own + prior) + seen**2 / (own + prior)).sum(axis=2).ravel() / 2
    weight = np.exp(fit - fit.max()).cumsum()
    chosen = np.minimum(np.searchsorted(weight, random.random(DRAWS) * weight[-1]), len(weight) - 1)
    kept = (prior / (own + prior)).reshape(-1, n - 1)[chosen]
    own = np.broadcast_to(own, prior.shape).reshape(-1, n - 1)[chosen]
    drawn = kept * seen + np.sqrt(kept * own) * random.standard_normal((DRAWS, n - 1))
    return drawn @ axes.T @ contrasts


def best(behind: Array) -> Array:
    """By cell the share of draws in which it is the best."""
    return np.bincount(behind.argmin(axis=1), minlength=behind.shape[1]) / len(behind)
