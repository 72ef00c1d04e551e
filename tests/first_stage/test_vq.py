"""Vector quantisation and the VQ first stage."""

import math

import pytest
import torch
from small_first_stage import small

from ldm.first_stage import VectorQuantiser
from ldm.metrics.codebook import code_counts, codebook_usage, perplexity


def quantiser(codes=17, channels=5, beta=0.25, legacy=False):
    torch.manual_seed(0)
    result = VectorQuantiser(codes, channels, beta, legacy)
    torch.nn.init.normal_(result.codebook)
    return result


def latents(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("distances_at_once", [1, 40, 17 * 11, 10**9])
def test_nearest_equals_brute_force_however_it_is_divided(distances_at_once):
    vq = quantiser().double()
    raw = latents(3, 5, 7, 11, dtype=torch.float64)
    distances = (raw[:, None] - vq.codebook[None, :, :, None, None]).square().sum(2)
    assert torch.equal(vq.nearest(raw, distances_at_once), distances.argmin(1))


def test_nearest_is_not_computed_in_bfloat16_under_autocast():
    vq = quantiser(codes=500)
    raw = latents(4, 5, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        indices = vq.nearest(raw)
    assert torch.equal(indices, vq.nearest(raw))


def test_latents_far_from_zero_find_their_code():
    """A distance as |z|^2 - 2 z e + |e|^2 in float32 would cancel to noise here."""
    vq = quantiser()
    with torch.no_grad():
        vq.codebook.mul_(1e-2).add_(300.0)
    indices = torch.arange(17).view(1, 1, 17)
    assert torch.equal(vq.nearest(vq.embed(indices)), indices)


def test_codes_quantise_to_themselves():
    vq = quantiser()
    indices = torch.arange(17).view(1, 1, 17)
    assert torch.equal(vq(vq.embed(indices)).indices, indices)


def test_straight_through_gradient_is_the_identity():
    """The gradient at the decoder's input arrives unchanged at the encoder's output, and not at the codebook."""
    first_stage = small("vq", 4)
    encoded = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        encoded.append(output)

    first_stage.to_latent.register_forward_hook(keep)
    reconstruction = first_stage.forward_train(latents(2, 3, 32, 32))
    reconstruction.latent.retain_grad()
    reconstruction.image.square().sum().backward()
    assert reconstruction.latent.grad.abs().max() > 0
    assert torch.equal(encoded[0].grad, reconstruction.latent.grad)
    assert first_stage.quantiser.codebook.grad is None
    torch.testing.assert_close(reconstruction.latent, first_stage.quantise(encoded[0]).latent)


@pytest.mark.parametrize("legacy", [False, True])
def test_loss_terms_and_their_gradients(legacy):
    """Both terms have the value |z - e|^2; one pulls the codes, the other the latents, and beta stands on one."""
    beta = 0.3
    vq = quantiser(beta=beta, legacy=legacy).double()
    raw = latents(2, 5, 3, 3, dtype=torch.float64).requires_grad_()
    quantised = vq(raw).latent
    loss = vq.loss(raw, quantised)
    distance = (raw - quantised).detach()
    torch.testing.assert_close(loss, (1 + beta) * distance.square().mean())
    loss.backward()
    on_codes, on_latents = (beta, 1.0) if legacy else (1.0, beta)
    torch.testing.assert_close(raw.grad, on_latents * 2 * distance / raw.numel())
    moved = torch.zeros_like(vq.codebook)
    rows = distance.permute(0, 2, 3, 1).flatten(0, 2)
    moved.index_add_(0, vq.nearest(raw).flatten(), rows)
    torch.testing.assert_close(vq.codebook.grad, -on_codes * 2 * moved / raw.numel())


def test_perplexity_and_usage_of_known_counts():
    assert perplexity(torch.full((8,), 5)).item() == pytest.approx(8)
    assert perplexity(torch.tensor([0, 7, 0])).item() == pytest.approx(1)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert perplexity(torch.tensor([1, 0, 3])).item() == pytest.approx(math.exp(entropy))
    assert codebook_usage(torch.tensor([1, 0, 3, 0])).item() == 0.5


def test_counts_are_of_training_passes_only():
    first_stage = small("vq", 4)
    image = latents(2, 3, 32, 32)
    indices = first_stage.forward_train(image).indices
    assert torch.equal(first_stage.quantiser.usage, code_counts(indices, 29))
    assert first_stage.quantiser.usage.sum() == 2 * 8 * 8
    first_stage.eval().forward_train(image)
    assert first_stage.quantiser.usage.sum() == 2 * 8 * 8


def rows_of(raw):
    return {tuple(row) for row in raw.permute(0, 2, 3, 1).flatten(0, 2).tolist()}


def test_revival_moves_dead_codes_only_and_onto_latents():
    vq = quantiser()
    before = vq.codebook.detach().clone()
    vq.count(torch.tensor([0, 0, 0, 3, 5, 5]))
    pool = latents(2, 5, 6, 6)
    moved = vq.revive_dead_codes(pool, torch.Generator().manual_seed(0), threshold=2)
    assert moved.nonzero().flatten().tolist() == [i for i in range(17) if i not in (0, 5)]
    assert torch.equal(vq.codebook[~moved], before[~moved])
    revived = {tuple(row) for row in vq.codebook[moved].tolist()}
    assert revived <= rows_of(pool)
    assert len(revived) == 15, "each position is taken once while they last"
    assert vq.usage.sum() == 0


def test_revival_is_a_function_of_state_latents_and_generator():
    """A quantiser restored from a checkpoint revives the same codes to the same values."""
    vq = quantiser()
    vq.count(torch.tensor([1, 2, 3]))
    restored = quantiser()
    restored.load_state_dict({name: tensor.clone() for name, tensor in vq.state_dict().items()})
    pool = latents(1, 5, 4, 4)
    for one in (vq, restored):
        one.revive_dead_codes(pool, torch.Generator().manual_seed(7))
    assert torch.equal(vq.codebook, restored.codebook)
    other = quantiser()
    other.count(torch.tensor([1, 2, 3]))
    other.revive_dead_codes(pool, torch.Generator().manual_seed(8))
    assert not torch.equal(vq.codebook, other.codebook)


def test_fewer_latents_than_dead_codes_are_used_again():
    vq = quantiser()
    pool = latents(1, 5, 1, 3)
    assert vq.revive_dead_codes(pool, torch.Generator().manual_seed(0)).all()
    rows = [tuple(row) for row in vq.codebook.tolist()]
    assert sorted(rows.count(row) for row in rows_of(pool)) == [5, 6, 6]


def test_initialised_codes_are_used():
    """Codes drawn from the latents fit them better than the reference's small uniform values, and more are used."""
    vq = VectorQuantiser(codes=64, channels=5, beta=0.25, legacy=False)
    pool = latents(4, 5, 16, 16) + 3.0
    raw = latents(4, 5, 16, 16, seed=2) + 3.0
    before = vq(raw)
    vq.initialise(pool, torch.Generator().manual_seed(0))
    after = vq(raw)
    assert (raw - after.latent).square().mean() < 0.3 * (raw - before.latent).square().mean()
    assert codebook_usage(code_counts(after.indices, 64)) > 0.95
    assert codebook_usage(code_counts(before.indices, 64)) < 0.5
