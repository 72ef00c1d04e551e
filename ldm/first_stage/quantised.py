"""What first stages share that quantise their latents, the quantiser standing in the decoder.

Source: Rombach et al., arXiv 2112.10752, section 3.1.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from ldm.first_stage.coder import ImageDecoder, ImageEncoder
from ldm.first_stage.contract import (
    EncodedImages,
    Labels,
    LatentView,
    Reconstruction,
    Reduction,
    ShapableFirstStage,
    at_least_float32,
    unchanged,
)
from ldm.metrics.coded_latents import coded_indices
from ldm.metrics.rate import index_rates
from ldm.metrics.values import Measured

MOST_CODES: Final = 2**24
"""Of any codebook: rates count how often each code occurs."""


@dataclass(frozen=True)
class Quantised:
    """Latents at their nearest codes: latent, the code vectors (N, C, h, w), and indices, their numbers (N, h, w)."""

    latent: Tensor
    indices: Tensor


class Quantiser(nn.Module, ABC):
    """Latents to the codes nearest to them; a code is a vector of `channels`."""

    @property
    @abstractmethod
    def codes(self) -> int:
        """Number of codes."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Length of a code vector."""

    def bounded(self, latent: Tensor) -> Tensor:
        """The raw latent of what the encoder gives: where codes are bounded, so is it. Shapes: (N, C, h, w) both."""
        return latent

    @abstractmethod
    def nearest(self, raw: Tensor) -> Tensor:
        """The number of the nearest code at each position of (N, C, h, w); shape (N, h, w), int64."""

    @abstractmethod
    def embed(self, indices: Tensor) -> Tensor:
        """The code vectors (N, C, h, w) of indices (N, h, w)."""

    def forward(self, raw: Tensor) -> Quantised:
        """The nearest code at each position; no gradient reaches `raw`.

        Shapes: raw (N, C, h, w); result as `Quantised` says.
        """
        indices = self.nearest(raw)
        return Quantised(self.embed(indices).to(raw.dtype), indices)

    @abstractmethod
    def penalties(self, raw: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        """The regularisation terms of a training pass, unweighted. Shapes: both (N, C, h, w); each term ()."""


def labels_of_codes(title: str) -> Labels:
    """Those of a first stage whose rate is that of its indices."""
    return Labels(title=title, rate="rate_index_crossentropy", crude_rate="rate_index_log2")


class QuantisedFirstStage(ShapableFirstStage):
    """Encodes to the latent before quantisation; decoding quantises first."""

    reduction: ClassVar[Reduction] = "mean"
    is_drawn = False

    def __init__(self, encoder: ImageEncoder, decoder: ImageDecoder, quantiser: Quantiser) -> None:
        super().__init__()
        self.factor = encoder.factor
        self.channels = quantiser.channels
        self.cache_channels = quantiser.channels
        self.encoder = encoder
        self.decoder = decoder
        self.quantiser = quantiser
        self.to_latent = nn.Conv2d(encoder.z_channels, quantiser.channels, 1)
        self.from_latent = nn.Conv2d(quantiser.channels, decoder.z_channels, 1)

    @property
    def codebook(self) -> Quantiser:
        """The quantiser."""
        return self.quantiser

    def encode(self, image: Tensor) -> Tensor:
        """The latent before quantisation. Shapes: as in the contract."""
        return self.quantiser.bounded(at_least_float32(self.to_latent(self.encoder(image))))

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The packed latent itself; `noise` has no effect. Shapes: as in the contract."""
        return packed

    def quantise(self, raw: Tensor) -> Quantised:
        """The nearest codes of a raw latent (N, channels, h, w), as `Quantised` says."""
        found: Quantised = self.quantiser(raw)
        return found

    def first_decoded(self, latent: Tensor) -> Tensor:
        """The codes of a latent. Shapes: as in the contract."""
        return self.quantise(self.quantiser.bounded(latent)).latent

    def decode(self, raw: Tensor) -> Tensor:
        """The image of the nearest codes of a raw latent. Shapes: as in the contract."""
        return self.decode_quantised(self.quantise(raw).latent)

    def decode_quantised(self, latent: Tensor) -> Tensor:
        """The image of a latent that is quantised already, or is meant to be decoded as it is.

        Shapes: as `decode`.
        """
        return at_least_float32(self.decoder(self.from_latent(latent)))

    def decode_counted(self, raw: Tensor) -> Tensor:
        """The image without the search for the nearest codes. Shapes: as in the contract."""
        return self.decode_quantised(raw)

    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """Indices at the number of codes, and under the histogram of the training indices."""
        codes = self.quantiser.codes
        return index_rates(self._indices(train), self._indices(heldout), codes, heldout.pixels, len(train))

    def coded(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """Indices under the histogram of the training indices."""
        return coded_indices(self._indices(train), self._indices(heldout), self.quantiser.codes, heldout.pixels)

    def _indices(self, images: EncodedImages) -> Iterator[Tensor]:
        for latent in images.encodings():
            assert isinstance(latent, Tensor)
            yield self.quantiser.nearest(latent)

    @property
    def encoder_layer(self) -> Tensor:
        """The weight of the encoder's last convolution, of shape (C, channels before, 3, 3)."""
        return self.encoder.head.weight

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, of shape (3, C, 3, 3)."""
        return self.decoder.head.weight

    def forward_viewed(self, image: Tensor, noise: Tensor | None, view: LatentView) -> Reconstruction:
        """Quantises a view of the latent and decodes it; `noise` has no effect. Shapes: as in the contract."""
        whole = self.encode(image)
        return replace(self.decode_train(view(whole)), whole=whole)

    def decode_train(self, raw: Tensor) -> Reconstruction:
        """Decodes the codes with the straight-through gradient: that of a code is the raw latent's.

        Shapes: as in the contract.
        """
        quantised = self.quantise(raw)
        straight_through = raw + (quantised.latent - raw).detach()
        return Reconstruction(
            image=self.decode_quantised(straight_through),
            latent=straight_through,
            regularisation=self.quantiser.penalties(raw, quantised.latent),
            indices=quantised.indices,
        )

    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Does nothing. Shapes: as in the contract."""
        return {}

    def forward_counted(self, image: Tensor, view: LatentView = unchanged) -> Reconstruction:
        """Decodes latents in place of their codes. Shapes: as in the contract."""
        whole = self.encode(image)
        raw = view(whole)
        return Reconstruction(self.decode_quantised(raw), raw, self.quantiser.penalties(raw, raw), whole=whole)
