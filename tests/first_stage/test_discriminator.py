import pytest
import torch
from torch import nn

from ldm.errors import UserError
from ldm.first_stage.discriminator import PatchDiscriminator, layers_for


def images(n, side, dtype=torch.float32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=dtype) * 2 - 1


def reference(channels):
    """The reference's discriminator of 3 layers, written out."""
    c = channels
    return nn.Sequential(
        nn.Conv2d(3, c, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * c),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * c, 4 * c, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * c),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * c, 8 * c, 4, 1, 1, bias=False),
        nn.BatchNorm2d(8 * c),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8 * c, 1, 4, 1, 1),
    )


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_variant_is_the_reference(training):
    torch.manual_seed(0)
    ours, theirs = PatchDiscriminator(6, 3, "batch").double(), reference(6).double()
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    ours.train(training), theirs.train(training)
    x = images(3, 40, torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_stated_patch(layers, field):
    torch.manual_seed(0)
    network = PatchDiscriminator(4, layers, "batch").double().eval()
    x = images(1, 128, torch.float64).requires_grad_()
    logits = network(x)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == field


@pytest.mark.parametrize(
    ("resolution", "layers"), [(16, 1), (32, 1), (48, 1), (64, 2), (127, 2), (128, 3), (256, 3), (512, 3)]
)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_layers_follow_the_resolution_and_leave_a_map(resolution, layers, norm):
    assert layers_for(resolution) == layers
    side = resolution // 2**layers - 2
    with torch.no_grad():
        assert PatchDiscriminator(4, layers, norm).eval()(images(1, resolution)).shape == (1, 1, side, side)


@pytest.mark.parametrize("layers", [1, 3])
def test_smallest_image_gives_one_logit_and_smaller_is_refused(layers):
    network = PatchDiscriminator(8, layers)
    assert network(images(2, network.smallest_side)).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match=f"at least {network.smallest_side} px"):
        network(images(2, network.smallest_side - 1))


@pytest.mark.parametrize(("norm", "independent"), [("group", True), ("batch", False)])
def test_only_batch_norm_lets_images_see_each_other(norm, independent):
    torch.manual_seed(0)
    network = PatchDiscriminator(8, 2, norm).double().train()
    x = images(4, 32, torch.float64)
    changed = torch.cat([x[:1], -x[1:]])
    assert torch.allclose(network(x)[0], network(changed)[0], rtol=0, atol=1e-12) is independent


def test_initial_weights_are_the_references():
    torch.manual_seed(0)
    network = PatchDiscriminator(32, 3, "batch")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            n = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(0.02, rel=4 / n**0.5)
            assert abs(layer.weight.mean().item()) < 4 * 0.02 / n**0.5
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.01)
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert layer.bias.abs().max() == 0


def test_hinge_training_tells_two_kinds_of_image_apart():
    from ldm.first_stage.losses import discriminator_loss

    torch.manual_seed(0)
    network = PatchDiscriminator(16, 1)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.9))
    sharp = images(8, 16)
    smooth = nn.functional.avg_pool2d(sharp, 3, 1, 1)
    first = discriminator_loss(network(sharp), network(smooth)).item()
    for _ in range(25):
        optimiser.zero_grad()
        loss = discriminator_loss(network(sharp), network(smooth))
        loss.backward()
        optimiser.step()
    assert first == pytest.approx(1.0, abs=0.1)
    assert loss.item() < 0.3
    assert network(sharp).mean() > 0 > network(smooth).mean()


def test_impossible_settings_are_said():
    with pytest.raises(UserError, match="at least 1"):
        PatchDiscriminator(8, 0)
    with pytest.raises(UserError, match="use group or batch"):
        PatchDiscriminator(8, 1, "layer")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiple of 4"):
        PatchDiscriminator(6, 1, "group")
