"""Real sizes of latents: symbols through an entropy coder, as a check on the ideal code lengths of `ldm.metrics.rate`.

The coder is constriction's ANS (Duda 2013), the models are what a decoder has from training: the smoothed histogram of
codebook indices, a Gaussian for each channel. Coder and models are exact to 2^-24.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldm.metrics.rate import SMOOTHING
from ldm.metrics.values import Metric
from ldm.records import CODING

CODED_INDEX = Metric("coded_index", "coded indices", False, CODING, "bits/px")
CODED_LATENT = Metric("coded_latent", "coded latents", False, CODING, "bits/px")

Symbols = NDArray[np.int32]

LARGEST_SYMBOL = 2**15 - 1
"""Quantised latents lie within this of 0; the coder keeps 2^-24 for each, together 0.006 bits a symbol."""


@dataclass(frozen=True)
class CodedSize:
    """Bits of all images in one stream, and of each image as a file of whole bytes by itself, (N,)."""

    together: int
    alone: NDArray[np.int64]


@dataclass(frozen=True)
class SymbolModel:
    """The distribution of each symbol of an image: a model of constriction, and its parameters, one a symbol."""

    model: Any
    parameters: Sequence[NDArray[np.float64]] = ()

    def of_images(self, n: int) -> "SymbolModel":
        """The distribution of the symbols of n images, one behind another."""
        return SymbolModel(self.model, [np.tile(values, n) for values in self.parameters])


def index_model(training_counts: ArrayLike, smoothing: float = SMOOTHING) -> SymbolModel:
    """The smoothed histogram that `rate.index_crossentropy` codes under. Shapes: training_counts (codes,)."""
    weights = np.asarray(training_counts, dtype=np.float64) + smoothing
    return SymbolModel(constriction.stream.model.Categorical(weights / weights.sum(), perfect=False))


def latent_model(std: ArrayLike, step: ArrayLike, positions: int) -> SymbolModel:
    """Channels of `positions` latents each, quantised in steps around their mean, as rounded Gaussians.

    Shapes: std and step (C,); parameters (C * positions,).
    """
    spread = np.repeat(np.asarray(std, dtype=np.float64) / np.asarray(step, dtype=np.float64), positions)
    family = constriction.stream.model.QuantizedGaussian(-LARGEST_SYMBOL, LARGEST_SYMBOL)
    return SymbolModel(family, (np.zeros_like(spread), spread))


def quantised(latent: Tensor, mean: Tensor, step: Tensor) -> Tensor:
    """Latents as whole steps from the mean; `dequantised` is what a decoder makes of them.

    Shapes: latent (N, C, h, w), mean and step (C,); result as latent, int64.
    Raises: ValueError where a latent lies further than the coder reaches.
    """
    steps = ((latent.double() - mean.view(1, -1, 1, 1)) / step.view(1, -1, 1, 1)).round().long()
    furthest = int(steps.abs().max())
    if furthest > LARGEST_SYMBOL:
        raise ValueError(f"a latent lies {furthest} steps from the mean; the coder covers {LARGEST_SYMBOL}")
    return steps


def dequantised(steps: Tensor, mean: Tensor, step: Tensor) -> Tensor:
    """The latents that whole steps stand for.

    Shapes: steps (N, C, h, w), mean and step (C,); result as steps, float64.
    """
    return mean.view(1, -1, 1, 1) + steps * step.view(1, -1, 1, 1)


def encoded(symbols: ArrayLike, model: SymbolModel) -> Any:
    """The coder that holds these symbols, of any shape, in the order in which they are read."""
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(np.asarray(symbols, dtype=np.int32).ravel(), model.model, *model.parameters)
    return coder


def decoded(words: NDArray[np.uint32], count: int, model: SymbolModel) -> Symbols:
    """The symbols of a stream, given their number. Shapes: words (n,); result (count,)."""
    coder = constriction.stream.stack.AnsCoder(words)
    amount = model.parameters or (count,)
    symbols: Symbols = coder.decode(model.model, *amount)
    return symbols


def coded_size(images: Tensor | NDArray[np.int64], model: SymbolModel) -> CodedSize:
    """The size of the symbols of N images, (N, ...), under one model of an image."""
    symbols = np.asarray(images, dtype=np.int32).reshape(len(images), -1)
    together = encoded(symbols, model.of_images(len(symbols)))
    alone = [-(-encoded(own, model).num_valid_bits() // 8) * 8 for own in symbols]
    return CodedSize(together.num_valid_bits(), np.array(alone, dtype=np.int64))


def matched_steps(posterior_variance: Tensor) -> Tensor:
    """Steps whose rounding has the variance of the posteriors, step^2 / 12.

    Coding with them takes 1/2 log2(2 pi e / 12) = 0.25 bits a latent more than the KL rate, the price of a scalar
    quantiser (Zamir and Feder 1992), where posteriors have one width and latents are smooth on that scale.
    Shapes: (C,), result alike.
    """
    return torch.sqrt(12 * posterior_variance)
