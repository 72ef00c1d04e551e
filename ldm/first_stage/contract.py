"""What every first stage offers, so that no stage of an experiment asks which one it holds."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution for each latent; `mean` and `logvar` have the shape (N, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + sigma * noise; `noise` is standard normal of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL(self || N(0, I)) in nats, summed over C, h and w; shape (N,).

        Source: Kingma and Welling, arXiv 1312.6114, appendix B.
        """
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


@dataclass
class Reconstruction:
    """What one training pass gives.

    image: (N, 3, H, W). latent: raw, exactly what was decoded. regularisation: named scalar terms, unweighted:
    {"kl"} in nats, summed over an image's latent and averaged over the batch; {"codebook"} codebook plus commitment
    term, averaged over all elements; {} for the identity. indices: (N, h, w) for VQ, else None.
    """

    image: Tensor
    latent: Tensor
    regularisation: dict[str, Tensor] = field(default_factory=dict)
    indices: Tensor | None = None


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is of lower precision, else x itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class FirstStage(nn.Module, ABC):
    """Maps images (N, 3, H, W) in [-1, 1] to latents (N, channels, H / factor, W / factor) and back.

    Latents are raw here: their scale for diffusion is an object of its own. Encodings and images leave in float32 at
    least, also under autocast.
    """

    regulariser: str
    factor: int
    channels: int
    cache_channels: int

    @abstractmethod
    def encode(self, image: Tensor) -> Gaussian | Tensor:
        """The encoding without any randomness: a Gaussian (KL), or the latent before quantisation (VQ)."""

    def pack(self, encoding: Gaussian | Tensor) -> Tensor:
        """The encoding as one tensor (N, cache_channels, h, w), which is what a latent cache stores."""
        if isinstance(encoding, Gaussian):
            return torch.cat((encoding.mean, encoding.logvar), dim=1)
        return encoding

    @abstractmethod
    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The raw latent (N, channels, h, w) of a packed encoding; KL draws with `noise`, the mean where None."""

    @abstractmethod
    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent; VQ quantises first."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, by which the adversarial weight is adapted.

        Source: Esser et al., arXiv 2012.09841, equation 7.
        """

    @abstractmethod
    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes, regularises and decodes with gradients; `noise` (N, channels, h, w) as in `latent`."""

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """`forward_train` under the name that distributed data parallelism and compilation call."""
        return self.forward_train(image, noise)
