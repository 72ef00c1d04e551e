"""Classifier-free guidance and clipping."""

import pytest
import torch

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, clipped, guided, make_schedule
from ldm.diffusion.target import TARGETS

SCHEDULE = make_schedule("scaled_linear")


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X_T, GIVEN, NULL = normal(3, 3, 4, 4, seed=1), Condition(normal(3, 2, 3, seed=2)), Condition(normal(3, 2, 3, seed=3))
T = SCHEDULE.time(torch.tensor(611))


def eps_of(x0):
    """The noise that an x_0 estimate implies at T, written out."""
    return (X_T - SCHEDULE.alpha(T) * x0) / SCHEDULE.sigma(T)


@pytest.mark.parametrize("null", [NULL, None])
def test_scale_one_asks_the_network_once_for_the_given_condition(null, network):
    model = DenoisingModel(network, SCHEDULE)
    result = guided(model, GIVEN, null, 1.0)(X_T, T)
    assert len(network.calls) == 1
    assert len(network.calls[0][0]) == len(X_T)
    assert torch.equal(result, model.denoise(X_T, T, GIVEN))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_noise_predictions_are_combined_on_all_channels_in_one_call(scale, target, network):
    model = DenoisingModel(network, SCHEDULE, target)
    result = eps_of(guided(model, GIVEN, NULL, scale)(X_T, T))
    assert len(network.calls) == 1
    assert len(network.calls[0][0]) == 2 * len(X_T)
    cond, uncond = (eps_of(model.denoise(X_T, T, condition)) for condition in (GIVEN, NULL))
    expected = uncond + scale * (cond - uncond)
    assert (result - expected).abs().max() < 1e-12 * expected.abs().max()
    differs = (expected - cond).abs().amax(dim=(0, 2, 3))
    assert (differs > 1e-3).all(), "a channel that guidance does not move would hide one left out"


def test_guidance_without_a_null_condition_is_refused(network):
    with pytest.raises(ValueError, match="null condition"):
        guided(DenoisingModel(network, SCHEDULE), GIVEN, None, 2.0)


def test_clipping_clamps_the_estimate_alone(network):
    model = DenoisingModel(network, SCHEDULE)
    free = guided(model, GIVEN, NULL, 3.0)
    estimate = free(X_T, T).detach()
    low, high = float(estimate.quantile(0.2)), float(estimate.quantile(0.7))
    result = clipped(free, low, high)(X_T, T).detach()
    inside = (estimate >= low) & (estimate <= high)
    assert torch.equal(result[inside], estimate[inside])
    assert (result[estimate < low] == low).all()
    assert (result[estimate > high] == high).all()
