"""Trajectories of all samplers against diffusers' schedulers, from the same noise on the same fixed network.

diffusers keeps its tables in float32 and casts some states to it, so the name `torch.float32` means float64 while it
computes: the comparison is of formulas.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fixed_network import Fixed, RecordedNoise, no_noise, starting_noise

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, FlowSchedule, guided, make_schedule
from ldm.diffusion.target import x0_from_prediction
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.samplers import DDIM, DDPM, PLMS, DPMSolverPlusPlus, Euler, Heun, UniPC, sample, time_grid

SCHEDULE = make_schedule("scaled_linear")
STEPS = 20
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
TRAILING, LEADING = {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 0}
NOISY_END = {"final_sigmas_type": "sigma_min", "lower_order_final": False}


@dataclass(frozen=True)
class Pair:
    """Our sampler and grid, and diffusers' scheduler with the settings that mean the same."""

    ours: Any
    theirs: str
    settings: dict[str, Any]
    spacing: str = "trailing"
    final: str = "clean"
    targets: tuple[str, ...] = ("eps", "x0", "v")


PAIRS = {
    "ddpm small": Pair(DDPM(SCHEDULE), "DDPM", {**LEADING, "variance_type": "fixed_small"}, "leading"),
    "ddpm large": Pair(DDPM(SCHEDULE, "large"), "DDPM", {**LEADING, "variance_type": "fixed_large"}, "leading"),
    "plms": Pair(
        PLMS(SCHEDULE),
        "PNDM",
        {**TRAILING, "skip_prk_steps": True, "set_alpha_to_one": True},
        targets=("eps",),  # of other targets diffusers extrapolates the network's output, we the noise
    ),
    "dpmpp": Pair(DPMSolverPlusPlus(SCHEDULE), "DPMSolverMultistep", TRAILING),
    "dpmpp noisy end": Pair(
        DPMSolverPlusPlus(SCHEDULE), "DPMSolverMultistep", {**TRAILING, **NOISY_END}, final="alpha0"
    ),
    "unipc": Pair(UniPC(SCHEDULE), "UniPCMultistep", TRAILING),
    "unipc noisy end": Pair(UniPC(SCHEDULE), "UniPCMultistep", {**TRAILING, **NOISY_END}, final="alpha0"),
    "unipc order 1": Pair(UniPC(SCHEDULE, 1), "UniPCMultistep", {**TRAILING, "solver_order": 1}),
    "unipc order 3": Pair(
        UniPC(SCHEDULE, 3), "UniPCMultistep", {**TRAILING, **NOISY_END, "solver_order": 3}, final="alpha0"
    ),
    "heun": Pair(Heun(SCHEDULE), "HeunDiscrete", TRAILING),
    "euler": Pair(Euler(SCHEDULE), "EulerDiscrete", TRAILING),
    "euler noisy end": Pair(
        Euler(SCHEDULE), "EulerDiscrete", {**TRAILING, "final_sigmas_type": "sigma_min"}, final="alpha0"
    ),
}
IN_EDM_COORDINATES = ("HeunDiscrete", "EulerDiscrete")


def scheduler_of(pair: Pair, target: str) -> Any:
    """diffusers' scheduler with our alphas and the sigma / alpha that follow from them, both in float64."""
    import diffusers

    settings = dict(pair.settings)
    if pair.theirs == "DDPM":
        settings["clip_sample"] = False
    scheduler = getattr(diffusers, f"{pair.theirs}Scheduler")(prediction_type=PREDICTIONS[target], **settings)
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar
    if pair.theirs == "PNDM":
        scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "sigmas"):
        visited = scheduler.timesteps[::2] if pair.theirs == "HeunDiscrete" else scheduler.timesteps
        ratios = ((1 - SCHEDULE.alpha_bar) / SCHEDULE.alpha_bar).sqrt()
        last = torch.zeros(1) if pair.final == "clean" else ratios[:1]
        sigmas = torch.cat([ratios[visited.long()], last.double()])
        if pair.theirs == "HeunDiscrete":
            sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        assert (scheduler.sigmas - sigmas).abs().max() < 1e-3 * sigmas.max(), "the grids must be the same"
        scheduler.sigmas = sigmas
    return scheduler


@pytest.mark.parametrize(
    ("name", "target"), [(name, target) for name, pair in PAIRS.items() for target in pair.targets]
)
def test_trajectories_equal_those_of_diffusers(name, target, monkeypatch):
    ensure_torchvision()
    pytest.importorskip("diffusers")
    import diffusers.schedulers.scheduling_ddpm as ddpm

    pair, network, noise = PAIRS[name], Fixed(), RecordedNoise()
    model = DenoisingModel(network, SCHEDULE, target)
    times = time_grid(pair.spacing, STEPS, pair.final)
    is_ancestral = pair.theirs == "DDPM"
    *_, ours = sample(
        pair.ours, guided(model, Condition()), starting_noise(), times, noise if is_ancestral else no_noise
    )
    assert len(noise.drawn) == (STEPS - 1 if is_ancestral else 0)

    drawn = iter(noise.drawn)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "float32", torch.float64)
        patched.setattr(ddpm, "randn_tensor", lambda *_, **__: next(drawn))
        scheduler = scheduler_of(pair, target)
        stretched = pair.theirs in IN_EDM_COORDINATES
        x = starting_noise()
        x = x / SCHEDULE.alpha_bar[-1].sqrt() if stretched else x
        for k in scheduler.timesteps:
            given = scheduler.scale_model_input(x, k)
            prediction = network(given, torch.full((2,), float(k), dtype=torch.float64))
            x = scheduler.step(prediction, k, x).prev_sample
    if stretched and pair.final == "alpha0":
        x = x * SCHEDULE.alpha_bar[0].sqrt()
    assert x.dtype == torch.float64
    assert (ours - x).abs().max() < 1e-9 * x.abs().max()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_equals_that_of_diffusers(shift, monkeypatch):
    """The straight path: diffusers' step in sigma is ours in any of our coordinates."""
    ensure_torchvision()
    diffusers = pytest.importorskip("diffusers")
    schedule, network = FlowSchedule(shift), Fixed()
    times = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)

    def denoise(x_t, t):
        velocity = network(x_t, torch.full((2,), 1000 * float(schedule.sigma(t)), dtype=torch.float64))
        return x0_from_prediction("flow", velocity, x_t, schedule.alpha(t), schedule.sigma(t))

    with monkeypatch.context() as patched:
        patched.setattr(torch, "float32", torch.float64)
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=times[:-1].numpy())
        scheduler.sigmas = schedule.sigma(times)
        x = starting_noise()
        for k, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            assert float(k) == pytest.approx(1000 * float(sigma), rel=1e-6)
            velocity = network(x, torch.full((2,), 1000 * float(sigma), dtype=torch.float64))
            x = scheduler.step(velocity, k, x).prev_sample
    for sampler in (DDIM(schedule), Euler(schedule)):
        *_, ours = sample(sampler, denoise, starting_noise(), times, no_noise)
        assert (ours - x).abs().max() < 1e-9 * x.abs().max()
