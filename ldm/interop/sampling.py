"""Sampling with a published model in one call."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion import DenoisingModel, Guidance, guided
from ldm.errors import UserError
from ldm.interop.contract import Loaded
from ldm.parts import look_up, options_of
from ldm.randomness import SampleNoise
from ldm.samplers import SAMPLERS, build_sampler, time_grid
from ldm.samplers import sample as run_sampler

RawCondition = Condition | Tensor | Mapping[str, Tensor]


@torch.no_grad()
def sample(
    model: Loaded,
    x_T: Tensor,
    steps: int,
    spacing: str = "uniform",
    eta: float = 0.0,
    guidance_scale: float = 1.0,
    condition: RawCondition | None = None,
    null_condition: RawCondition | None = None,
    sampler: str = "ddim",
    final: str = "alpha0",
    seed: int = 0,
) -> Tensor:
    """The latent z that a sampler reaches from the noise `x_T`; `model.latent_scale()` makes it a raw latent.

    Conditions are raw, or what `model.conditioning` made of them. The defaults are the reference's grid and end.
    Samplers that draw noise draw sample i's from (seed, i).

    Shapes: x_T (N, C, h, w), and the result.
    Raises: UserError for a model that cannot be sampled from, an unknown name, or a condition that is missing.
    """
    if model.network is None or model.schedule is None:
        raise UserError(f"this model ({model.source}) has no denoiser and schedule to sample with, only a first stage")
    if eta != 0 and "eta" not in options_of(look_up(SAMPLERS, sampler, "sampler")):
        readers = " or ".join(name for name, part in SAMPLERS.items() if "eta" in options_of(part))
        raise UserError(f"eta={eta} is an option of sampler={readers}, not of {sampler}")
    chosen = build_sampler(sampler, model.schedule, {"eta": eta})
    if guidance_scale != 1 and null_condition is None:
        raise UserError(f"guidance_scale={guidance_scale} needs null_condition, the condition that stands for none")
    if model.latent_shape is not None and x_T.shape[1] != model.latent_shape[0]:
        raise UserError(
            f"x_T has shape {tuple(x_T.shape)}, but the model's latents have {model.latent_shape[0]} channels"
        )
    times = time_grid(spacing, steps, final, model.schedule)
    denoise = guided(
        DenoisingModel(model.network, model.schedule, model.target),
        _made(model, condition),
        None if null_condition is None else _made(model, null_condition),
        Guidance(guidance_scale),
    )
    noise = SampleNoise(seed, range(len(x_T)), x_T.device)
    *_, z = run_sampler(chosen, denoise, x_T, times, noise)
    return z


def _made(model: Loaded, condition: RawCondition | None) -> Condition:
    """The condition as the network takes it. Raises: UserError where the model needs one and none is given."""
    if isinstance(condition, Condition):
        return condition
    if model.conditioning is None:
        if condition is not None:
            raise UserError("this model is unconditional, or its conditioning could not be read: give no condition")
        return Condition()
    if condition is None:
        raise UserError(f"this model needs a condition: give its {', '.join(model.conditioning.named.fields)}")
    return model.conditioning.condition(condition)
