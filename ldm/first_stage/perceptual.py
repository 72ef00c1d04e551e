"""The perceptual term of a first stage's loss: the contract, and a distance that needs no download."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.parts import look_up
from ldm.pretrained import efficientnet_lite, lpips
from ldm.pretrained.efficientnet_lite import EfficientNetLite
from ldm.pretrained.lpips import unit_normalise

TAPS: Final = 4
SMALLEST_SIDE: Final = 32
"""What `EfficientNetPerceptual` compares unless told otherwise.

Against LPIPS (AlexNet) on noise, blur, JPEG and shifts of photographs at 32 and 64 px, its rank correlation is 0.90 to
0.91; a fifth map, or images enlarged twofold first, change that by 0.01 at most and cost 1.4 and 3 times as much.
"""


class PerceptualLoss(Protocol):
    """A distance between images in [-1, 1], (N,) for two batches (N, 3, H, W), differentiable in both.

    `weights_hash` identifies the network, so that no evaluation uses the one that was trained against.
    `ldm.pretrained.lpips.Lpips` is one, `EfficientNetPerceptual` another.
    """

    name: str
    weights_hash: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


class EfficientNetPerceptual(nn.Module):
    """One minus the cosine between features of EfficientNet-Lite, averaged over positions and over the first maps.

    It is LPIPS without learned heads: half the squared distance of unit-length features, which has about the size of
    LPIPS, so that a weight of 1 means about the same with either. Images with a side below `smallest_side` are enlarged
    by the smallest whole factor that reaches it. Runs in the type of the network's parameters, or of autocast.
    """

    def __init__(self, network: EfficientNetLite, taps: int = TAPS, smallest_side: int = SMALLEST_SIDE) -> None:
        super().__init__()
        self.network = network
        self.name = f"{network.name}_perceptual"
        self.weights_hash = network.weights_hash
        self.taps = taps
        self.smallest_side = smallest_side

    def _maps(self, image: Tensor) -> list[Tensor]:
        factor = math.ceil(self.smallest_side / min(image.shape[-2:]))
        if factor > 1:
            image = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
        # Of bfloat16 pixels only 8 bits are left: the scaling is done before, in the image's own type.
        x = self.network.preprocess(image).to(next(self.network.parameters()).dtype)
        return self.network.taps(x, self.taps)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) of images (N, 3, H, W) in [-1, 1], in float32 or wider, in [0, 2], 0 for equal images."""
        by_map = [
            (unit_normalise(map_a) - unit_normalise(map_b)).square().sum(dim=1).mean(dim=(1, 2)) / 2
            for map_a, map_b in zip(self._maps(a), self._maps(b), strict=True)
        ]
        return torch.stack(by_map).mean(dim=0)


PERCEPTUAL_LOSSES: Final[Mapping[str, Callable[[Path | None], PerceptualLoss | None]]] = {
    "efficientnet_lite0": lambda weights: EfficientNetPerceptual(efficientnet_lite.load("lite0")),
    "efficientnet_lite2": lambda weights: EfficientNetPerceptual(efficientnet_lite.load("lite2")),
    "lpips_vgg": lambda weights: lpips.load("vgg", weights),
    "lpips_alex": lambda weights: lpips.load("alex", weights),
    "none": lambda weights: None,
}
"""By name, from the path of the weights, which LPIPS downloads where it is None and EfficientNet's package holds."""


def load_perceptual_loss(name: str, weights: Path | None = None) -> PerceptualLoss | None:
    """The perceptual loss of a name, None for "none". Raises: UserError for an unknown name or missing weights."""
    return look_up(PERCEPTUAL_LOSSES, name, "ae.loss.perceptual")(weights)


def smallest_image(name: str) -> int:
    """The smallest side of images, in pixels, that the perceptual loss of a name takes."""
    trunk = lpips.TRUNKS.get(name.removeprefix("lpips_")) if name.startswith("lpips_") else None
    return 1 if trunk is None else trunk.smallest_side
