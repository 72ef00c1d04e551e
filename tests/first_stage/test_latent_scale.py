"""The scale of latents, against the latents themselves."""

import pytest
import torch

from ldm.first_stage.contract import Gaussian
from ldm.first_stage.latent_scale import SCALES, latent_scale


def posteriors(n=2000):
    """Encodings whose channels differ in level and spread, and whose posteriors are wide enough to matter."""
    generator = torch.Generator().manual_seed(0)
    level = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    spread = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    mean = level + spread * torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64)
    logvar = torch.rand(n, 3, 4, 4, generator=generator, dtype=torch.float64) - 1
    return Gaussian(mean, logvar)


def moments(encoding):
    """Mean and variance of each channel of a draw, by the law of total variance."""
    mean = encoding.mean.mean(dim=(0, 2, 3))
    return mean, encoding.mean.var(dim=(0, 2, 3), correction=0) + encoding.logvar.exp().mean(dim=(0, 2, 3))


def draws(encoding):
    noise = torch.randn(encoding.mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return encoding.sample(noise)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", SCALES)
def test_denormalise_undoes_normalise(kind, dtype):
    encoding = posteriors(8)
    scale = latent_scale(kind, *moments(encoding))
    raw = encoding.mean.to(dtype)
    z = scale.normalise(raw)
    assert z.dtype == dtype
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(scale.denormalise(z), raw, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(scale.normalise(scale.denormalise(raw)), raw, rtol=tolerance, atol=tolerance)


def test_std_scalar_is_the_standard_deviation_of_everything():
    latents = draws(posteriors())
    exact = latent_scale("std_scalar", latents.mean((0, 2, 3)), latents.var((0, 2, 3), correction=0))
    torch.testing.assert_close(exact.std, latents.std(correction=0).expand(3), rtol=1e-12, atol=0)
    # From means and variances of the posteriors alone it is the same, up to what the draws vary.
    expected = latent_scale("std_scalar", *moments(posteriors()))
    torch.testing.assert_close(expected.std, exact.std, rtol=0.01, atol=0)
    z = expected.normalise(latents)
    assert float(z.std()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(z, latents / expected.std[0], rtol=1e-14, atol=0)  # one factor, nothing subtracted


def test_per_channel_gives_every_channel_mean_zero_and_variance_one():
    z = latent_scale("per_channel", *moments(posteriors())).normalise(draws(posteriors()))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.02)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.02)


def test_none_leaves_latents_bit_for_bit():
    raw = posteriors(4).mean
    assert torch.equal(latent_scale("none", *moments(posteriors(4))).normalise(raw), raw)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match=r"latents\.scale=minmax is none of std_scalar, per_channel, none"):
        latent_scale("minmax", torch.zeros(3), torch.ones(3))
