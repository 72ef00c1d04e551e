"""The UNet: sizes of the paper, where attention stands, and properties that hold at any size."""

import pytest
import torch

from ldm.denoiser import UNet
from ldm.denoiser.attention import SelfAttention, SpatialTransformer
from ldm.errors import UserError


def small(**changes):
    """A UNet of three levels with attention at sides 4 and 2."""
    sizes = {
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": 32,
        "channel_mult": (1, 1.5, 2),
        "num_res_blocks": 1,
        "latent_side": 8,
        "attention_sides": (4, 2),
        "num_head_channels": 16,
    }
    return UNet(**{**sizes, **changes})


def inputs(dtype=torch.float64, n=2, channels=3, sides=(8, 8), tokens=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, channels, *sides, generator=generator, dtype=dtype)
    index = torch.rand(n, generator=generator, dtype=dtype) * 1000
    context = None if tokens is None else torch.randn(n, tokens, 5, generator=generator, dtype=dtype)
    return x, index, context


# name, side, in, out, model_channels, channel_mult, attention_sides, heads (a number, or minus the channels of one),
# context_dim, depth, updown, adaptive norm, parameters. Two residual blocks a level. Tables are those of Rombach et al.
# 2022. Source: counted on the reference's architecture (CompVis/latent-diffusion at commit a506df57), UNet alone.
COUNTS = [
    ("Table 13 LDM-1", 256, 3, 3, 192, (1, 1, 2, 2, 4, 4), (32, 16, 8), -32, 512, 1, False, False, 396835971),
    ("Table 13 LDM-2", 128, 2, 2, 192, (1, 2, 2, 4, 4), (32, 16, 8), -32, 512, 1, False, False, 390888578),
    ("Table 13 LDM-4", 64, 3, 3, 192, (1, 2, 3, 5), (32, 16, 8), -32, 512, 1, False, False, 400920579),
    ("Table 13 LDM-8", 32, 4, 4, 256, (1, 2, 4), (32, 16, 8), -32, 512, 1, False, False, 394984196),
    ("Table 13 LDM-16", 16, 8, 8, 256, (1, 2, 4), (16, 8, 4), -32, 512, 1, False, False, 395002632),
    ("Table 13 LDM-32", 8, 32, 32, 256, (1, 2, 4), (8, 4, 2), -32, 512, 1, False, False, 395113248),
    ("Table 14 LDM-1", 256, 3, 3, 192, (1, 1, 2, 2, 4, 4), (32, 16, 8), -32, None, 1, False, False, 270458115),
    ("Table 14 LDM-2", 128, 2, 2, 192, (1, 2, 2, 4, 4), (32, 16, 8), -32, None, 1, False, False, 264510722),
    ("Table 14 LDM-4", 64, 3, 3, 224, (1, 2, 3, 4), (32, 16, 8), -32, None, 1, False, False, 274056163),
    ("Table 14 LDM-8", 32, 4, 4, 256, (1, 2, 4), (32, 16, 8), -32, None, 1, False, False, 257733124),
    ("Table 14 LDM-16", 16, 8, 8, 256, (1, 2, 4), (16, 8, 4), -32, None, 1, False, False, 257751560),
    ("Table 14 LDM-32", 8, 32, 32, 256, (1, 2, 4), (8, 4, 2), -32, None, 1, False, False, 257862176),
    ("bsr_sr", 64, 6, 3, 160, (1, 2, 2, 4), (4, 8), -32, None, 1, False, False, 113622563),
    (
        "celeba256, ffhq256, lsun_beds256",
        64,
        3,
        3,
        224,
        (1, 2, 3, 4),
        (8, 16, 32),
        -32,
        None,
        1,
        False,
        False,
        274056163,
    ),
    ("cin256", 32, 4, 4, 256, (1, 2, 4), (8, 16, 32), -32, 512, 1, False, False, 394984196),
    ("inpainting_big", 64, 7, 3, 256, (1, 2, 3, 4), (8, 16, 32), 8, None, 1, True, False, 387245827),
    ("layout2img-openimages256", 64, 3, 3, 128, (1, 2, 3, 4), (8, 16, 32), -32, 512, 3, False, False, 246277379),
    ("lsun_churches256", 32, 4, 4, 192, (1, 2, 2, 4, 4), (32, 16, 8, 4), 8, None, 1, True, True, 294966916),
    ("semantic_synthesis256", 64, 6, 3, 128, (1, 4, 8), (2, 4, 8), 8, None, 1, False, False, 215229315),
    ("semantic_synthesis512", 128, 6, 3, 128, (1, 4, 8), (4, 8, 16), 8, None, 1, False, False, 215229315),
    ("text2img256", 64, 3, 3, 192, (1, 2, 3, 5), (8, 16, 32), -32, 640, 1, False, False, 403623939),
    ("txt2img-1p4B-eval", 32, 4, 4, 320, (1, 2, 4, 4), (8, 16, 32), 8, 1280, 1, False, False, 872300484),
    ("cin256-v2", 64, 3, 3, 192, (1, 2, 3, 5), (8, 16, 32), 1, 512, 1, False, False, 400920579),
    ("Table 15 inpainting", 64, 7, 3, 128, (1, 4, 8), (2, 4, 8), 8, None, 1, False, False, 215230467),
]


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row[0])
def test_parameter_counts_of_the_paper_and_its_released_models(row):
    _, side, inside, out, width, mult, attention, heads, context_dim, depth, updown, adaptive, count = row
    with torch.device("meta"):
        unet = UNet(
            in_channels=inside,
            out_channels=out,
            model_channels=width,
            channel_mult=mult,
            num_res_blocks=2,
            latent_side=side,
            attention_sides=attention,
            num_heads=heads if heads > 0 else None,
            num_head_channels=-heads if heads < 0 else None,
            context_dim=context_dim,
            transformer_depth=depth,
            resblock_updown=updown,
            use_scale_shift_norm=adaptive,
        )
    assert sum(parameter.numel() for parameter in unet.parameters()) == count


@pytest.mark.parametrize(("wanted", "met"), [((8, 2), {8, 2}), ((), {2}), ((4, 16, 1), {4, 2})])
@pytest.mark.parametrize("context_dim", [None, 5])
def test_attention_stands_at_the_given_sides_and_in_the_middle(wanted, met, context_dim):
    unet = small(attention_sides=wanted, context_dim=context_dim)
    kind, seen = (SelfAttention if context_dim is None else SpatialTransformer), []
    for module in unet.modules():
        if isinstance(module, SelfAttention | SpatialTransformer):
            assert isinstance(module, kind)
            module.register_forward_hook(lambda _, args, out: seen.append(out.shape[2]))
    x, index, context = inputs(torch.float32, tokens=None if context_dim is None else 3)
    unet(x, index, context)
    # One residual block a level: one attention on the way down and two on the way up, and the middle at side 2.
    levels = [side for side in seen if side in wanted]
    assert set(seen) == met
    assert len(seen) == 3 * len([side for side in wanted if side in (8, 4, 2)]) + 1
    assert all(levels.count(side) >= 3 for side in set(wanted) & met)


@pytest.mark.parametrize("changes", [{}, {"context_dim": 5}, {"resblock_updown": True, "use_scale_shift_norm": True}])
def test_a_fresh_network_predicts_zero_and_a_random_one_reads_all_it_is_given(changes, randomised):
    unet = small(**changes).double()
    x, index, context = inputs(tokens=3 if "context_dim" in changes else None)
    assert torch.equal(unet(x, index, context), torch.zeros_like(x))
    randomised(unet)
    out = unet(x, index, context)
    others = {"x": (x + 0.1, index, context), "index": (x, index + 0.5, context)}
    if context is not None:
        others["context"] = (x, index, context + 0.1)
    for name, other in others.items():
        assert (unet(*other) - out).abs().max() > 1e-6 * out.abs().max(), name


def test_maps_follow_x_on_the_channel_axis(randomised):
    unet = randomised(small(in_channels=5, out_channels=3).double())
    x, index, _ = inputs(channels=5)
    assert torch.equal(unet(x[:, :3], index, concat=x[:, 3:]), unet(x, index))


@pytest.mark.parametrize("context_dim", [None, 5])
def test_items_of_a_batch_do_not_see_each_other(context_dim, randomised):
    unet = randomised(small(context_dim=context_dim).double())
    x, index, context = inputs(n=3, tokens=None if context_dim is None else 3)
    whole = unet(x, index, context)
    alone = torch.cat(
        [unet(x[i, None], index[i, None], None if context is None else context[i, None]) for i in range(3)]
    )
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-11 * whole.abs().max().item())


@pytest.mark.parametrize("sides", [(8, 8), (4, 12)])
def test_memory_format_changes_nothing(sides, randomised):
    unet = randomised(small(context_dim=5).double())
    x, index, context = inputs(sides=sides, tokens=3)
    out = unet(x, index, context)
    last = unet.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), index, context)
    torch.testing.assert_close(last, out, rtol=0, atol=1e-11 * out.abs().max().item())


@pytest.mark.parametrize("fold", [2, 4])
def test_folded_it_is_the_network_of_patches_as_pixels(fold, randomised):
    """Patches written out by hand: the channels of pixel (row, column) of a patch follow (fold row + column) C."""
    x, index, _ = inputs(sides=(8 * fold, 12 * fold))
    unet = randomised(small(latent_side=8 * fold, fold=fold)).double()
    plain = small(in_channels=3 * fold**2, out_channels=3 * fold**2).double()
    plain.load_state_dict(unet.state_dict())
    by_hand = torch.cat([x[:, :, row::fold, column::fold] for row in range(fold) for column in range(fold)], dim=1)
    found, expected = unet(x, index), plain(by_hand, index)
    for position, part in enumerate(expected.split(3, dim=1)):
        row, column = divmod(position, fold)
        torch.testing.assert_close(found[:, :, row::fold, column::fold], part, rtol=1e-12, atol=1e-12)


def test_a_latent_of_side_one(randomised):
    unet = randomised(
        small(model_channels=64, channel_mult=(1,), latent_side=1, attention_sides=(1,), context_dim=5).double()
    )
    x, index, context = inputs(sides=(1, 1), tokens=1)
    out = unet(x, index, context)
    assert out.shape == x.shape
    # With one pixel and one token every attention weight is 1, so that queries and keys are without effect.
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                parameter.mul_(-3)
    torch.testing.assert_close(unet(x, index, context), out)


def test_without_dropout_training_and_evaluation_agree_and_with_it_they_differ(randomised):
    x, index, context = inputs(tokens=3)
    unet = randomised(small(context_dim=5).double())
    assert torch.equal(unet.train()(x, index, context), unet.eval()(x, index, context))
    dropping = randomised(small(context_dim=5, dropout=0.3).double())
    assert torch.equal(dropping.eval()(x, index, context), unet(x, index, context))
    assert not torch.equal(dropping.train()(x, index, context), unet(x, index, context))


def test_recomputing_activations_leaves_the_gradients_as_they_are(randomised):
    x, index, context = inputs(tokens=3)
    gradients = []
    for recompute in (False, True):
        unet = randomised(small(context_dim=5, recompute=recompute).double())
        context = context.detach().requires_grad_()
        unet(x, index, context).square().mean().backward()
        gradients.append([context.grad, *(parameter.grad for parameter in unet.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients[0])


def test_autocast_to_bfloat16_stays_near_float32_and_keeps_the_input_dtype(randomised):
    unet = randomised(small(context_dim=5)).to(memory_format=torch.channels_last)
    x, index, context = inputs(torch.float32, tokens=3)
    exact = unet(x, index, context)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = unet(x, index, context)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.03
    rounded.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in unet.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_side": 6}, "side 6 cannot be halved 2 times"),
        ({"latent_side": 1}, "side 1 cannot be halved 2 times"),
        ({"latent_side": 6, "fold": 4}, "fold=4 does not divide the latent's side, 6"),
        ({"fold": 4}, r"side 8, 2 with denoiser.fold=4, cannot be halved 2 times.*or denoiser.fold=1$"),
        ({"channel_mult": (1, 1.51)}, "whole number"),
        ({"channel_mult": (1, 1, 2, 1)}, "32 channels at side 1"),
        ({"channel_mult": (1, 1, 1, 2)}, "32 channels at side 1"),
        ({"num_heads": 2}, "either num_heads or num_head_channels"),
        ({"num_head_channels": None}, "either num_heads or num_head_channels"),
        ({"num_head_channels": 24}, "num_head_channels 24 does not divide the 64"),
        ({"num_head_channels": None, "num_heads": 5}, "num_heads 5 does not divide the 48|64"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        small(**changes)


def test_inputs_that_the_network_was_not_built_for_are_refused():
    x, index, context = inputs(torch.float32, tokens=3)
    with pytest.raises(ValueError, match=r"takes 3 channels.*but got 6"):
        small()(x, index, concat=x)
    with pytest.raises(ValueError, match=r"\(6, 8\) cannot be halved 2 times"):
        small()(x[:, :, :6], index)
    with pytest.raises(ValueError, match=r"\(8, 12\) cannot be divided into patches of side 2 and be halved 2 times"):
        small(latent_side=16, fold=2)(inputs(torch.float32, sides=(8, 12))[0], index)
    with pytest.raises(ValueError, match="context_dim None, but called with a context"):
        small()(x, index, context)
    with pytest.raises(ValueError, match="context_dim 5, but called without"):
        small(context_dim=5)(x, index)
