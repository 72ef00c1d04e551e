"""Randomness as a pure function of (seed, keys): nothing but step counters needs saving to resume a run."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[tuple[int, ...]], Tensor]
"""shape of one image -> normal noise (N, *shape), e.g. `SampleNoise`; successive calls give new noise."""


def derived_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed that depends on `seed` and on every key, the same on all machines."""
    text = "/".join(str(key) for key in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `generator(seed, "step", k)` or `generator(seed, "sample", i)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *keys))


def numpy_generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose, named by keys as in `generator`."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, *keys)))


class SampleNoise:
    """Normal noise for a batch in which sample i draws from its own stream, a function of (seed, i) alone.

    The images of a sample set therefore do not depend on batch size, order or resumption. Drawn on the CPU and
    moved, so that devices agree.
    """

    def __init__(self, seed: int, indices: range | list[int], device: torch.device | str = "cpu") -> None:
        self.generators = [generator(seed, "sample", index) for index in indices]
        self.device = device

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise of shape (N, *shape), N the number of samples; successive calls continue every stream."""
        drawn = [torch.randn(shape, generator=g, dtype=dtype) for g in self.generators]
        return torch.stack(drawn).to(self.device)
