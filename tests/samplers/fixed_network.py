"""A fixed network, and noise that is remembered: what trajectories of two implementations are compared on."""

import torch
from torch import nn


class Fixed(nn.Module):
    """A small deterministic network that depends on position, channel and index."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weights = torch.randn(2, 4, 4, 3, 3, generator=generator, dtype=torch.float64) / 6
        self.first, self.second = weights.to(dtype)

    def forward(self, x, index, context=None, concat=None):
        hidden = nn.functional.conv2d(x, self.first, padding=1) + (index.view(-1, 1, 1, 1) / 1000).sin()
        return nn.functional.conv2d(torch.tanh(hidden), self.second, padding=1) + 0.5 * x


def starting_noise(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """What a batch of two starts from."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


class RecordedNoise:
    """Normal noise for a batch of two; `drawn` keeps it in the order of the calls."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.dtype = dtype
        self.drawn: list[torch.Tensor] = []

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        self.drawn.append(torch.randn((2, *shape), generator=self.generator, dtype=torch.float64).to(self.dtype))
        return self.drawn[-1]


def no_noise(shape: tuple[int, ...]) -> torch.Tensor:
    raise AssertionError("a deterministic sampler asked for noise")
