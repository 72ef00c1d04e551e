"""Muon: momentum whose update of every weight matrix is brought to singular values of about one."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic: five rounds bring singular values in [0.01, 1] to [0.68, 1.13], near enough for an update."""

ROUNDS: Final = 5
UPDATE_RMS: Final = 0.2
"""Root mean square of an update at rate 1: about Adam's. Source: Liu et al. 2025, arXiv 2502.16982."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of `matrix` = U S V^T, by a Newton-Schulz iteration.

    X_{k+1} = P(X_k X_k^T) X_k. Every factor is a polynomial of X_0 X_0^T, so they commute, and their product is
    gathered in that space of the smaller side. For 3x3 convolutions, nine times as wide as tall, that halves the work.

    Shapes: (m, n). Source: Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    gram = x @ x.T
    gathered = None
    for k in range(ROUNDS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        gathered = factor if gathered is None else factor @ gathered
        if k < ROUNDS - 1:
            gram = factor @ gram @ factor
    return gathered @ x


class Muon(Optimizer):
    """Steps weights of two and more dimensions (outputs first) along orthogonalised Nesterov momentum.

    Steps that follow the gradient follow the directions that dominate it; here all directions of a matrix grow alike,
    and axes of a latent that carry little at first are not left behind.
    """

    def __init__(self, weights: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._advance(weight, weight.grad, group["lr"], group["momentum"])

    def _advance(self, weight: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(state["momentum"], momentum).flatten(1)
        direction = orthogonalised(update)
        size = UPDATE_RMS * max(update.shape) ** 0.5  # an orthogonal m x n matrix has the rms max(m, n)^-1/2
        weight.add_(direction.view(weight.shape), alpha=-rate * size)
