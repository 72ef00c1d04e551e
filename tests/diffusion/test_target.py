"""What the network may predict: the conversions undo one another."""

import pytest
import torch

from ldm.diffusion.target import (
    TARGETS,
    eps_from_x0,
    prediction_from_x0,
    target_of,
    x0_from_eps,
    x0_from_prediction,
    x0_from_v,
)
from ldm.errors import UserError


@pytest.fixture(params=["variance-preserving", "straight"])
def noised(request):
    """x_0, eps, alpha, sigma and x_t at noise levels of every size, on either path, in float64."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 64, 3, 4, 4, generator=generator, dtype=torch.float64)
    angle = (0.01 + 0.98 * torch.rand(64, 1, 1, 1, generator=generator, dtype=torch.float64)) * torch.pi / 2
    alpha, sigma = angle.cos(), angle.sin()
    if request.param == "straight":
        alpha, sigma = alpha / (alpha + sigma), sigma / (alpha + sigma)
    return x0, eps, alpha, sigma, alpha * x0 + sigma * eps


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_implies_the_image_it_was_made_of(target, noised):
    x0, eps, alpha, sigma, x_t = noised
    prediction = target_of(target, x0, eps, alpha, sigma)
    torch.testing.assert_close(x0_from_prediction(target, prediction, x_t, alpha, sigma), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_any_prediction_is_recovered_from_the_image_it_implies(target, noised):
    _, eps, alpha, sigma, x_t = noised
    prediction = torch.roll(eps, 1, 0)
    x0 = x0_from_prediction(target, prediction, x_t, alpha, sigma)
    back = prediction_from_x0(target, x0, x_t, alpha, sigma)
    torch.testing.assert_close(back, prediction, rtol=1e-10, atol=1e-10)


def test_pure_noise_implies_the_mean_image_under_eps_and_the_predicted_one_under_the_others(noised):
    x0, eps, _, _, _ = noised
    alpha, sigma = torch.zeros(64, 1, 1, 1).double(), torch.ones(64, 1, 1, 1).double()
    assert torch.equal(x0_from_eps(eps, eps, alpha, sigma), torch.zeros_like(x0))
    for target in ("x0", "v", "flow"):
        prediction = target_of(target, x0, eps, alpha, sigma)
        torch.testing.assert_close(x0_from_prediction(target, prediction, eps, alpha, sigma), x0, rtol=0, atol=1e-12)


def test_noise_and_image_are_recovered_from_each_other(noised):
    x0, eps, alpha, sigma, x_t = noised
    torch.testing.assert_close(eps_from_x0(x0, x_t, alpha, sigma), eps, rtol=0, atol=1e-12)
    other = torch.roll(eps, 1, 0)  # any prediction, not only the true one
    back = eps_from_x0(x0_from_eps(other, x_t, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(back, other, rtol=0, atol=1e-11)


def test_flow_is_the_velocity_along_the_straight_path(noised):
    x0, eps, alpha, sigma, _ = noised
    t, step = sigma / (alpha + sigma), 1e-5
    ahead, behind = ((1 - u) * x0 + u * eps for u in (t + step, t - step))
    flow = target_of("flow", x0, eps, alpha, sigma)
    torch.testing.assert_close((ahead - behind) / (2 * step), flow, rtol=0, atol=1e-8)


def test_v_is_the_velocity_along_the_angle(noised):
    x0, eps, alpha, sigma, x_t = noised
    angle, step = torch.atan2(sigma, alpha), 1e-5
    alpha, sigma = angle.cos(), angle.sin()
    x_t = alpha * x0 + sigma * eps
    ahead = (angle + step).cos() * x0 + (angle + step).sin() * eps
    behind = (angle - step).cos() * x0 + (angle - step).sin() * eps
    v = target_of("v", x0, eps, alpha, sigma)
    torch.testing.assert_close((ahead - behind) / (2 * step), v, rtol=0, atol=1e-8)
    torch.testing.assert_close(x0_from_v(v, x_t, alpha, sigma), x0, rtol=0, atol=1e-12)


def test_an_unknown_target_is_refused(noised):
    x0, eps, alpha, sigma, x_t = noised
    for call in (
        lambda: target_of("score", x0, eps, alpha, sigma),
        lambda: x0_from_prediction("score", eps, x_t, alpha, sigma),
    ):
        with pytest.raises(UserError, match="target=score is none of eps, x0, v, flow"):
            call()
