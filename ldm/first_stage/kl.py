"""The first stage with a weak KL penalty (KL-reg).

Source: Rombach et al., arXiv 2112.10752, section 3.1 and appendix G.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor, nn

from ldm.first_stage.coder import Coders, ImageDecoder, ImageEncoder
from ldm.first_stage.contract import (
    Gaussian,
    LatentView,
    NestableFirstStage,
    Reconstruction,
    at_least_float32,
    unchanged,
)
from ldm.first_stage.posterior import PosteriorFirstStage
from ldm.parts import option

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log-variance: outside of them float32 holds no useful variance."""

START_LOGVAR: Final = -6.0
"""Log-variance at a near-linear start: a standard deviation of 0.05 around means of about 1."""


class KLFirstStage(PosteriorFirstStage, NestableFirstStage):
    """Encodes to a Gaussian for each latent; `encoder` gives 2 z_channels (double_z), `channels` of the latent.

    Without `projected` no 1x1 convolution stands between coder and latent, as in some later published autoencoders;
    `channels` are then the coder's own.
    """

    @dataclass(frozen=True)
    class Options:
        """What a KL model has beside its coder."""

        kl_weight: float = option(1e-6, low=0, help="weight of the KL term, over its sum in nats")

    regulariser = "kl"
    group = None
    penalties: ClassVar[Mapping[str, str]] = {"kl": "kl_weight"}
    reduction = "sum"

    def __init__(self, encoder: ImageEncoder, decoder: ImageDecoder, channels: int, projected: bool = True) -> None:
        super().__init__()
        self.factor = encoder.factor
        self.channels = channels
        self.cache_channels = 2 * channels
        self.encoder = encoder
        self.decoder = decoder
        self.to_latent = nn.Conv2d(2 * encoder.z_channels, 2 * channels, 1) if projected else nn.Identity()
        self.from_latent = nn.Conv2d(channels, decoder.z_channels, 1) if projected else nn.Identity()

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """The network with random weights; the weight of the KL term has no effect on it."""
        encoder, decoder = coders.make(double_z=True)
        return cls(encoder, decoder, channels)

    @classmethod
    def build_nested(cls, coders: Coders) -> Self:
        """Without 1x1 convolutions, which would mix the channels. Shapes: those of the coders."""
        encoder, decoder = coders.make(double_z=True)
        return cls(encoder, decoder, coders.channels, projected=False)

    def cut(self, channels: int) -> dict[str, Tensor]:
        """The weights without the rows of the encoder's and the columns of the decoder's that are of other channels."""
        kept = [*range(channels), *range(self.channels, self.channels + channels)]  # of means and of log-variances
        weights = self.state_dict()
        of_encoder = {name: weights[name][kept] for name in ("encoder.head.weight", "encoder.head.bias")}
        return {**weights, **of_encoder, "decoder.stem.weight": weights["decoder.stem.weight"][:, :channels].clone()}

    def start_quiet(self) -> None:
        """Latents have the same little noise everywhere."""
        last = self.to_latent if isinstance(self.to_latent, nn.Conv2d) else self.encoder.head
        assert last.bias is not None
        of_logvar = slice(self.channels, None)
        nn.init.zeros_(last.weight[of_logvar])
        nn.init.constant_(last.bias[of_logvar], START_LOGVAR)

    def encode(self, image: Tensor) -> Gaussian:
        """The Gaussian of each latent, log-variance clamped to [-30, 20]. Shapes: as in the contract."""
        mean, logvar = at_least_float32(self.to_latent(self.encoder(image))).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent. Shapes: as in the contract."""
        return at_least_float32(self.decoder(self.from_latent(raw)))

    @property
    def encoder_layer(self) -> Tensor:
        """The weight of the encoder's last convolution, of shape (C, channels before, 3, 3)."""
        return self.encoder.head.weight

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, of shape (3, C, 3, 3)."""
        return self.decoder.head.weight

    def forward_viewed(self, image: Tensor, noise: Tensor | None, view: LatentView) -> Reconstruction:
        """Decodes a view of a draw with `noise` (of the mean where None); regularisation {"kl"}.

        Shapes: as in the contract.
        """
        encoding = self.encode(image)
        raw = self.latent(self.pack(encoding), noise)
        seen = view(raw)
        return Reconstruction(self.decode(seen), seen, {"kl": torch.mean(encoding.kl())}, whole=raw)

    def decode_train(self, raw: Tensor) -> Reconstruction:
        """All of `decode`. Shapes: as in the contract."""
        return Reconstruction(self.decode(raw), raw)

    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Does nothing. Shapes: as in the contract."""
        return {}

    def forward_counted(self, image: Tensor, view: LatentView = unchanged) -> Reconstruction:
        """All of `forward_viewed`. Shapes: as in the contract."""
        return self.forward_viewed(image, None, view)
