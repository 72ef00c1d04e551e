"""Classifier-free guidance and clipping."""

import pytest
import torch

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, Guidance, autoguided, clipped, guided, make_schedule
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


class Exact(torch.nn.Module):
    """E[x_0 | x_t] of Gaussian data around 0 with standard deviation `spread`, the x_0 target of any size of image."""

    def __init__(self, spread):
        super().__init__()
        self.spread, self.calls = spread, 0

    def forward(self, x, index, context=None, concat=None):
        self.calls += 1
        t = SCHEDULE.time(index)
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        gain = alpha * self.spread**2 / ((alpha * self.spread) ** 2 + sigma**2)
        return gain.view(-1, 1, 1, 1).to(x) * x


def exact(spread):
    return DenoisingModel(Exact(spread), SCHEDULE, "x0")


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.7, 3.0])
def test_autoguidance_of_exact_gaussian_denoisers_is_the_score_of_their_extrapolated_densities(scale):
    """The score of p_1^w / p_0^(w - 1) of x_t, a Gaussian whose precision is w / v_1 + (1 - w) / v_0."""
    narrow, wide = exact(0.5), exact(2.0)
    result = autoguided(narrow, Condition(), wide, Condition(), Guidance(scale))(X_T, T)
    alpha, sigma = SCHEDULE.alpha(T), SCHEDULE.sigma(T)
    precision = scale / ((0.5 * alpha) ** 2 + sigma**2) + (1 - scale) / ((2.0 * alpha) ** 2 + sigma**2)
    score = (alpha * result - X_T) / sigma**2  # Tweedie's formula
    torch.testing.assert_close(score, -precision * X_T, rtol=1e-10, atol=1e-12)


def test_autoguidance_at_scale_one_or_outside_its_interval_asks_the_model_alone():
    model, guide = exact(0.5), exact(2.0)
    assert torch.equal(
        autoguided(model, Condition(), guide, Condition(), Guidance(1.0))(X_T, T), model.denoise(X_T, T, Condition())
    )
    within = autoguided(model, Condition(), guide, Condition(), Guidance(2.0, (0.7, 0.9)))
    assert torch.equal(within(X_T, T), model.denoise(X_T, T, Condition()))
    assert guide.network.calls == 0
    within(X_T, torch.tensor(0.8, dtype=torch.float64))
    assert guide.network.calls == 1


def test_a_model_that_guides_itself_changes_nothing_at_any_scale():
    model = exact(0.8)
    found = autoguided(model, Condition(), model, Condition(), Guidance(5.0))(X_T, T)
    torch.testing.assert_close(found, model.denoise(X_T, T, Condition()), rtol=1e-13, atol=1e-13)


def test_both_models_are_told_their_own_condition(network):
    """By the classes' vectors of their own tau_theta; rescaling acts as under classifier-free guidance."""
    model, found = DenoisingModel(network, SCHEDULE), []
    for rescale in (0.0, 1.0):
        network.calls.clear()
        found.append(autoguided(model, GIVEN, model, NULL, Guidance(3.0, rescale=rescale))(X_T, T))
        assert torch.equal(network.calls[0][2], NULL.context)
        assert torch.equal(network.calls[1][2], GIVEN.context)
        same = guided(model, GIVEN, NULL, Guidance(3.0, rescale=rescale))(X_T, T)
        torch.testing.assert_close(found[-1], same, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(*found)
