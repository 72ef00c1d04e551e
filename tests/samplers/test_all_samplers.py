"""What holds for every sampler: calls are counted truly, and the network's target makes no difference."""

from functools import partial

import pytest
import torch
from fixed_network import Fixed, RecordedNoise, no_noise, starting_noise
from torch import nn

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, guided, make_schedule
from ldm.diffusion.schedule import SCHEDULES
from ldm.diffusion.target import TARGETS, prediction_from_x0
from ldm.samplers import DDIM, DDPM, PLMS, DPMSolverPlusPlus, Euler, Heun, UniPC, asked_levels, sample, time_grid

DETERMINISTIC = {
    "ddim": DDIM,
    "plms": PLMS,
    "dpmpp": DPMSolverPlusPlus,
    "heun": Heun,
    "euler": Euler,
    "unipc": UniPC,
    "unipc order 3": partial(UniPC, order=3),
}
ALL = {**DETERMINISTIC, "ddpm": DDPM, "ddim eta": partial(DDIM, eta=0.5)}
EXTRA_CALLS = {"plms": lambda steps, final: 1, "heun": lambda steps, final: steps - (final == "clean")}


@pytest.mark.parametrize("final", ["clean", "alpha0"])
@pytest.mark.parametrize("name", ALL)
def test_network_calls_are_counted_as_they_happen(name, final):
    schedule, calls = make_schedule("scaled_linear"), []
    times = time_grid("trailing", 10, final)
    sampler = ALL[name](schedule)

    def denoise(x_t, t):
        calls.append(float(t))
        return x_t / 2

    for _ in sample(sampler, denoise, starting_noise(), times, RecordedNoise()):
        pass
    assert asked_levels(sampler, times) == calls
    assert len(calls) == 10 + EXTRA_CALLS.get(name, lambda *_: 0)(10, final)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_single_step_to_the_clean_end_is_the_estimate_itself(name):
    schedule, network = make_schedule("cosine"), Fixed()
    denoise = guided(DenoisingModel(network, schedule, "v"), Condition())
    times = time_grid("trailing", 1)
    [end] = sample(DETERMINISTIC[name](schedule), denoise, starting_noise(), times, no_noise)
    torch.testing.assert_close(end, denoise(starting_noise(), times[0]), rtol=0, atol=1e-10)


class Exact(nn.Module):
    """The best network for data x_0 ~ N(0, 0.25), whatever it is to predict."""

    def __init__(self, schedule, target):
        super().__init__()
        self.schedule, self.target = schedule, target

    def forward(self, x, index, context=None, concat=None):
        t = self.schedule.time(index[:1])
        alpha, sigma = (f(t).view(1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        x0 = 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2)
        return prediction_from_x0(self.target, x0, x, alpha, sigma)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_target_makes_no_difference(name, schedule, shift):
    schedule = make_schedule(schedule, shift=shift)
    times = time_grid("trailing", 10)
    ends = []
    for target in TARGETS:
        denoise = guided(DenoisingModel(Exact(schedule, target), schedule, target), Condition())
        *_, end = sample(DETERMINISTIC[name](schedule), denoise, starting_noise(), times, no_noise)
        ends.append(end)
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-8)
    # Ten steps end near the quantile that the noise began at, so this is a sampler and not only the same mistake.
    assert (ends[0] - 0.5 * starting_noise()).abs().max() < 0.35 * starting_noise().abs().max()


def test_euler_is_ddim_without_noise():
    model = DenoisingModel(Fixed(), make_schedule("scaled_linear"))
    times = time_grid("trailing", 10)
    one, other = (
        list(sample(sampler(model.schedule), guided(model, Condition()), starting_noise(), times, no_noise))
        for sampler in (Euler, DDIM)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
