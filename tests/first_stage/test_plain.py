"""The plain first stage: an encoder, a decoder, and nothing between them."""

import pytest
import torch
from torch import nn

from ldm.first_stage import PlainFirstStage


class Given(PlainFirstStage):
    """One whose networks are handed in."""

    @classmethod
    def build(cls, coders, channels, options):
        raise NotImplementedError


def plain(decoder: nn.Module) -> PlainFirstStage:
    return Given(nn.PixelUnshuffle(2), decoder, 2, 12)


def test_latents_are_what_the_encoder_gives_and_images_what_the_decoder_gives() -> None:
    model, image = plain(nn.PixelShuffle(2)), torch.randn(3, 3, 4, 6)
    packed = model.pack(model.encode(image))
    assert packed.shape == (3, model.cache_channels, 2, 3)
    assert torch.equal(model.decode(model.latent(packed, torch.randn(3, 12, 2, 3))), image)
    result = model(image)
    assert torch.equal(result.image, image)
    assert result.regularisation == {}


def test_what_leaves_under_autocast_is_float32() -> None:
    model = Given(nn.Conv2d(3, 5, 2, 2), nn.ConvTranspose2d(5, 3, 2, 2), 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.encode(torch.randn(1, 3, 4, 4))
        assert latent.dtype == model.decode(latent).dtype == torch.float32


def test_its_last_layer_is_the_last_of_the_decoder_that_has_a_weight() -> None:
    last = nn.Conv2d(12, 12, 1)
    assert plain(nn.Sequential(nn.Conv2d(12, 12, 1), last, nn.PixelShuffle(2))).last_layer is last.weight
    with pytest.raises(ValueError, match="neither a convolution nor a linear layer"):
        _ = plain(nn.PixelShuffle(2)).last_layer
