"""The coders with residual changes of side are those of diffusers' AutoencoderDC, block for block, in float64."""

import pytest
import torch

from ldm.first_stage.coder import Coders
from ldm.first_stage.dc import (
    ChannelNorm,
    ChannelToSpace,
    GatedConvolutions,
    LinearAttention,
    Residual,
    SpaceToChannel,
    block,
    dc_coders,
)
from ldm.pretrained.torchvision_ops import ensure_torchvision

WIDTHS, LATENT, HEADS_OF = (16, 32, 64), 8, 32


class InDouble:
    """torch as their modules see it, whose float32 is float64: they cast to float32 in places, which hides 1e-9."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def diffusers(monkeypatch):
    ensure_torchvision()
    found = pytest.importorskip("diffusers")
    from diffusers.models import attention_processor, normalization

    for module in (attention_processor, normalization):
        monkeypatch.setattr(module, "torch", InDouble())
    return found


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def random(module):
    """With other weights than those that a module starts with: gains of 1 and offsets of 0 would hide mistakes."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return module.eval()


def fill(ours, theirs):
    """Gives our block the weights of theirs."""
    if isinstance(ours, torch.nn.Sequential):  # attention, and the convolutions behind it
        fill(ours[0], theirs.attn)
        fill(ours[1], theirs.conv_out)
    elif not isinstance(ours, Residual):
        ours.load_state_dict(theirs.state_dict())
    elif isinstance(ours.branch, LinearAttention):
        qkv = torch.cat([layer.weight for layer in (theirs.to_q, theirs.to_k, theirs.to_v)])
        windows = theirs.to_qkv_multiscale[0]
        weights = {"qkv": qkv[:, :, None, None], "windows.0": windows.proj_in.weight}
        weights |= {"windows.1": windows.proj_out.weight, "project": theirs.to_out.weight[:, :, None, None]}
        ours.branch.load_state_dict({f"{name}.weight": weight for name, weight in weights.items()})
        ours.norm.load_state_dict(theirs.norm_out.state_dict())
    elif isinstance(ours.branch, GatedConvolutions):
        for mine, its in (
            (ours.branch.widen, "inverted"),
            (ours.branch.depthwise, "depth"),
            (ours.branch.narrow, "point"),
        ):
            mine.load_state_dict(getattr(theirs, f"conv_{its}").state_dict())
        ours.norm.load_state_dict(theirs.norm.state_dict())
    else:
        ours.branch[0].load_state_dict(theirs.conv1.state_dict())
        ours.branch[3].load_state_dict(theirs.conv2.state_dict())
        ours.norm.load_state_dict(theirs.norm.state_dict())


@torch.no_grad()
def same(ours, theirs, x):
    expected, found = theirs(x), ours.double().eval()(x)
    assert expected.abs().max() > 0.1
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


def test_convolutions(diffusers):
    from diffusers.models.autoencoders.autoencoder_dc import ResBlock

    theirs, ours = random(ResBlock(12, 12, "rms_norm", "silu")), block(12, False, 0.0)
    fill(ours.double(), theirs)
    same(ours, theirs, drawn(2, 12, 5, 7))


@pytest.mark.parametrize("sides", [(8, 6), (2, 3)])
def test_attention_and_gated_convolutions(diffusers, sides):
    """Of few positions theirs multiplies in another order, which gives the same."""
    from diffusers.models.autoencoders.autoencoder_dc import EfficientViTBlock

    theirs, ours = random(EfficientViTBlock(64, 1.0, HEADS_OF, (5,), "rms_norm")), block(64, True, 0.0)
    fill(ours.double(), theirs)
    x = drawn(2, 64, *sides)
    same(ours[0], theirs.attn, x)
    same(ours[1], theirs.conv_out, x)
    same(ours, theirs, x)


@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 16), (8, 32), (16, 8)])
def test_space_to_channel(diffusers, before, after):
    from diffusers.models.autoencoders.autoencoder_dc import DCDownBlock2d

    theirs, ours = random(DCDownBlock2d(before, after, downsample=True)), SpaceToChannel(before, after)
    fill(ours.double(), theirs)
    same(ours, theirs, drawn(2, before, 6, 10))


@pytest.mark.parametrize(("before", "after"), [(8, 8), (16, 8), (32, 8), (8, 16)])
def test_channel_to_space(diffusers, before, after):
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d

    theirs, ours = random(DCUpBlock2d(before, after, interpolate=False)), ChannelToSpace(before, after)
    fill(ours.double(), theirs)
    same(ours, theirs, drawn(2, before, 3, 5))


def test_norm(diffusers):
    from diffusers.models.normalization import RMSNorm

    theirs, ours = random(RMSNorm(6, 1e-5, elementwise_affine=True, bias=True)), ChannelNorm(6).double()
    fill(ours, theirs)
    x = drawn(2, 5, 6)
    same(ours, lambda images: theirs(images.movedim(1, -1)).movedim(-1, 1), x.permute(0, 2, 1)[..., None])


def whole(diffusers):
    """Theirs, and our encoder and decoder with its weights; the last level has attention."""
    kinds = ("ResBlock", "ResBlock", "EfficientViTBlock")
    sizes = {"layers_per_block": (1, 1, 1), "qkv_multiscales": ((), (), (5,)), "block_types": kinds}
    sizes |= {"block_out_channels": WIDTHS}
    both = {f"{coder}_{key}": value for coder in ("encoder", "decoder") for key, value in sizes.items()}
    theirs = random(diffusers.AutoencoderDC(latent_channels=LATENT, attention_head_dim=HEADS_OF, **both))
    sizes = Coders(4, LATENT, 16, (1, 2, 4), 1, 32, (8,), True, 0.0, dc_coders)
    encoder, decoder = (each.double() for each in sizes.make())
    encoder.stem.load_state_dict(theirs.encoder.conv_in.state_dict())
    encoder.head.load_state_dict(theirs.encoder.conv_out.state_dict())
    decoder.stem.load_state_dict(theirs.decoder.conv_in.state_dict())
    decoder.norm.load_state_dict(theirs.decoder.norm_out.state_dict())
    decoder.head.load_state_dict(theirs.decoder.conv_out.state_dict())
    for ours, in_order in (
        (encoder.levels, [*theirs.encoder.down_blocks]),
        (decoder.levels, [*theirs.decoder.up_blocks][::-1]),
    ):
        flat = [layer for level in in_order for layer in level]
        mine = [layer for level in ours for layer in level]
        for one, other in zip(mine, flat, strict=True):
            fill(one, other)
    return theirs, encoder, decoder


def test_encoder_and_decoder_with_the_shortcuts_of_the_latent(diffusers):
    theirs, encoder, decoder = whole(diffusers)
    image = drawn(2, 3, 32, 24)
    same(encoder, theirs.encoder, image)
    same(decoder, theirs.decoder, drawn(2, LATENT, 8, 6))
    with torch.no_grad():
        latent = theirs.encode(image).latent
    assert latent.shape == (2, LATENT, 8, 6)
