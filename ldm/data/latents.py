"""The latent cache: encodings of the training images, and batches of normalised latents drawn from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.contract import ImageCache, Indices
from ldm.data.fields import Draw, Fields
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.memory import moved
from ldm.randomness import Noise

AT_A_TIME = 1024
"""Encodings that are brought to a device at a time."""


class CachedLatents:
    """Batches of latents z = scale(latent(packed)) for training the diffusion model.

    `packed` holds what `FirstStage.pack` gave, (N, cache_channels, h, w); where it is None the images are encoded as
    they are asked for, which costs nothing where the first stage is the identity. `fields_of` makes what the
    conditioning reads. `held`: all encodings on the device, once it was asked to hold them.
    """

    def __init__(
        self,
        packed: NDArray[np.float32] | None,
        images: ImageCache,
        first_stage: FirstStage,
        scale: LatentScale,
        device: str,
        fields_of: Fields,
    ) -> None:
        self.fields_of = fields_of
        self.packed = packed
        self.images = images
        self.first_stage = first_stage
        self.scale = scale.on(device)
        self.device = device
        self.held: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def hold(self, most: float) -> bool:
        """Brings all encodings to the device if they are no more than `most` bytes; whether they lie there."""
        if self.packed is not None and self.held is None and self.packed.nbytes <= most:
            self.held = torch.empty(self.packed.shape, device=self.device)
            for first in range(0, len(self.packed), AT_A_TIME):  # a part, since the CPU's memory may not hold them all
                part = slice(first, first + AT_A_TIME)
                self.held[part] = torch.from_numpy(np.array(self.packed[part])).to(self.device)
        return self.held is not None

    def let_go(self) -> None:
        """Gives the device's memory back that held encodings take."""
        self.held = None

    @torch.no_grad()
    def encoded(self, indices: Indices) -> Tensor:
        """What `FirstStage.pack` gives of these images, on the training device: from the cache where there is one.

        Shapes: result (N, cache_channels, h, w).
        """
        if self.held is not None:
            return self.held[moved(torch.as_tensor(indices), self.device)]
        if self.packed is None:
            return self.first_stage.pack(self.first_stage.encode(self.images.batch(indices, device=self.device)))
        return moved(torch.from_numpy(np.ascontiguousarray(self.packed[np.asarray(indices)])), self.device)

    @torch.no_grad()
    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        """Normalised latents of the images `indices`; a KL first stage's posterior is sampled with `noise`.

        Shapes: indices (N,); result (N, C, h, w).
        """
        packed = self.encoded(indices)
        drawn = noise((self.first_stage.channels, *packed.shape[2:]))
        return self.scale.normalise(self.first_stage.latent(packed, moved(drawn, self.device)))

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        """The fields of these images that the conditioning reads, on the training device.

        Shapes: indices (N,); each field (N, ...).
        """
        return {name: moved(value, self.device) for name, value in self.fields_of(indices.numpy(), draw).items()}

    def pixels(self, indices: Tensor) -> Tensor:
        """The images themselves, on the training device. Shapes: indices (N,); result (N, 3, H, W) in [-1, 1]."""
        return self.images.batch(indices.numpy(), device=self.device)


class ChosenLatents:
    """Some latents of a cache, by their places in it, as if there were no others."""

    def __init__(self, cached: CachedLatents, places: Sequence[int]) -> None:
        self.cached = cached
        self.places = torch.tensor(places)

    def __len__(self) -> int:
        return len(self.places)

    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        """As `CachedLatents.latents`, of the indices among those chosen."""
        return self.cached.latents(self.places[indices], noise)

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        """As `CachedLatents.fields`, of the indices among those chosen."""
        return self.cached.fields(self.places[indices], draw)

    def pixels(self, indices: Tensor) -> Tensor:
        """As `CachedLatents.pixels`, of the indices among those chosen."""
        return self.cached.pixels(self.places[indices])


def open_packed(path: Path) -> NDArray[np.float32]:
    """The memory-mapped encodings of a finished cache, (N, cache_channels, h, w)."""
    packed: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return packed
