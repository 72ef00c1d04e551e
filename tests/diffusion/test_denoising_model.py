"""The denoising model: what the network is asked, and the loss."""

import pytest
import torch
from torch import nn

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.target import TARGETS

SCHEDULE = make_schedule("scaled_linear")


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("target", TARGETS)
def test_loss_is_the_squared_error_of_each_image_by_hand(target, network):
    x0, eps, context = normal(4, 3, 5, 5, seed=1), normal(4, 3, 5, 5, seed=2), normal(4, 2, 3, seed=3)
    indices = [0, 17, 500, 999]
    model = DenoisingModel(network, SCHEDULE, target)
    condition = Condition(context=context)
    losses = model.loss(x0, SCHEDULE.time(torch.tensor(indices)), eps, condition).detach()
    for i, k in enumerate(indices):
        a, s = SCHEDULE.alpha_bar[k] ** 0.5, (1 - SCHEDULE.alpha_bar[k]) ** 0.5
        wanted = {"eps": eps[i], "x0": x0[i], "v": a * eps[i] - s * x0[i], "flow": eps[i] - x0[i]}[target]
        x_t = (a * x0[i] + s * eps[i])[None]
        given = network(x_t, torch.tensor([float(k)], dtype=torch.float64), context[i : i + 1])[0].detach()
        assert float(losses[i]) == pytest.approx(float(((given - wanted) ** 2).sum() / wanted.numel()), rel=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_network_is_understood(target):
    """The network that predicts its target exactly, from knowing x_0, makes denoise return x_0 and the loss vanish."""
    x0, eps = normal(3, 3, 4, 4, seed=4), normal(3, 3, 4, 4, seed=5)
    t = SCHEDULE.time(torch.tensor([3, 400, 950]))
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))

    class Oracle(nn.Module):
        def forward(self, x, index, context=None, concat=None):
            noise = (x - alpha * x0) / sigma
            return {"eps": noise, "x0": x0, "v": alpha * noise - sigma * x0, "flow": noise - x0}[target]

    model = DenoisingModel(Oracle(), SCHEDULE, target)
    torch.testing.assert_close(model.denoise(alpha * x0 + sigma * eps, t, Condition()), x0, rtol=0, atol=1e-11)
    assert model.loss(x0, t, eps, Condition()).max() < 1e-20


def test_the_network_is_asked_with_one_index_an_image_and_the_condition(network):
    x, condition = normal(3, 3, 4, 4, seed=6).float(), Condition(normal(3, 1, 3, seed=7), normal(3, 3, 4, 4, seed=8))
    DenoisingModel(network, SCHEDULE).denoise(x, SCHEDULE.time(torch.tensor(41)), condition)
    ((_, index, context, concat),) = network.calls
    assert index.tolist() == [41.0] * 3
    assert index.dtype == torch.float32
    assert context is condition.context
    assert concat is condition.concat


def test_autocast_reaches_the_network_but_not_the_results():
    seen = []

    class Probe(nn.Module):
        def forward(self, x, index, context=None, concat=None):
            seen.append((x @ x).dtype)
            return x @ x

    x = normal(2, 3, 4, 4, seed=9).float()
    result = DenoisingModel(Probe(), SCHEDULE, "x0", torch.bfloat16).denoise(x, torch.tensor(0.5), Condition())
    assert seen == [torch.bfloat16]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, x @ x, rtol=0.02, atol=0.05)
