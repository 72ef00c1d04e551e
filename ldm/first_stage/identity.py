"""The first stage of pixel space: f = 1, through the same code path as every other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.coder import Coders
from ldm.first_stage.contract import EncodedImages, Labels, Reconstruction, TrainableFirstStage
from ldm.first_stage.posterior import UncodedFirstStage
from ldm.metrics.rate import pixel_rates
from ldm.metrics.values import Measured


class IdentityFirstStage(UncodedFirstStage, TrainableFirstStage):
    """The image is its own latent; there are no parameters and nothing to train."""

    @dataclass(frozen=True)
    class Options:
        """It has none."""

    regulariser = "identity"
    labels = Labels(
        title="pixels",
        rate="rate_lossless",
        crude_rate="rate_raw",
    )
    group = None
    penalties: ClassVar[Mapping[str, str]] = {}
    reduction = "mean"
    is_drawn = False

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1
        self.channels = 3
        self.cache_channels = 3

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """The identity.

        Raises: UserError for a factor that is not 1.
        """
        if coders.factor != 1:
            raise UserError(
                f"The identity first stage does not compress, but ae.f={coders.factor}: choose ae.f=1 or another ae."
            )
        return cls()

    def encode(self, image: Tensor) -> Tensor:
        """The image itself, (N, 3, H, W)."""
        return image

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The packed image itself, (N, 3, H, W); `noise` has no effect."""
        return packed

    def decode(self, raw: Tensor) -> Tensor:
        """The latent itself, (N, 3, H, W)."""
        return raw

    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """24 bits, and what PNG makes of them."""
        return pixel_rates(torch.cat(list(heldout.images())).permute(0, 2, 3, 1).contiguous().numpy())

    @property
    def last_layer(self) -> Tensor:
        """There is none.

        Raises: RuntimeError, always.
        """
        raise RuntimeError("the identity first stage has no layers: it is never trained")

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """The image, with nothing to regularise. Shapes: as in the contract."""
        return Reconstruction(image, image)

    def before_step(self, image: Tensor, step: int, steps: int, draw: torch.Generator) -> Mapping[nn.Parameter, Tensor]:
        """Does nothing. Shapes: as in the contract."""
        return {}

    def forward_counted(self, image: Tensor) -> Reconstruction:
        """The image. Shapes: as in the contract."""
        return self.forward_train(image)
