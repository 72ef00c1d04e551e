"""Gaussian data, for which the denoiser, the probability flow and every ancestral step are known in closed form."""

import math

import torch
from torch import Tensor

from ldm.diffusion import Schedule


class ContinuousCosine:
    """alpha = cos(pi t / 2): variance-preserving, and smooth in t, as no table of betas is."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t.double() * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t.double() * math.pi / 2)


class GaussianData:
    """x_0 ~ N(mean, covariance) in two dimensions, correlated and of unequal spread."""

    mean = torch.tensor([0.7, -0.3], dtype=torch.float64)
    covariance = torch.tensor([[0.30, 0.12], [0.12, 0.10]], dtype=torch.float64)

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.spreads, self.directions = torch.linalg.eigh(self.covariance)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x_t."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha * self.mean, alpha**2 * self.covariance + sigma**2 * torch.eye(2, dtype=torch.float64)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], rows of x_t being points."""
        mean, covariance = self.marginal(t)
        gain = self.schedule.alpha(t) * self.covariance @ torch.linalg.inv(covariance)
        return self.mean + (x_t - mean) @ gain.T

    def flow(self, z: Tensor, t: Tensor) -> Tensor:
        """Where the probability flow is at t that belongs to the standard normal `z`: quantiles stay quantiles."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        deviations = (alpha**2 * self.spreads + sigma**2).sqrt()
        return alpha * self.mean + z * deviations @ self.directions.T
