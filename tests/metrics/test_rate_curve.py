"""Rates over the widths of posteriors, where they are known in closed form: latents that are their own images."""

import itertools
import math

import numpy as np
import pytest
import torch

from ldm.metrics.rate import aggregate_moments, kl_fitted
from ldm.metrics.rate_curve import STEPS, Posteriors, Swept, curve, swept

N, SIDE = 60, 16
PIXELS = SIDE * SIDE
TRAINED = -6.0


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decode(raw):
    """Grey levels of 40 a unit, which hardly ever leave the range of an image."""
    return raw * (40 / 127.5)


MEAN = normal(1, N, 3, SIDE, SIDE)
NOISE = normal(2, N, 3, SIDE, SIDE)
IMAGES = ((decode(MEAN).clamp(-1, 1) + 1) * 127.5).round().byte()


@pytest.fixture(scope="module")
def posteriors():
    train = normal(0, 400, 3, SIDE, SIDE)
    return Posteriors.fitted([(part, torch.full_like(part, TRAINED)) for part in train.split(150)])


@pytest.fixture(scope="module")
def points(posteriors):
    parts = [swept(posteriors, IMAGES[of], MEAN[of], NOISE[of], decode) for of in (slice(0, 40), slice(40, N))]
    return curve(posteriors.widths, parts, PIXELS)


def test_the_family_is_fitted_to_means_and_widths_of_training_posteriors(posteriors):
    torch.testing.assert_close(posteriors.noise, torch.full((3,), math.exp(TRAINED / 2)).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(posteriors.means.variance, torch.ones(3).double(), rtol=0.02, atol=0)
    std, aggregate = posteriors.at(4)
    torch.testing.assert_close(std, 4 * posteriors.noise)
    torch.testing.assert_close(aggregate.variance, posteriors.means.variance + std.square())


def test_widths_hold_the_trained_one_and_end_where_noise_is_as_loud_as_the_latents(posteriors):
    widths = posteriors.widths
    assert widths[:2] == [0.5, 1.0]
    assert len(widths) == STEPS + 1
    assert widths[-1] * posteriors.noise.max().item() == pytest.approx(1, rel=0.02)
    ratios = np.diff(np.log(widths[1:]))
    np.testing.assert_allclose(ratios, ratios[0])


def test_rates_are_those_of_a_gaussian_channel(points, posteriors):
    """I(mean; mean + w s noise) = 1/2 log2((1 + (w s)^2) / (w s)^2) a latent, of which there are three a pixel."""
    for point in points:
        variance = (point["width"] * math.exp(TRAINED / 2)) ** 2
        expected = 3 * 0.5 * math.log2((1 + variance) / variance)
        assert point["bits_per_pixel"] == pytest.approx(expected, rel=0.01)
        assert point["bits_per_pixel_low"] < expected < point["bits_per_pixel_high"]
        assert point["n"] == N


def test_wider_posteriors_take_fewer_bits_and_lose_more(points):
    for name, sign in (("bits_per_pixel", -1), ("rmse255", 1), ("psnr", -1)):
        for prefix in ("", "coded_"):
            values = [point[prefix + name] for point in points]
            assert all(sign * (b - a) > 0 for a, b in itertools.pairwise(values)), (prefix, name)


def test_errors_are_those_of_the_noise_in_grey_levels(points):
    for point in points[:-2]:  # the widest leave the range of an image, where noise is cut off
        noise = 40 * point["width"] * math.exp(TRAINED / 2)
        assert point["rmse255"] == pytest.approx(math.hypot(noise, math.sqrt(1 / 12)), rel=0.06)


def test_the_curve_passes_through_the_trained_point_where_posteriors_have_one_width(points, posteriors):
    logvar = torch.full_like(MEAN, TRAINED)
    moments = aggregate_moments([(part, torch.full_like(part, TRAINED)) for part in [normal(0, 400, 3, SIDE, SIDE)]])
    [trained] = [point for point in points if point["width"] == 1]
    assert trained["bits_per_pixel"] == pytest.approx(kl_fitted(MEAN, logvar, moments, PIXELS).mean(), rel=1e-6)


def test_rounded_means_take_a_quarter_of_a_bit_a_latent_more_and_err_as_much(points):
    for point in points[:6]:
        more = (point["coded_bits_per_pixel"] - point["bits_per_pixel"]) / 3
        assert more == pytest.approx(0.5 * math.log2(2 * math.pi * math.e / 12), abs=0.02)
        assert point["coded_rmse255"] == pytest.approx(point["rmse255"], rel=0.05)


def test_means_beyond_the_coders_reach_have_no_coded_size(posteriors):
    far = MEAN * 1e4
    found = swept(posteriors, IMAGES, far, NOISE, lambda raw: decode(raw * 1e-4))
    points = curve(posteriors.widths, [found], PIXELS)
    assert points[0]["coded_bits_per_pixel"] is None
    assert points[0]["coded_psnr"] is None
    assert points[0]["rmse255"] is not None


def test_a_channel_that_is_never_used_costs_nothing():
    mean = MEAN.clone()
    mean[:, 1] = 0.3
    posteriors = Posteriors.fitted([(mean, torch.full_like(mean, TRAINED))])
    points = curve(posteriors.widths, [swept(posteriors, IMAGES, mean, NOISE, decode)], PIXELS)
    for point in points:
        variance = (point["width"] * math.exp(TRAINED / 2)) ** 2
        assert point["bits_per_pixel"] == pytest.approx(math.log2((1 + variance) / variance), rel=0.01)
        assert math.isfinite(point["coded_bits_per_pixel"])


def test_exact_images_have_no_psnr():
    found = Swept(np.ones((2, 1)), np.zeros((2, 1)), np.zeros((2, 1)), np.full((1, 1), 16.0))
    [point] = curve([1.0], [found], 4)
    assert point["psnr"] is None
    assert point["coded_psnr"] is None
    assert (point["rmse255"], point["coded_bits_per_pixel"]) == (0, 2)
