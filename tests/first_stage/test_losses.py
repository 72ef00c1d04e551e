import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm.errors import UserError
from ldm.first_stage.discriminator import PatchDiscriminator
from ldm.first_stage.losses import FirstStageLoss, adaptive_weight, discriminator_loss


class SquaredDistance(nn.Module):
    """A perceptual term with a closed form, and a parameter that must stay untouched."""

    name = "squared"
    weights_hash = "0"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64), requires_grad=False)

    def forward(self, a, b):
        return self.scale * (a - b).square().flatten(1).mean(1)


class Tiny(nn.Module):
    """An autoencoder of three convolutions; the last one is what the adaptive weight looks at."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 2, 2, stride=2)
        self.hidden = nn.Conv2d(2, 5, 3, padding=1)
        self.last = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, image):
        latent = self.encoder(image)
        hidden = F.interpolate(torch.tanh(self.hidden(latent)), scale_factor=2)
        return self.last(hidden), latent


@pytest.fixture
def setting():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 12, 14, dtype=torch.float64) * 2 - 1
    return image, Tiny().double(), PatchDiscriminator(4, 1).double()


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def make_loss(reduction="mean", **more):
    return FirstStageLoss(SquaredDistance(), reduction, {"kl": 1e-6, "codebook": 1.0}, **more)


def test_hinge_has_its_closed_form():
    real, fake = torch.tensor([-1.0, 0.5, 1.0, 3.0]), torch.tensor([-3.0, -1.0, 0.0, 2.0])
    # relu(1 - real) = 2, 0.5, 0, 0; relu(1 + fake) = 0, 0, 1, 3
    assert discriminator_loss(real, fake).item() == pytest.approx((2.5 / 4 + 4 / 4) / 2)
    assert discriminator_loss(torch.zeros(7), torch.zeros(5)).item() == 1.0
    assert discriminator_loss(torch.ones(7), -torch.ones(5)).item() == 0.0


def test_hinge_stops_pushing_beyond_the_margin():
    real, fake = torch.tensor([0.9, 1.1], requires_grad=True), torch.tensor([-1.1, -0.9], requires_grad=True)
    discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [-0.25, 0.0]
    assert fake.grad.tolist() == [0.0, 0.25]


def test_reconstruction_terms_have_their_closed_form():
    image = torch.zeros(2, 3, 4, 5)
    reconstruction = torch.full((2, 3, 4, 5), 0.5)
    reconstruction[1] = -1.0
    l1, perceptual = (0.5 + 1.0) / 2, 3 * (0.25 + 1.0) / 2
    terms = make_loss("mean", perceptual_weight=0.7).generator_terms(image, reconstruction, {})
    assert terms.l1.item() == pytest.approx(l1)
    assert terms.perceptual.item() == pytest.approx(perceptual)
    assert terms.total.item() == pytest.approx(l1 + 0.7 * perceptual)
    without = FirstStageLoss(None, "mean", {}).generator_terms(image, reconstruction, {})
    assert without.total.item() == pytest.approx(l1)


def test_sum_is_mean_times_values_of_an_image_and_reports_the_same_averages():
    torch.manual_seed(0)
    image, reconstruction = torch.rand(4, 3, 6, 7), torch.rand(4, 3, 6, 7)
    summed, mean = (make_loss(how).generator_terms(image, reconstruction, {}) for how in ("sum", "mean"))
    torch.testing.assert_close(summed.nll, mean.nll * 3 * 6 * 7)
    # The reference's own expression: distance of each image added to each of its values, all summed, over the batch.
    distance = SquaredDistance()(image, reconstruction).view(4, 1, 1, 1)
    expected = ((image - reconstruction).abs() + distance).sum() / 4
    torch.testing.assert_close(summed.nll, expected, check_dtype=False)
    for name in ("l1", "perceptual"):
        assert getattr(summed, name) == getattr(mean, name)


def test_regularisation_counts_with_its_weight_whatever_the_reduction():
    image = torch.zeros(1, 3, 4, 4)
    terms = {"kl": torch.tensor(5e5), "codebook": torch.tensor(0.25)}
    for reduction in ("sum", "mean"):
        got = make_loss(reduction).generator_terms(image, image, terms)
        assert got.total.item() == pytest.approx(1e-6 * 5e5 + 0.25)
        assert got.scalars()["kl"].item() == 5e5
    with pytest.raises(UserError, match="'codebok' has no weight, did you mean 'codebook'"):
        make_loss().generator_terms(image, image, {"codebok": torch.tensor(1.0)})


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_equal_the_references_two_backward_passes(setting, reduction):
    image, model, discriminator = setting
    loss = make_loss(reduction, perceptual_weight=0.6, discriminator_weight=0.75)

    reconstruction, latent = model(image)
    regularisation = {"kl": latent.square().sum() / 2, "codebook": latent.square().mean()}
    terms = loss.generator_terms(image, reconstruction, regularisation, model.last.weight, discriminator, 0.5)
    terms.total.backward()
    ours, value = gradients(model), terms.total.item()

    model.zero_grad()
    reconstruction, latent = model(image)
    per_value = (image - reconstruction).abs() + 0.6 * loss.perceptual(image, reconstruction).view(-1, 1, 1, 1)
    nll = per_value.sum() / len(image) if reduction == "sum" else per_value.mean()
    adversarial = -discriminator(reconstruction).mean()
    nll_at_last = torch.autograd.grad(nll, model.last.weight, retain_graph=True)[0]
    adversarial_at_last = torch.autograd.grad(adversarial, model.last.weight, retain_graph=True)[0]
    weight = torch.clamp(nll_at_last.norm() / (adversarial_at_last.norm() + 1e-4), 0, 1e4).detach() * 0.75
    total = nll + weight * 0.5 * adversarial + 1e-6 * latent.square().sum() / 2 + latent.square().mean()
    total.backward()

    assert terms.adaptive_weight.item() == pytest.approx(0.5 * weight.item(), rel=1e-10)
    assert terms.adversarial.item() == pytest.approx(adversarial.item(), rel=1e-10)
    assert value == pytest.approx(total.item(), rel=1e-10)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12)


def test_gradient_reaches_the_autoencoder_and_nothing_else(setting):
    image, model, discriminator = setting
    loss = make_loss()
    reconstruction, _ = model(image)
    terms = loss.generator_terms(image, reconstruction, {}, model.last.weight, discriminator)
    assert not gradients(model)  # measuring the adaptive weight leaves nothing behind
    terms.total.backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()
    assert not gradients(discriminator)
    assert not gradients(loss)


def test_before_the_start_the_discriminator_is_not_asked(setting):
    image, model, discriminator = setting
    reconstruction, _ = model(image)

    def never(_):
        raise AssertionError("asked")

    loss = make_loss()
    off = loss.generator_terms(image, reconstruction, {}, model.last.weight, never, adversarial_factor=0.0)
    alone = loss.generator_terms(image, reconstruction, {})
    started = loss.generator_terms(image, reconstruction, {}, model.last.weight, discriminator)
    assert off.total == alone.total == off.nll
    assert off.adaptive_weight == off.adversarial == 0
    assert started.total != off.total
    with pytest.raises(ValueError, match="last_layer"):
        loss.generator_terms(image, reconstruction, {}, None, discriminator)


@pytest.mark.parametrize(
    ("nll", "adversarial", "value"),
    [
        ([3.0, 4.0], [0.0, 2.0], 5 / (2 + 1e-4)),
        ([3.0, 4.0], [0.0, 0.0], 1e4),  # 5 / 1e-4 = 5e4 is above the limit
        ([0.0, 0.0], [1.0, 0.0], 0.0),
        ([0.3, 0.4], [0.0, 0.0], 5e3),
    ],
)
def test_adaptive_weight_is_a_clamped_ratio_of_norms(nll, adversarial, value):
    weight = adaptive_weight(torch.tensor(nll), torch.tensor(adversarial))
    assert weight.value.item() == pytest.approx(value, rel=1e-6)
    assert weight.rejected == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["nll", "adversarial"])
def test_adaptive_weight_that_is_not_finite_becomes_zero_and_is_reported(bad, place):
    given = {"nll": torch.tensor([1.0, 1.0]), "adversarial": torch.tensor([1.0, 1.0])}
    given[place] = torch.tensor([1.0, bad])
    weight = adaptive_weight(given["nll"], given["adversarial"])
    assert weight.value == 0
    assert weight.rejected == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_discriminator_gone_wrong_does_not_spoil_the_step(setting, bad):
    image, model, _ = setting
    loss = make_loss()

    def step(discriminator):
        model.zero_grad()
        terms = loss.generator_terms(image, model(image)[0], {}, model.last.weight, discriminator)
        terms.total.backward()
        return terms, gradients(model)

    terms, spoiled = step(lambda x: x * bad)
    plain, expected = step(None)
    assert terms.scalars()["adaptive_rejected"] == 1
    assert terms.adaptive_weight == 0
    torch.testing.assert_close(terms.total, plain.total)
    for name, gradient in expected.items():
        torch.testing.assert_close(spoiled[name], gradient, rtol=1e-12, atol=0)


def test_bfloat16_autocast_gives_the_same_step_to_its_rounding():
    torch.manual_seed(0)
    image, model, discriminator = torch.rand(2, 3, 12, 14) * 2 - 1, Tiny(), PatchDiscriminator(4, 1)
    got = {}
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            reconstruction, _ = model(image)
            terms = make_loss("sum").generator_terms(image, reconstruction, {}, model.last.weight, discriminator)
        terms.total.backward()
        assert terms.total.dtype == torch.float32 or not enabled
        got[enabled] = (terms.total.item(), torch.cat([g.flatten() for g in gradients(model).values()]))
    assert got[True][0] == pytest.approx(got[False][0], rel=0.03)
    assert F.cosine_similarity(got[True][1], got[False][1], dim=0) > 0.98
    assert not torch.equal(got[True][1], got[False][1])


def test_scalars_are_detached(setting):
    image, model, discriminator = setting
    reconstruction, latent = model(image)
    terms = make_loss().generator_terms(
        image, reconstruction, {"kl": latent.square().sum()}, model.last.weight, discriminator
    )
    assert terms.total.requires_grad
    assert not any(value.requires_grad for value in terms.scalars().values())


def test_unknown_reduction_is_said():
    with pytest.raises(UserError, match="use sum or mean"):
        make_loss("average")
