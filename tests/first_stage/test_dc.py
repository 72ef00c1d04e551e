"""Encoder and decoder with residual changes of side; what they have in common with diffusers' is in interop's tests."""

import pytest
import torch
import torch.nn.functional as F
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage.dc import (
    ChannelNorm,
    ChannelToSpace,
    DCDecoder,
    DCEncoder,
    GatedConvolutions,
    LinearAttention,
    Residual,
    SpaceToChannel,
    linearly_attended,
    with_channels,
)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dc(regulariser, factor, **changes):
    return small(regulariser, factor, **{"family": "dc", **changes})


def test_channels_are_averaged_in_groups_and_duplicated_beside_each_other():
    x = torch.tensor([1.0, 3.0, 10.0, 20.0, 5.0, 7.0]).view(1, 6, 1, 1)
    assert with_channels(x, 3).flatten().tolist() == [2.0, 15.0, 6.0]
    assert with_channels(x, 2).flatten().tolist() == pytest.approx([14 / 3, 32 / 3])
    assert with_channels(x, 12).flatten().tolist() == [1, 1, 3, 3, 10, 10, 20, 20, 5, 5, 7, 7]
    assert torch.equal(with_channels(x, 6), x)


def test_where_groups_do_not_divide_each_channel_counts_by_its_share():
    x = torch.tensor([0.0, 3.0, 6.0]).view(1, 3, 1, 1)
    assert with_channels(x, 2).flatten().tolist() == [1.0, 5.0]  # a channel and a half each
    assert with_channels(x, 2).mean() == x.mean()


def test_the_shortcut_of_a_halving_is_a_mean_over_pixels_of_equal_width():
    down = SpaceToChannel(8, 8).double()
    down.start_quiet()
    down.conv.bias.data.zero_()
    x = drawn(2, 8, 6, 10)
    torch.testing.assert_close(down(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize(("wide", "narrow"), [(32, 8), (16, 8), (8, 8)])
def test_the_shortcut_of_a_halving_undoes_that_of_a_doubling(wide, narrow):
    up, down = ChannelToSpace(wide, narrow).double(), SpaceToChannel(narrow, wide).double()
    for layer in (up, down):
        layer.start_quiet()
        layer.conv.bias.data.zero_()
    x = drawn(2, wide, 3, 5)
    assert up(x).shape == (2, narrow, 6, 10)
    torch.testing.assert_close(down(up(x)), x)


def test_norm_makes_the_mean_square_of_a_positions_channels_one():
    norm = ChannelNorm(7).double()
    found = norm(3 * drawn(2, 7, 3, 5) + 1)
    torch.testing.assert_close(found.square().mean(1), torch.ones(2, 3, 5, dtype=torch.float64), rtol=1e-4, atol=0)
    norm.weight.data, norm.bias.data = drawn(7, seed=1), drawn(7, seed=2)
    torch.testing.assert_close(norm(torch.zeros(1, 7, 1, 1).double()).flatten(), norm.bias.data)


def test_linear_attention_is_a_mean_of_values_weighted_by_rectified_products():
    query, key, value = (drawn(2, 3, 5, 7, seed=seed) for seed in range(3))
    query[:, :, 0], key[:, :, 0] = query[:, :, 0].abs(), key[:, :, 0].abs()  # so every query meets a key
    weights = torch.relu(query).transpose(2, 3) @ torch.relu(key)  # positions that ask, positions that are asked
    expected = value @ (weights / weights.sum(-1, keepdim=True)).transpose(2, 3)
    torch.testing.assert_close(linearly_attended(query, key, value), expected)


def test_a_query_that_meets_no_key_attends_to_nothing():
    nothing = linearly_attended(-torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3))
    assert torch.equal(nothing, torch.zeros(1, 1, 2, 3))


def test_attention_sees_beyond_its_windows():
    model = dc("kl", 2, attn_sides=(16,), ch=8)
    assert len([m for m in model.modules() if isinstance(m, LinearAttention)]) == 2
    assert len([m for m in model.modules() if isinstance(m, GatedConvolutions)]) == 2
    image = drawn(1, 3, 32, 32).float()
    moved = image.clone()
    moved[..., -1, -1] += 1
    assert (model.encode(moved).mean - model.encode(image).mean)[..., 0, 0].abs().max() > 0
    without = dc("kl", 2, ch=8)
    assert torch.equal(without.encode(moved).mean[..., 0, 0], without.encode(image).mean[..., 0, 0])


@torch.no_grad()
def test_of_a_gaussian_the_shortcut_reaches_the_means_alone():
    """Without the convolution before the latent, half of the features are the last level's, half nothing."""
    encoder = dc("kl", 2, ch=8).encoder
    encoder.head.weight.zero_()
    encoder.head.bias.zero_()
    means, rest = encoder(drawn(1, 3, 32, 32).float()).chunk(2, dim=1)
    assert means.abs().min() > 0
    assert torch.equal(rest, torch.zeros_like(rest))


@torch.no_grad()
@pytest.mark.parametrize("attn_sides", [(), (8,)])
def test_near_linear_starts_as_its_shortcuts(attn_sides):
    model = dc("kl", 4, attn_sides=attn_sides, initialisation="near_linear")
    blocks = [m for m in model.modules() if isinstance(m, Residual)]
    assert len(blocks) == (8 if attn_sides else 6)
    for each in blocks:
        x = drawn(1, len(each.norm.weight), 4, 4).float()
        assert torch.equal(each(x), x)
    down = next(m for m in model.modules() if isinstance(m, SpaceToChannel))
    x = drawn(1, down.conv.in_channels, 4, 4).float()
    torch.testing.assert_close(down(x), with_channels(F.pixel_unshuffle(x, 2), down.out_channels))


@pytest.mark.parametrize("regulariser", ["kl", "vq", "fsq", "lfq", "bsq"])
@pytest.mark.parametrize(("factor", "side"), [(32, 32), (64, 64), (64, 128)])
def test_every_regulariser_compresses_as_far_as_the_image_is_large(regulariser, factor, side):
    """At a latent of side 1 too, images are told apart, and every weight is trained."""
    channels = 3 if regulariser == "fsq" else 5
    options = {"vq": {"codes": 7}, "fsq": {"levels": [5, 4, 3]}}.get(regulariser, {})
    model = dc(regulariser, factor, resolution=side, channels=channels, ch=8, options=options)
    assert isinstance(model.encoder, DCEncoder)
    assert isinstance(model.decoder, DCDecoder)
    image = drawn(2, 3, side, side).float()
    encoding = model.encode(image)
    latent = model.latent(model.pack(encoding))
    assert latent.shape == (2, channels, side // factor, side // factor)
    assert (latent[0] - latent[1]).abs().max() > 1e-2 * latent.abs().max()
    found = model.forward_train(image, torch.zeros_like(latent))
    (found.image.square().sum() + sum(found.regularisation.values())).backward()
    assert found.image.shape == image.shape
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factor": 64, "ch_mult": (1,) * 7}, r"ae\.f=64 is larger than the resolution of 32 px"),
        ({"ch": 5}, r"makes 4 channels of a pixel, so a level of 5 channels .* choose multiples of 4"),
        ({"mid_attention": False}, r"mid_attention=false: ae\.architecture\.family=dc has no blocks beyond its levels"),
        (
            {"initialisation": "components"},
            r"initialisation=components knows no networks of .*family=dc",
        ),
        ({"family": "cd"}, r"ae\.architecture\.family=cd is none of reference, dc"),
        ({"attn_sides": (5,)}, r"attn_sides names 5"),
    ],
)
def test_sizes_that_it_does_not_have_are_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dc("kl", **{"factor": 4, **changes})


def test_an_image_whose_side_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match=r"\(32, 30\) are no multiples of f = 4"):
        dc("kl", 4).encode(torch.zeros(1, 3, 32, 30))
