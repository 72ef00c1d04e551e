"""Parts of the UNet against their closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm.denoiser.attention import SelfAttention, SpatialTransformer, TokenAttention, reorder_heads
from ldm.denoiser.blocks import (
    Convolution,
    Convolution3,
    ResidualBlock,
    doubled,
    group_norm,
    halved,
    normalised,
    sinusoidal_embedding,
)
from ldm.errors import UserError
from ldm.training.flops import count_flops


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_embedding_is_the_formula(width):
    index = torch.tensor([0.0, 13.25, 999.0], dtype=torch.float64)
    expected = [
        [math.cos(k * 10_000 ** (-i / 3)) for i in range(3)]
        + [math.sin(k * 10_000 ** (-i / 3)) for i in range(3)]
        + [0.0] * (width - 6)
        for k in index.tolist()
    ]
    torch.testing.assert_close(sinusoidal_embedding(index, width), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (32, 32), (48, 24), (40, 20), (21, 21), (74, 2), (1, 1)])
def test_group_count_is_the_largest_divisor_up_to_32(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_group_norm_of_bfloat16_has_float32_statistics(memory_format):
    # An offset of 30 spreads: sums in bfloat16 (8 bits) would lose the spread altogether.
    x = (30 + torch.randn(3, 64, 7, 7, generator=torch.Generator().manual_seed(0))).bfloat16()
    norm = group_norm(64)
    expected = norm(x.float())
    given = normalised(norm, x.contiguous(memory_format=memory_format))
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given.float(), expected, rtol=2**-8, atol=1e-3)


def test_resampling_by_averaging_undoes_resampling_by_repeating():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(halved(doubled(x)), x)
    assert torch.equal(doubled(x)[:, :, 3, 4], x[:, :, 1, 2])


@pytest.mark.parametrize("resample", [None, halved, doubled])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_fresh_residual_block_only_resamples(resample, scale_shift):
    block = ResidualBlock(6, 6, 11, dropout=0.0, scale_shift=scale_shift, resample=resample)
    x = torch.randn(2, 6, 4, 8)
    expected = x if resample is None else resample(x)
    assert torch.equal(block(x, torch.randn(2, 11), None), expected)


def test_scale_and_shift_come_from_the_time_embedding_in_this_order(randomised):
    block = randomised(ResidualBlock(5, 7, 11, dropout=0.0, scale_shift=True)).double()
    x, embedding = torch.randn(2, 5, 3, 4).double(), torch.randn(2, 11).double()
    time = embedding @ block.time.weight.T + block.time.bias
    h = block.norm2(block.conv1(F.silu(block.norm1(x))))
    h = h * (1 + time[:, :7, None, None]) + time[:, 7:, None, None]
    torch.testing.assert_close(block(x, embedding, None), block.skip(x) + block.conv2(F.silu(h)))


def test_strided_convolution_samples_the_plain_one_at_even_pixels(randomised):
    plain, strided = Convolution(3, 5), Convolution(3, 5, stride=2)
    strided.load_state_dict(randomised(plain).state_dict())
    x, unused = torch.randn(2, 3, 6, 8), torch.empty(0)
    torch.testing.assert_close(strided(x, unused, None), plain(x, unused, None)[:, :, ::2, ::2])


def naive_attention(q, k, v):
    """Attention of one head, written out. Shapes: (L, d), (S, d), (S, d)."""
    weight = torch.exp(q @ k.T / math.sqrt(q.shape[1]))
    return (weight / weight.sum(1, keepdim=True)) @ v


def test_token_attention_is_the_formula_head_by_head(randomised):
    attention = randomised(TokenAttention(width=15, source_width=7, heads=3, dropout=0.0)).double()
    tokens, source = torch.randn(2, 11, 15).double(), torch.randn(2, 13, 7).double()
    q, k, v = tokens @ attention.to_q.weight.T, source @ attention.to_k.weight.T, source @ attention.to_v.weight.T
    heads = [slice(5 * head, 5 * head + 5) for head in range(3)]
    mixed = torch.stack(
        [
            torch.cat([naive_attention(q[n][:, h], k[n][:, h], v[n][:, h]) for h in heads], dim=1)
            for n in range(len(tokens))
        ]
    )
    torch.testing.assert_close(attention(tokens, source), attention.to_out(mixed))


@pytest.mark.parametrize("order", ["heads_first", "qkv_first"])
def test_self_attention_is_the_formula_under_either_head_order(order, randomised):
    channels, heads, width = 12, 3, 4
    attention = randomised(SelfAttention(channels, heads, order)).double()
    x = torch.randn(1, channels, 5, 7).double()
    rows = (attention.qkv.weight @ attention.norm(x)[0].flatten(1)).T + attention.qkv.bias
    mixed = []
    for head in range(heads):
        # Row of part p (q, k, v), head h, channel c: (h * 3 + p) * width + c, or (p * heads + h) * width + c.
        starts = [(head * 3 + part if order == "heads_first" else part * heads + head) * width for part in range(3)]
        mixed.append(naive_attention(*(rows[:, start : start + width] for start in starts)))
    expected = x + attention.proj_out(torch.cat(mixed, dim=1)).T.reshape(x.shape)
    torch.testing.assert_close(attention(x, torch.empty(0), None), expected)


def test_reordering_the_rows_maps_one_head_order_to_the_other(randomised):
    legacy = randomised(SelfAttention(64, 4, "heads_first")).double()
    new = SelfAttention(64, 4, "qkv_first").double()
    new.load_state_dict(legacy.state_dict())
    x, unused = torch.randn(2, 64, 3, 5).double(), torch.empty(0)
    assert (new(x, unused, None) - legacy(x, unused, None)).abs().max() > 0.1
    new.qkv.load_state_dict(
        {name: reorder_heads(rows, 4, "heads_first", "qkv_first") for name, rows in legacy.qkv.state_dict().items()}
    )
    torch.testing.assert_close(new(x, unused, None), legacy(x, unused, None))
    back = reorder_heads(new.qkv.weight, 4, "qkv_first", "heads_first")
    assert torch.equal(back, legacy.qkv.weight)


def test_one_head_has_no_order(randomised):
    legacy = randomised(SelfAttention(32, 1, "heads_first"))
    new = SelfAttention(32, 1, "qkv_first")
    new.load_state_dict(legacy.state_dict())
    x, unused = torch.randn(2, 32, 3, 3), torch.empty(0)
    assert torch.equal(new(x, unused, None), legacy(x, unused, None))


def test_unknown_head_order_is_named():
    with pytest.raises(UserError, match=r"'legacy'.*heads_first, qkv_first"):
        SelfAttention(32, 1, "legacy")


def test_context_is_a_set_of_tokens_and_pixels_move_with_their_values(randomised):
    transformer = randomised(SpatialTransformer(32, heads=2, depth=2, context_dim=7, dropout=0.0)).double()
    x, context, unused = torch.randn(2, 32, 3, 5).double(), torch.randn(2, 11, 7).double(), torch.empty(0)
    out = transformer(x, unused, context)
    torch.testing.assert_close(transformer(x, unused, context.flip(1)), out)
    torch.testing.assert_close(transformer(x.flip(3), unused, context), out.flip(3))
    assert (transformer(x, unused, context.roll(1, dims=0)) - out).abs().max() > 1e-3


@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_on_small_maps_a_convolution_is_a_product_with_one_matrix(sides, randomised, monkeypatch):
    layer = randomised(Convolution3(5, 7)).double()
    x = torch.randn(3, 5, *sides, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 7, *sides, dtype=torch.float64)
    found = []
    for dense in (False, True):
        layer.dense = dense
        result = layer(x)
        found.append((result, *torch.autograd.grad(result, [x, layer.weight, layer.bias], gradient)))
    for plain, product in zip(*found, strict=True):
        torch.testing.assert_close(product, plain, rtol=1e-12, atol=1e-12)
    # Elsewhere it is the convolution: larger maps, other strides, and where FLOPs are counted.
    monkeypatch.setattr("ldm.denoiser.blocks.dense_matrix", lambda *_: pytest.fail("no product is asked for"))
    assert layer(torch.zeros(1, 5, 3, 2, dtype=torch.float64)).shape == (1, 7, 3, 2)
    flops = count_flops(lambda: layer(x))
    layer.dense = False
    assert flops == count_flops(lambda: layer(x)) > 0
    strided = Convolution3(5, 7, stride=2)
    strided.dense = True
    assert strided(torch.zeros(1, 5, *sides)).shape == (1, 7, 1, 1)
