"""The irreducible variance of the velocity, on Gaussian latents whose spectrum is known."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ldm.metrics.velocity_ambiguity import images_needed, separable_covariance, velocity_variance


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(spectrum, seed):
    """A covariance of that spectrum along random axes."""
    axes = torch.linalg.qr(normal(len(spectrum), len(spectrum), seed=seed))[0]
    return axes @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ axes.T


CHANNELS, POSITIONS = covariance([3.0, 0.9, 0.3], 1), covariance([4.0, 1.0, 0.5, 0.2, 0.05], 2)
"""Sides are different primes, so that swapped axes cannot pass."""


def drawn(n, channels=CHANNELS, positions=POSITIONS, seed=0):
    """Latents (n, C, S) of that Kronecker covariance around a mean that is not 0."""
    down, across = torch.linalg.cholesky(channels), torch.linalg.cholesky(positions)
    return 5 + down @ normal(n, len(channels), len(positions), seed=seed) @ across.T


def test_flip_flop_finds_the_factors_of_a_kronecker_covariance():
    found = separable_covariance(drawn(20_000))
    size = CHANNELS.diagonal().mean()
    torch.testing.assert_close(found.channels, CHANNELS / size, rtol=0, atol=0.02)
    torch.testing.assert_close(found.positions, POSITIONS * size, rtol=0, atol=0.05)


def test_it_is_where_the_likelihood_is_greatest():
    """Moved a little in any direction, either factor explains the latents worse."""
    latents = drawn(40)
    centred = (latents - latents.mean(0)).flatten(1)
    best = separable_covariance(latents)

    def loss(channels, positions):
        product = torch.kron(channels, positions)
        scatter = torch.einsum("ni,ij,nj->", centred, torch.linalg.inv(product), centred) / (len(latents) - 1)
        return (torch.logdet(product) + scatter).item()

    least = loss(best.channels, best.positions)
    for seed in range(20):
        step = normal(3, 3, seed=seed)
        assert loss(best.channels + 1e-3 * (step + step.T), best.positions) > least
        step = normal(5, 5, seed=seed)
        assert loss(best.channels, best.positions + 1e-3 * (step + step.T)) > least


def test_of_one_channel_or_one_position_it_is_the_sample_covariance():
    rows = drawn(30)[:, 0]
    np.testing.assert_allclose(separable_covariance(rows[:, None]).positions, np.cov(rows.T.numpy()), rtol=1e-9)
    columns = drawn(30)[..., 0]
    found = separable_covariance(columns[..., None])
    np.testing.assert_allclose(found.channels * found.positions, np.cov(columns.T.numpy()), rtol=1e-9)


def test_axes_may_turn_and_sizes_may_wander_between_the_factors():
    """The roots belong to the latents, not to how they are written down."""
    latents, turning = drawn(60), torch.linalg.qr(normal(3, 3, seed=5))[0]
    turned = torch.einsum("cd,nds->ncs", turning, latents)
    expected = separable_covariance(latents).root_sum
    assert separable_covariance(turned).root_sum == pytest.approx(expected, rel=1e-7)
    assert separable_covariance(7 * latents).root_sum == pytest.approx(7 * expected, rel=1e-7)
    assert separable_covariance(latents.mT).root_sum == pytest.approx(expected, rel=1e-7)


def test_a_dead_channel_adds_values_and_no_variance():
    latents = drawn(60)
    dead = torch.cat([latents, torch.full((60, 1, 5), 2.0)], dim=1)
    found = separable_covariance(dead)
    assert found.root_sum == pytest.approx(separable_covariance(latents).root_sum, rel=1e-7)
    assert found.channels[3].abs().max() < 1e-12


def test_the_variance_is_the_integral_over_time_of_that_of_a_known_spectrum():
    """Equation 4 by quadrature over the spectrum that latents were drawn from, equation 5 from the latents."""
    spectrum = np.outer([3.0, 0.9, 0.3], [4.0, 1.0, 0.5, 0.2, 0.05]).ravel()
    expected = np.mean([quad(lambda t, s=s: s / ((1 - t) ** 2 + t**2 * s), 0, 1)[0] for s in spectrum])
    found = velocity_variance([drawn(20_000).unflatten(2, (1, 5))])
    assert found == pytest.approx(expected, rel=0.01)


def test_it_is_what_the_best_estimate_of_the_velocity_misses():
    """By draws: the squared error of E[v | x_t] itself, for Gaussian latents, over t."""
    spectrum = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
    latents, noise = spectrum.sqrt() * normal(50_000, 3, seed=1), normal(50_000, 3, seed=2)
    t = torch.rand(50_000, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = t * latents + (1 - t) * noise
    best = (t * spectrum - (1 - t)) / (t**2 * spectrum + (1 - t) ** 2) * x
    missed = (latents - noise - best).square().mean().item()
    assert missed == pytest.approx(velocity_variance([latents[:, :, None, None]]), rel=0.02)


def test_white_latents_have_half_of_pi_and_structure_less():
    white = velocity_variance([normal(4000, 3, 4, 4)])
    assert white == pytest.approx(math.pi / 2, rel=0.01)
    flat = normal(4000, 3, 4, 4) * torch.tensor([1.7, 0.3, 0.1]).view(1, 3, 1, 1)
    assert velocity_variance([flat]) == pytest.approx(0.7 * math.pi / 2, rel=0.01)


def test_classes_count_alike_and_their_means_apart_add_nothing():
    first, second = normal(900, 2, 3, 3, seed=1), 2 * normal(300, 2, 3, 3, seed=2) + 100
    both = velocity_variance([first, second])
    assert both == pytest.approx((velocity_variance([first]) + velocity_variance([second])) / 2, rel=1e-12)
    assert both == pytest.approx(1.5 * math.pi / 2, rel=0.02)


@pytest.mark.parametrize(("channels", "positions", "images"), [(3, 5, 5), (5, 3, 5), (3, 64, 44), (4, 4, 3)])
def test_a_class_that_is_too_small_is_refused(channels, positions, images):
    assert images_needed(channels, positions) == images
    separable_covariance(normal(images, channels, positions))
    with pytest.raises(ValueError, match=f"needs {images} images"):
        separable_covariance(normal(images - 1, channels, positions))


def test_nothing_to_measure_is_said():
    with pytest.raises(ValueError, match="at least one class"):
        velocity_variance([])
    with pytest.raises(ValueError, match="without variance"):
        separable_covariance(torch.ones(20, 3, 5))
