"""DDIM (Song et al. 2021)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise, per_image
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.target import eps_from_x0
from ldm.parts import option
from ldm.randomness import Noise


@dataclass(frozen=True)
class DDIM:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - d^2) eps + d noise.

    d = eta sigma_s/sigma_t sqrt(sigma_t^2 - sigma_s^2 alpha_t^2/alpha_s^2). eta 0 is deterministic, eta 1 is DDPM with
    the small variance.
    Source: Song et al. 2021, eq. 12 and 16, the latter for any alpha and sigma.
    """

    title: ClassVar[str] = "DDIM"

    schedule: Schedule
    eta: float = option(0.0, low=0, high=1, help="share of the noise that ancestral sampling draws; 0 draws none")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """One step without a state. Shapes: as in the contract."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        sigma_t, sigma_s = self.schedule.sigma(t), self.schedule.sigma(s)
        added = sigma_t**2 - (sigma_s * alpha_t / alpha_s) ** 2
        deviation = self.eta * (sigma_s / sigma_t) * added.clamp(min=0).sqrt()
        x0 = denoise(x_t, t)
        eps = eps_from_x0(x0, x_t, per_image(alpha_t, x_t), per_image(sigma_t, x_t))
        direction = (sigma_s**2 - deviation**2).clamp(min=0).sqrt()
        x_s = per_image(alpha_s, x_t) * x0 + per_image(direction, x_t) * eps
        if deviation > 0:
            x_s = x_s + per_image(deviation, x_t) * noise(tuple(x_t.shape[1:])).to(x_t)
        return x_s, None
