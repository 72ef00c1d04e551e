"""From plain values to a first stage."""

import pytest
import torch
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage import IdentityFirstStage, KLFirstStage, VQFirstStage
from ldm.first_stage.coder import norm_groups


def test_each_regulariser_gives_its_class():
    assert isinstance(small("kl", 2), KLFirstStage)
    vq = small("vq", 2, channels=5, options={"codes": 7, "beta": 0.5, "legacy": True, "revive_every": 9})
    assert isinstance(vq, VQFirstStage)
    quantiser = vq.quantiser
    assert (quantiser.codes, quantiser.channels, quantiser.beta, quantiser.legacy) == (7, 5, 0.5, True)
    assert vq.revive_every == 9


@pytest.mark.parametrize("regulariser", ["kl", "vq", "identity"])
def test_factor_one_is_the_identity_under_every_name(regulariser):
    assert isinstance(small(regulariser, 1), IdentityFirstStage)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factor": 3}, r"ae\.f=3 is not a power of two"),
        ({"factor": 128}, r"ae\.f=128 is not a power of two from 1 to 64"),
        ({"factor": 0}, r"ae\.f=0 is not"),
        ({"factor": 64, "ch_mult": (1,) * 7}, r"ae\.f=64 is larger than the resolution of 32 px"),
        ({"factor": 8, "resolution": 36}, r"36 px is not divisible by ae\.f=8"),
        ({"factor": 8, "ch_mult": (1, 2)}, r"2 levels, but ae\.f=8 takes 4"),
        ({"factor": 2, "regulariser": "identity"}, r"does not compress, but ae\.f=2"),
        ({"regulariser": "kI"}, r"ae=kI is none of kl, vq, fsq, lfq, bsq, identity"),
        ({"regulariser": "vqq"}, r"ae=vqq is none of kl, vq, fsq, lfq, bsq, identity, did you mean 'vq'"),
        ({"regulariser": "vq", "options": {}}, r"needs ae\.codebook\.codes"),
        ({"regulariser": "vq", "options": {"codes": 0}}, r"ae\.codebook\.codes=0 is no whole number from 1 to"),
        ({"regulariser": "vq", "options": {"codes": 2, "bta": 1}}, r"ae\.codebook\.bta=1 .*did you mean 'beta'"),
        ({"regulariser": "kl", "options": {"kl_weight": -1}}, r"ae\.kl_weight=-1 is no number from 0 on"),
        ({"attn_sides": (5,)}, r"attn_sides names 5"),
    ],
)
def test_values_that_do_not_fit_are_a_sentence(changes, sentence):
    values = {"regulariser": "kl", "factor": 4, **changes}
    with pytest.raises(UserError, match=sentence):
        small(**values)


def test_normalisation_has_the_papers_groups_at_the_papers_widths():
    for deepest, side in [(512, 64), (512, 32), (512, 16), (512, 8), (256, 128)]:
        assert norm_groups(128, deepest, side) == 32
    assert norm_groups(32, 64, 8) == 8
    assert norm_groups(32, 64, 1) == 4
    assert norm_groups(2, 2, 1) == 1


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_latent_of_side_one_tells_images_apart(regulariser):
    """At side 1, normalising groups of one value would give every image the same latent."""
    first_stage = small(regulariser, 32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    encoding = first_stage.encode(images)
    latent = first_stage.latent(first_stage.pack(encoding))
    assert latent.shape == (2, 3, 1, 1)
    assert (latent[0] - latent[1]).abs().max() > 1e-2 * latent.abs().max()
    first_stage.forward_train(images, torch.zeros(2, 3, 1, 1)).image.square().sum().backward()
    assert images.grad.abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("factor", [4, 32])
def test_decoded_mean_colour_depends_on_the_latent(factor):
    """The last normalisation must not take the mean colour away, as one with a channel a group does."""

    def spread(groups):
        first_stage = small("kl", factor, ch=32, mid_attention=False)
        for module in first_stage.decoder.modules():
            if isinstance(module, torch.nn.GroupNorm) and groups is not None:
                module.num_groups = groups
        latents = torch.randn(16, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 32 // factor, -1)
        images = first_stage.decode(latents.expand(-1, -1, -1, 32 // factor))
        return (images.mean((2, 3)).std(0) / images.std()).max().item()

    assert spread(None) > 2 * spread(32)
