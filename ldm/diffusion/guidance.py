"""Guidance and clipping: they wrap a denoising model, so that every sampler gets them for nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion.model import Denoise, DenoisingModel


@dataclass(frozen=True)
class Guidance:
    """worse + scale (model - worse) on all channels, where the worse is the unconditional model (Ho and Salimans 2022)
    or an earlier one (Karras et al. 2024).

    `scale` 1 is none. It acts where t is within `interval`, ends included (Kynkaanniemi et al. 2024, who give it in
    sigma). `rescale` is the share of the guided prediction whose standard deviation over an image is brought back to
    that of the conditional one (Lin et al. 2024, section 3.4).
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def acts_at(self, t: float) -> bool:
        """Whether a step from t is guided, and so evaluates the network twice an image."""
        low, high = self.interval
        return self.scale != 1 and low <= t <= high


def guided(
    model: DenoisingModel, condition: Condition, null: Condition | None = None, guidance: Guidance = Guidance()
) -> Denoise:
    """The model under guidance, both predictions from one batched call; where guidance does not act, one alone.

    The combination is made of x_0 estimates, which is the same as one of predictions, since all targets are affine in
    each other at a given x_t; `rescale`, which is not, acts on what the network predicts. Without guidance, `null` is
    ignored.

    Raises: ValueError for a scale other than 1 without a null condition.
    """
    if guidance.scale == 1:
        return lambda x_t, t: model.denoise(x_t, t, condition)
    if null is None:
        raise ValueError("guidance needs the null condition")
    both = null.cat(condition)

    def estimates(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        without, given = model.denoise(torch.cat([x_t, x_t]), t, both).chunk(2)
        return without, given

    return _extrapolated(model, condition, estimates, guidance)


def autoguided(
    model: DenoisingModel, condition: Condition, guide: DenoisingModel, told: Condition, guidance: Guidance
) -> Denoise:
    """The model guided by a worse one of itself: D_0 + w (D_1 - D_0), D_0 the guide's estimate of x_0.

    Both are asked about the same image under the same condition, if any; `told` is it by the guide's own tau_theta.
    So no unconditional model is needed, and with the same network as guide every w leaves the samples as they are.
    Source: Karras et al. 2024, arXiv 2406.02507, section 3.
    """
    if guidance.scale == 1:
        return guided(model, condition)

    def estimates(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return guide.denoise(x_t, t, told), model.denoise(x_t, t, condition)

    return _extrapolated(model, condition, estimates, guidance)


def _extrapolated(
    model: DenoisingModel,
    condition: Condition,
    estimates: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    guidance: Guidance,
) -> Denoise:
    """From the worse of two estimates of x_0 over the better one, where guidance acts; elsewhere the model alone."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if not guidance.acts_at(float(t)):
            return model.denoise(x_t, t, condition)
        without, given = estimates(x_t, t)
        x0 = without + guidance.scale * (given - without)
        return _rescaled(model, x0, given, x_t, t, guidance.rescale) if guidance.rescale else x0

    return denoise


def _rescaled(model: DenoisingModel, x0: Tensor, given: Tensor, x_t: Tensor, t: Tensor, share: float) -> Tensor:
    """The x_0 estimate of the prediction that `x0` implies, a share of it with the spread of that of `given`."""
    prediction, conditional = (model.prediction_of(estimate, x_t, t) for estimate in (x0, given))
    axes = tuple(range(1, x_t.dim()))
    ratio = conditional.std(axes, keepdim=True) / prediction.std(axes, keepdim=True)
    return model.x0_of(prediction * (share * ratio + 1 - share), x_t, t)


GUIDES = ("unconditional", "milestone")
"""The worse models that may guide: the model without its condition (`guided`), or an earlier one (`autoguided`)."""

CLIPS = ("none", "range")
"""What may be done to x_0 estimates: nothing, or `clipped`."""


def clipped(denoise: Denoise, low: float, high: float) -> Denoise:
    """Clamps every x_0 estimate, (N, C, h, w), to the range that the training latents have."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)
