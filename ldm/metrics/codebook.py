"""How a codebook is used: counts of its codes, and what sums them up."""

import torch
from torch import Tensor

from ldm.metrics.values import Metric
from ldm.records import PREDICTORS

CODEBOOK_USAGE = Metric("codebook_usage", "share of codes in use", True, PREDICTORS)
CODEBOOK_PERPLEXITY_SHARE = Metric("codebook_perplexity_share", "perplexity of codes over number", True, PREDICTORS)


def code_counts(indices: Tensor, codes: int) -> Tensor:
    """How often each of `codes` codes occurs in `indices` (any shape); shape (codes,), int64."""
    return torch.bincount(indices.flatten(), minlength=codes)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes' frequencies: 1 where one code is used, `codes` where all are used alike.

    Shapes: counts (codes,); result (). Source: van den Oord et al., arXiv 1711.00937.
    """
    frequency = counts.double() / counts.sum().clamp(min=1)
    return torch.exp(torch.special.entr(frequency).sum())


def codebook_usage(counts: Tensor) -> Tensor:
    """The share of codes that occur at all, in [0, 1]. Shapes: counts (codes,); result ()."""
    return (counts > 0).double().mean()
