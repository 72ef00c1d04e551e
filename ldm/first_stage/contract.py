"""What every first stage offers and states of itself, so that no code outside its file asks which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from ldm.finite import require_finite
from ldm.first_stage.coder import Coders
from ldm.metrics.values import Measured

Reduction = Literal["sum", "mean"]

NO_SPREAD: Final = float("-inf")
"""Log-variance of a latent that is a point."""


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution for each latent; `mean` and `logvar` have the shape (N, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + sigma * noise; `noise` is standard normal, it and the result (N, C, h, w)."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL(self || N(0, I)) in nats, summed over C, h and w; shape (N,).

        Source: Kingma and Welling, arXiv 1312.6114, appendix B.
        """
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


def finite(encoding: Gaussian | Tensor) -> Gaussian | Tensor:
    """An encoding (N, C, h, w) as it is. Raises: NotFiniteError where it is made of numbers that are none."""
    for values in (encoding.mean, encoding.logvar) if isinstance(encoding, Gaussian) else (encoding,):
        if values is not None:
            require_finite(values, "the encoder of the first stage")
    return encoding


@dataclass
class Reconstruction:
    """What one training pass gives.

    image: (N, 3, H, W). latent: raw, exactly what was decoded. regularisation: named scalar terms, unweighted, those of
    the class's `penalties` ({"kl"} in nats, summed over an image's latent and averaged over the batch; {"codebook"}
    codebook plus commitment term, averaged over all elements). indices: (N, h, w) where there is a codebook, else None.
    whole: the raw latent of the image where a view of it was decoded, (N, channels, h, w), else None.
    """

    image: Tensor
    latent: Tensor
    regularisation: dict[str, Tensor] = field(default_factory=dict)
    indices: Tensor | None = None
    whole: Tensor | None = None


class Codebook(Protocol):
    """The codes that a first stage quantises to, whether they are learned or fixed."""

    @property
    def codes(self) -> int:
        """Number of codes."""

    def nearest(self, raw: Tensor) -> Tensor:
        """The number of the code at each position of raw latents: (N, C, h, w) to (N, h, w), int64."""


class EncodedImages(Protocol):
    """Images and their encodings by one first stage, in batches; every pass encodes them anew, so none is stored."""

    @property
    def pixels(self) -> int:
        """Pixels of an image, H * W."""

    def __len__(self) -> int:
        """Number of images."""

    def images(self) -> Iterator[Tensor]:
        """The images as they are stored, uint8 (n, 3, H, W) on the CPU."""

    def encodings(self) -> Iterator[Gaussian | Tensor]:
        """The encodings of the same batches: what `FirstStage.encode` gives, (n, C, h, w)."""


@dataclass(frozen=True)
class Labels:
    """How tables and figures name a first stage, as plain data that a record can hold.

    title: as in a legend. rate: the metric that is its rate on an axis, None where it has no finite one; crude_rate:
    the one that is drawn hollow beside it. rmse, psnr: the metrics of the distortion that belongs to that rate.
    Units: both rates in bits per pixel.
    """

    title: str
    rate: str | None = None
    crude_rate: str | None = None
    rmse: str = "rmse255"
    psnr: str = "psnr"


def at_least_float32(x: Tensor) -> Tensor:
    """x, of any shape, in float32 where it is of lower precision, else x itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class FirstStage(nn.Module, ABC):
    """Maps images (N, 3, H, W) in [-1, 1] to latents (N, channels, H / factor, W / factor) and back.

    Latents are raw here: their scale for diffusion is an object of its own. Encodings and images leave in float32 at
    least, also under autocast.

    regulariser: its name in configs and records. is_drawn: whether a latent is a draw from a posterior.
    """

    regulariser: str
    labels: Labels
    is_drawn: bool
    factor: int
    channels: int
    cache_channels: int

    @property
    @abstractmethod
    def codebook(self) -> Codebook | None:
        """The codes it quantises to; None where latents are not quantised."""

    @property
    def codes(self) -> int | None:
        """Number of codes; None where latents are not quantised."""
        return None if self.codebook is None else self.codebook.codes

    @abstractmethod
    def encode(self, image: Tensor) -> Gaussian | Tensor:
        """The encoding without any randomness: a Gaussian (KL), or the latent before quantisation (VQ).

        Shapes: image (N, 3, H, W); result (N, channels, H / factor, W / factor), of a Gaussian its mean and
        log-variance.
        """

    def pack(self, encoding: Gaussian | Tensor) -> Tensor:
        """The encoding as one tensor, which is what a latent cache stores.

        Shapes: encoding (N, channels, h, w); result (N, cache_channels, h, w).
        """
        if isinstance(encoding, Gaussian):
            return torch.cat((encoding.mean, encoding.logvar), dim=1)
        return encoding

    def posterior(self, encoding: Gaussian | Tensor) -> Gaussian:
        """The encoding as a distribution; one without spread has log-variance minus infinity.

        Shapes: encoding (N, channels, h, w); mean and log-variance alike.
        """
        if isinstance(encoding, Gaussian):
            return encoding
        return Gaussian(encoding, torch.full_like(encoding, NO_SPREAD))

    @abstractmethod
    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The raw latent of a packed encoding; KL draws with `noise`, or takes the mean where it is None.

        Shapes: packed (N, cache_channels, h, w); noise and result (N, channels, h, w).
        """

    @abstractmethod
    def decode(self, raw: Tensor) -> Tensor:
        """The image of a raw latent; VQ quantises first.

        Shapes: raw (N, channels, h, w); result (N, 3, h * factor, w * factor), not clamped.
        """

    @abstractmethod
    def decode_counted(self, raw: Tensor) -> Tensor:
        """`decode` for counts of FLOPs on the meta device: without steps that multiply nothing and do not run there.

        Shapes: as `decode`.
        """

    @abstractmethod
    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """Rates of the held-out images' latents in bits per pixel, each under its own name, and facts of the latents.

        What a decoder may know beforehand is fitted to the training images.
        """

    @abstractmethod
    def coded(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """The size of the held-out images' latents when an entropy coder writes them: a check on `rates`."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, by which the adversarial weight is adapted.

        Shapes: (3, C, kernel, kernel). Source: Esser et al., arXiv 2012.09841, equation 7.
        """

    @abstractmethod
    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encodes, regularises and decodes with gradients.

        Shapes: image (N, 3, H, W), noise (N, channels, h, w) as in `latent`; result as `Reconstruction` says.
        """

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """`forward_train`, shapes alike, under the name that distributed data parallelism and compilation call."""
        return self.forward_train(image, noise)


class TrainableFirstStage(FirstStage):
    """A first stage that is built from options and trained: what stands in `ldm.first_stage.FIRST_STAGES`.

    Options: a dataclass whose fields are its options (see `ldm.parts`): what a config holds of it, under `ae.<group>`,
    or beside the settings of all first stages where `group` is None. penalties: by the name of each regularisation term
    of a training pass, the option that weighs it. reduction: of the reconstruction loss beside them, over pixels.
    """

    Options: ClassVar[type]
    group: ClassVar[str | None]
    penalties: ClassVar[Mapping[str, str]]
    reduction: ClassVar[Reduction]

    @classmethod
    def filled(
        cls, channels: int | None, options: Mapping[str, Any], default: Callable[[str], Any]
    ) -> tuple[int, dict[str, Any]]:
        """Channels of the latent and options, with what is None of them as `default` says by name, None for no word.

        Raises: UserError where they do not fit together.
        """
        own = {name: default(name) if value is None else value for name, value in options.items()}
        return channels or default("latent_channels"), own

    @classmethod
    @abstractmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """One with random weights; `options` is an `Options`. Raises: UserError where they do not fit together."""

    def first_decoded(self, latent: Tensor) -> Tensor:
        """What the decoder is given at the very start of a latent of the encoder's: as a rule the latent itself.

        Shapes: (N, C, h, w) both, C the coders' channels.
        """
        return latent

    @abstractmethod
    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """What the model does of itself before training step `step` of `steps`, from 0, with that step's images.

        Where ranks divide the batch these are the images of one, and `ldm.ranks` completes what is made of them.
        Returns the parameters that were set anew with the mask of their rows, whose optimiser state no longer applies.
        Shapes: image (N, 3, H, W); each mask (rows of the parameter,), booleans.
        """

    @abstractmethod
    def forward_counted(self, image: Tensor) -> Reconstruction:
        """`forward_train` for counts of FLOPs: its products and what it stores for the backward pass.

        Shapes: image (N, 3, H, W); result as `forward_train` without noise.
        """


LatentView = Callable[[Tensor], Tensor]
"""What is decoded in place of raw latents (N, C, h, w), perhaps of another h and w."""


def unchanged(latent: Tensor) -> Tensor:
    """The view of latents, of any shape, that they are themselves."""
    return latent


class ShapableFirstStage(TrainableFirstStage):
    """A first stage whose latents may be shaped in training: one steps in between its encoder and its decoder.

    See `ldm.first_stage.shaping`.
    """

    @abstractmethod
    def forward_viewed(self, image: Tensor, noise: Tensor | None, view: LatentView) -> Reconstruction:
        """`forward_train` that decodes a view of the raw latent in its place.

        Shapes: image (N, 3, H, W), noise (N, channels, h, w) as in `latent`; `view` may change h and w, and the image
        of the result with them.
        """

    @property
    @abstractmethod
    def encoder_layer(self) -> Tensor:
        """The weight of the encoder's last convolution, by which terms on latents are weighed.

        Shapes: (C, channels before, kernel, kernel).
        """

    @abstractmethod
    def decode_train(self, raw: Tensor) -> Reconstruction:
        """Decodes a raw latent with gradients down to it. Shapes: raw (N, channels, h, w)."""

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Decodes the raw latent itself. Shapes: as in the contract."""
        return self.forward_viewed(image, noise, unchanged)

    @abstractmethod
    def forward_counted(self, image: Tensor, view: LatentView = unchanged) -> Reconstruction:
        """`forward_viewed` for counts of FLOPs. Shapes: as there."""


class NestableFirstStage(ShapableFirstStage):
    """A first stage of which one with fewer channels can be cut, the first ones (`ldm.first_stage.nested`)."""

    @classmethod
    @abstractmethod
    def build_nested(cls, coders: Coders) -> Self:
        """One with random weights that can be cut, whose latents have the coders' channels."""

    @abstractmethod
    def cut(self, channels: int) -> dict[str, Tensor]:
        """The weights of one that `build_nested` makes for coders of so many channels.

        It encodes to the first of this one's channels, and decodes as this one does where all others are zero.
        """
