"""What a first stage is where its latents are points: an encoder, a decoder, and nothing between them.

All that is left to say for one is how the two networks are made: `build`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ldm.first_stage.contract import Reconstruction, TrainableFirstStage, at_least_float32
from ldm.first_stage.posterior import PointFirstStage


class PlainFirstStage(PointFirstStage, TrainableFirstStage):
    """An encoder of images (N, 3, H, W) to latents (N, channels, H / factor, W / factor), and a decoder back.

    Latents are neither drawn nor quantised, and nothing is added to the loss. A class derived from it says its
    `regulariser`, the name that tables give it, and `build`.
    """

    @dataclass(frozen=True)
    class Options:
        """It has none."""

    group = None
    penalties: ClassVar[Mapping[str, str]] = {}
    reduction = "mean"

    def __init__(self, encoder: nn.Module, decoder: nn.Module, factor: int, channels: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.factor, self.channels, self.cache_channels = factor, channels, channels

    def encode(self, image: Tensor) -> Tensor:
        """The latent."""
        return at_least_float32(self.encoder(image))

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a latent."""
        return at_least_float32(self.decoder(raw))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution or linear layer. Raises: ValueError where it has none."""
        for layer in reversed(list(self.decoder.modules())):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                return layer.weight
        raise ValueError(f"the decoder of {type(self).__name__} has neither a convolution nor a linear layer")

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes, with nothing to regularise."""
        latent = self.encode(image)
        return Reconstruction(self.decode(latent), latent)

    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Nothing."""
        return {}

    def forward_counted(self, image: Tensor) -> Reconstruction:
        """All of `forward_train`."""
        return self.forward_train(image)
