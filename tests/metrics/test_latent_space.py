"""Predictors of a latent space, on latents whose statistics are known."""

import numpy as np
import pytest
import torch

from ldm.metrics.latent_space import (
    HIGH_FREQUENCY,
    NEIGHBOURS,
    SPECTRAL_CUT,
    channel_covariance,
    effective_channels,
    high_frequency_share,
    nearest_neighbours,
    roughness,
    same_class_neighbours,
    spectral_energy,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(cycles, axis):
    """A cosine of so many cycles over 16 latents along an axis."""
    line = torch.cos(2 * torch.pi * cycles * torch.arange(16, dtype=torch.float64) / 16)
    return (line.view(16, 1) if axis == 0 else line.view(1, 16)).expand(1, 1, 16, 16)


def test_covariance_is_numpys_over_images_and_positions():
    z = normal(20, 3, 4, 5) * torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)
    rows = z.transpose(0, 1).reshape(3, -1).numpy()
    np.testing.assert_allclose(channel_covariance(z).numpy(), np.cov(rows), rtol=1e-12)
    assert channel_covariance(normal(5, 1, 4, 4)).shape == (1, 1)


def test_effective_channels_count_directions_and_not_axes():
    z = normal(500, 4, 8, 8)
    assert effective_channels(channel_covariance(z)) == pytest.approx(1, abs=0.01)
    turning = torch.linalg.qr(normal(4, 4, seed=1))[0]
    turned = torch.einsum("ij,njhw->nihw", turning, z * torch.tensor([1.0, 1, 0, 0]).view(1, 4, 1, 1))
    assert effective_channels(channel_covariance(turned)) == pytest.approx(0.5, abs=0.01)
    same = z[:, :1].expand(-1, 4, -1, -1)
    assert effective_channels(channel_covariance(same)) == pytest.approx(0.25)


@pytest.mark.parametrize(("cycles", "share"), [(1, 0), (3, 0), (4, 1), (8, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_lies_where_its_frequency_is(cycles, share, axis):
    """4 cycles over 16 latents is a quarter of a cycle a latent."""
    assert HIGH_FREQUENCY == 4 / 16
    assert high_frequency_share(3 + wave(cycles, axis)).item() == pytest.approx(share, abs=1e-12)


def test_shares_of_waves_add_by_power():
    mixed = wave(2, 0) + 0.5 * wave(6, 1)
    assert high_frequency_share(mixed).item() == pytest.approx(0.25 / 1.25)


def test_white_latents_have_the_share_of_the_frequencies():
    index = np.fft.fftfreq(8)
    high = (np.hypot(index[:, None], index[None]) >= 0.25).sum()
    assert high_frequency_share(normal(4000, 2, 8, 8)).mean() == pytest.approx(high / 63, rel=0.01)


def test_roughness_is_one_for_white_latents_and_nothing_for_flat_ones():
    assert roughness(normal(2000, 2, 8, 8)).mean() == pytest.approx(1, rel=0.01)
    assert roughness(normal(50, 2, 1, 1).expand(-1, -1, 8, 8)).max() == 0


def test_roughness_is_one_less_the_autocorrelation():
    """Along rows that are first-order autoregressive, white down the columns: the mean of both axes."""
    z = torch.zeros(400, 1, 16, 16, dtype=torch.float64)
    z[..., 0] = normal(400, 1, 16, seed=3)
    for position in range(1, 16):
        z[..., position] = 0.8 * z[..., position - 1] + 0.6 * normal(400, 1, 16, seed=3 + position)
    assert roughness(z).mean() == pytest.approx((1 + 0.2) / 2, rel=0.02)


def test_neighbours_are_those_of_brute_force_in_parts_of_any_size():
    z = normal(40, 2, 3, 3)
    rows = z.flatten(1).numpy()
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    for at_once in (1, 100, 10**6):
        assert nearest_neighbours(z, 3, at_once).tolist() == distances.argsort(1)[:, :3].tolist()


def test_a_latent_alone_has_no_neighbour():
    with pytest.raises(ValueError, match="at least 2"):
        nearest_neighbours(normal(1, 2, 3, 3))


@pytest.mark.parametrize(("u", "v", "share"), [(0, 0, 0), (3, 4, 0), (4, 3, 0), (4, 4, 1), (1, 6, 0), (7, 7, 1)])
def test_a_cosine_lies_where_its_frequency_is(u, v, share):
    """cos(pi (2 i + 1) u / 2n) is one frequency of the transform; 7 is half of the largest sum, and below the cut."""
    assert SPECTRAL_CUT == 0.5
    down, across = (torch.cos(torch.pi * (2 * torch.arange(8, dtype=torch.float64) + 1) * k / 16) for k in (u, v))
    assert spectral_energy((down[:, None] * across).expand(1, 1, 8, 8)) == pytest.approx(share, abs=1e-12)


def test_energy_of_gaussian_latents_is_that_of_their_spectrum():
    """Latents whose energy at each cosine frequency is known, written down by the inverse transform's own sum."""
    n, (height, width) = 8000, (5, 7)
    spectrum = torch.exp(-0.4 * (torch.arange(height)[:, None] + torch.arange(width)).double())

    def basis(side):
        grid = torch.cos(torch.pi * (2 * torch.arange(side).double() + 1)[:, None] * torch.arange(side) / (2 * side))
        return grid * torch.tensor([1.0] + [2.0] * (side - 1), dtype=torch.float64).sqrt() / side**0.5

    coefficients = normal(n, 2, height, width) * spectrum.sqrt()
    z = torch.einsum("iu,ncuv,jv->ncij", basis(height), coefficients, basis(width))
    high = torch.arange(height)[:, None] + torch.arange(width) > 5
    expected = (spectrum[high].sum() / spectrum.sum()).item()
    assert spectral_energy(z) == pytest.approx(expected, rel=0.02)


def test_classes_apart_have_neighbours_of_their_own_and_classes_at_random_their_share():
    labels = np.repeat([0, 1], [300, 100])
    z = normal(400, 2, 3, 3)
    assert same_class_neighbours(z, labels).mean() == pytest.approx(0.75**2 + 0.25**2, abs=0.04)
    apart = z + 50 * torch.from_numpy(labels).view(-1, 1, 1, 1)
    assert same_class_neighbours(apart, labels).min() == 1


def test_few_latents_are_all_neighbours():
    few = np.array([0, 0, 1, 1, 1])
    assert len(few) <= NEIGHBOURS
    assert same_class_neighbours(normal(5, 1, 2, 2), few).tolist() == [0.25, 0.25, 0.5, 0.5, 0.5]
