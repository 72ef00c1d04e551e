"""How first stages start."""

import pytest
import torch
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage.coder import ResidualBlock, SelfAttention
from ldm.first_stage.kl import START_LOGVAR

SHAPE = {"ch": 32, "ch_mult": (1, 2, 2, 2, 2, 2), "channels": 16}


def images(n=16):
    """Smooth images, which differ in more than noise."""
    coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").clamp(-1, 1)


@torch.no_grad()
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_near_linear_branches_add_nothing_at_the_start(regulariser):
    model = small(regulariser, 4, attn_sides=(8,), initialisation="near_linear")
    branches = [m for m in model.modules() if isinstance(m, ResidualBlock | SelfAttention)]
    assert len(branches) > 10
    for branch in branches:
        channels = branch.norm1.num_channels if isinstance(branch, ResidualBlock) else branch.norm.num_channels
        x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
        straight = branch.shortcut(x) if isinstance(branch, ResidualBlock) else x
        assert torch.equal(branch(x), straight)


@pytest.mark.long
@torch.no_grad()
def test_near_linear_lets_the_image_through_where_the_reference_drowns_it():
    """What the image does to the output, over what the noise of the posterior does to it."""

    def signal_to_noise(initialisation):
        model = small("kl", 32, initialisation=initialisation, **SHAPE)
        posterior = model.encode(images())
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(2))
        clean = model.decode(posterior.mean)
        return (clean.std(0).mean() / (model.decode(posterior.sample(noise)) - clean).std()).item()

    assert signal_to_noise("near_linear") > 1
    assert signal_to_noise("reference") < 0.5


@torch.no_grad()
def test_near_linear_starts_with_one_small_variance():
    posterior = small("kl", 32, initialisation="near_linear", **SHAPE).encode(images())
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, START_LOGVAR))
    assert posterior.mean.std(0).mean() > 2 * posterior.logvar.mul(0.5).exp().mean()


def test_the_reference_is_torchs_own():
    torch.manual_seed(0)
    expected = torch.nn.Conv2d(3, 16, 3, padding=1).weight
    assert torch.equal(small("kl", 4).encoder.stem.weight, expected)


def test_another_initialisation_is_a_sentence():
    with pytest.raises(UserError, match=r"ae\.architecture\.initialisation=zeros is not known"):
        small("kl", 4, initialisation="zeros")
