"""The loss of a first stage: reconstruction, perceptual, regularisation and adversarial terms.

Source: Rombach et al. 2022, appendix G, with weights and reductions of CompVis/latent-diffusion@a506df57
(ldm/modules/losses/contperceptual.py and vqperceptual.py). The reference's `logvar` is left out: it is a parameter
initialised to 0 that no optimiser holds at that commit, so it changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError, nearest
from ldm.first_stage.contract import Reduction, at_least_float32
from ldm.first_stage.perceptual import PerceptualLoss
from ldm.ranks import batch_mean

ADAPTIVE_EPSILON: Final = 1e-4
ADAPTIVE_LIMIT: Final = 1e4


@dataclass(frozen=True)
class AdaptiveWeight:
    """How strongly the adversarial term counts; `rejected` is 1 where it was not finite and 0 stands in its place.

    Shapes: () both.
    """

    value: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class GeneratorTerms:
    """The terms of one generator step; only `total` is for a backward pass, the graphs of the others may be gone.

    nll: reconstruction and perceptual term in the reduction that is minimised. l1, perceptual: averages over pixels and
    channels, comparable whatever the reduction. regularisation: unweighted. adversarial: -mean of the logits, 0 before
    the start. adaptive_weight: with the discriminator's weight and factor, so what the adversarial term is multiplied
    by. adaptive_rejected: 1 where that weight was not finite and the term was left out. image_gradient: that of `nll`
    at the reconstruction, where the graph of `nll` is gone.
    Shapes: all (), image_gradient (N, 3, H, W).
    """

    total: Tensor
    nll: Tensor
    l1: Tensor
    perceptual: Tensor
    adversarial: Tensor
    adaptive_weight: Tensor
    adaptive_rejected: Tensor
    regularisation: Mapping[str, Tensor] = field(default_factory=dict)
    image_gradient: Tensor | None = None

    def nll_gradient(self, reconstruction: Tensor, at: Tensor) -> Tensor:
        """The gradient of `nll` at a weight that `reconstruction` was computed with, of the weight's shape."""
        if self.image_gradient is None:
            return at_least_float32(torch.autograd.grad(self.nll, at, retain_graph=True)[0])
        return _through(reconstruction, self.image_gradient, at)

    def scalars(self) -> dict[str, Tensor]:
        """All terms by name, of shape (), detached, for logging."""
        named = {
            "total": self.total,
            "nll": self.nll,
            "l1": self.l1,
            "perceptual": self.perceptual,
            "adversarial": self.adversarial,
            "adaptive_weight": self.adaptive_weight,
            "adaptive_rejected": self.adaptive_rejected,
            **self.regularisation,
        }
        return {name: value.detach() for name, value in named.items()}


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Hinge loss: (mean relu(1 - real) + mean relu(1 + fake)) / 2.

    Shapes: logits of any shape, as a rule (N, 1, h, w); result ().
    Source: Lim and Ye 2017, arXiv 1705.02894; hinge_d_loss of taming-transformers.
    """
    real = F.relu(1.0 - at_least_float32(logits_real)).mean()
    fake = F.relu(1.0 + at_least_float32(logits_fake)).mean()
    return (real + fake) / 2


def adaptive_weight(nll_gradient: Tensor, adversarial_gradient: Tensor) -> AdaptiveWeight:
    """||nll gradient|| / (||adversarial gradient|| + 1e-4), at most 1e4, of gradients at the decoder's last layer.

    Shapes: both gradients of the last layer's shape; result (), as `AdaptiveWeight` says.
    Source: Esser et al. 2021, arXiv 2012.09841, equation (7).
    """
    below = adversarial_gradient.norm()
    ratio = nll_gradient.norm() / (below + ADAPTIVE_EPSILON)
    # Asked before the limit is applied, which would turn infinity into an ordinary weight; and of the denominator too,
    # because a ratio of 0 to an infinite gradient gives no number.
    finite = ratio.isfinite() & below.isfinite()
    value = torch.where(finite, ratio, torch.zeros_like(ratio)).clamp(0.0, ADAPTIVE_LIMIT)
    return AdaptiveWeight(value.detach(), (~finite).to(ratio.dtype))


def with_gradient(value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of the given value whose gradient with respect to `at` is `gradient`.

    Shapes: value (), at of any shape, gradient as at; result ().
    """
    linear = (at.to(gradient.dtype) * gradient).sum()
    return value.detach() + linear - linear.detach()


class FirstStageLoss(nn.Module):
    """L1 + perceptual + regularisation + adversarial loss of an autoencoder.

    reduction="sum" (the reference's KL models) sums the first two over pixels and channels, "mean" (its VQ models)
    averages; both average over the batch. `regularisation_weights` has a weight for every regularisation term
    of the first stage. Holds nothing that is trained: the discriminator is an argument.
    """

    def __init__(
        self,
        perceptual: PerceptualLoss | None,
        reduction: Reduction,
        regularisation_weights: Mapping[str, float],
        perceptual_weight: float = 1.0,
        discriminator_weight: float = 0.5,
    ) -> None:
        """`perceptual` None leaves the perceptual term out.

        Raises: UserError where the reduction is unknown.
        """
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise UserError(f"The first-stage loss has no reduction '{reduction}': use sum or mean.")
        self.perceptual = perceptual
        self.reduction = reduction
        self.regularisation_weights = dict(regularisation_weights)
        self.perceptual_weight = perceptual_weight
        self.discriminator_weight = discriminator_weight

    def generator_terms(
        self,
        image: Tensor,
        reconstruction: Tensor,
        regularisation: Mapping[str, Tensor],
        last_layer: Tensor | None = None,
        discriminator: Callable[[Tensor], Tensor] | None = None,
        adversarial_factor: float = 1.0,
    ) -> GeneratorTerms:
        """The terms of one step that trains the autoencoder; call `total.backward()`.

        The adversarial term takes part where there is a discriminator and its factor is not 0 (the caller's start); it
        then needs `last_layer`, the weight of the decoder's last convolution, from which `reconstruction` was computed.
        Neither the discriminator nor the perceptual network gets a gradient.

        Shapes: image and reconstruction (N, 3, H, W), each regularisation term (), last_layer (3, C, kernel, kernel).
        Raises: UserError where a regularisation term has no weight; ValueError where `last_layer` is missing.
        """
        l1, perceptual, nll = self._reconstruction_terms(image, reconstruction)
        penalty = self._penalty(regularisation, nll)
        if discriminator is None or adversarial_factor == 0:
            off = torch.zeros_like(l1.detach())
            return GeneratorTerms(nll + penalty, nll, l1, perceptual, off, off, off, regularisation)
        if last_layer is None:
            raise ValueError("The adversarial term needs last_layer, the weight of the decoder's last convolution.")

        adversarial = -at_least_float32(discriminator(reconstruction)).mean()
        # Perceptual network and discriminator are differentiated once, down to the image: from there the last layer
        # is one convolution away, and the same gradients serve the backward pass through the autoencoder. The
        # reference differentiates both networks twice.
        to_image_nll = at_least_float32(torch.autograd.grad(nll, reconstruction)[0])
        to_image_adversarial = at_least_float32(torch.autograd.grad(adversarial, reconstruction)[0])
        weight = adaptive_weight(
            batch_mean(_through(reconstruction, to_image_nll, last_layer)),
            batch_mean(_through(reconstruction, to_image_adversarial, last_layer)),
        )
        applied = weight.value * self.discriminator_weight * adversarial_factor
        kept = weight.rejected == 0
        # Not a product: 0 times a gradient that is not finite would not be 0.
        nothing = torch.zeros_like(to_image_adversarial)
        gradient = to_image_nll + torch.where(kept, applied * to_image_adversarial, nothing)
        value = nll.detach() + torch.where(kept, applied * adversarial.detach(), torch.zeros_like(applied))
        total = with_gradient(value, reconstruction, gradient) + penalty
        named = (total, nll, l1, perceptual, adversarial, applied, weight.rejected, regularisation)
        return GeneratorTerms(*named, image_gradient=to_image_nll)

    def reconstruction(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """L1 and perceptual term in the reduction that is minimised. Shapes: both (N, 3, H, W); result ()."""
        return self._reconstruction_terms(image, reconstruction)[2]

    def _reconstruction_terms(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L1 and perceptual term as averages, and both in the reduction that is minimised."""
        l1 = (at_least_float32(image) - at_least_float32(reconstruction)).abs().mean()
        perceptual = (
            torch.zeros_like(l1)
            if self.perceptual is None or self.perceptual_weight == 0
            else self.perceptual(image, reconstruction).mean()
        )
        scale = reconstruction[0].numel() if self.reduction == "sum" else 1
        return l1, perceptual, scale * (l1 + self.perceptual_weight * perceptual)

    def _penalty(self, regularisation: Mapping[str, Tensor], like: Tensor) -> Tensor:
        penalty = torch.zeros_like(like)
        for name, term in regularisation.items():
            if name not in self.regularisation_weights:
                known = self.regularisation_weights
                raise UserError(
                    f"The regularisation term '{name}' has no weight{nearest(name, known)}: "
                    f"weights are given for {', '.join(known) or 'none'}."
                )
            penalty = penalty + self.regularisation_weights[name] * term
        return penalty


class OwnLoss(nn.Module):
    """The loss that a first stage brings with it, in place of `FirstStageLoss`: one number that is minimised.

    `function(image, reconstruction, regularisation)` gives it. Shapes: images (N, 3, H, W); result ().
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]) -> None:
        super().__init__()
        self.function = function

    def generator_terms(
        self,
        image: Tensor,
        reconstruction: Tensor,
        regularisation: Mapping[str, Tensor],
        last_layer: Tensor | None = None,
        discriminator: Callable[[Tensor], Tensor] | None = None,
        adversarial_factor: float = 1.0,
    ) -> GeneratorTerms:
        """The terms of one step; there is neither a perceptual nor an adversarial one."""
        total = self.function(image, reconstruction, regularisation)
        l1 = (at_least_float32(image) - at_least_float32(reconstruction)).abs().mean()
        off = torch.zeros_like(l1.detach())
        return GeneratorTerms(total, total, l1, off, off, off, off, regularisation)


def _through(image: Tensor, gradient: Tensor, at: Tensor) -> Tensor:
    """The gradient at a weight, given the gradient at the image."""
    return at_least_float32(torch.autograd.grad(image, at, gradient.to(image.dtype), retain_graph=True)[0])
