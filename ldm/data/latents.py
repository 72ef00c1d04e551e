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


class CachedLatents:
    """Batches of latents z = scale(latent(packed)) for training the diffusion model.

    `packed` holds what `FirstStage.pack` gave, (N, cache_channels, h, w); where it is None the images are encoded as
    they are asked for, which costs nothing where the first stage is the identity. `fields_of` makes what the
    conditioning reads.
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
        self.scale = scale
        self.device = device

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def encoded(self, indices: Indices) -> Tensor:
        """What `FirstStage.pack` gives of these images, on the training device: from the cache where there is one.

        Shapes: result (N, cache_channels, h, w).
        """
        if self.packed is None:
            return self.first_stage.pack(self.first_stage.encode(self.images.batch(indices).to(self.device)))
        return torch.from_numpy(np.ascontiguousarray(self.packed[np.asarray(indices)])).to(self.device)

    @torch.no_grad()
    def latents(self, indices: Tensor, draw: torch.Generator) -> Tensor:
        """Normalised latents of the images `indices`; a KL first stage's posterior is sampled with `draw`.

        Shapes: indices (N,); result (N, C, h, w).
        """
        packed = self.encoded(indices)
        shape = (len(indices), self.first_stage.channels, *packed.shape[2:])
        noise = torch.randn(shape, generator=draw).to(self.device)
        return self.scale.normalise(self.first_stage.latent(packed, noise))

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        """The fields of these images that the conditioning reads, on the training device.

        Shapes: indices (N,); each field (N, ...).
        """
        return {name: value.to(self.device) for name, value in self.fields_of(indices.numpy(), draw).items()}

    def pixels(self, indices: Tensor) -> Tensor:
        """The images themselves, on the training device. Shapes: indices (N,); result (N, 3, H, W) in [-1, 1]."""
        return self.images.batch(indices.numpy()).to(self.device)


class ChosenLatents:
    """Some latents of a cache, by their places in it, as if there were no others."""

    def __init__(self, cached: CachedLatents, places: Sequence[int]) -> None:
        self.cached = cached
        self.places = torch.tensor(places)

    def __len__(self) -> int:
        return len(self.places)

    def latents(self, indices: Tensor, draw: torch.Generator) -> Tensor:
        """As `CachedLatents.latents`, of the indices among those chosen."""
        return self.cached.latents(self.places[indices], draw)

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
