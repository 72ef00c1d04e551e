"""The denoising model: a network, its schedule and its target behind one question, "what was the clean image?"."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm.conditioning.contract import Condition
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.target import error_ratio, prediction_from_x0, target_of, x0_from_prediction
from ldm.diffusion.weighting import loss_weight
from ldm.memory import moved

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> x_0 estimate, what samplers are handed; t is one float64 number, shape ()."""


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Values of shape () or (N,), in `like`'s dtype and on its device, shaped to multiply a (N, C, H, W) tensor."""
    return moved(values, like.device).to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


class DenoisingModel(nn.Module):
    """Wraps `network(x_t, index, context, concat)` with its schedule and its target, which no other code then needs.

    The loss is the squared error of the `target`; `output` is what the network gives, from which the target follows
    (None: the target itself; Li and He 2025, arXiv 2511.13720, table 1). `weighting` says how much each noise level
    counts in the loss. `autocast` is the dtype the network computes in
    (None: its parameters' own); x_t and all results keep x_t's dtype.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        target: str = "eps",
        autocast: torch.dtype | None = None,
        weighting: str = "plain",
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.target = target
        self.output = target if output is None else output
        self.autocast = autocast
        self.weighting = weighting

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's own output. Shapes: x_t (N, C, H, W), t () or (N,); result as x_t."""
        index = moved(self.schedule.index(t), x_t.device).to(x_t.dtype).expand(len(x_t))
        # Only networks with cross-attention take masks, and only where there is something to mask.
        masked = {} if condition.context_mask is None else {"context_mask": condition.context_mask}
        with torch.autocast(x_t.device.type, self.autocast, enabled=self.autocast is not None):
            prediction = self.network(x_t, index, context=condition.context, concat=condition.concat, **masked)
        return prediction.to(x_t.dtype)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The estimate of x_0 given x_t. Shapes: x_t (N, C, H, W), t () or (N,); result as x_t."""
        return x0_from_prediction(self.output, self.predict(x_t, t, condition), x_t, *self._factors(t, x_t))

    def x0_of(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean image that a prediction of the target implies. Shapes: as `denoise`."""
        return x0_from_prediction(self.target, prediction, x_t, *self._factors(t, x_t))

    def prediction_of(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction of the target that implies this clean image, its inverse. Shapes: as `denoise`."""
        return prediction_from_x0(self.target, x0, x_t, *self._factors(t, x_t))

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, condition: Condition) -> Tensor:
        """Squared error of the predicted target at noise level t, a mean over each image (Rombach et al. 2022, eq. 2).

        Shapes: x0 and eps (N, C, H, W), t (N,); result (N,).
        """
        alpha, sigma = self._factors(t, x0)
        prediction = self.predict(alpha * x0 + sigma * eps, t, condition)
        error = (prediction - target_of(self.output, x0, eps, alpha, sigma)).square().flatten(1).mean(1)
        weight = loss_weight(self.weighting, self.target, self.schedule, t)
        if self.output != self.target:
            weight = weight * error_ratio(self.target, self.output, self.schedule.alpha(t), self.schedule.sigma(t))
        return weight.to(error) * error

    def _factors(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped to multiply `like`."""
        return per_image(self.schedule.alpha(t), like), per_image(self.schedule.sigma(t), like)
