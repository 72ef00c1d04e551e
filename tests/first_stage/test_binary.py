"""Quantisers of signs, and the entropies that they are penalised by, against a list of all codes."""

import math

import pytest
import torch
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage import LookupFreeQuantiser, SphericalQuantiser
from ldm.first_stage import binary as module
from ldm.first_stage.binary import bit_entropy, entropy, entropy_of_mean
from ldm.first_stage.build import filled_options

KINDS = {"lfq": LookupFreeQuantiser, "bsq": SphericalQuantiser}


def latents(channels, seed=0, n=6, spread=0.7):
    draw = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, channels, 3, 2, generator=draw, dtype=torch.float64)


def all_codes(quantiser):
    """One a row, in the order of their numbers."""
    return quantiser.embed(torch.arange(quantiser.codes).view(1, 1, -1))[0, :, 0].T.double()


def probabilities(quantiser, raw):
    """Of each code at each position, by the definition: exp(-|z - c|^2 / temperature), over their sum."""
    rows = raw.permute(0, 2, 3, 1).flatten(0, 2)
    distance = (rows[:, None] - all_codes(quantiser)[None]).square().sum(2)
    return torch.softmax(-distance / quantiser.temperature, 1)


def listed_entropy(p):
    return -(p * p.log()).sum(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_codes_are_all_signs_and_their_numbers_a_bijection(kind, channels):
    quantiser = KINDS[kind](channels, 1.0)
    codes = all_codes(quantiser)
    assert len(codes.unique(dim=0)) == quantiser.codes == 2**channels
    size = 1 if kind == "lfq" else 1 / math.sqrt(channels)
    torch.testing.assert_close(codes.abs(), torch.full_like(codes, size), rtol=1e-6, atol=0)
    numbers = torch.arange(quantiser.codes)
    assert torch.equal(quantiser.nearest(codes.T[None, :, None]).flatten(), numbers)
    if kind == "bsq":
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(codes)).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_code_is_that_of_a_search_and_every_code_is_reached(kind):
    quantiser = KINDS[kind](5, 1.0)
    raw = quantiser.bounded(latents(5, n=200))
    rows = raw.permute(0, 2, 3, 1).flatten(0, 2)
    found = quantiser.nearest(raw)
    assert torch.equal(found.flatten(), (rows[:, None] - all_codes(quantiser)[None]).square().sum(2).argmin(1))
    assert torch.equal(found.unique(), torch.arange(32))


def test_bsq_latents_lie_on_the_sphere_and_lfq_latents_anywhere():
    z = latents(4)
    torch.testing.assert_close(SphericalQuantiser(4, 1.0).bounded(z), z / z.square().sum(1, keepdim=True).sqrt())
    assert torch.equal(LookupFreeQuantiser(4, 1.0).bounded(z), z)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_lfq_penalties_are_those_of_all_codes(channels, temperature):
    quantiser, raw = LookupFreeQuantiser(channels, temperature), latents(channels)
    p = probabilities(quantiser, raw)
    expected = listed_entropy(p).mean() - listed_entropy(p.mean(0))
    found = quantiser.penalties(raw, quantiser(raw).latent)
    torch.testing.assert_close(found["entropy"], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["commitment"], (raw - torch.where(raw > 0, 1.0, -1.0)).square().mean())


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_bsq_penalty_is_that_of_all_codes_but_for_the_bits_that_depend_on_each_other(channels, temperature):
    quantiser = SphericalQuantiser(channels, temperature)
    raw = quantiser.bounded(latents(channels))
    p = probabilities(quantiser, raw)
    positive = (all_codes(quantiser) > 0).double()
    of_bits = p.mean(0) @ positive  # the probability of each bit, summed over the codes that have it
    factorised = listed_entropy(torch.stack((of_bits, 1 - of_bits), 1)).sum()
    found = quantiser.penalties(raw, quantiser(raw).latent)
    torch.testing.assert_close(found["entropy"], listed_entropy(p).mean() - factorised, rtol=1e-6, atol=1e-9)
    assert factorised >= listed_entropy(p.mean(0)) - 1e-12
    assert found.keys() == {"entropy"}


def test_the_entropy_of_a_bit_is_exact_at_all_sizes_and_so_is_its_gradient():
    logits = torch.tensor([-800.0, -30.0, -2.0, 0.0, 1e-9, 0.5, 30.0, 800.0]).double().requires_grad_()
    found = bit_entropy(logits)
    found.sum().backward()
    with torch.no_grad():
        p = torch.sigmoid(logits)
        middle = slice(2, 6)
        torch.testing.assert_close(found[middle], torch.distributions.Bernoulli(p).entropy()[middle])
        torch.testing.assert_close(found[[1, 6]], torch.full((2,), 31 * math.exp(-30)).double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(logits.grad, -logits * p * (1 - p), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_probabilities_vanish(kind):
    quantiser = KINDS[kind](4, 1e-4)
    raw = quantiser.bounded(latents(4).float()).requires_grad_()
    sum(quantiser.penalties(raw, quantiser(raw).latent).values()).backward()
    assert raw.grad.isfinite().all()
    assert torch.isfinite(entropy(torch.zeros(3)))


def test_more_bits_than_can_be_listed_are_groups_whose_entropies_are_added(monkeypatch):
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = entropy_of_mean(logits)
    monkeypatch.setattr(module, "BITS_TOGETHER", 3)
    groups = entropy_of_mean(logits)
    torch.testing.assert_close(groups, entropy_of_mean(logits[:, :3]) + entropy_of_mean(logits[:, 3:]))
    assert groups > exact


def test_the_penalty_is_lowest_where_positions_are_sure_and_codes_used_alike():
    quantiser = LookupFreeQuantiser(3, 1.0)
    every = quantiser.embed(torch.arange(8).view(8, 1, 1)) * 20
    one = every[:1].expand_as(every)
    undecided = torch.zeros_like(every)
    best, collapsed, unsure = (float(quantiser.penalties(z, z)["entropy"]) for z in (every, one, undecided))
    assert best == pytest.approx(-3 * math.log(2), abs=1e-6)
    assert collapsed == pytest.approx(0, abs=1e-6)
    assert unsure == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_entropies_do_not_change_under_autocast(kind):
    quantiser = KINDS[kind](6, 1.0)
    raw = quantiser.bounded(latents(6).float())
    expected = quantiser.penalties(raw, raw)["entropy"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantiser.penalties(raw, raw)["entropy"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_fit_the_codes_of_a_codebook_and_too_many_are_refused(kind):
    group = {"regulariser": kind, "channels": None, "entropy_weight": 0.1, "temperature": 1.0}
    for codes, bits in ((512, 9), (64, 6), (2048, 11), (600, 9), (1, 1)):
        assert filled_options(group, {"codes": codes, "latent_channels": 3}.get)["channels"] == bits
    assert filled_options({**group, "channels": 4}, {}.get)["channels"] == 4
    with pytest.raises(UserError, match=rf"ae\.channels=25 gives 2\^25 codes under ae={kind}.*use 24 channels"):
        filled_options({**group, "channels": 25}, {}.get)
    with pytest.raises(UserError, match="use 24 channels or fewer"):
        small(kind, 4, channels=25)


@pytest.mark.parametrize("kind", ["fsq", "lfq", "bsq"])
def test_the_straight_through_gradient_is_the_identity_behind_what_is_bounded(kind):
    """The decoder's gradient arrives unchanged at the raw latent; before the bound it is multiplied by its slope."""
    model = small(kind, 4)
    encoded = []
    model.to_latent.register_forward_hook(lambda _module, _inputs, output: encoded.append(output))
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = model.forward_train(image)
    result.latent.retain_grad()
    encoded[0].retain_grad()
    result.image.square().sum().backward()
    again = encoded[0].detach().requires_grad_()
    model.quantiser.bounded(again).backward(result.latent.grad)
    torch.testing.assert_close(encoded[0].grad, again.grad)
    assert again.grad.abs().max() > 0
    torch.testing.assert_close(result.latent, model.quantise(model.encode(image)).latent)
