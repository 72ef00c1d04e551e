"""The loss over all noise levels: of the images and conditions that belong together, at levels that batches share."""

import pytest
import torch
from torch import nn

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.levels import BINS, LEVELS_AN_IMAGE, error_within, loss_over_levels, trained_bins
from ldm.diffusion.schedule import time_at
from ldm.diffusion.times import LogitNormalTimes

LATENTS = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
INDICES = [3, 5, 8, 13, 21, 34, 55]


class Told(nn.Module):
    """Predicts what its condition says of the image, and remembers the levels that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[float] = []

    def forward(self, x, index, context=None, concat=None):
        self.indices += index.tolist()
        return context[:, :, 0].reshape(x.shape)


def found(network, told, batch, seed=0, indices=INDICES):
    model = DenoisingModel(network, make_schedule("scaled_linear"), "x0")
    context = told.reshape(len(told), -1, 1)
    return loss_over_levels(model, LATENTS, indices, seed, lambda part: Condition(context[part]), "cpu", batch)


def test_who_is_told_the_image_has_no_loss_and_who_is_told_nothing_that_of_the_image():
    assert torch.equal(found(Told(), LATENTS, 3), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(found(Told(), torch.zeros_like(LATENTS), 3), LATENTS.double().square().mean((1, 2, 3)))
    assert found(Told(), LATENTS.flip(0), 3).sum() > 1


def test_each_image_is_asked_about_once_in_each_part_of_the_schedule():
    network = Told()
    found(network, LATENTS, 7)
    asked = torch.tensor(network.indices).view(LEVELS_AN_IMAGE, 7)
    assert torch.equal(asked.div(1000 / LEVELS_AN_IMAGE, rounding_mode="floor")[:, 0], torch.arange(8.0))
    assert len(asked.unique()) > 40


def test_levels_and_noise_follow_from_the_seed_and_the_index_alone():
    class Seen(Told):
        def forward(self, x, index, context=None, concat=None):
            return torch.tanh(x)

    whole = found(Seen(), LATENTS, 7)
    torch.testing.assert_close(found(Seen(), LATENTS, 2), whole, rtol=1e-6, atol=0)
    other = found(Seen(), LATENTS, 7, seed=1)
    moved = found(Seen(), LATENTS, 7, indices=[*INDICES[:-1], 56])
    assert not torch.isclose(other, whole).any()
    assert torch.isclose(moved, whole).tolist() == [True] * 6 + [False]


class Exact(nn.Module):
    """E[x_0 | x_t] of Gaussian data around 0 with standard deviation `spread`."""

    def __init__(self, schedule, spread):
        super().__init__()
        self.schedule, self.spread = schedule, spread

    def forward(self, x, index, context=None, concat=None):
        t = self.schedule.time(index)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        factor = alpha * self.spread**2 / ((alpha * self.spread) ** 2 + sigma**2)
        return factor.view(-1, 1, 1, 1).to(x) * x


@pytest.mark.parametrize("name", ["scaled_linear", "flow"])
@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_the_error_within_a_bin_is_that_of_the_exact_gaussian_denoiser(name, spread):
    """E(1 + SNR) s^2 / (1 + s^2 SNR), a mean over the bin's log-SNR; 1 where the data have unit variance."""
    schedule = make_schedule(name, shift=0.7)
    model = DenoisingModel(Exact(schedule, spread), schedule, "x0")
    latents = spread * torch.randn(500, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for low, high in ((-4, -2), (0, 2), (2, 4)):
        snr = torch.linspace(low, high, 2001, dtype=torch.float64).exp()
        expected = float(((1 + snr) * spread**2 / (1 + spread**2 * snr)).mean())
        found = error_within(model, latents, range(500), (low, high), 0, lambda part: Condition(), "cpu", 200)
        noise = float(found.std()) / 500**0.5
        assert abs(float(found.mean()) - expected) < 4 * noise < 0.1 * expected, (low, high)


def test_errors_within_a_bin_follow_from_the_seed_and_the_index_alone():
    schedule = make_schedule("scaled_linear")
    model = DenoisingModel(Exact(schedule, 1.0), schedule, "x0")

    def errors(part, batch):
        indices = [INDICES[i] for i in part]
        return error_within(model, LATENTS[part], indices, (0, 2), 3, lambda own: Condition(), "cpu", batch)

    whole = errors(list(range(7)), 7)
    torch.testing.assert_close(torch.cat([errors([0, 1], 1), errors([2, 3, 4, 5, 6], 2)]), whole, rtol=1e-6, atol=0)


def test_models_are_asked_within_the_noise_levels_that_they_were_trained_on():
    assert trained_bins(make_schedule("flow")) == BINS
    assert trained_bins(make_schedule("scaled_linear")) == BINS[:-1]
    assert trained_bins(make_schedule("scaled_linear", shift=0.2)) == BINS[2:]


def test_the_time_of_a_log_snr_is_the_inverse_of_the_schedule():
    for schedule in (make_schedule("scaled_linear", shift=2.0), make_schedule("cosine"), make_schedule("flow")):
        t = torch.tensor([1e-4, 0.001, 0.2, 0.51234, 0.9, 0.999], dtype=torch.float64)
        torch.testing.assert_close(time_at(schedule, schedule.log_snr(t)), t, rtol=0, atol=1e-10)
    beyond = time_at(make_schedule("scaled_linear"), torch.tensor([-50.0]))
    assert beyond.tolist() == [1.0]


def test_a_loss_over_levels_follows_the_density_of_the_training():
    """Against the sum over all levels, each as often as it is drawn, of a model whose loss depends on the level."""

    class Rising(nn.Module):
        def forward(self, x, index, context=None, concat=None):
            return x * 0 + (index / 1000).view(-1, 1, 1, 1)

    model = DenoisingModel(Rising(), make_schedule("scaled_linear"), "x0")
    zeros, many = torch.zeros(3000, 1, 1, 1), list(range(3000))
    each = (torch.arange(1000, dtype=torch.float64) / 1000).square()
    for times in (LogitNormalTimes(0.4, 1.0), LogitNormalTimes(0.4, 2.0, unbiased=True)):
        found = loss_over_levels(model, zeros, many, 0, lambda part: Condition(), "cpu", 3000, times)
        expected = float((times.probabilities(1000) * times.weights(1000) * each).sum())
        assert float(found.mean()) == pytest.approx(expected, rel=0.005)
