"""DDPM (Ho et al. 2020): ancestral sampling with a fixed variance."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.parts import option
from ldm.randomness import Noise
from ldm.samplers.level import level

VARIANCES = ("small", "large")


@dataclass(frozen=True)
class DDPM:
    """Draws x_s from q(x_s | x_t, x_0) at the estimate of x_0, its variance that of the posterior or of q(x_t | x_s).

    With r = alpha_t / alpha_s and d^2 = sigma_t^2 - r^2 sigma_s^2, the noise that comes in from s to t:
    mean r sigma_s^2 / sigma_t^2 x_t + alpha_s d^2 / sigma_t^2 x_0; variance d^2 sigma_s^2 / sigma_t^2 ("small") or d^2
    ("large"). The step that ends clean draws nothing.
    Source: Ho et al. 2020, eq. 7, section 3.2 and Algorithm 2; Kingma et al. 2021, eq. 25 and 26 (any two levels).
    """

    title: ClassVar[str] = "DDPM"

    schedule: Schedule
    variance: str = option("small", choices=VARIANCES, help="of the posterior (small), or of the forward step (large)")

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise ValueError(f"no variance '{self.variance}' of DDPM: use one of {', '.join(VARIANCES)}")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """One step without a state. Shapes: as in the contract."""
        now, then = level(self.schedule, t), level(self.schedule, s)
        ratio = now.alpha / then.alpha
        added = now.sigma**2 - (ratio * then.sigma) ** 2
        kept = (then.sigma / now.sigma) ** 2
        x_s = ratio * kept * x_t + then.alpha * added / now.sigma**2 * denoise(x_t, t)
        if then.sigma == 0:
            return x_s, None
        variance = added * kept if self.variance == "small" else added
        return x_s + math.sqrt(variance) * noise(tuple(x_t.shape[1:])).to(x_t), None
