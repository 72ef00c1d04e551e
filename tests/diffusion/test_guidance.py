"""Classifier-free guidance and clipping."""

import pytest
import torch

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, Guidance, clipped, guided, make_schedule
from ldm.diffusion.target import TARGETS
from ldm.pretrained.torchvision_ops import ensure_torchvision

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
    result = guided(model, GIVEN, null, Guidance(1.0))(X_T, T)
    assert len(network.calls) == 1
    assert len(network.calls[0][0]) == len(X_T)
    assert torch.equal(result, model.denoise(X_T, T, GIVEN))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_noise_predictions_are_combined_on_all_channels_in_one_call(scale, target, network):
    model = DenoisingModel(network, SCHEDULE, target)
    result = eps_of(guided(model, GIVEN, NULL, Guidance(scale))(X_T, T))
    assert len(network.calls) == 1
    assert len(network.calls[0][0]) == 2 * len(X_T)
    cond, uncond = (eps_of(model.denoise(X_T, T, condition)) for condition in (GIVEN, NULL))
    expected = uncond + scale * (cond - uncond)
    assert (result - expected).abs().max() < 1e-12 * expected.abs().max()
    differs = (expected - cond).abs().amax(dim=(0, 2, 3))
    assert (differs > 1e-3).all(), "a channel that guidance does not move would hide one left out"


def test_outside_its_interval_the_network_is_asked_once_for_the_given_condition(network):
    model = DenoisingModel(network, SCHEDULE)
    everywhere, within = Guidance(3.0), Guidance(3.0, interval=(0.3, 0.6))
    for t, acts in ((0.299, False), (0.3, True), (0.45, True), (0.6, True), (0.601, False)):
        network.calls.clear()
        time = torch.tensor(t, dtype=torch.float64)
        result = guided(model, GIVEN, NULL, within)(X_T, time)
        assert [len(call[0]) for call in network.calls] == [len(X_T) * (2 if acts else 1)]
        expected = guided(model, GIVEN, NULL, everywhere)(X_T, time) if acts else model.denoise(X_T, time, GIVEN)
        assert torch.equal(result, expected)
        assert within.acts_at(t) == acts
    assert not Guidance(1.0).acts_at(0.5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_rescale_equals_that_of_diffusers_on_what_the_network_predicts(share, target, network):
    ensure_torchvision()
    rescale_noise_cfg = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    model = DenoisingModel(network, SCHEDULE, target)
    without, given = (model.predict(X_T, T, condition).detach() for condition in (NULL, GIVEN))
    expected = model.x0_of(rescale_noise_cfg(without + 5 * (given - without), given, share), X_T, T)
    network.calls.clear()
    result = guided(model, GIVEN, NULL, Guidance(5.0, rescale=share))(X_T, T)
    assert len(network.calls) == 1
    assert (result - expected).abs().max() < 1e-11 * expected.abs().max()
    assert (result - guided(model, GIVEN, NULL, Guidance(5.0))(X_T, T)).abs().max() > 0.01 * expected.abs().max()


def test_guidance_without_a_null_condition_is_refused(network):
    with pytest.raises(ValueError, match="null condition"):
        guided(DenoisingModel(network, SCHEDULE), GIVEN, None, Guidance(2.0))


def test_clipping_clamps_the_estimate_alone(network):
    model = DenoisingModel(network, SCHEDULE)
    free = guided(model, GIVEN, NULL, Guidance(3.0))
    estimate = free(X_T, T).detach()
    low, high = float(estimate.quantile(0.2)), float(estimate.quantile(0.7))
    result = clipped(free, low, high)(X_T, T).detach()
    inside = (estimate >= low) & (estimate <= high)
    assert torch.equal(result[inside], estimate[inside])
    assert (result[estimate < low] == low).all()
    assert (result[estimate > high] == high).all()
