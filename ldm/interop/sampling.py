"""Sampling with a published model in one call."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion import DenoisingModel, Guidance, Schedule, guided
from ldm.errors import UserError, nearest
from ldm.interop.contract import Loaded
from ldm.randomness import SampleNoise
from ldm.samplers import DDIM, DDPM, PLMS, DPMSolverPlusPlus, Euler, Heun, Sampler, UniPC, time_grid
from ldm.samplers import sample as run_sampler

SAMPLERS: Mapping[str, Callable[[Schedule, float], Sampler]] = {
    "ddim": DDIM,
    "ddpm": lambda schedule, eta: DDPM(schedule),
    "plms": lambda schedule, eta: PLMS(schedule),
    "dpmpp": lambda schedule, eta: DPMSolverPlusPlus(schedule),
    "heun": lambda schedule, eta: Heun(schedule),
    "euler": lambda schedule, eta: Euler(schedule),
    "unipc": lambda schedule, eta: UniPC(schedule),
}
"""(schedule, eta) -> sampler, by name; eta is DDIM's alone."""

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
    if sampler not in SAMPLERS:
        raise UserError(f"sampler={sampler} is none of {', '.join(SAMPLERS)}{nearest(sampler, SAMPLERS)}")
    if eta != 0 and sampler != "ddim":
        raise UserError(f"eta={eta} is an option of sampler=ddim, not of {sampler}")
    if guidance_scale != 1 and null_condition is None:
        raise UserError(f"guidance_scale={guidance_scale} needs null_condition, what the model is told without one")
    if model.latent_shape is not None and x_T.shape[1] != model.latent_shape[0]:
        raise UserError(
            f"x_T has shape {tuple(x_T.shape)}, but the model's latents have {model.latent_shape[0]} channels"
        )
    try:
        times = time_grid(spacing, steps, final, model.schedule.steps)
    except ValueError as error:
        raise UserError(str(error)) from error
    denoise = guided(
        DenoisingModel(model.network, model.schedule, model.target),
        _made(model, condition),
        None if null_condition is None else _made(model, null_condition),
        Guidance(guidance_scale),
    )
    noise = SampleNoise(seed, range(len(x_T)), x_T.device)
    *_, z = run_sampler(SAMPLERS[sampler](model.schedule, eta), denoise, x_T, times, noise)
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
