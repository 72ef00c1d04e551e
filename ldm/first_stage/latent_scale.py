"""The scale of latents: what the diffusion model sees is normalised, what the first stage decodes is not."""

from dataclasses import dataclass

import torch
from torch import Tensor

SCALES = ("std_scalar", "per_channel", "none")


@dataclass(frozen=True)
class LatentScale:
    """z = (raw - shift) / std; both of shape (C,), float64."""

    shift: Tensor
    std: Tensor

    def normalise(self, raw: Tensor) -> Tensor:
        """Latents for the diffusion model. Shapes: (N, C, h, w) both."""
        return (raw - self._like(self.shift, raw)) / self._like(self.std, raw)

    def denormalise(self, z: Tensor) -> Tensor:
        """Latents for the decoder. Shapes: (N, C, h, w) both."""
        return z * self._like(self.std, z) + self._like(self.shift, z)

    def on(self, device: torch.device | str) -> "LatentScale":
        """The same scale with its numbers on a device."""
        return LatentScale(self.shift.to(device), self.std.to(device))

    @staticmethod
    def _like(values: Tensor, x: Tensor) -> Tensor:
        return values.to(x.device, x.dtype).view(1, -1, 1, 1)


def latent_scale(kind: str, mean: Tensor, variance: Tensor) -> LatentScale:
    """The scale of a kind from the mean and variance of each channel of the training latents.

    std_scalar: one standard deviation over all channels, nothing subtracted (Rombach et al. 2022, Appendix G).
    per_channel: mean and standard deviation of each channel.
    none: the latents as they are.

    Shapes: mean and variance (C,) in float64, as are the result's.
    Raises: ValueError for another kind.
    """
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    match kind:
        case "std_scalar":
            overall = variance.mean() + (mean - mean.mean()).square().mean()
            return LatentScale(zero, one * overall.sqrt())
        case "per_channel":
            return LatentScale(mean, variance.sqrt())
        case "none":
            return LatentScale(zero, one)
    raise ValueError(f"latents.scale={kind} is none of {', '.join(SCALES)}")
