"""The stage of predictors: planned on request, the small denoiser within its share of the budget, and its numbers."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_plans import FACTS, changed, plan_of

from experiments import build
from experiments.budget import flops_per_training_image, images_of_small_denoiser, small_denoiser_settings
from experiments.conditions import annotations_read
from experiments.generate import Generator
from experiments.stage import targets
from experiments.stages import STAGES
from experiments.stages.predictors import POSTERIORS, _noise, _Space, _statistics, _unexplained, _velocity_variance
from ldm.conditioning import Unconditional
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.first_stage.contract import Gaussian
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.training.flops import count_flops

ASKED = "metrics.predictors=true"
UNIT = LatentScale(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def test_it_is_planned_on_request_and_changes_nothing_else():
    assert "predictors" not in plan_of().stages
    assert changed(plan_of(), plan_of(ASKED)) == {"predictors"}
    assert "predictors" in [stage.name for stage in plan_of(ASKED).needed(targets(STAGES, "first_stage"))]


@pytest.mark.parametrize("setting", ["sampler.steps=7", "seed=1", "diffusion.target=v", "guidance.scale=2"])
def test_what_is_only_done_with_the_large_model_is_not_in_it(setting):
    assert "predictors" not in changed(plan_of(ASKED), plan_of(ASKED, setting))


@pytest.mark.parametrize("setting", ["ae.seed=1", "diffusion.schedule=cosine", "latents.scale=none", "metrics.seed=2"])
def test_what_changes_the_space_or_the_noise_is(setting):
    assert "predictors" in changed(plan_of(ASKED), plan_of(ASKED, setting))


@pytest.mark.long
@pytest.mark.parametrize("f", [1, 4, 32])
def test_the_small_denoiser_spends_a_hundredth_of_the_flops(f):
    config = plan_of(ASKED, f"ae.f={f}", "trainer.images=1000000").config
    known = FACTS.vocabulary(annotations_read(config))
    images = images_of_small_denoiser(config, known)
    settings, side = small_denoiser_settings(config), 32 // f
    with torch.device("meta"):
        network = build.denoiser(settings, config["ae"]["channels"], side, Unconditional())
        x, index = torch.empty(1, config["ae"]["channels"], side, side), torch.empty(1)
    each = count_flops(lambda: network(x, index).sum().backward())
    main = 1_000_000 * flops_per_training_image(config, f, known)
    assert images * each == pytest.approx(0.01 * main, rel=1e-3)


def test_it_sees_one_batch_at_least():
    assert plan_of(ASKED, "trainer.images=1").stages["predictors"].settings["small_denoiser"]["images"] == 16


def test_a_space_of_posteriors_is_drawn_by_seed_and_image_or_taken_at_its_means():
    class Posterior(IdentityFirstStage):
        def encode(self, image):
            return Gaussian(image, torch.full_like(image, math.log(0.25)))

        def latent(self, packed, noise=None):
            mean, logvar = packed.chunk(2, dim=1)
            return mean if noise is None else Gaussian(mean, logvar).sample(noise)

    pixels = torch.linspace(-1, 1, 70 * 3 * 16).view(70, 3, 4, 4)
    images = SimpleNamespace(batch=lambda indices: pixels[list(indices)])
    scale = LatentScale(torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64))
    space = _Space(Posterior(), scale, "cpu")
    torch.testing.assert_close(space.latents(space.encoded(images, [1, 69]), None), 2 * pixels[[1, 69]])
    drawn = space.latents(space.encoded(images, list(range(70))), 7)
    torch.testing.assert_close(space.latents(space.encoded(images, [69, 3]), 7), drawn[[69, 3]])
    assert (drawn - 2 * pixels).std().item() == pytest.approx(1, rel=0.05)


def test_statistics_that_a_single_latent_cannot_have_are_left_out_with_the_reason():
    values, left_out = _statistics(torch.randn(20, 4, 1, 1))
    assert [value.metric for value in values] == ["latent_effective_channels"]
    assert {item.metric for item in left_out} == {
        *("latent_roughness", "latent_high_frequency_share", "latent_spectral_energy")
    }


class Constant(torch.nn.Module):
    """Predicts that v is 0, as one does who knows nothing."""

    def forward(self, x, index, context=None, concat=None):
        return torch.zeros_like(x)


class Ideal(torch.nn.Module):
    """The best estimate of v for independent latents of unit variance: nothing, as x_t tells no more of it."""

    def __init__(self, spread):
        super().__init__()
        self.spread, self.schedule = spread, make_schedule("linear")

    def forward(self, x, index, context=None, concat=None):
        t = self.schedule.time(index)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        covariance = alpha * sigma * (1 - self.spread**2)  # of v = alpha eps - sigma x_0 with x_t
        return (covariance / (alpha**2 * self.spread**2 + sigma**2)).to(x).view(-1, 1, 1, 1) * x


def small(network):
    model = DenoisingModel(network, make_schedule("linear"), "v")
    return Generator(model, Unconditional(), IdentityFirstStage(), UNIT, (3, 8, 8), (-9.0, 9.0), "cpu")


def test_who_knows_nothing_leaves_everything_unexplained_and_structure_explains():
    """Latents of variance s^2: the mean over levels of E[v^2], and of Var[v | x_t], in closed form."""
    latents = 0.5 * torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = make_schedule("linear")
    t = schedule.time(torch.arange(1000))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    marginal = alpha**2 + sigma**2 * 0.25
    explained = (alpha * sigma * 0.75) ** 2 / (alpha**2 * 0.25 + sigma**2)
    found = _unexplained(small(Constant()), latents, list(range(300)), 0)
    assert found.value == pytest.approx(marginal.mean().item(), rel=0.01)
    assert found.n == 300
    best = _unexplained(small(Ideal(0.5)), latents, list(range(300)), 0)
    assert best.value == pytest.approx((marginal - explained).mean().item(), rel=0.01)


class Spy(Constant):
    """Also keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, index, context=None, concat=None):
        self.seen.append((x, index))
        return super().forward(x, index)


def test_noise_of_posteriors_does_not_come_back_at_any_level():
    """What is left of the noised latents without the latents is noise that has nothing to do with them."""
    indices = list(range(40))
    latents, spy = _noise(7, POSTERIORS, indices)((3, 8, 8)), Spy()
    model = small(spy)
    _unexplained(model, latents, indices, 7)
    assert len(spy.seen) == 8
    for x, index in spy.seen:
        t = model.model.schedule.time(index)
        alpha, sigma = (
            value.view(-1, 1, 1, 1) for value in (model.model.schedule.alpha(t), model.model.schedule.sigma(t))
        )
        eps = (x - alpha * latents) / sigma
        together = torch.stack([eps.flatten(), latents.flatten()]).float()
        assert abs(torch.corrcoef(together)[0, 1].item()) < 0.05


@dataclass
class Images:
    """An image set whose images are their own latents."""

    labels: np.ndarray
    classes: tuple[str, ...]
    latents: torch.Tensor

    def __len__(self):
        return len(self.latents)

    def batch(self, indices, device):
        return self.latents[list(indices)]


def velocity_of(labels, classes, side):
    """What the stage says of white latents (3, side, side), so many images of each class."""
    latents = torch.randn(len(labels), 3, side, side, generator=torch.Generator().manual_seed(0))
    images = Images(np.array(labels), classes, latents)
    facts = {"shape": [3, side, side], "cached": False, "shift": [0.0] * 3, "std": [1.0] * 3}
    latents_stage = SimpleNamespace(record=SimpleNamespace(facts=facts), file=None)
    job = SimpleNamespace(settings={"seed": 0}, device="cpu", parents={"latents"}, parent=lambda name: latents_stage)
    return _velocity_variance(job, _Space(IdentityFirstStage(), UNIT, "cpu"), images)


def test_the_velocitys_variance_is_of_the_larger_classes_whatever_the_latents():
    """White latents have half of pi. For 3 channels of 4 x 4 there would be enough of the smallest class, too."""
    found = [velocity_of([0] * 400 + [1] * 300 + [2] * 199, ("a", "b", "c"), side) for side in (2, 4, 8)]
    assert [value.n for value in found] == [700] * 3
    assert found[1].value == pytest.approx(math.pi / 2, rel=0.02)
    assert velocity_of([-1] * 500, (), 4).n == 500


def test_where_a_class_is_not_large_enough_it_says_what_it_needs():
    """12 images stand for 3 channels of 4 x 4; of 11 there is no covariance."""
    small_classes = velocity_of([0] * 22 + [1] * 11 + [2] * 10, ("a", "b", "c"), 4)
    assert small_classes.reason.startswith("It needs 12 training images of a class, and of those at least half as la")
    assert small_classes.reason.endswith("the smallest has 11.")
    assert velocity_of([0] * 22 + [1] * 12 + [2] * 10, ("a", "b", "c"), 4).n == 34
    assert "1,024 positions at most, these latents have 1,296" in velocity_of([0] * 5, ("a",), 36).reason
