"""Encoder and decoder."""

import pytest
import torch

from ldm.errors import UserError
from ldm.first_stage.coder import (
    Decoder,
    Downsample,
    Encoder,
    SelfAttention,
    Upsample,
    attended_levels,
    group_norm,
)


def coders(**changes):
    shared = {
        "z_channels": 3,
        "ch": 8,
        "ch_mult": (1, 2, 3),
        "num_res_blocks": 2,
        "resolution": 32,
        "attn_sides": (),
        "mid_attention": True,
        "dropout": 0.0,
    }
    shared |= changes
    torch.manual_seed(0)
    return Encoder(in_channels=3, double_z=False, **shared), Decoder(out_channels=3, **shared)


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(128, 32, 32), (48, 32, 24), (16, 32, 16), (37, 32, 1), (96, 8, 8), (20, 8, 5)]
)
def test_group_norm_takes_the_most_groups_that_divide(channels, groups, expected):
    assert group_norm(channels, groups).num_groups == expected


def test_attention_equals_its_formula():
    torch.manual_seed(0)
    attention = SelfAttention(6, norm_groups=2).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    h = attention.norm(x)
    q, k, v = (layer(h).flatten(2) for layer in (attention.query, attention.key, attention.value))
    weights = torch.einsum("nci,ncj->nij", q, k).div(6**0.5).softmax(-1)
    expected = x + attention.project(torch.einsum("nij,ncj->nci", weights, v).view_as(x))
    torch.testing.assert_close(attention(x), expected)


def test_downsampling_pads_on_the_right_and_below():
    """A kernel that picks its upper left value keeps every second pixel; one for its last sees the border."""
    layer = Downsample(1)
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    for row, column, expected in [(0, 0, [[1, 3], [9, 11]]), (2, 2, [[11, 0], [0, 0]])]:
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.bias.zero_()
            layer.conv.weight[0, 0, row, column] = 1.0
        assert layer(x)[0, 0].tolist() == expected


def test_upsampling_repeats_pixels():
    layer = Upsample(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.zero_()
        layer.conv.weight[0, 0, 1, 1] = 1.0
    assert layer(torch.tensor([[[[1.0, 2.0]]]]))[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_attention_stands_at_the_named_sides_of_both():
    encoder, decoder = coders(attn_sides=(16,))
    where = [[isinstance(a, SelfAttention) for a in level.attentions] for level in encoder.levels]
    assert where == [[False] * 2, [True] * 2, [False] * 2]
    where = [[isinstance(a, SelfAttention) for a in level.attentions] for level in decoder.levels]
    assert where == [[False] * 3, [True] * 3, [False] * 3]
    assert attended_levels(64, 3, [64, 16]) == [True, False, True]


def test_unknown_attention_side_is_a_sentence():
    with pytest.raises(UserError, match=r"attn_sides names 12.*32, 16, 8"):
        coders(attn_sides=(12,))


@torch.no_grad()
def test_without_mid_attention_a_distant_pixel_is_out_of_sight():
    """Only normalisation and attention see the whole image; without the former, attention alone."""

    def reach(mid_attention):
        encoder, _ = coders(mid_attention=mid_attention, ch_mult=(1,), num_res_blocks=1)
        for module in encoder.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
        image = torch.zeros(1, 3, 32, 32)
        changed = image.clone()
        changed[..., 0, 0] = 1.0
        return (encoder(changed) - encoder(image))[..., -1, -1].abs().max().item()

    assert reach(mid_attention=False) == 0.0
    assert reach(mid_attention=True) > 1e-9


@torch.no_grad()
def test_channels_last_changes_nothing():
    for coder, x in zip(coders(attn_sides=(8,)), (torch.randn(2, 3, 32, 32), torch.randn(2, 3, 8, 8)), strict=True):
        expected = coder(x)
        result = coder.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_side_that_is_no_multiple_of_the_factor_is_refused():
    encoder, _ = coders()
    with pytest.raises(ValueError, match=r"\(32, 30\).*f = 4"):
        encoder(torch.zeros(1, 3, 32, 30))


def test_dropout_acts_in_training_only():
    encoder, _ = coders(dropout=0.5)
    image = torch.randn(1, 3, 32, 32)
    assert not torch.equal(encoder(image), encoder(image))
    encoder.eval()
    assert torch.equal(encoder(image), encoder(image))
