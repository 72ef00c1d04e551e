"""Alignment of a denoiser's hidden features: by brute force, in micro-batches, resumed, and in averages of weights."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from ldm.conditioning import Unconditional
from ldm.data.fields import Draw
from ldm.denoiser import UNet
from ldm.denoiser.contract import Hidden
from ldm.denoiser.dit import DiT
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.errors import UserError
from ldm.randomness import Noise
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, train
from ldm.training.flops import count_flops
from ldm.training.representation import Representation, RepresentationTerm

SETTINGS = DiffusionSettings(
    seed=3,
    images=48,
    batch=6,
    learning_rate=5e-3,
    warm_up=0,
    weight_decay=0,
    gradient_clip=1.0,
    ema_half_life=30.0,
    condition_dropout=0,
)


class Colours:
    """A teacher whose features are the colours of an image, on a map of any side."""

    width = 3

    def __call__(self, image: Tensor, side: int) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(image, side)


class Pictures:
    """Eight images with latents, which are their colours in part."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.images = torch.rand(8, 3, 16, 16, generator=random) * 2 - 1
        self.asked: list[Tensor] = []

    def __len__(self) -> int:
        return 8

    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        return nn.functional.avg_pool2d(self.images[indices], 2)

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        return {}

    def pixels(self, indices: Tensor) -> Tensor:
        self.asked.append(indices)
        return self.images[indices]


def unet(recompute: bool = False) -> UNet:
    return UNet(
        in_channels=3,
        out_channels=3,
        model_channels=8,
        channel_mult=[1, 2],
        num_res_blocks=1,
        latent_side=8,
        attention_sides=[],
        num_heads=1,
        norm_groups=4,
        recompute=recompute,
    )


def dit() -> DiT:
    return DiT(in_channels=3, out_channels=3, width=16, depth=4, heads=2, patch=2)


def training(make=dit, start: int = 0, term: bool = True, **changes) -> DiffusionTraining:
    torch.manual_seed(start)
    model = DenoisingModel(make(), make_schedule("scaled_linear"), "v")
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.1)  # as if it had learned something: fresh blocks give nothing
    settings = DiffusionSettings(**{**SETTINGS.__dict__, **changes})
    options = Representation("efficientnet_lite0", loss_weight=0.7, projector=12)
    aligned = RepresentationTerm(options, model.network, Colours()) if term else None
    return DiffusionTraining(model, Unconditional(), Pictures(), settings, representation=aligned)


def hidden_of_dit(network: DiT, x: Tensor, index: Tensor) -> Tensor:
    """The tokens behind the first of four blocks, as a second network that ends there gives them."""
    shorter = dit()
    shorter.load_state_dict(network.state_dict())
    shorter.blocks = shorter.blocks[:1]
    found = []
    shorter.norm_out.register_forward_hook(lambda layer, given, output: found.append(given[0]))
    shorter(x, index)
    return found[0]


def test_it_is_the_mean_cosine_of_projected_tokens_and_features():
    run = training()
    term, network = run.representation, run.model.network
    random = torch.Generator().manual_seed(1)
    x, index, images = torch.randn(2, 3, 8, 8, generator=random), torch.tensor([10.0, 700.0]), Pictures().images[:2]
    with term.watched():
        network(x, index)
    found = term(images).detach()
    tokens = hidden_of_dit(network, x, index)
    features = Colours()(images, 4)
    for image in range(2):
        cosines = []
        for place in range(16):
            a, b = term.projector(tokens[image, place]).detach(), features[image, :, place // 4, place % 4]
            cosines.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
        assert float(found[image]) == pytest.approx(0.7 * (1 - sum(cosines) / 16), rel=1e-5)


@pytest.mark.parametrize("make", [dit, unet])
def test_the_layer_that_is_aligned_has_the_width_it_says(make):
    network = make()
    found = []
    network.hidden.layer.register_forward_hook(lambda layer, given, output: found.append(output))
    network(torch.randn(2, 3, 8, 8), torch.zeros(2))
    side = {dit: 4, unet: 4}[make]
    assert network.hidden.tokens(found[0]).shape == (2, side * side, network.hidden.width)


@pytest.mark.parametrize("make", [dit, unet, lambda: unet(recompute=True)])
def test_gradients_are_those_of_the_sum_of_both_losses_whatever_the_passes(make, differences):
    whole, halved = training(make), training(make, micro_batch=2)
    losses = whole.accumulate_gradients()
    again = halved.accumulate_gradients()
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(
        {name: float(loss) for name, loss in again.items()}, rel=1e-5
    )
    gradients = [weight.grad for weight in whole.weights]
    assert all(gradient is not None for gradient in gradients)
    for one, other in zip(gradients, (weight.grad for weight in halved.weights), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    apart = training(make)
    apart.representation.options = Representation("efficientnet_lite0", loss_weight=1e-12, projector=12)
    apart.accumulate_gradients()
    alone = training(make, term=False)
    alone.accumulate_gradients()
    for one, other in zip(apart.trained.parameters(), alone.trained.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_recomputed_activations_change_nothing():
    plain, recomputed = training(unet), training(lambda: unet(recompute=True))
    assert plain.accumulate_gradients() == recomputed.accumulate_gradients()
    for one, other in zip(plain.weights, recomputed.weights, strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-8)


def test_muon_steps_no_projector():
    run = training(matrix_rate=1e-2)
    projector = set(map(id, run.representation.parameters()))
    stepped = {name: {id(w) for g in o.param_groups for w in g["params"]} for name, o in run.optimisers.items()}
    assert projector <= stepped["optimiser"]
    assert not projector & stepped["muon"]


def test_images_are_those_of_the_latents_and_asked_for_only_with_a_term():
    run, plain = training(), training(term=False)
    seen = []
    run.data.latents = lambda indices, noise: seen.append(indices) or Pictures().latents(indices, noise)
    run.accumulate_gradients()
    plain.accumulate_gradients()
    assert torch.equal(torch.cat(run.data.asked), torch.cat(seen))
    assert not plain.data.asked


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(differences, tmp_path):
    whole, first = training(), training()
    list(train(whole))
    for report in train(first):
        if report.step == 3:
            break
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = training(start=99)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    list(train(resumed))
    assert not differences(resumed.state_dict(), whole.state_dict())


def test_the_projector_is_in_no_average_and_no_weights_of_the_model():
    run, plain = training(), training(term=False)
    assert run.trained.state_dict().keys() == plain.trained.state_dict().keys()
    assert run.ema.module.state_dict().keys() == plain.ema.module.state_dict().keys()
    assert "representation" not in plain.state_dict()


@pytest.mark.long
@pytest.mark.parametrize("make", [dit, unet])
def test_features_come_to_be_alike(make):
    run = training(make, images=600)
    losses = [float(report.values["representation"]) for report in train(run)]
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]


def test_flops_are_those_of_the_denoiser_and_the_projector():
    """The teacher here computes nothing that is counted."""
    run, plain = training(), training(term=False)
    counted = count_flops(run.accumulate_gradients) - count_flops(plain.accumulate_gradients)
    products = 16 * 12 + 12 * 12 + 12 * 3
    # Two FLOPs a product and token; forward, and backward for weights and inputs of all three layers.
    assert counted == 6 * 16 * 2 * 3 * products


@pytest.mark.parametrize(("width", "more", "found"), [(9, 0, "16 positions of 8"), (8, 1, "17 positions of 8")])
def test_hidden_features_that_are_not_what_the_network_says_are_refused(width, more, found):
    network = nn.Identity()
    network.hidden = Hidden(network, width)
    term = RepresentationTerm(Representation("efficientnet_lite0"), network, Colours())
    with term.watched():
        network(torch.zeros(2, 16 + more, 8))
    with pytest.raises(UserError, match=found):
        term(Pictures().images[:2])


def test_a_network_that_shows_no_hidden_features_is_refused():
    with pytest.raises(UserError, match="Linear shows none: give it a property `hidden`"):
        RepresentationTerm(Representation("efficientnet_lite0"), nn.Linear(2, 2), Colours())
