"""PLMS (Liu et al. 2022): a linear multistep method on noise estimates."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise
from ldm.samplers.level import level, with_eps, with_x0

ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""By the number of estimates at hand, the weights of the newest first."""


@dataclass(frozen=True)
class PLMS:
    """DDIM's step with a noise estimate extrapolated from the last four by Adams and Bashforth's weights.

    The first step is an improved Euler step, which costs a second network call; one from pure noise is Euler's. The
    weights are those of even steps in t, while the flow is straight in sigma / alpha, so that the order is 2, whatever
    the number of estimates.
    Source: Liu et al. 2022 (PNDM), eq. 9 and 12, with the warm-up of CompVis/latent-diffusion and of diffusers'
    `skip_prk_steps`.
    """

    title: ClassVar[str] = "PLMS"

    schedule: Schedule

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: tuple[Tensor, ...] | None, noise: Noise
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """One step; `state` holds the noise estimates of up to three steps before, the newest first.

        Shapes: as in the contract; each estimate as x_t.
        """
        now, then = level(self.schedule, t), level(self.schedule, s)
        x0 = denoise(x_t, t)
        if now.is_pure_noise:
            return with_x0(x_t, x0, now, then), None  # pure noise holds no estimate to extrapolate from
        known = (now.eps(x_t, x0), *(state or ()))
        if len(known) > 1:
            weights = ADAMS_BASHFORTH[len(known) - 2]
            eps = sum((w * e for w, e in zip(weights[1:], known[1:], strict=True)), weights[0] * known[0])
        elif then.sigma == 0:
            eps = known[0]  # the clean end has no noise to estimate
        else:
            ahead = with_x0(x_t, x0, now, then)
            eps = (known[0] + then.eps(ahead, denoise(ahead, s))) / 2
        return with_eps(x_t, eps, now, then), known[:3]
