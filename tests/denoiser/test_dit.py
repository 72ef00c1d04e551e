"""The diffusion transformer: what it is at first, what it reads, and its parts beside plain formulas."""

import math

import pytest
import torch

from ldm.denoiser.dit import (
    SIZES,
    DiT,
    DiTOptions,
    grid_embedding,
    grid_rotation,
    rotated,
)
from ldm.denoiser.patches import from_patches, to_patches
from ldm.errors import UserError
from ldm.training.flops import count_flops

SMALL = {"in_channels": 3, "out_channels": 3, "width": 24, "depth": 2, "heads": 2, "patch": 2}
BEYOND = {"rms_norm": True, "swiglu": True, "rope": True, "qk_norm": True}
CONTEXTS = [
    pytest.param({}, None, id="none"),
    pytest.param({"context_dim": 5, "adds_context": True}, 1, id="one token"),
    pytest.param({"context_dim": 5}, 4, id="several tokens"),
]


def built(**changes):
    return DiT(**{**SMALL, **changes})


def inputs(tokens=None, sides=(8, 8), channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, *sides, generator=generator, dtype=dtype)
    context = None if tokens is None else torch.randn(2, tokens, 5, generator=generator, dtype=dtype)
    return {"x": x, "index": torch.tensor([3.0, 700.0], dtype=dtype), "context": context}


@pytest.mark.parametrize("beyond", [{}, BEYOND])
@pytest.mark.parametrize(("changes", "tokens"), CONTEXTS)
def test_a_fresh_network_gives_zero_and_every_block_is_the_identity(changes, tokens, beyond):
    network = built(**changes, **beyond).double()
    given = inputs(tokens)
    assert torch.equal(network(**given), torch.zeros_like(given["x"]))
    stream = torch.randn(2, 16, 24, dtype=torch.float64)
    embedding = torch.randn(2, 24, dtype=torch.float64)
    for block in network.blocks:
        assert torch.equal(block(stream, embedding, given["context"], None, None), stream)


@pytest.mark.parametrize("beyond", [{}, BEYOND])
@pytest.mark.parametrize(("changes", "tokens"), CONTEXTS)
def test_a_random_network_reads_all_that_it_is_given(changes, tokens, beyond, randomised):
    network = randomised(built(**changes, **beyond).double())
    given = inputs(tokens)
    out = network(**given)
    for name, value in given.items():
        if value is not None:
            other = {**given, name: value + torch.linspace(1, 2, value.numel(), dtype=value.dtype).view(value.shape)}
            assert (network(**other) - out).abs().max() > 1e-4, name
    every = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in every)


def test_patches_are_the_strides_of_a_convolution(randomised):
    x = torch.randn(2, 3, 8, 4, dtype=torch.float64)
    for patch in (1, 2, 4):
        weight = torch.randn(7, 3, patch, patch, dtype=torch.float64)
        expected = torch.nn.functional.conv2d(x, weight, stride=patch).flatten(2).transpose(1, 2)
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        assert torch.allclose(to_patches(x, patch) @ rows.T, expected, rtol=0, atol=1e-12)
        assert torch.equal(from_patches(to_patches(x, patch), patch, (8, 4)), x)


def test_the_embedding_of_the_grid_by_its_formula():
    found = grid_embedding(3, 5, 8)
    for row in range(3):
        for column in range(5):
            angles = [[place * 10000 ** (-i / 2) for i in range(2)] for place in (column, row)]
            expected = [wave(a) for each in angles for wave in (math.sin, math.cos) for a in each]
            assert found[row * 5 + column] == pytest.approx(expected, abs=1e-6)


def test_rotary_attention_sees_differences_of_places_alone():
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turned = torch.from_numpy(grid_rotation(4, 6, 8)).double()[:, :, None]
    q, k = (rotated(each.expand(1, 24, 1, 8), turned)[0, :, 0].view(4, 6, 8) for each in (q, k))

    def product(a, b):
        return float(q[a] @ k[b])

    assert product((0, 1), (2, 3)) == pytest.approx(product((1, 3), (3, 5)), abs=1e-5)
    assert abs(product((0, 1), (2, 3)) - product((0, 1), (3, 2))) > 1e-3
    assert torch.allclose(q[0, 0].norm(), q[3, 5].norm())


def test_a_masked_token_is_not_seen(randomised):
    network = randomised(built(context_dim=5).double())
    given = inputs(4)
    mask = torch.tensor([[True, True, False, False]] * 2)
    short = {**given, "context": given["context"][:, :2]}
    assert torch.allclose(network(**given, context_mask=mask), network(**short), rtol=0, atol=1e-12)


def test_maps_follow_x_on_the_channel_axis(randomised):
    network = randomised(built(in_channels=5).double())
    x, maps = inputs()["x"], inputs(channels=2)["x"]
    index = torch.tensor([1.0, 2.0]).double()
    both = torch.cat([x, maps], dim=1)
    assert torch.equal(network(x, index, concat=maps), network(both, index))


@pytest.mark.parametrize("beyond", [{}, BEYOND])
def test_other_sides_than_those_of_training(beyond, randomised):
    network = randomised(built(**beyond).double())
    given = inputs(sides=(4, 12))
    assert network(**given).shape == given["x"].shape
    turned = {**given, "x": given["x"].transpose(2, 3)}
    assert not torch.allclose(network(**turned).transpose(2, 3), network(**given))


def test_items_of_a_batch_do_not_see_each_other(randomised):
    network = randomised(built(context_dim=5, adds_context=True).double())
    given = inputs(1)
    alone = network(*(value[:1] for value in given.values()))
    assert torch.allclose(network(**given)[:1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch", [1, 2])
def test_memory_format_changes_nothing(patch, randomised):
    network = randomised(built(patch=patch).double())
    given = inputs()
    strided = {**given, "x": given["x"].contiguous(memory_format=torch.channels_last)}
    assert torch.allclose(network(**strided), network(**given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("beyond", [{}, BEYOND])
def test_autocast_to_bfloat16_stays_near_float32_and_keeps_the_input_dtype(beyond, randomised):
    network = randomised(built(context_dim=5, **beyond))
    given = inputs(4, dtype=torch.float32)
    exact = network(**given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(**given)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "patch", "millions", "giga"),
    [("S", 2, 33, 6.06), ("B", 4, 130, 5.56), ("L", 8, 459, 5.01), ("XL", 2, 675, 118.64)],
)
def test_parameters_and_operations_of_the_paper(name, patch, millions, giga):
    """Tables 1 and 4 of Peebles and Xie 2022: weights with those of 1000 classes, multiply-adds of a call at 256 px."""
    sizes = {"in_channels": 4, "out_channels": 8, "patch": patch, **SIZES[name]}
    width = SIZES[name]["width"]
    with torch.device("meta"), torch.no_grad():
        network = DiT(**sizes, context_dim=width, adds_context=True, projects_context=False)
        given = torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, 1, width)
        flops = count_flops(lambda: network(*given))
    weights = sum(weight.numel() for weight in network.parameters()) + 1001 * width
    assert weights == pytest.approx(1e6 * millions, rel=0.012)
    assert flops / 2e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 5}, "denoiser.heads=5 does not divide denoiser.width=24: give heads that do"),
        ({"width": 26}, "denoiser.width=26 is no multiple of 4, as"),
        ({"rope": True, "heads": 4}, "denoiser.rope=true needs heads of a multiple of 4 channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError) as refused:
        built(**changes)
    assert str(refused.value).startswith(said)


def test_a_patch_that_does_not_divide_the_latent_names_those_that_do():
    options = DiTOptions(width=24, depth=1, heads=2, patch=8)
    with pytest.raises(UserError) as refused:
        options.build(in_channels=3, out_channels=3, latent_side=12, context_dim=None)
    assert str(refused.value) == (
        "denoiser.patch=8 does not divide the latent's side, 12: use denoiser.patch=1 or 2 or 4"
    )


def test_inputs_that_the_network_was_not_built_for_are_refused():
    given = inputs(1)
    for network, changes, said in [
        (built(), {}, "built with context_dim None, but called with a context"),
        (built(context_dim=5), {"context": None}, "built with context_dim 5, but called without a context"),
        (built(in_channels=4, context_dim=5), {}, "takes 4 channels, x and concatenated maps, but got 3"),
        (built(patch=16, context_dim=5), {}, "cannot be divided into patches of side 16"),
        (built(context_dim=5, adds_context=True), {"context": torch.zeros(2, 3, 5)}, "adds one token .* given 3"),
    ]:
        with pytest.raises(ValueError, match=said):
            network.double()(**{**given, **changes})
