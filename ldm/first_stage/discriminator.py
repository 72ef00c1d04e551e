"""The patch discriminator of the adversarial term.

Source: Isola et al. 2017, arXiv 1611.07004 (PatchGAN), as in taming-transformers and CompVis/latent-diffusion.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.contract import at_least_float32
from ldm.ranks import batch_is_divided, batch_mean, batch_size

REFERENCE_LAYERS: Final = 3
CHANNELS_PER_GROUP: Final = 4
INIT_STD: Final = 0.02

Norm = Literal["group", "batch"]


def layers_for(resolution: int) -> int:
    """The strided layers that suit an image side: the reference's 3 from 128 px on, 2 at 64, 1 at 32 and below.

    With n of them a logit sees 16, 34, 70 px (n = 1, 2, 3): about half the image at 32, 64 and 128 px. More would see
    the image as a whole, and its padding.
    """
    return min(max(int(math.log2(resolution)) - 4, 1), REFERENCE_LAYERS)


def smallest_side_for(layers: int) -> int:
    """The smallest image side for which a discriminator of so many strided layers has a logit left."""
    return 3 * 2**layers


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the whole batch where ranks divide it; torch's own for that refuses tensors of a CPU."""

    def forward(self, image: Tensor) -> Tensor:
        """Normalised maps. Shapes: (N, C, h, w) both."""
        if not (self.training and batch_is_divided()):
            return super().forward(image)
        x = at_least_float32(image)
        mean = batch_mean(x.mean((0, 2, 3), keepdim=True))
        variance = batch_mean((x - mean).square().mean((0, 2, 3), keepdim=True))
        self._follow(mean, variance, batch_size(len(x)) * x.shape[2] * x.shape[3])
        normalised = (x - mean) * (variance + self.eps).rsqrt()
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(image.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, numbers: int) -> None:
        """Moves the running statistics, that of the variance without bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
        unbiased = variance.flatten() * (numbers / (numbers - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class PatchDiscriminator(nn.Module):
    """Convolutions of kernel 4 that give a map of logits, positive for "real", one for each patch of the image.

    `layers` of stride 2, then two of stride 1; channels double from `channels` up to eight times that. norm="batch" is
    the paper's; "group" (groups of 4 channels) does not depend on the other images of the batch.
    """

    def __init__(self, channels: int = 64, layers: int = REFERENCE_LAYERS, norm: Norm = "group") -> None:
        """Random weights as in the reference.

        Raises: UserError for values of `layers`, `norm` or, for groups, `channels` that are not possible.
        """
        super().__init__()
        if layers < 1:
            raise UserError(f"The discriminator has {layers} layers: give at least 1.")
        if norm not in ("group", "batch"):
            raise UserError(f"The discriminator has no norm '{norm}': use group or batch.")
        if norm == "group" and channels % CHANNELS_PER_GROUP:
            raise UserError(
                f"The discriminator's {channels} channels are not a multiple of {CHANNELS_PER_GROUP}, the size of a "
                "group of its norm: change the number of channels or use norm=batch."
            )
        self.layers = layers
        widths = [channels * min(2**depth, 8) for depth in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for depth in range(1, layers + 1):
            stride = 2 if depth < layers else 1
            # Batch normalisation takes away what a bias adds; group normalisation takes it away only from the group.
            stack.append(nn.Conv2d(widths[depth - 1], widths[depth], 4, stride, padding=1, bias=norm == "group"))
            stack.append(
                BatchNorm(widths[depth])
                if norm == "batch"
                else nn.GroupNorm(widths[depth] // CHANNELS_PER_GROUP, widths[depth])
            )
            stack.append(nn.LeakyReLU(0.2))
        stack.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.stack = nn.Sequential(*stack)
        self.apply(initialise)

    @property
    def smallest_side(self) -> int:
        """The smallest image side for which a logit is left."""
        return smallest_side_for(self.layers)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 1, h, w) of images (N, 3, H, W), h = H // 2**layers - 2.

        Raises: UserError where the image is smaller than `smallest_side`.
        """
        side = min(image.shape[-2:])
        if side < self.smallest_side:
            raise UserError(
                f"A discriminator of {self.layers} layers needs images of at least {self.smallest_side} px but got "
                f"{side} px: use fewer layers ({layers_for(side)} suit this size)."
            )
        return self.stack(image)


def initialise(layer: nn.Module) -> None:
    """The reference's initial weights: convolutions N(0, 0.02), batch normalisation N(1, 0.02) and bias 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, INIT_STD)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, INIT_STD)
        nn.init.zeros_(layer.bias)
