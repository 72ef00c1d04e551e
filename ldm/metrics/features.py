"""Feature extractors behind one contract: uint8 images in, features and logits out.

An extractor is named with all that changes its numbers: weights hash, input side, resize rule and precision. These go
into the protocol of every row.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ldm.errors import UserError
from ldm.finite import require_finite
from ldm.intact import write_atomically
from ldm.metrics.tensorflow_resize import resized_as_tensorflow1
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.pretrained.weights import freeze

INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

EXTRACTOR_TITLES: Final = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "efficientnet_lite2_colour": "EfficientNet-Lite2 and colours",
    "efficientnet_lite2_inner": "EfficientNet-Lite2's inner maps and colours",
    "inception": "Inception-v3",
    "dinov2": "DINOv2",
    "clip": "CLIP",
}
"""Networks as titles of metrics write them; any other goes by its name."""


@dataclass(frozen=True)
class Features:
    """The float32 features of images that one pass of a network gives, images first.

    `features` (N, d); `logits` (N, k), None where the network has no classes; `spatial` (N, p), an excerpt of an inner
    map that still holds positions, None where the network declares none.
    Raises: NotFiniteError where some are no numbers.
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32] | None
    spatial: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            require_finite(torch.from_numpy(array), f"the extractor ({name})")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> "Features":
        """The chosen images."""
        return Features.of({name: array[index] for name, array in self.arrays.items()})

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Those that are not None, by name. Shapes: as the class states."""
        named = {"features": self.features, "logits": self.logits, "spatial": self.spatial}
        return {name: array for name, array in named.items() if array is not None}

    def save(self, path: Path) -> None:
        """Writes an npz file atomically: a reader sees the whole file or none."""
        arrays: dict[str, Any] = self.arrays
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, **arrays))

    @staticmethod
    def load(path: Path) -> "Features":
        """Reads what `save` wrote; nothing in the file is executed. Raises: UserError where it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return Features.of(dict(file))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            remedy = "remove its folder to compute it anew"
            raise UserError(f"{path} cannot be read as features ({error}); {remedy}") from error

    @staticmethod
    def of(arrays: Mapping[str, NDArray[np.float32]]) -> "Features":
        """The features among named arrays, which may hold others. Shapes: as the class states."""
        return Features(arrays["features"], *(arrays.get(name) for name in ("logits", "spatial")))


class FeatureAccumulator:
    """Collects batches in the order in which they come."""

    def __init__(self) -> None:
        self._parts: list[Features] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, batch: Features) -> None:
        """Appends a batch."""
        self._parts.append(batch)

    def result(self) -> Features:
        """All batches in one. Raises: ValueError where there is none, or they do not hold the same arrays."""
        if len({tuple(part.arrays) for part in self._parts}) != 1:
            raise ValueError("features need at least one batch, and logits in all batches or in none")
        first, *_ = self._parts
        return Features.of({name: np.concatenate([p.arrays[name] for p in self._parts]) for name in first.arrays})


class Extractor(Protocol):
    """A frozen network that turns uint8 images into features, with all that a protocol states of it.

    name, weights_hash: which network it is. size, resize: the side to which images are resized, and by which rule.
    precision: the type that it computes in.
    Shapes: images (N, 3, H, W) of any size; result as `Features` says.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights_hash(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def resize(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def __call__(self, images: Tensor) -> Features: ...


def require_uint8(images: Tensor) -> None:
    """Checks that these are uint8 images (N, 3, H, W).

    Raises: ValueError where they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"an extractor takes uint8 images (N, 3, H, W), here {images.dtype} {tuple(images.shape)}")


def resized(images: Tensor, size: int, mode: str, device: torch.device) -> Tensor:
    """uint8 images (N, 3, H, W) as float32 on a device, resized to a square with antialiasing where they are no such.

    Raises: ValueError for anything but such images.
    """
    require_uint8(images)
    x = images.to(device).float()
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode=mode, antialias=True, align_corners=False)


def type_name(dtype: torch.dtype) -> str:
    """The type's name as protocols write it, e.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def collected(features: Tensor, logits: Tensor | None = None, spatial: Tensor | None = None) -> Features:
    """A batch of a network's outputs, in float32 on the CPU.

    Shapes: features (N, d), logits (N, k), spatial (N, p).
    """
    given = {"features": features, "logits": logits, "spatial": spatial}
    return Features.of({name: x.float().cpu().numpy() for name, x in given.items() if x is not None})


class EfficientNetLite2Extractor:
    """EfficientNet-Lite2 with ImageNet weights: 1280 features and 1000 logits.

    `size` is the side to which images are resized, bilinear and antialiased in float32. The network's maps are computed
    in `dtype`; pooling and classifier in float32, so that bf16 rounds no feature.
    """

    name = "efficientnet_lite2"
    resize = "bilinear_antialias"

    def __init__(
        self, network: efficientnet_lite.EfficientNetLite, size: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.network = network.to(device, dtype)
        self.network.classifier.float()
        self.size, self.device, self.dtype = size, torch.device(device), dtype
        self.weights_hash = network.weights_hash

    @property
    def precision(self) -> str:
        """The type in which the maps are computed, e.g. "bfloat16"."""
        return type_name(self.dtype)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, 3, H, W) of any size: (N, 1280) and logits (N, 1000)."""
        features = self._head(self._deepest(images))
        return collected(features, self.network.classifier(features))

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        x = resized(images, self.size, "bilinear", self.device)
        x = self.network.preprocess(x / 127.5 - 1).to(self.dtype, memory_format=torch.channels_last)
        return tuple(self.network.taps(x))

    def _deepest(self, images: Tensor) -> Tensor:
        return self._maps(images)[-1]

    def _head(self, maps: Tensor) -> Tensor:
        return F.relu6(self.network.head(maps)).float().mean(dim=(2, 3))


COLOUR_GRID, SPREAD_GRID = 4, 8
COLOUR_WEIGHT: Final = 6.0
SPREAD_WEIGHTS: Final = (30.0, 60.0, 60.0)
"""Of the mean colours of a coarse grid, and of how luma and the two chroma signals spread over a finer one.

Weights are what colours in [-1, 1] count beside shapes whose squares add up to the number of features; they were chosen
on the ladder and on samples of diffusion models (decision 0022).
"""

YIQ: Final = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Luma and chroma of red, green and blue, by rows (NTSC)."""


class EfficientNetLite2ColourExtractor(EfficientNetLite2Extractor):
    """Shapes and colours: EfficientNet-Lite2's deepest maps, pooled to 352 features of one length, beside 51 of colour.

    The maps are outputs of a linear projection and have both signs. At one length they say what is seen and not how
    strongly, and no image outweighs the others in the kernel's third power. Colours are the means of a 4 x 4 grid (48),
    and the standard deviations of luma and chroma over an 8 x 8 grid (3), which see contrast and saturation and hardly
    see blur. They are those of the image as it is given. Logits are those of the whole network.
    """

    name = "efficientnet_lite2_colour"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, 3, H, W) of any size: (N, 403) and logits (N, 1000)."""
        maps = self._deepest(images)
        logits = self.network.classifier(self._head(maps))
        return collected(_beside(_pooled(maps), _colours(images.to(self.device))), logits)


class EfficientNetLite2InnerExtractor(EfficientNetLite2Extractor):
    """A second opinion beside `EfficientNetLite2ColourExtractor`, of maps that it does not look at.

    The last maps of strides 8 and 16 of EfficientNet-Lite2, each pooled to one length, in place of the deepest: 168
    features of parts and textures beside the same 51 of colour. Logits are those of the whole network.
    """

    name = "efficientnet_lite2_inner"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, 3, H, W) of any size: (N, 219) and logits (N, 1000)."""
        *_, eighth, sixteenth, deepest = self._maps(images)
        inner = torch.cat([_pooled(eighth), _pooled(sixteenth)], dim=1) / 2**0.5
        logits = self.network.classifier(self._head(deepest))
        return collected(_beside(inner, _colours(images.to(self.device))), logits)


def _pooled(maps: Tensor) -> Tensor:
    """The means of maps at one length. Shapes: (N, C, h, w); result (N, C)."""
    return F.normalize(maps.float().mean(dim=(2, 3)))


def _beside(shapes: Tensor, colours: Tensor) -> Tensor:
    """Shapes whose squares add up to the number of features, beside colours. Shapes: (N, c), (N, d); (N, c + d)."""
    length = (shapes.shape[1] + colours.shape[1]) ** 0.5
    return torch.cat([length * shapes, colours], dim=1)


def _colours(images: Tensor) -> Tensor:
    """Weighted mean colours and their spreads. Shapes: images uint8 (N, 3, H, W); result (N, 51)."""
    pixels = images.contiguous().float() / 127.5 - 1  # sums in one order, whatever the strides
    means = F.adaptive_avg_pool2d(pixels, COLOUR_GRID).flatten(1)
    signals = torch.einsum("dc,nchw->ndhw", pixels.new_tensor(YIQ), F.adaptive_avg_pool2d(pixels, SPREAD_GRID))
    spreads = signals.flatten(2).std(dim=2, correction=0)
    return torch.cat([COLOUR_WEIGHT * means, pixels.new_tensor(SPREAD_WEIGHTS) * spreads], dim=1)


def inception_network(weights: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's Inception with the given weights. Its blocks up to the pooled features are called in turn.

    Batch normalisation is folded into the convolutions (features equal to 3e-7).
    """
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

    # Its constructor unpickles whatever file it is given, so it is given one that was written from tensors here.
    plain = io.BytesIO()
    torch.save(dict(weights), plain)
    plain.seek(0)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], plain)
    for block in network.modules():
        if isinstance(block, BasicConv2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return freeze(network.to(memory_format=torch.channels_last))


SPATIAL_CHANNELS: Final = 7
"""Of the first branch of Inception's block 6d; at 17 x 17 these make the 2023 numbers of sFID (Nash et al. 2021)."""

AT_ONCE_ON_CPU: Final = 4
"""Images whose maps (22 MB the largest) lie in memory that the C library gives again; larger ones it asks for anew."""


class InceptionExtractor:
    """The Inception network of FID: 2048 features and 1008 logits without bias, images resized as TensorFlow 1 did.

    The spatial map is what the first 7 channels of "mixed_6/conv" hold in the original graph. Images are resized in
    float32, and the network runs in `dtype`; the published numbers belong to float32.
    """

    name = "inception"
    size = 299
    resize = "bilinear_tensorflow1"

    def __init__(
        self, network: nn.Module, weights_hash: str, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.network = network.to(device, dtype)
        *self._blocks, _ = network.children()  # in the order of their calls; the last is the classifier
        self.weights_hash, self.device, self.dtype = weights_hash, torch.device(device), dtype
        self._inner = torch.empty(0)
        network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(self._keep_inner)

    def _keep_inner(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._inner = output[:, :SPATIAL_CHANNELS].flatten(1)

    @property
    def precision(self) -> str:
        """The type in which the network is computed, e.g. "float32"."""
        return type_name(self.dtype)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, 3, H, W) of any size: (N, 2048), logits (N, 1008), spatial (N, 2023)."""
        require_uint8(images)
        if self.device.type != "cpu":
            return self._of(images)
        features = FeatureAccumulator()
        for part in images.split(AT_ONCE_ON_CPU):
            features.add(self._of(part))
        return features.result()

    def _of(self, images: Tensor) -> Features:
        pixels = resized_as_tensorflow1(images.to(self.device).float(), self.size)
        maps = pixels.sub_(128).div_(128).to(self.dtype, memory_format=torch.channels_last)
        for block in self._blocks:
            maps = block(maps)
        features = maps.flatten(1)
        logits = features @ self.network.get_parameter("fc.weight").T  # without its bias
        return collected(features, logits, self._inner)


def inception_file(weights_path: Path | None) -> Path:
    """The standard weights: the given file, else the torch hub cache, else downloaded into that cache.

    Raises: UserError where they cannot be had or the file is another one.
    """
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = weights_path or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if weights_path is not None and not path.is_file():
        raise UserError(f"There is no file {path} with the Inception weights: download {URL_INCEPTION_V3} to it.")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), INCEPTION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The standard Inception weights are missing and cannot be downloaded ({error}): put "
                f"{URL_INCEPTION_V3} at {path} or give its path as metrics.weights (metrics.also.inception beside "
                "another extractor), or use metrics.extractor=efficientnet_lite2_colour, which needs no download."
            ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != INCEPTION_SHA256:
        raise UserError(
            f"{path} does not hold the standard Inception weights (SHA-256 {digest[:8]}..., not "
            f"{INCEPTION_SHA256[:8]}...), without which a number is no FID: download {URL_INCEPTION_V3}."
        )
    return path
