"""Fixtures of the denoiser's tests."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


@pytest.fixture
def randomised() -> Callable[[Network], Network]:
    """Gives every parameter a random value, since a fresh network's zeroed layers hide what stands before them."""

    def randomise(network: Network) -> Network:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return network

    return randomise
