"""What first stages share whose latents are posteriors, or points: no codes, their rates and coded sizes."""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from ldm.first_stage.contract import EncodedImages, FirstStage, Gaussian, Labels
from ldm.metrics.coded_latents import HeldOut, coded_posteriors
from ldm.metrics.rate import no_rates, posterior_rates
from ldm.metrics.values import Measured

POSTERIOR: Final = Labels(
    title="KL",
    rate="rate_kl_fitted",
    crude_rate="rate_kl_prior",
    rmse="rmse255_sample",
    psnr="psnr_sample",
)
"""The rate of a posterior belongs to a sample of it."""

UNREGULARISED: Final = Labels(title="unregularised")


class UncodedFirstStage(FirstStage):
    """A first stage without a codebook, whose decoding runs on the meta device as it is."""

    @property
    def codebook(self) -> None:
        """There is none."""

    def decode_counted(self, raw: Tensor) -> Tensor:
        """All of `decode`. Shapes: as in the contract."""
        return self.decode(raw)

    def coded(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """Means rounded to steps, among them those of the posteriors' widths where they have any."""

        def passes() -> Iterator[tuple[Tensor, Tensor]]:
            means = (mean for mean, _ in self._posteriors(heldout))
            return zip(heldout.images(), means, strict=True)

        return coded_posteriors(self._posteriors(train), HeldOut(passes, self.decode, heldout.pixels))

    def _posteriors(self, images: EncodedImages) -> Iterator[tuple[Tensor, Tensor]]:
        """Mean and log-variance of each batch, (N, C, h, w) both."""
        for encoding in images.encodings():
            found = self.posterior(encoding)
            yield found.mean, found.logvar


class PosteriorFirstStage(UncodedFirstStage):
    """A first stage that encodes to a Gaussian for each latent."""

    labels = POSTERIOR
    is_drawn = True

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw with `noise` from the packed Gaussian, its mean where None. Shapes: as in the contract."""
        mean, logvar = packed.chunk(2, dim=1)
        return mean if noise is None else Gaussian(mean, logvar).sample(noise)

    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """KL to the prior and to a fitted Gaussian."""
        return posterior_rates(self._posteriors(train), self._posteriors(heldout), heldout.pixels, len(train))


class PointFirstStage(UncodedFirstStage):
    """A first stage whose latents are neither drawn nor quantised."""

    labels = UNREGULARISED
    is_drawn = False

    def latent(self, packed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The packed latent itself; `noise` has no effect. Shapes: as in the contract."""
        return packed

    def rates(self, train: EncodedImages, heldout: EncodedImages) -> Measured:
        """None, with the reason."""
        return no_rates()
