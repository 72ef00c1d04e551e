"""Tiny autoencoders: plain convolutions without normalisation, distilled from larger first stages.

Source: the TAESD family (github.com/madebyollin/taesd).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.first_stage.coder import IMAGE_CHANNELS
from ldm.first_stage.contract import Reconstruction, at_least_float32
from ldm.first_stage.posterior import PointFirstStage

LATENT_BOUND = 3.0
"""The decoder bends latents softly into +- this."""

WIDENING, POOL_GROUPS = 4, 4
"""Of the branch with group normalisation: its width in block widths, and its groups."""


class TinyBlock(nn.Module):
    """Three 3x3 convolutions added to their input; with `pooled`, after a branch whose group norm sees the whole map.

    Attributes bear the names of the published files.
    """

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        inner = WIDENING * width
        self.pool = (
            nn.Sequential(
                nn.Conv2d(width, inner, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, inner),
                nn.ReLU(),
                nn.Conv2d(inner, width, 1, bias=False),
            )
            if pooled
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """x changed by the block: (N, width, H, W), result alike."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


@dataclass(frozen=True)
class TinyLevel:
    """The blocks at one side length: how many, and whether they have the branch with group normalisation."""

    blocks: int
    pooled: bool = False


def _blocks(width: int, level: TinyLevel) -> list[nn.Module]:
    return [TinyBlock(width, level.pooled) for _ in range(level.blocks)]


def tiny_encoder(channels: int, width: int, levels: Sequence[TinyLevel]) -> nn.Sequential:
    """Image to latent; `levels` from the image's side downwards, each at half the side of the one before.

    Shapes of its call: (N, 3, H, W) to (N, channels, H / 2^(levels - 1), W / 2^(levels - 1)).
    """
    layers: list[nn.Module] = []
    for place, level in enumerate(levels):
        to_level = (
            nn.Conv2d(IMAGE_CHANNELS, width, 3, padding=1)
            if place == 0
            else nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        )
        layers += [to_level, *_blocks(width, level)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))


def tiny_decoder(channels: int, width: int, levels: Sequence[TinyLevel]) -> nn.Sequential:
    """Bounded latent to image; `levels` from the latent's side upwards, each at twice the side of the one before.

    Shapes of its call: (N, channels, h, w) to (N, 3, h * 2^(levels - 1), w * 2^(levels - 1)).
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for place, level in enumerate(levels):
        if place > 0:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += _blocks(width, level)
    return nn.Sequential(*layers, nn.Conv2d(width, IMAGE_CHANNELS, 3, padding=1))


class TinyFirstStage(PointFirstStage):
    """An encoder and a decoder from the functions above: its latents are neither drawn nor quantised.

    Inside, images are in [0, 1].
    """

    regulariser = "none"

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        head, stem = encoder[-1], decoder[0]
        assert isinstance(head, nn.Conv2d)
        assert isinstance(stem, nn.Conv2d)
        if head.out_channels != stem.in_channels:
            raise ValueError(f"the encoder gives {head.out_channels} channels, the decoder takes {stem.in_channels}")
        self.factor = 2 ** sum(isinstance(layer, nn.Upsample) for layer in decoder)
        self.channels = head.out_channels
        self.cache_channels = self.channels
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, image: Tensor) -> Tensor:
        """The latent. Shapes: as in the contract.

        Raises: ValueError where a side of the image is no multiple of `factor`.
        """
        if image.shape[-1] % self.factor or image.shape[-2] % self.factor:
            raise ValueError(f"image sides {tuple(image.shape[-2:])} are no multiples of f = {self.factor}")
        return at_least_float32(self.encoder(image.add(1).div(2)))

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a latent, softly bounded first. Shapes: as in the contract."""
        return at_least_float32(self.decoder(LATENT_BOUND * torch.tanh(raw / LATENT_BOUND)).mul(2).sub(1))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, of shape (3, C, 3, 3)."""
        head = self.decoder[-1]
        assert isinstance(head, nn.Conv2d)
        return head.weight

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes, with nothing to regularise. Shapes: as in the contract."""
        latent = self.encode(image)
        return Reconstruction(self.decode(latent), latent)
