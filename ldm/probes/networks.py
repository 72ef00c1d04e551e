"""The networks of probes: a narrow residual encoder, a classifier and a segmenter on top of it.

Source: He et al. 2016, arXiv 1512.03385 (basic blocks); Lin et al. 2017, arXiv 1612.03144 (top-down path).
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (1, 1, 2, 4)
"""Channels by level, in units of the probe's width; each level has half the side of the one before."""


def _convolution(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip connection, the first of them halving the side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride=2)
        self.second = _convolution(after, after)
        self.skip = _convolution(before, after, stride=2, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """The block of x: (N, before, s, s) to (N, after, s / 2, s / 2), rounded up."""
        return F.relu(self.skip(x) + self.second(F.relu(self.first(x))))


class Encoder(nn.Module):
    """Images (N, 3, s, s) -> maps at s, s/2, s/4 and s/8, finest first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = tuple(width * factor for factor in WIDTHS)
        self.stem = _convolution(3, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(*pair) for pair in zip(self.channels, self.channels[1:], strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of images (N, 3, s, s): each (N, C, side, side), C in `channels`."""
        maps = [F.relu(self.stem(x))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


class Classifier(nn.Module):
    """Images (N, 3, s, s) -> logits (N, outputs)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.head = nn.Linear(self.encoder.channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, outputs) of images (N, 3, s, s)."""
        logits: Tensor = self.head(self.encoder(x)[-1].mean(dim=(2, 3)))
        return logits


class Segmenter(nn.Module):
    """Images (N, 3, s, s) -> logits (N, outputs, s, s): coarse maps are enlarged and added to finer ones."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in self.encoder.channels)
        self.smooth = nn.ModuleList(_convolution(width, width) for _ in self.encoder.channels[1:])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, outputs, s, s) of images (N, 3, s, s)."""
        maps = [lateral(found) for lateral, found in zip(self.lateral, self.encoder(x), strict=True)]
        coarse = maps[-1]
        for fine, smooth in zip(reversed(maps[:-1]), self.smooth, strict=True):
            coarse = F.relu(smooth(fine + F.interpolate(coarse, fine.shape[2:], mode="nearest")))
        logits: Tensor = self.head(coarse)
        return logits
