"""The first stage of pixel space: f = 1, through the same code path as every other."""

from torch import Tensor

from ldm.first_stage.contract import FirstStage, Reconstruction


class IdentityFirstStage(FirstStage):
    """The image is its own latent; there are no parameters and nothing to train."""

    regulariser = "identity"

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1
        self.channels = 3
        self.cache_channels = 3

    def encode(self, image: Tensor) -> Tensor:
        """The image itself."""
        return image

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The image itself; `noise` has no part in it."""
        return packed

    def decode(self, raw: Tensor) -> Tensor:
        """The latent itself."""
        return raw

    @property
    def last_layer(self) -> Tensor:
        """Raises: RuntimeError, there is none."""
        raise RuntimeError("the identity first stage has no layers: it is never trained")

    def forward_train(self, image: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """The image, with nothing to regularise."""
        return Reconstruction(image, image)
