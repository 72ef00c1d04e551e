"""The first stage with a weak KL penalty (KL-reg).

Source: Rombach et al., arXiv 2112.10752, section 3.1 and appendix G.
"""

import torch
from torch import Tensor, nn

from ldm.first_stage.coder import Decoder, Encoder
from ldm.first_stage.contract import FirstStage, Gaussian, Reconstruction, at_least_float32

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log-variance: outside of them float32 holds no useful variance."""


class KLFirstStage(FirstStage):
    """Encodes to a Gaussian for each latent; `encoder` gives 2 z_channels (double_z), `channels` of the latent.

    Without `projected` no 1x1 convolution stands between coder and latent, as in some later published autoencoders;
    `channels` are then the coder's own.
    """

    regulariser = "kl"

    def __init__(self, encoder: Encoder, decoder: Decoder, channels: int, projected: bool = True) -> None:
        super().__init__()
        self.factor = encoder.factor
        self.channels = channels
        self.cache_channels = 2 * channels
        self.encoder = encoder
        self.decoder = decoder
        self.to_latent = nn.Conv2d(2 * encoder.z_channels, 2 * channels, 1) if projected else nn.Identity()
        self.from_latent = nn.Conv2d(channels, decoder.z_channels, 1) if projected else nn.Identity()

    def encode(self, image: Tensor) -> Gaussian:
        """The Gaussian of each latent, log-variance clamped to [-30, 20]."""
        mean, logvar = at_least_float32(self.to_latent(self.encoder(image))).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw with `noise` from the packed Gaussian, its mean where None."""
        mean, logvar = packed.chunk(2, dim=1)
        return mean if noise is None else Gaussian(mean, logvar).sample(noise)

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent (N, channels, h, w)."""
        return at_least_float32(self.decoder(self.from_latent(raw)))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder.head.weight

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Decodes a draw with `noise` (the mean where None); regularisation {"kl"}."""
        encoding = self.encode(image)
        raw = self.latent(self.pack(encoding), noise)
        return Reconstruction(self.decode(raw), raw, {"kl": torch.mean(encoding.kl())})
