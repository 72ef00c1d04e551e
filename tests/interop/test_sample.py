"""`sample` on Gaussian data, where the exact network and the exact end of every trajectory are known."""

import pytest
import torch

from ldm import interop
from ldm.conditioning import ClassConditioning, Condition
from ldm.diffusion import make_schedule
from ldm.errors import UserError
from ldm.interop import Loaded, RawConditioning
from ldm.samplers import SAMPLERS

SCHEDULE = make_schedule("scaled_linear")
VARIANCE = 0.25
DETERMINISTIC = sorted(set(SAMPLERS) - {"ddpm"})


class ExactNoise(torch.nn.Module):
    """The noise in x_t when data are N(mean, VARIANCE), the mean being the context's one number (0 without one)."""

    def forward(self, x_t, index, context=None, concat=None):
        alpha, sigma = (f(SCHEDULE.time(index)).view(-1, 1, 1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        mean = 0.0 if context is None else context.view(-1, 1, 1, 1)
        return sigma * (x_t - alpha * mean) / (alpha**2 * VARIANCE + sigma**2)


def spread(t):
    """The standard deviation of x_t."""
    t = torch.tensor(t, dtype=torch.float64)
    return (SCHEDULE.alpha(t) ** 2 * VARIANCE + SCHEDULE.sigma(t) ** 2).sqrt()


MODEL = Loaded("exact", network=ExactNoise(), schedule=SCHEDULE, latent_shape=(2, 4, 4))


@pytest.fixture
def noise():
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.long
@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize(("final", "end"), [("clean", 0.0), ("alpha0", 1e-3)])
def test_samplers_end_where_the_probability_flow_does(sampler, final, end, noise):
    z = interop.sample(MODEL, noise, 500, "trailing", sampler=sampler, final=final)
    assert torch.allclose(z, noise * spread(end) / spread(1.0), rtol=0.02, atol=0)


@pytest.mark.long
def test_guidance_moves_the_mean_of_what_is_sampled(noise):
    told = {"condition": Condition(torch.full((3, 1, 1), 0.5).double())}
    null = {"null_condition": Condition(torch.zeros(3, 1, 1).double())}
    plain = interop.sample(MODEL, noise, 250, final="clean")
    asked = interop.sample(MODEL, noise, 250, final="clean", **told)
    guided = interop.sample(MODEL, noise, 250, final="clean", guidance_scale=3.0, **told, **null)
    assert torch.allclose(asked - plain, torch.tensor(0.5).double(), atol=0.02)
    # The noise is linear in the mean, so that guidance of scale 3 is a mean three times as far from the null's.
    assert torch.allclose(guided - plain, 3 * (asked - plain), atol=1e-9)


def test_noise_that_samplers_draw_depends_on_the_seed_and_the_sample_alone(noise):
    drawn = interop.sample(MODEL, noise, 10, eta=1.0, seed=3)
    assert torch.equal(interop.sample(MODEL, noise[:2], 10, eta=1.0, seed=3), drawn[:2])
    assert not torch.allclose(interop.sample(MODEL, noise, 10, eta=1.0, seed=4), drawn)
    assert not torch.allclose(interop.sample(MODEL, noise, 10), drawn)


def test_a_raw_condition_and_what_was_made_of_it_are_the_same(noise):
    conditioning = RawConditioning(ClassConditioning(4, 1).double().requires_grad_(False))
    model = Loaded("exact", network=ExactNoise(), schedule=SCHEDULE, conditioning=conditioning)
    labels = torch.tensor([0, 1, 3])
    asked = interop.sample(model, noise, 5, condition=labels)
    assert torch.equal(interop.sample(model, noise, 5, condition=conditioning(labels)), asked)
    assert torch.equal(interop.sample(model, noise, 5, condition={"label": labels}), asked)
    with pytest.raises(UserError, match="needs a condition: give its label"):
        interop.sample(model, noise, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "dimm"}, "sampler=dimm is none of .*, did you mean 'ddim'"),
        ({"sampler": "plms", "eta": 1.0}, "eta=1.0 is an option of sampler=ddim, not of plms"),
        ({"eta": 2.0}, r"sampler\.eta=2\.0 is no number from 0 to 1"),
        ({"spacing": "even"}, "sampler.spacing=even is none of"),
        ({"steps": 0}, "sampler.steps=0 is no whole number from 1 to 1000"),
        ({"final": "dirty"}, "sampler.final=dirty is none of clean, alpha0"),
        ({"guidance_scale": 2.0}, "needs null_condition"),
        ({"condition": torch.tensor([1, 2, 3])}, "unconditional"),
        ({"x_T": torch.zeros(1, 3, 4, 4)}, r"x_T has shape \(1, 3, 4, 4\), but the model's latents have 2 channels"),
        ({"model": Loaded("first stage")}, "has no denoiser"),
    ],
)
def test_what_cannot_be_sampled_is_told(arguments, message, noise):
    with pytest.raises(UserError, match=message):
        interop.sample(**{"model": MODEL, "x_T": noise, "steps": 5, **arguments})
