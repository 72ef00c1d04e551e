"""A toy regulariser: a autoencoder with a penalty on the squares of its latents, and a rate of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ldm.first_stage.coder import Coders, Decoder, Encoder
from ldm.first_stage.contract import EncodedImages, Labels, Reconstruction, TrainableFirstStage, at_least_float32
from ldm.metrics.values import Measured, Metric, MetricValue
from ldm.parts import option
from ldm.records import RATE

GAUSSIAN_BITS = Metric("rate_small_gaussian", "Gaussian bits of small latents", False, RATE, "bits/px", headline_from=0)
STEP = 1 / 16


class SmallLatents(TrainableFirstStage):
    """Latents are what the encoder gives."""

    @dataclass(frozen=True)
    class Options:
        """What it has beside its coder."""

        weight: float = option(0.001, low=0, help="weight of the mean square of the latents")

    regulariser = "small"
    labels = Labels(title="small latents", rate=GAUSSIAN_BITS.name)
    group = "small"
    penalties: ClassVar[Mapping[str, str]] = {"square": "weight"}
    reduction = "mean"
    is_drawn = False

    def __init__(self, encoder: Encoder, decoder: Decoder, channels: int) -> None:
        super().__init__()
        self.factor, self.channels, self.cache_channels = encoder.factor, channels, channels
        self.encoder, self.decoder = encoder, decoder

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """Its weight plays no part in the network."""
        return cls(*coders.make(), channels)

    @property
    def codebook(self) -> None:
        """There is none."""

    def encode(self, image: Tensor) -> Tensor:
        """The latent."""
        return at_least_float32(self.encoder(image))

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The packed latent itself."""
        return packed

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a latent."""
        return at_least_float32(self.decoder(raw))

    def decode_counted(self, raw: Tensor) -> Tensor:
        """All of `decode`."""
        return self.decode(raw)

    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """What a Gaussian of each channel's spread says of latents in steps of 1/16."""
        latents = torch.cat([latent for latent in heldout.encodings() if isinstance(latent, Tensor)]).double()
        spread = latents.std(dim=(0, 2, 3))
        bits = (spread / STEP * math.sqrt(2 * math.pi * math.e)).log2().clamp(min=0).sum()
        per_pixel = float(bits) * latents[0, 0].numel() / heldout.pixels
        return Measured([MetricValue(GAUSSIAN_BITS, per_pixel, len(heldout))])

    def coded(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """Nothing."""
        return Measured()

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder.head.weight

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes; regularisation {"square"}."""
        raw = self.encode(image)
        return Reconstruction(self.decode(raw), raw, {"square": raw.square().mean()})

    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Nothing."""
        return {}

    def forward_counted(self, image: Tensor) -> Reconstruction:
        """All of `forward_train`."""
        return self.forward_train(image)
