"""The Gaussian of latents: moments in float64, two ways to hold it that are one distribution, samples by (seed, i)."""

import math

import pytest
import torch

from ldm.metrics import gaussian_latents
from ldm.metrics.gaussian_latents import centred, fitted, fitted_bytes, images_fitted, rooted
from ldm.randomness import SampleNoise, generator
from ldm.training.peak_memory import peak_bytes

SHAPE = (3, 2, 2)
WAYS = [pytest.param(lambda batches, n: rooted(batches), id="rooted"), pytest.param(centred, id="centred")]


def latents(n, offset=100.0):
    """Far from 0 and correlated, so that moments about 0 would lose digits in float32."""
    draws = generator(0, "latents")
    mixed = torch.randn(n, 12, generator=draws) @ torch.randn(12, 12, generator=draws)
    return (mixed + offset).view(n, *SHAPE)


@pytest.mark.parametrize("fit", WAYS)
@pytest.mark.parametrize("n", [5, 40, 301])
def test_mean_and_covariance_are_those_of_the_latents_to_float64(fit, n):
    """Whether there are more images than values or fewer."""
    data = latents(n)
    found, rows = fit(data.split(7), n), data.flatten(1).double()
    torch.testing.assert_close(found.mean.flatten(), rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.covariance, torch.cov(rows.T), rtol=1e-10, atol=1e-10)
    assert found.images == n


def test_which_way_depends_on_images_and_values(monkeypatch):
    data = latents(40)
    assert fitted(data.split(9), 40).factor.shape == (12, 12)
    assert fitted(data[:12].split(9), 12).factor.shape == (12, 12)  # as many images as values: the latents themselves
    torch.testing.assert_close(fitted(data[:12].split(9), 12).factor, centred([data[:12]], 12).factor)
    monkeypatch.setattr(gaussian_latents, "MOST_ROOTED", 11)
    assert fitted(data.split(9), 40).factor.shape == (40, 12)
    with pytest.raises(ValueError, match="needs at least 2 images"):
        fitted([data[:1]], 1)
    with pytest.raises(ValueError, match="41 latents were to come, and 40 came"):
        centred(data.split(9), 41)


def test_latents_that_are_held_are_in_memory_once():
    data = torch.zeros(64, 3, 64, 64)
    needed = fitted_bytes(64, data[0].numel())
    assert needed == 8 * data.numel()
    assert needed <= peak_bytes(lambda: centred(data.split(16), 64)) < 1.1 * needed


def test_rooting_holds_a_few_matrices():
    """Two of them inside the decomposition, which no tensor shows."""
    data = torch.zeros(600, 512, 1, 1)
    matrix = 8 * 512**2
    seen = peak_bytes(lambda: rooted(data.split(64)))
    assert seen < fitted_bytes(600, 512) == 6 * matrix
    assert seen == pytest.approx(4 * matrix, rel=0.1)


def test_many_images_are_looked_at_only_where_they_need_not_be_held():
    assert images_fitted(1_000_000, 1024) == 1_000_000
    assert images_fitted(1_000_000, 3072) == 10_000
    assert images_fitted(1_000_000, 3 * 256 * 256) == 2**27 // (3 * 256 * 256) == 682
    assert images_fitted(500, 3072) == 500


@pytest.mark.parametrize("fit", WAYS)
def test_samples_have_the_distribution(fit):
    """Each moment within five standard errors, which 156 of them pass but once in ten thousand trials."""
    data = latents(60, offset=0.5)
    found, n = fit([data], len(data)), 20_000
    drawn = found.draw(SampleNoise(1, range(n))).flatten(1).double()
    covariance = found.covariance
    variance = covariance.diagonal()
    assert ((drawn.mean(0) - found.mean.flatten()).abs() < 5 * (variance / n).sqrt()).all()
    error = ((torch.outer(variance, variance) + covariance.square()) / n).sqrt()
    assert ((torch.cov(drawn.T) - covariance).abs() < 5 * error).all()


@pytest.mark.parametrize("fit", WAYS)
def test_a_sample_depends_on_seed_and_number_alone(fit):
    found = fit([latents(30)], 30)
    whole = found.draw(SampleNoise(3, range(8)))
    assert whole.shape == (8, *SHAPE)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, found.draw(SampleNoise(3, range(8))))
    parts = torch.cat([found.draw(SampleNoise(3, part)) for part in ([5, 1], [7])])
    torch.testing.assert_close(parts, whole[[5, 1, 7]], rtol=1e-6, atol=0)
    assert not torch.allclose(whole, found.draw(SampleNoise(4, range(8))))


@pytest.mark.parametrize("fit", WAYS)
def test_what_never_varies_is_never_varied(fit):
    """A dead channel, of which the root of the covariance must not make a number that is none."""
    data = latents(40)
    data[:, 1] = 0.25
    drawn = fit([data], len(data)).draw(SampleNoise(0, range(4)))
    assert torch.isfinite(drawn).all()
    torch.testing.assert_close(drawn[:, 1], torch.full((4, 2, 2), 0.25), rtol=0, atol=math.sqrt(1e-12))
