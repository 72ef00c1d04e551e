"""The contract that every first stage keeps."""

import pytest
import torch
from small_first_stage import CODES, small

from ldm.first_stage import FIRST_STAGES, FirstStage, Gaussian
from ldm.first_stage.contract import at_least_float32


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


ALL = [("kl", 2), ("kl", 8), ("vq", 4), ("vq", 32), ("fsq", 4), ("lfq", 8), ("bsq", 32), ("identity", 1)]
TRAINED = ["kl", *CODES]


def test_gaussian_kl_equals_torch_distributions():
    mean, logvar = noise(3, 2, 5, 7, dtype=torch.float64), noise(3, 2, 5, 7, seed=2, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(Gaussian(mean, logvar).kl(), expected, rtol=1e-12, atol=0)


def test_gaussian_sample_has_its_moments():
    mean, logvar = torch.tensor([[[[0.7]]]]), torch.tensor([[[[-1.3]]]])
    draws = Gaussian(mean, logvar).sample(noise(200_000, 1, 1, 1))
    assert draws.mean().item() == pytest.approx(0.7, abs=0.01)
    assert draws.var().log().item() == pytest.approx(-1.3, abs=0.02)


@pytest.mark.parametrize(("regulariser", "factor"), ALL)
@torch.no_grad()
def test_shapes_follow_factor_and_channels(regulariser, factor):
    first_stage = small(regulariser, factor)
    image = noise(2, 3, 64, 32).clamp(-1, 1)
    packed = first_stage.pack(first_stage.encode(image))
    latent = first_stage.latent(packed)
    assert packed.shape == (2, first_stage.cache_channels, 64 // factor, 32 // factor)
    assert latent.shape == (2, first_stage.channels, 64 // factor, 32 // factor)
    assert first_stage.decode(latent).shape == image.shape
    assert (first_stage.factor, first_stage.regulariser) == (factor, regulariser)


@pytest.mark.parametrize(("regulariser", "factor"), ALL)
@torch.no_grad()
def test_training_pass_decodes_the_latent_of_the_packed_encoding(regulariser, factor):
    """What training decodes is what the way through the latent cache decodes, for the same noise."""
    first_stage = small(regulariser, factor).eval()
    image = noise(2, 3, 32, 32).clamp(-1, 1)
    draw = noise(2, first_stage.channels, 32 // factor, 32 // factor, seed=3)
    reconstruction = first_stage.forward_train(image, draw)
    raw = first_stage.latent(first_stage.pack(first_stage.encode(image)), draw)
    torch.testing.assert_close(reconstruction.image, first_stage.decode(raw), rtol=1e-4, atol=1e-5)
    assert set(reconstruction.regularisation) == set(FIRST_STAGES[regulariser].penalties)


@pytest.mark.parametrize("regulariser", TRAINED)
def test_reconstruction_gradient_reaches_every_parameter(regulariser):
    first_stage = small(regulariser, 4, attn_sides=(16,))
    reconstruction = first_stage.forward_train(noise(2, 3, 32, 32), noise(2, 3, 8, 8, seed=2))
    (reconstruction.image.square().mean() + sum(reconstruction.regularisation.values())).backward()
    # A bias of the attention's keys moves all scores of a query alike, which the softmax does not see.
    silent = [n for n, p in first_stage.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert [name for name in silent if not name.endswith("key.bias")] == []


@pytest.mark.parametrize("regulariser", TRAINED)
def test_last_layer_is_what_the_image_leaves_by(regulariser):
    first_stage = small(regulariser, 2)
    raw = noise(1, 3, 16, 16)
    before = first_stage.decode(raw)
    with torch.no_grad():
        first_stage.last_layer.mul_(2.0)
        bias = first_stage.decoder.head.bias.view(1, 3, 1, 1)
        torch.testing.assert_close(first_stage.decode(raw) - bias, 2 * (before - bias))


def test_identity_returns_the_image_itself_and_has_no_last_layer():
    first_stage = small("identity", 1)
    image = noise(2, 3, 5, 5)
    assert torch.equal(first_stage.decode(first_stage.latent(first_stage.pack(first_stage.encode(image)))), image)
    assert list(first_stage.parameters()) == []
    with pytest.raises(RuntimeError, match="never trained"):
        _ = first_stage.last_layer


@pytest.mark.parametrize("regulariser", TRAINED)
def test_results_leave_in_float32_under_autocast(regulariser):
    first_stage = small(regulariser, 4)
    with torch.autocast("cpu", torch.bfloat16):
        reconstruction = first_stage.forward_train(noise(2, 3, 32, 32), noise(2, 3, 8, 8, seed=2))
    tensors = [reconstruction.image, reconstruction.latent, *reconstruction.regularisation.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_calling_a_first_stage_is_its_training_pass():
    first_stage: FirstStage = small("kl", 4).eval()
    image, draw = noise(2, 3, 32, 32), noise(2, 3, 8, 8, seed=2)
    assert torch.equal(first_stage(image, draw).image, first_stage.forward_train(image, draw).image)
