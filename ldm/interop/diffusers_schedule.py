"""Schedulers of diffusers: the noise schedule and the target in their configs, both ways."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule, VariancePreservingSchedule, cosine_betas, linear_betas, scaled_linear_betas
from ldm.errors import UserError

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
"""Classes whose networks know the discrete variance-preserving schedule that the config gives."""

TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
"""prediction_type -> our name of the target."""

_ONLY_VALUE: Mapping[str, Any] = {
    "use_flow_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
}
"""Options of the noise schedule itself that ours has no counterpart for; how steps are placed is the sampler's."""


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a scheduler's config describes. Raises: UserError for one that is not the paper's kind."""
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise UserError(f"the scheduler {kind} is none that this program reads: {', '.join(SCHEDULERS)}")
    for key, value in _ONLY_VALUE.items():
        if config.get(key, value) != value:
            raise UserError(f"the scheduler's config has {key}={config[key]!r}, which this program cannot do")
    betas = _betas(config)
    return VariancePreservingSchedule(zero_terminal_snr(betas) if config.get("rescale_betas_zero_snr") else betas)


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    steps = int(config.get("num_train_timesteps", 1000))
    ends = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    match config.get("beta_schedule", "linear"):
        case "linear":
            return linear_betas(*ends, steps)
        case "scaled_linear":
            return scaled_linear_betas(*ends, steps)
        case "squaredcos_cap_v2":
            return cosine_betas(steps=steps)
        case other:
            raise UserError(
                f"the scheduler's config has beta_schedule={other}: only linear, scaled_linear, squaredcos_cap_v2 are"
            )


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas (K,) changed so that no signal is left at the last step.

    Source: Lin et al. 2024, arXiv 2305.08891, algorithm 1.
    """
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    squared = root.square()
    return 1 - torch.cat([squared[:1], squared[1:] / squared[:-1]])


def target_of(config: Mapping[str, Any]) -> str:
    """What the network of a scheduler's config predicts. Raises: UserError for another target."""
    given = config.get("prediction_type", "epsilon")
    if given not in TARGETS:
        raise UserError(f"the scheduler's config has prediction_type={given}: only {', '.join(TARGETS)} are")
    return TARGETS[given]


SPACINGS = {"trailing": ("trailing", 0), "leading": ("leading", 0), "uniform": ("leading", 1)}
"""Our name -> timestep_spacing and steps_offset. They agree where the number of steps divides that of the schedule."""


def ddim_config(schedule: Schedule, target: str, spacing: str, final: str) -> dict[str, Any]:
    """The config of a DDIMScheduler that visits our noise levels and ends where `final` says.

    Raises: UserError for a schedule, target or spacing that it has not.
    """
    prediction = next((theirs for theirs, ours in TARGETS.items() if ours == target), None)
    if not isinstance(schedule, VariancePreservingSchedule) or prediction is None:
        raise UserError(
            f"the target {target} on this noise schedule is none that a DDIMScheduler knows ({', '.join(TARGETS)} on a "
            "variance-preserving one): it cannot be exported"
        )
    if spacing not in SPACINGS:
        raise UserError(f"sampler.spacing={spacing} is none that a DDIMScheduler knows: use {', '.join(SPACINGS)}")
    timestep_spacing, offset = SPACINGS[spacing]
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.steps,
        **_betas_config(schedule),
        "prediction_type": prediction,
        "timestep_spacing": timestep_spacing,
        "steps_offset": offset,
        "set_alpha_to_one": final == "clean",
        "clip_sample": False,
        "thresholding": False,
    }


def _betas_config(schedule: VariancePreservingSchedule) -> dict[str, Any]:
    """The betas by the name that diffusers has for them, or as a table where it has none."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alpha_bar[:-1]])
    betas = 1 - schedule.alpha_bar / before
    start, end = (round(float(beta), 12) for beta in (betas[0], betas[-1]))
    for name, table in (("scaled_linear", scaled_linear_betas), ("linear", linear_betas)):
        if torch.allclose(betas, table(start, end, schedule.steps), rtol=1e-9, atol=0):
            return {"beta_schedule": name, "beta_start": start, "beta_end": end}
    if torch.allclose(betas, cosine_betas(steps=schedule.steps), rtol=1e-9, atol=0):
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"trained_betas": betas.tolist()}
