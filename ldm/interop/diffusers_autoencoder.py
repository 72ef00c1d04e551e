"""Any other autoencoder class of diffusers as a first stage, by diffusers itself (the extra `[diffusers]`)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage, Gaussian, Reconstruction, at_least_float32
from ldm.interop.filling import fill
from ldm.pretrained.torchvision_ops import ensure_torchvision

_CHANNELS = ("latent_channels", "z_channels", "z_dim")
_WIDTHS = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels")
"""Config keys under which classes tell the latent's channels, and one width a level, each at half the side."""


class WrappedFirstStage(FirstStage):
    """An autoencoder of diffusers under the contract; "kl" where it encodes to a Gaussian, else "none"."""

    def __init__(self, autoencoder: nn.Module, factor: int, channels: int, is_gaussian: bool) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.factor = factor
        self.channels = channels
        self.regulariser = "kl" if is_gaussian else "none"
        self.cache_channels = 2 * channels if is_gaussian else channels

    def encode(self, image: Tensor) -> Gaussian | Tensor:
        """The Gaussian, or the latent of a class that has none."""
        found = self.autoencoder.encode(image)  # type: ignore[operator]
        if self.regulariser == "kl":
            return Gaussian(at_least_float32(found.latent_dist.mean), at_least_float32(found.latent_dist.logvar))
        return at_least_float32(found[0])

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw with `noise` from a packed Gaussian, its mean where None; a latent without spread itself."""
        if self.regulariser != "kl":
            return packed
        mean, logvar = packed.chunk(2, dim=1)
        return mean if noise is None else Gaussian(mean, logvar).sample(noise)

    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent."""
        return at_least_float32(self.autoencoder.decode(raw).sample)  # type: ignore[operator]

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution that the decoder lists."""
        decoder = self.autoencoder.decoder
        assert isinstance(decoder, nn.Module)
        return [layer for layer in decoder.modules() if isinstance(layer, nn.Conv2d)][-1].weight

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Decodes a draw with `noise`; regularisation {"kl"} of a Gaussian, else none."""
        encoding = self.encode(image)
        raw = self.latent(self.pack(encoding), noise)
        terms = {"kl": encoding.kl().mean()} if isinstance(encoding, Gaussian) else {}
        return Reconstruction(self.decode(raw), raw, terms)


def wrapped_autoencoder(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> WrappedFirstStage:
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
    return WrappedFirstStage(autoencoder, factor, channels, is_gaussian="KL" in kind)
