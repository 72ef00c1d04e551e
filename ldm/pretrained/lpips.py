"""LPIPS, the learned perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), version 0.1.

The convolution weights are torchvision's ImageNet weights, from a file or downloaded; the linear heads are data of the
PyPI package `lpips`.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ldm.errors import UserError, nearest
from ldm.pretrained.weights import content_hash, freeze, read_weights

CHANNEL_SHIFT: Final = (-0.030, -0.088, -0.188)
CHANNEL_SCALE: Final = (0.458, 0.448, 0.450)
"""The ImageNet mean and standard deviation, moved to images in [-1, 1] and rounded as the published heads expect."""

NORM_EPSILON: Final = 1e-10


class Conv(NamedTuple):
    """A convolution followed by ReLU; `tap` where LPIPS compares its output."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    tap: bool = False


class Pool(NamedTuple):
    """A maximum pooling of stride 2."""

    kernel: int


@dataclass(frozen=True)
class Trunk:
    """A convolution network, where torchvision offers its weights, and the smallest side of an image it can take."""

    layers: tuple[Conv | Pool, ...]
    url: str
    smallest_side: int


def _vgg_block(channels: int, convolutions: int) -> tuple[Conv, ...]:
    return (*[Conv(channels)] * (convolutions - 1), Conv(channels, tap=True))


TRUNKS: Final[Mapping[str, Trunk]] = {
    "alex": Trunk(
        layers=(
            Conv(64, kernel=11, stride=4, padding=2, tap=True),
            Pool(3),
            Conv(192, kernel=5, padding=2, tap=True),
            Pool(3),
            Conv(384, tap=True),
            Conv(256, tap=True),
            Conv(256, tap=True),
        ),
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        smallest_side=31,
    ),
    "vgg": Trunk(
        layers=(
            *_vgg_block(64, 2),
            Pool(2),
            *_vgg_block(128, 2),
            Pool(2),
            *_vgg_block(256, 3),
            Pool(2),
            *_vgg_block(512, 3),
            Pool(2),
            *_vgg_block(512, 3),
        ),
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        smallest_side=16,
    ),
}


def unit_normalise(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """x (N, C, H, W), in float32 at least, divided by its length over the channels; at x = 0 the gradient is no NaN."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / (x.square().sum(dim=1, keepdim=True) + epsilon**2).sqrt()


class Lpips(nn.Module):
    """LPIPS between images; differentiable in both, its own parameters frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str, weights: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """`weights` under torchvision's names ("features.0.weight", others are ignored), `heads` under lpips's names.

        Raises: UserError where the network is unknown; KeyError or RuntimeError where a weight is missing or misshaped.
        """
        super().__init__()
        self.name = f"lpips_{network}"
        self.trunk = trunk(network)
        self.features = nn.Sequential(*self._layers())
        used = {key: weights[f"features.{key}"] for key in self.features.state_dict()}
        self.features.load_state_dict(used)
        self.heads = nn.ParameterList()
        for index, layer in enumerate([layer for layer in self.trunk.layers if isinstance(layer, Conv) and layer.tap]):
            self.heads.append(heads[f"lin{index}.model.1.weight"].float().reshape(layer.channels))
        self.register_buffer("shift", torch.tensor(CHANNEL_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(CHANNEL_SCALE).view(1, 3, 1, 1))
        named_heads = {f"head.{index}": head for index, head in enumerate(self.heads)}
        self.weights_hash = content_hash(used | named_heads)
        freeze(self)

    def _layers(self) -> Iterator[nn.Module]:
        channels = 3
        for layer in self.trunk.layers:
            if isinstance(layer, Pool):
                yield nn.MaxPool2d(layer.kernel, stride=2)
            else:
                yield nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
                yield nn.ReLU()
                channels = layer.channels

    def taps(self, image: Tensor) -> list[Tensor]:
        """The maps that are compared, of images in [-1, 1].

        Shapes: image (N, 3, H, W); each map (N, C, h, w), C, h and w its own.
        """
        maps: list[Tensor] = []
        h = ((image - self.shift) / self.scale).to(next(self.features.parameters()).dtype)
        layers = iter(self.features)
        for layer in self.trunk.layers:
            h = next(layers)(h)
            if isinstance(layer, Conv):
                h = next(layers)(h)
                if layer.tap:
                    maps.append(h)
        return maps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) in float32 or wider, between images (N, 3, H, W) in [-1, 1].

        Raises: UserError where the images are smaller than the network can take (31 px AlexNet, 16 px VGG).
        """
        side = min(a.shape[-2:])
        if side < self.trunk.smallest_side:
            raise UserError(
                f"{self.name} takes images of at least {self.trunk.smallest_side} px but got {side} px: "
                "use a larger resolution or another perceptual distance."
            )
        distance = torch.zeros(a.shape[0], device=a.device)
        for map_a, map_b, head in zip(self.taps(a), self.taps(b), self.heads, strict=True):
            difference = unit_normalise(map_a) - unit_normalise(map_b)
            weighted = difference.square() * head.view(1, -1, 1, 1)
            distance = distance + weighted.sum(dim=1).mean(dim=(1, 2))
        return distance


def trunk(network: str) -> Trunk:
    """The convolution network of a name.

    Raises: UserError where there is none of that name.
    """
    if network not in TRUNKS:
        raise UserError(f"LPIPS has no network '{network}'{nearest(network, TRUNKS)}: use {' or '.join(TRUNKS)}.")
    return TRUNKS[network]


def read_heads(network: str) -> dict[str, Tensor]:
    """The published linear heads of version 0.1.

    Raises: UserError where the package `lpips`, which carries them, is not installed.
    """
    # Looked up, not imported: importing the package imports torchvision, of which nothing is needed here.
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise UserError("The linear heads of LPIPS are not installed: pip install lpips.")
    return read_weights(Path(package.origin).parent / "weights" / "v0.1" / f"{network}.pth")


def download(network: str) -> dict[str, Tensor]:
    """torchvision's weights, from the torch hub cache where they lie there, else from their address into that cache.

    Raises: UserError where they cannot be had.
    """
    url = trunk(network).url
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The weights of lpips_{network} are neither in the torch hub cache nor can they be downloaded from {url} "
            f"({error}): fetch that file on a machine with internet and give its path."
        ) from error


def load(network: Literal["alex", "vgg"], path: Path | None = None) -> Lpips:
    """LPIPS with published heads and the convolution weights of `path`, or downloaded where `path` is None.

    The file has torchvision's names ("features.0.weight"), as .safetensors, .pth or .pt.
    Raises: UserError where the network is unknown, or weights are missing or do not fit.
    """
    trunk(network)
    weights = download(network) if path is None else read_weights(path)
    try:
        return Lpips(network, weights, read_heads(network))
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"The weights of {path or trunk(network).url} do not fit lpips_{network} ({error}): "
            "give the file that torchvision publishes for this network."
        ) from error
