"""Any other autoencoder class of diffusers as a first stage, by diffusers itself (the extra `[diffusers]`)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage, Gaussian, Reconstruction, at_least_float32
from ldm.first_stage.posterior import PointFirstStage, PosteriorFirstStage
from ldm.interop.filling import fill
from ldm.pretrained.torchvision_ops import ensure_torchvision

_CHANNELS = ("latent_channels", "z_channels", "z_dim")
_WIDTHS = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels")
"""Config keys under which classes tell the latent's channels, and one width a level, each at half the side."""


class _Wrapped(FirstStage):
    """What an autoencoder of diffusers does whatever its latents are."""

    def __init__(self, autoencoder: nn.Module, factor: int, channels: int) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.factor = factor
        self.channels = channels
        self.cache_channels = 2 * channels if self.is_drawn else channels

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent. Shapes: as in the contract."""
        return _decoded(self.autoencoder, raw)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution that the decoder lists. Shapes: as in the contract."""
        return _last_layer(self.autoencoder)


class WrappedPosterior(_Wrapped, PosteriorFirstStage):
    """An autoencoder of diffusers that encodes to a Gaussian."""

    regulariser = "kl"

    def encode(self, image: Tensor) -> Gaussian:
        """The Gaussian of its class. Shapes: as in the contract."""
        found = self.autoencoder.encode(image).latent_dist  # type: ignore[operator]
        return Gaussian(at_least_float32(found.mean), at_least_float32(found.logvar))

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Decodes a draw with `noise`; regularisation {"kl"}. Shapes: as in the contract."""
        encoding = self.encode(image)
        raw = self.latent(self.pack(encoding), noise)
        return Reconstruction(self.decode(raw), raw, {"kl": encoding.kl().mean()})


class WrappedPoint(_Wrapped, PointFirstStage):
    """An autoencoder of diffusers whose latents are neither drawn nor quantised."""

    regulariser = "none"

    def encode(self, image: Tensor) -> Tensor:
        """The latent. Shapes: as in the contract."""
        return at_least_float32(self.autoencoder.encode(image)[0])  # type: ignore[operator]

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes, with nothing to regularise. Shapes: as in the contract."""
        raw = self.encode(image)
        return Reconstruction(self.decode(raw), raw)


def _decoded(autoencoder: nn.Module, raw: Tensor) -> Tensor:
    return at_least_float32(autoencoder.decode(raw).sample)  # type: ignore[operator]


def _last_layer(autoencoder: nn.Module) -> Tensor:
    decoder = autoencoder.decoder
    assert isinstance(decoder, nn.Module)
    return [layer for layer in decoder.modules() if isinstance(layer, nn.Conv2d)][-1].weight


def wrapped_autoencoder(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> WrappedPosterior | WrappedPoint:
    """The first stage of a config whose class only diffusers has, with these weights; f and channels by its config.

    Raises: UserError without diffusers, for a class that it has not or that is no autoencoder of images, or for weights
    that do not fit.
    """
    kind = config["_class_name"]
    try:
        ensure_torchvision()
        import diffusers
    except ImportError as error:
        raise UserError(
            f"a first stage of class {kind} needs diffusers: pip install 'ldm-tradeoffs[diffusers]'; AutoencoderKL, "
            "VQModel and AutoencoderTiny are read without it"
        ) from error
    made = getattr(diffusers, kind, None) if "Autoencoder" in kind else None
    if made is None:
        raise UserError(f"{kind} is no autoencoder of diffusers {diffusers.__version__}, so it cannot be a first stage")
    autoencoder: nn.Module = made.from_config(dict(config))
    if any(isinstance(layer, nn.Conv1d | nn.Conv3d) for layer in autoencoder.modules()):
        raise UserError(f"{kind} encodes video or sound, not images, so it cannot be a first stage")
    channels = next((config[key] for key in _CHANNELS if config.get(key)), None)
    levels = next((len(config[key]) for key in _WIDTHS if config.get(key)), None)
    factor = getattr(autoencoder, "spatial_compression_ratio", None if levels is None else 2 ** (levels - 1))
    if channels is None or factor is None:
        raise UserError(
            f"the config of the {kind} tells no number of latent channels ({', '.join(_CHANNELS)}) or no width a level "
            f"({', '.join(_WIDTHS)}), so its f is not known"
        )
    fill(autoencoder, weights, {}, f"the {kind}")
    wrapped = WrappedPosterior if "KL" in kind else WrappedPoint
    return wrapped(autoencoder, factor, channels)
