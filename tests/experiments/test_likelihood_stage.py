"""The stage that codes held-out images with a diffusion model: planned on request, and right in pixel space."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_plans import changed, identities, plan_of

from experiments.generate import AskedConditions, Generator
from experiments.stages.likelihood import coded
from ldm.conditioning import Unconditional
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.likelihood import GREY_LEVEL, coding_times
from ldm.errors import UserError
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale

ASKED = "metrics.likelihood=true"


def test_it_is_planned_on_request_and_changes_nothing_else():
    assert "likelihood" not in plan_of().stages
    assert changed(plan_of(), plan_of(ASKED)) == {"likelihood"}
    assert plan_of().cell == plan_of(ASKED).cell


@pytest.mark.parametrize(
    "setting", ["metrics.likelihood_samples=5", "metrics.likelihood_levels=9", "metrics.likelihood_clip=none"]
)
def test_its_settings_are_its_own(setting):
    assert changed(plan_of(ASKED), plan_of(ASKED, setting)) == {"likelihood"}
    assert not changed(plan_of(), plan_of(setting))


@pytest.mark.parametrize("setting", ["sampler.steps=7", "metrics.n_samples=20", "metrics.extractor=inception"])
def test_neither_the_sampler_nor_the_judge_takes_part(setting):
    assert identities(plan_of(ASKED))["likelihood"] == identities(plan_of(ASKED, setting))["likelihood"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("metrics.likelihood_levels=1001", "is no whole number of noise levels from 2 to 1000"),
        ("metrics.likelihood_levels=1", "from 2 to 1000"),
        ("metrics.likelihood_samples=1", "is no whole number of images from 2 to"),
        ("metrics.likelihood_clip=rang", "did you mean 'range'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(setting, words):
    with pytest.raises(UserError, match=words):
        plan_of(ASKED, setting)


class Ideal(torch.nn.Module):
    """E[x_0 | x_t] of pixels around 0 with standard deviation `spread`."""

    def __init__(self, schedule, spread):
        super().__init__()
        self.schedule, self.spread = schedule, spread

    def forward(self, x, index, context=None, concat=None):
        t = self.schedule.time(index)
        alpha, variance = self.schedule.alpha(t), self.schedule.sigma(t) ** 2
        factor = alpha * self.spread**2 / (alpha**2 * self.spread**2 + variance)
        return factor.to(x).view(-1, 1, 1, 1) * x


N, SPREAD, STD, SIDE = 64, 0.2, 0.5, 8


@pytest.fixture
def source():
    """A model of grey Gaussian images that is perfect, behind a scale that the bound must not see."""
    schedule = make_schedule("linear")
    model = DenoisingModel(Ideal(schedule, SPREAD / STD), schedule, "x0")
    scale = LatentScale(torch.full((3,), 0.1, dtype=torch.float64), torch.full((3,), STD, dtype=torch.float64))
    shape = (3, SIDE, SIDE)
    return Generator(model, Unconditional(), IdentityFirstStage(), scale, shape, (-9.0, 9.0), "cpu")


@pytest.fixture
def images():
    drawn = torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    levels = ((SPREAD * drawn + 1.1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    return SimpleNamespace(batch=lambda indices: levels[list(indices)])


def coded_in(source, images, parts, levels, clip="none"):
    asked = AskedConditions(lambda indices, draw: {}, range(N), seed=3)
    times = coding_times(source.model.schedule, levels)
    shown = [0, levels // 2, levels - 1]
    return [coded(source, images, asked, part, times, shown, clip) for part in parts]


@pytest.mark.long
def test_the_bound_in_pixel_space_is_in_bits_of_grey_levels_whatever_their_scale(source, images):
    """A Gaussian's entropy in grey levels, and the part of a bit that DDPM's coarse first levels add."""
    [found] = coded_in(source, images, [range(N)], 1000)
    bound = found.bits[:, -1].mean() + found.decoder_nats.mean() / (math.log(2) * 3 * SIDE**2)
    entropy = math.log2(SPREAD * math.sqrt(2 * math.pi * math.e) / GREY_LEVEL)
    assert entropy < bound < entropy + 1
    first = source.model.schedule.sigma(torch.tensor(0.001)).item() * STD * 127.5
    assert found.mse[:, -1].mean() == pytest.approx(first**2, rel=0.05)
    assert found.mse[:, 0].mean() == pytest.approx((SPREAD * 127.5) ** 2, rel=0.05)
    assert (np.diff(found.bits, axis=1) >= 0).all()


def test_the_batch_changes_nothing(source, images):
    [whole] = coded_in(source, images, [range(N)], 10)
    parts = coded_in(source, images, [range(5), range(5, N)], 10)
    for name in ("bits", "mse", "decoder_nats"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-5)


def test_estimates_are_clipped_where_asked_for(source, images):
    """To half of the range, so that the brightest and darkest pixels cannot be told."""
    narrow = Generator(**{**vars(source), "latent_range": (-0.1, 0.1)})
    [free], [clipped] = (coded_in(narrow, images, [range(N)], 10, clip) for clip in ("none", "range"))
    assert clipped.mse[:, -1].mean() > 10 * free.mse[:, -1].mean()
