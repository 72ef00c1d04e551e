"""Rates and coded sizes of first stages whose latents are posteriors, or points."""

from collections.abc import Iterator

from torch import Tensor

from ldm.first_stage.contract import EncodedImages, FirstStage
from ldm.metrics.coded_latents import HeldOut, coded_posteriors
from ldm.metrics.rate import posterior_rates
from ldm.metrics.values import Measured


def posteriors(model: FirstStage, images: EncodedImages) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean and log-variance of each batch, (N, C, h, w) both."""
    for encoding in images.encodings():
        found = model.posterior(encoding)
        yield found.mean, found.logvar


def rates_of_posteriors(model: FirstStage, train: EncodedImages, heldout: EncodedImages) -> Measured:
    """`ldm.metrics.rate.posterior_rates` of a first stage."""
    return posterior_rates(posteriors(model, train), posteriors(model, heldout), heldout.pixels, len(train))


def coded_means(model: FirstStage, train: EncodedImages, heldout: EncodedImages) -> Measured:
    """`ldm.metrics.coded_latents.coded_posteriors` of a first stage: the means are rounded, coded and decoded."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        means = (mean for mean, _ in posteriors(model, heldout))
        return zip(heldout.images(), means, strict=True)

    return coded_posteriors(posteriors(model, train), HeldOut(passes, model.decode, heldout.pixels))
