"""First stages that start where principal components are: what a short training would spend most of its time to find.

Without their residual branches, which `start_near_linear` leaves at zero, encoder and decoder are chains of
convolutions (the trunk), each with a normalisation and an activation before its head. The encoder's convolutions start
as principal components of the patches that they see; the decoder's and both heads are fitted by least squares, one
after the other, the former to what the encoder has at their side.

Source: Chan et al. 2015, PCANet, arXiv 1404.3606 (filters that are principal components of patches); Kraehenbuehl et
al. 2016, arXiv 1511.06856 (starts that look at data).
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.coder import Decoder, Downsample, Encoder, Level, ResidualBlock, Upsample
from ldm.first_stage.contract import TrainableFirstStage
from ldm.layers import normalised
from ldm.randomness import generator

PIXELS: Final = 2**20
LATENTS: Final = 4096
MOST_IMAGES: Final = 1024
"""How much is looked at: so many pixels, or more where that leaves fewer positions than this at the latent's side."""

PATCHES: Final = 8192
"""Drawn for each convolution where there are more: ten for each of its inputs, up to 96 channels."""

RIDGE: Final = 1e-4
"""Of least squares, as a share of the inputs' mean variance."""

OFFSET: Final = 2.0
"""Standard deviation of the biases before a normalisation, where channels have variance 1."""

Trunk = Iterator[tuple[nn.Conv2d, Callable[[Tensor], Tensor]]]


def images_to_start_from(count: int, resolution: int, factor: int) -> int:
    """How many of `count` images are looked at."""
    wanted = max(PIXELS // resolution**2, LATENTS // (resolution // factor) ** 2)
    return min(count, wanted, MOST_IMAGES)


@torch.no_grad()
def start_from_components(model: TrainableFirstStage, images: Tensor, seed: int) -> None:
    """Sets the trunk of a model with near-linear weights by `images` (N, 3, H, W) in [-1, 1], on the model's device.

    Latents are the principal components of the encoder's last features, with variance 1; a KL model's log-variances
    stay where the near-linear start has them. The decoder is fitted to what it is given of them: where codes are fixed,
    to the codes. Raises: UserError for a first stage without our coders.
    """
    encoder, decoder, to_latent, from_latent = (
        getattr(model, name, None) for name in ("encoder", "decoder", "to_latent", "from_latent")
    )
    if not isinstance(encoder, Encoder) or not isinstance(decoder, Decoder):
        raise UserError(
            "ae.architecture.initialisation=components sets the convolutions of an encoder and a decoder of "
            f"ldm.first_stage.coder, which {type(model).__name__} does not have: choose reference or near_linear"
        )
    start = _Start(seed)
    features = start.encoder(encoder, images)
    latent = start.head_of_encoder(encoder, features[images.shape[-1] // model.factor])
    for projection in (to_latent, from_latent):
        if isinstance(projection, nn.Identity):
            continue
        assert isinstance(projection, nn.Conv2d)
        _set(projection, torch.eye(model.channels, projection.in_channels), torch.zeros(model.channels))
    start.decoder(decoder, model.first_decoded(latent), features, images)


class _Start:
    """The steps of `start_from_components`; all randomness in it is a function of `seed`."""

    def __init__(self, seed: int) -> None:
        self.draw = generator(seed, "components")

    def encoder(self, encoder: Encoder, images: Tensor) -> dict[int, Tensor]:
        """Sets the trunk by images (N, 3, H, W); returns its last features, (N, C, side, side), by their side."""
        trunk, x, features = list(_trunk(encoder)), images, {}
        for number, (convolution, prepared) in enumerate(trunk, 1):
            self._principal(convolution, prepared(x), before_norm=number == len(trunk))
            x = convolution(prepared(x))
            features[x.shape[-1]] = x
        return features

    def head_of_encoder(self, encoder: Encoder, x: Tensor) -> Tensor:
        """Fits the head to components of the trunk's features with variance 1; returns the latents it gives.

        Shapes: x (N, C, h, w); result (N, z_channels, h, w).
        """
        components = nn.Conv2d(x.shape[1], encoder.z_channels, 1).to(x)
        self._principal(components, x, whitened=True)
        fitted = self._fit(encoder.head, F.silu(normalised(encoder.norm, x)), components(x))
        return fitted[:, : encoder.z_channels]  # a KL model's log-variances follow

    def decoder(self, decoder: Decoder, latent: Tensor, features: dict[int, Tensor], images: Tensor) -> None:
        """Fits the trunk to the encoder's features, its last convolution to patches, and the head to the images.

        Shapes: latent (N, z_channels, h, w), features as `encoder` gives them, images (N, 3, H, W).
        """
        trunk, x = list(_trunk(decoder)), latent
        for convolution, prepared in trunk[:-1]:
            x = prepared(x)
            x = self._fit(convolution, x, features[x.shape[-1]])
        features.clear()  # the largest of what is held, and not needed any more
        convolution, prepared = trunk[-1]
        patches = nn.Conv2d(images.shape[1], convolution.out_channels, 3, padding=1).to(images)
        self._principal(patches, images, before_norm=True)
        x = self._fit(convolution, prepared(x), patches(images))
        self._fit(decoder.head, F.silu(normalised(decoder.norm, x)), images)

    def _principal(
        self, convolution: nn.Conv2d, x: Tensor, *, before_norm: bool = False, whitened: bool = False
    ) -> None:
        """Outputs that are principal components of the patches of x; the channels' mean variance is 1.

        Where a normalisation follows they are rotated at random and moved off zero. It divides an image's channels by
        their size, so components of their own would lose it; among constants it stays, and hardly bends anything.
        """
        patches = self._patches(convolution, x)
        count, mean = len(patches), patches.mean(0)
        patches -= mean
        variances, axes = torch.linalg.eigh(patches.T @ patches / count)
        kept = min(convolution.out_channels, len(axes))
        weight, variances = axes.T.flip(0)[:kept], variances.flip(0)[:kept].clamp_min(1e-9)
        scale = variances[:, None] if whitened else variances.sum() / convolution.out_channels
        weight = weight / scale.sqrt()
        bias = -weight @ mean
        if before_norm:
            shape = (convolution.out_channels, kept)
            turned = torch.linalg.qr(torch.randn(shape, generator=self.draw, dtype=torch.float64))[0].to(weight)
            offset = OFFSET * torch.randn(shape[0], generator=self.draw)
            weight, bias = turned @ weight, turned @ bias + offset.to(bias)
        _set(convolution, weight, bias)

    def _fit(self, convolution: nn.Conv2d, x: Tensor, target: Tensor) -> Tensor:
        """Least squares to channels of the target, which has the output's side; returns the convolution of x.

        Where one has more channels than the other, its last ones have no part in it.
        """
        outputs = min(convolution.out_channels, target.shape[1])
        positions = self._positions(len(target), *target.shape[2:])
        patches = _gathered(_windows(convolution, x), positions)
        goals = _gathered(target[:, :outputs], positions)
        mean, goal = patches.mean(0), goals.mean(0)
        patches -= mean
        gram = patches.T @ patches
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        weight = torch.linalg.solve(gram, patches.T @ (goals - goal)).T
        _set(convolution, weight, goal - weight @ mean)
        return convolution(x)

    def _patches(self, convolution: nn.Conv2d, x: Tensor) -> Tensor:
        windows = _windows(convolution, x)
        return _gathered(windows, self._positions(len(x), *windows.shape[2:4]))

    def _positions(self, n: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """All (image, row, column), or `PATCHES` that are drawn."""
        count = n * height * width
        drawn = count > PATCHES
        flat = torch.randint(count, (PATCHES,), generator=self.draw) if drawn else torch.arange(count)
        return flat // (height * width), flat // width % height, flat % width


def _trunk(coder: Encoder | Decoder) -> Trunk:
    """The convolutions outside of residual branches but for the head, and what their inputs go through before."""
    yield coder.stem, nn.Identity()
    for level in coder.levels:
        assert isinstance(level, Level)
        for block in level.blocks:
            if isinstance(block, ResidualBlock) and isinstance(block.shortcut, nn.Conv2d):
                yield block.shortcut, nn.Identity()
        if isinstance(level.resample, Downsample | Upsample):
            yield level.resample.conv, level.resample.prepared


def _windows(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A view of what the convolution sees at each output: (N, C, H', W', kernel, kernel)."""
    kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    return F.pad(x, 4 * (padding,)).unfold(2, kernel, stride).unfold(3, kernel, stride)


def _gathered(x: Tensor, positions: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(N, C, H, W, ...) at positions: float64 (len(positions), C * ...)."""
    image, row, column = positions
    return x[image, :, row, column].flatten(1).double()


def _set(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """The first outputs; there may be fewer than all."""
    assert convolution.bias is not None
    convolution.weight[: len(weight)] = weight.view(-1, *convolution.weight.shape[1:]).to(convolution.weight)
    convolution.bias[: len(bias)] = bias.to(convolution.bias)
