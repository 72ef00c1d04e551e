import pytest
import torch
import torch.nn.functional as F

from ldm.errors import UserError
from ldm.first_stage.perceptual import PERCEPTUAL_LOSSES, EfficientNetPerceptual, load_perceptual_loss
from ldm.pretrained.efficientnet_lite import load


@pytest.fixture(scope="module")
def network():
    return load("lite0")


@pytest.fixture(scope="module")
def exact_network():
    return load("lite0").double()


def images(n, side, dtype=torch.float32):
    draw = torch.Generator().manual_seed(side)
    coarse = torch.rand(n, 3, 5, 5, generator=draw, dtype=dtype) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def test_is_one_minus_the_cosine_averaged_over_positions_then_maps(exact_network):
    a, b = images(2, 40, torch.float64), images(2, 40, torch.float64).flip(3)
    maps = [exact_network.taps(exact_network.preprocess(image), 3) for image in (a, b)]
    cosines = [F.cosine_similarity(x, y, dim=1).mean(dim=(1, 2)) for x, y in zip(*maps, strict=True)]
    expected = 1 - sum(cosines) / 3
    got = EfficientNetPerceptual(exact_network, taps=3, smallest_side=32)(a, b)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)


def test_grows_with_noise_and_is_zero_without(network):
    distance = EfficientNetPerceptual(network)
    a = images(2, 32)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        by_level = torch.stack([distance(a, a + level * noise) for level in (0.0, 0.02, 0.1, 0.5)])
    assert by_level[0].abs().max() == 0
    assert (by_level.diff(dim=0) > 0.01).all()


def test_each_pair_is_judged_by_itself(network):
    distance = EfficientNetPerceptual(network)
    a, b = images(3, 32), images(3, 32).roll(1, 0)
    with torch.no_grad():
        together = distance(a, b)
        alone = torch.cat([distance(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_gradient_equals_finite_differences_in_float64(exact_network):
    distance = EfficientNetPerceptual(exact_network, taps=4, smallest_side=16)
    a, b = images(1, 12, torch.float64), images(1, 12, torch.float64).flip(2)
    draw = torch.Generator().manual_seed(3)
    b.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(a, b).sum(), b)
    for _ in range(3):
        direction = torch.randn(b.shape, generator=draw, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            slope = (distance(a, b + step * direction) - distance(a, b - step * direction)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_only_the_input_gets_a_gradient(network):
    distance = EfficientNetPerceptual(network)
    a, b = images(2, 32), images(2, 32).flip(3).requires_grad_()
    distance(a, b).sum().backward()
    assert b.grad.abs().sum() > 0
    assert all(p.grad is None for p in distance.parameters())


@pytest.mark.parametrize(("side", "factor"), [(16, 2), (12, 3), (31, 2), (32, 1), (48, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(network, side, factor):
    distance = EfficientNetPerceptual(network, taps=2, smallest_side=32)
    never = EfficientNetPerceptual(network, taps=2, smallest_side=1)
    a, b = images(2, side), images(2, side).flip(3)
    with torch.no_grad():
        large = [F.interpolate(x, scale_factor=factor, mode="bilinear") if factor > 1 else x for x in (a, b)]
        torch.testing.assert_close(distance(a, b), never(*large))
        if factor > 1:
            assert (distance(a, b) - never(a, b)).abs().min() > 1e-4


def test_hash_is_the_networks_own_so_that_a_judge_with_the_same_weights_is_found(network):
    distance = EfficientNetPerceptual(network)
    assert distance.weights_hash == network.weights_hash
    assert distance.weights_hash != load("lite2").weights_hash
    assert distance.name == "efficientnet_lite0_perceptual"


def test_bfloat16_autocast_gives_float32_close_to_exact(network):
    distance = EfficientNetPerceptual(network)
    a, b = images(4, 32), images(4, 32).flip(3)
    with torch.no_grad():
        exact = distance(a, b)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = distance(a, b)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.03, atol=0)
    assert not torch.equal(coarse, exact)


@pytest.mark.parametrize("name", PERCEPTUAL_LOSSES)
def test_every_loss_of_the_table_loads_or_says_what_is_missing(name, tmp_path):
    if name.startswith("lpips"):
        with pytest.raises(UserError, match="absent"):
            load_perceptual_loss(name, tmp_path / "absent")
        return
    loss = load_perceptual_loss(name)
    assert (loss is None) == (name == "none")
    assert loss is None or loss.name == f"{name}_perceptual"


def test_an_unknown_loss_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"perceptual=lpips_vg is none of .*none, did you mean 'lpips_vgg'\?"):
        load_perceptual_loss("lpips_vg")
