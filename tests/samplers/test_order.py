"""Deterministic samplers converge to the probability flow of Gaussian data, at the order that each declares."""

import pytest
import torch
from fixed_network import no_noise
from gaussian_data import ContinuousCosine, GaussianData

from ldm.diffusion import FlowSchedule
from ldm.samplers import DDIM, PLMS, DPMSolverPlusPlus, Euler, Heun, UniPC, sample

SCHEDULES = {"cosine": ContinuousCosine(), "flow": FlowSchedule(), "shifted flow": FlowSchedule(shift=2.0)}
ORDERS = {
    "DDIM": (DDIM, 1),
    "Euler": (Euler, 1),
    "PLMS": (PLMS, 2),
    "Heun": (Heun, 2),
    "DPM-Solver++": (DPMSolverPlusPlus, 2),
    "UniPC-1": (lambda schedule: UniPC(schedule, order=1), 2),
    "UniPC-2": (UniPC, 3),
    "UniPC-3": (lambda schedule: UniPC(schedule, order=3), 4),
}
STEPS = [100, 200, 400]


@pytest.mark.long
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name, schedule):
    make, order = ORDERS[name]
    data = GaussianData(SCHEDULES[schedule])
    z = torch.tensor([[-2.0, 1.0], [0.5, -1.5], [1.0, 2.0]], dtype=torch.float64)
    errors = []
    for steps in STEPS:
        times = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)
        *_, end = sample(make(data.schedule), data.denoise, data.flow(z, times[0]), times, no_noise)
        errors.append(float((end - data.flow(z, times[-1])).abs().max()))
    x, y = torch.tensor(STEPS).double().log(), torch.tensor(errors).double().log()
    slope = -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert slope == pytest.approx(order, rel=0.05), errors
    assert errors[-1] < 6e-3
