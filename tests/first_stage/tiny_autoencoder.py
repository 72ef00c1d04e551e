"""The pretrained autoencoder of the development data, f = 8, as a function of its weights.

Source: madebyollin/taesd (MIT), taef2.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

BLOCKS_AFTER = {  # a convolution (of stride 2 going down, after doubling going up) and the blocks behind it
    "encoder": {2: (3, 4, 5), 6: (7, 8, 9), 10: (11, 12, 13)},
    "decoder": {7: (8, 9, 10), 12: (13, 14, 15), 17: (18,)},
}


class TinyAutoencoder:
    """Encodes images in [-1, 1] and decodes latents (N, 32, h, w)."""

    def __init__(self, folder: Path) -> None:
        self.weights = {
            part: {name: w.float() for name, w in load_file(folder / f"taef2_{part}.safetensors").items()}
            for part in BLOCKS_AFTER
        }

    def encode(self, image: Tensor) -> Tensor:
        """The latent, without randomness."""
        w = self.weights["encoder"]
        h = _block(w, 1, _convolved(w, "0", (image + 1) / 2))
        for down, blocks in BLOCKS_AFTER["encoder"].items():
            h = _convolved(w, str(down), h, stride=2)
            for block in blocks:
                h = _block(w, block, h)
        return _convolved(w, "14", h)

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        w = self.weights["decoder"]
        h = _convolved(w, "1", torch.tanh(latent / 3) * 3).relu()
        for block in (3, 4, 5):
            h = _block(w, block, h)
        for up, blocks in BLOCKS_AFTER["decoder"].items():
            h = _convolved(w, str(up), F.interpolate(h, scale_factor=2.0))
            for block in blocks:
                h = _block(w, block, h)
        return _convolved(w, "19", h) * 2 - 1


def _convolved(weights: Mapping[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), stride=stride, padding=1)


def _block(weights: Mapping[str, Tensor], number: int, x: Tensor) -> Tensor:
    if f"{number}.pool.0.weight" in weights:
        h = F.conv2d(x, weights[f"{number}.pool.0.weight"])
        h = F.group_norm(h, 4, weights[f"{number}.pool.1.weight"], weights[f"{number}.pool.1.bias"]).relu()
        x = x + F.conv2d(h, weights[f"{number}.pool.3.weight"])
    h = x
    for place in (0, 2, 4):
        h = _convolved(weights, f"{number}.conv.{place}", h)
        h = h.relu() if place < 4 else h
    return (h + x).relu()
