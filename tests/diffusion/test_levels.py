"""The loss over all noise levels: of the images and conditions that belong together, at levels that batches share."""

import torch
from torch import nn

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.levels import LEVELS_AN_IMAGE, loss_over_levels

LATENTS = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
INDICES = [3, 5, 8, 13, 21, 34, 55]


class Told(nn.Module):
    """Predicts what its condition says of the image, and remembers the levels that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[float] = []

    def forward(self, x, index, context=None, concat=None):
        self.indices += index.tolist()
        return context[:, :, 0].reshape(x.shape)


def found(network, told, batch, seed=0, indices=INDICES):
    model = DenoisingModel(network, make_schedule("scaled_linear"), "x0")
    context = told.reshape(len(told), -1, 1)
    return loss_over_levels(model, LATENTS, indices, seed, lambda part: Condition(context[part]), "cpu", batch)


def test_who_is_told_the_image_has_no_loss_and_who_is_told_nothing_that_of_the_image():
    assert torch.equal(found(Told(), LATENTS, 3), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(found(Told(), torch.zeros_like(LATENTS), 3), LATENTS.double().square().mean((1, 2, 3)))
    assert found(Told(), LATENTS.flip(0), 3).sum() > 1


def test_each_image_is_asked_about_once_in_each_part_of_the_schedule():
    network = Told()
    found(network, LATENTS, 7)
    asked = torch.tensor(network.indices).view(LEVELS_AN_IMAGE, 7)
    assert torch.equal(asked.div(1000 / LEVELS_AN_IMAGE, rounding_mode="floor")[:, 0], torch.arange(8.0))
    assert len(asked.unique()) > 40


def test_levels_and_noise_follow_from_the_seed_and_the_index_alone():
    class Seen(Told):
        def forward(self, x, index, context=None, concat=None):
            return torch.tanh(x)

    whole = found(Seen(), LATENTS, 7)
    torch.testing.assert_close(found(Seen(), LATENTS, 2), whole, rtol=1e-6, atol=0)
    other = found(Seen(), LATENTS, 7, seed=1)
    moved = found(Seen(), LATENTS, 7, indices=[*INDICES[:-1], 56])
    assert not torch.isclose(other, whole).any()
    assert torch.isclose(moved, whole).tolist() == [True] * 6 + [False]
