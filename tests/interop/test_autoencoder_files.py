"""Autoencoders published as bare weights: against diffusers' classes, and the real pretrained pair on photographs."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm.errors import UserError
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.tiny import TinyFirstStage
from ldm.first_stage.vq import VQFirstStage
from ldm.interop import load, load_first_stage
from ldm.interop.autoencoder_file import read, tiny_half_in
from ldm.interop.compvis_first_stage import to_compvis
from ldm.interop.diffusers_first_stage import from_diffusers
from ldm.pretrained.torchvision_ops import ensure_torchvision

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the largest value."""

KL = {
    "block_out_channels": (32, 64, 64),
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 2,
}
VQ = {**KL, "num_vq_embeddings": 19, "vq_embed_dim": 5}
TINY = {"latent_channels": 5, "num_encoder_blocks": (1, 2, 3), "num_decoder_blocks": (2, 3, 1)}
TINY |= {"encoder_block_out_channels": (16, 16, 16), "decoder_block_out_channels": (24, 24, 24)}


@pytest.fixture(scope="module")
def diffusers():
    ensure_torchvision()
    return pytest.importorskip("diffusers")


def theirs(diffusers, kind, config):
    """An autoencoder of diffusers with every weight random."""
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def image(dtype=torch.float32, sides=(24, 16)):
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1


def close(ours, expected, tolerance=1e-4):
    assert ours.shape == expected.shape
    return (ours - expected).abs().max() < tolerance * expected.abs().max()


def written(state, path):
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("form", ["diffusers", "compvis", "whole model"])
@pytest.mark.parametrize("config", [KL, {**KL, "use_quant_conv": False, "use_post_quant_conv": False}, VQ])
def test_the_architecture_is_read_from_the_weights(diffusers, tmp_path, form, config):
    expected = theirs(diffusers, "VQModel" if config is VQ else "AutoencoderKL", config)
    state = expected.state_dict()
    if form != "diffusers":
        prefix = "" if form == "compvis" else "first_stage_model."
        state = to_compvis(from_diffusers(state), prefix) | {"loss.logvar": torch.zeros(())}
    first_stage = read(written(state, tmp_path / "vae.safetensors")).first_stage
    assert isinstance(first_stage, VQFirstStage if config is VQ else KLFirstStage)
    assert first_stage.factor == 4
    encoding = first_stage.encode(image())
    if config is VQ:
        raw = expected.encode(image()).latents
        assert close(encoding, raw)
    else:
        raw = expected.encode(image()).latent_dist.mean
        assert close(encoding.mean, raw)
        assert close(encoding.logvar, expected.encode(image()).latent_dist.logvar)
    assert close(first_stage.decode(raw), expected.decode(raw).sample)


PREFIXES = ("vae.module.", "module.vae.", "first_stage_model._orig_mod.", "model.first_stage_model.", "net.any.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("names", ["diffusers", "compvis"])
def test_an_autoencoder_is_found_whatever_stands_before_its_names(diffusers, tmp_path, prefix, names):
    state = theirs(diffusers, "AutoencoderKL", KL).state_dict()
    stored = state if names == "diffusers" else to_compvis(from_diffusers(state), "")
    saved = {prefix + name: value for name, value in stored.items()} | {"epoch": torch.ones(1)}
    stem = read(written(saved, tmp_path / "vae.safetensors")).first_stage.encoder.stem.weight
    assert torch.equal(stem, state["encoder.conv_in.weight"])


def test_of_two_autoencoders_none_is_guessed(diffusers, tmp_path):
    state = theirs(diffusers, "AutoencoderKL", KL).state_dict()
    two = {f"{part}.{name}": value + index for index, part in enumerate(("a", "b")) for name, value in state.items()}
    with pytest.raises(UserError, match=r"holds several autoencoders \(a\., b\.\)"):
        read(written(two, tmp_path / "vae.safetensors"))


def test_the_moving_average_of_an_autoencoder_is_taken_unless_the_plain_weights_are_asked_for(diffusers, tmp_path):
    state = to_compvis(from_diffusers(theirs(diffusers, "AutoencoderKL", KL).state_dict()), "")
    averaged = {f"model_ema.{name.replace('.', '')}": value + 1 for name, value in state.items()}
    name = "encoder.conv_in.weight"
    path = written({**state, **averaged, "model_ema.decay": torch.ones(1)}, tmp_path / "vae.safetensors")
    for asked, taken, added in (("auto", "ema", 1), ("ema", "ema", 1), ("raw", "raw", 0)):
        found = load_first_stage(path, asked)
        assert found.weights == taken
        assert torch.equal(found.first_stage.encoder.stem.weight, state[name] + added)
    with pytest.raises(UserError, match=r"weights=ema, but .* holds no moving average"):
        load_first_stage(written(state, path), "ema")


def test_weights_that_do_not_fit_are_named(diffusers, tmp_path):
    state = theirs(diffusers, "AutoencoderKL", KL).state_dict()
    path = tmp_path / "vae.safetensors"
    name = "decoder.mid_block.resnets.0.conv1.weight"
    with pytest.raises(UserError, match=rf"vae\.safetensors has no weight '{name}', of shape \(64, 64, 3, 3\)"):
        read(written({key: value for key, value in state.items() if key != name}, path))
    with pytest.raises(UserError, match=rf"'{name}' of shape \(64, 64, 1, 1\), but \(64, 64, 3, 3\)"):
        read(written({**state, name: state[name][:, :, :1, :1]}, path))
    with pytest.raises(UserError, match=r"encoder\.surprise"):
        read(written({**state, "encoder.surprise": torch.zeros(1)}, path))
    with pytest.raises(UserError, match=r"looks like no autoencoder's weights.*'classifier\.weight' is"):
        read(written({"classifier.weight": torch.zeros(1)}, path))


def halves(state, skipped_layer):
    """The two files of a tiny autoencoder as its authors write them: the decoder counts its clamp as layer 0."""
    encoder = {name.removeprefix("encoder.layers."): v for name, v in state.items() if name.startswith("encoder")}
    rows = {name.removeprefix("decoder.layers."): v for name, v in state.items() if name.startswith("decoder")}
    split = {name: name.partition(".") for name in rows}
    return encoder, {f"{int(number) + skipped_layer}.{rest}": rows[name] for name, (number, _, rest) in split.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiny_autoencoders_equal_diffusers(diffusers, tmp_path, dtype):
    expected = theirs(diffusers, "AutoencoderTiny", TINY)
    encoder, decoder = halves(expected.state_dict(), 1)
    written(encoder, tmp_path / "ae_encoder.safetensors")
    torch.save(expected.state_dict(), tmp_path / "whole.pth")
    written(decoder, tmp_path / "ae_decoder.safetensors")
    expected.to(dtype)
    latent = expected.encode(image(dtype)).latents
    for name in ("ae_encoder.safetensors", "ae_decoder.safetensors", "whole.pth", ""):
        first_stage = load(tmp_path / name).first_stage.to(dtype)
        assert isinstance(first_stage, TinyFirstStage)
        assert (first_stage.factor, first_stage.channels, first_stage.cache_channels) == (4, 5, 5)
        assert close(first_stage.encode(image(dtype)), latent, TOLERANCE[dtype])
        assert close(first_stage.decode(3 * latent), expected.decode(3 * latent).sample, TOLERANCE[dtype])


def test_the_branch_with_group_norm_is_where_the_weights_say(diffusers, tmp_path):
    """Its contribution against the formula written out."""
    encoder, decoder = halves(theirs(diffusers, "AutoencoderTiny", TINY).state_dict(), 1)
    generator = torch.Generator().manual_seed(3)
    first, norm, scale, last = (
        torch.randn(shape, generator=generator) for shape in ((64, 16, 1, 1), (64,), (64,), (16, 64, 1, 1))
    )
    # Layer 1 is the only block of the first level.
    encoder |= {"1.pool.0.weight": first, "1.pool.1.weight": scale, "1.pool.1.bias": norm, "1.pool.3.weight": last}
    written(encoder, tmp_path / "ae_encoder.safetensors")
    written(decoder, tmp_path / "ae_decoder.safetensors")
    block = read(tmp_path / "ae_encoder.safetensors").first_stage.encoder[1]
    x = torch.randn(2, 16, 5, 7, generator=generator)
    hidden = torch.einsum("oc,nchw->nohw", first[:, :, 0, 0], x)
    groups = hidden.reshape(2, 4, 16 * 35)
    centred = groups - groups.mean(2, keepdim=True)
    normal = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).view(2, 64, 5, 7)
    hidden = (normal * scale.view(-1, 1, 1) + norm.view(-1, 1, 1)).clamp(min=0)
    seen = x + torch.einsum("oc,nchw->nohw", last[:, :, 0, 0], hidden)
    with torch.no_grad():
        assert close(block(x), (block.conv(seen) + seen).clamp(min=0), 1e-5)
        assert not close(block(x), (block.conv(x) + x).clamp(min=0), 1e-2)


def test_halves_that_do_not_belong_together_are_refused(diffusers, tmp_path):
    encoder, decoder = halves(theirs(diffusers, "AutoencoderTiny", TINY).state_dict(), 1)
    path = written(encoder, tmp_path / "ae_encoder.safetensors")
    assert tiny_half_in(tmp_path) is None
    with pytest.raises(UserError, match=r"its decoder, ae_decoder\.safetensors, is not beside it"):
        read(path)
    _, other = halves(theirs(diffusers, "AutoencoderTiny", {**TINY, "latent_channels": 4}).state_dict(), 0)
    written(other, tmp_path / "ae_decoder.safetensors")
    with pytest.raises(UserError, match="gives 5 channels, the decoder takes 4"):
        read(path)
    written(encoder, tmp_path / "ae_decoder.safetensors")
    with pytest.raises(UserError, match="decoder has"):
        read(path)
    with pytest.raises(UserError, match="neither encoder nor decoder"):
        read(written(decoder, tmp_path / "half.safetensors"))


@pytest.mark.long
def test_both_halves_of_a_tiny_autoencoder_are_of_the_weights_that_are_asked_for(diffusers, tmp_path):
    """Each file holds a moving average beside its weights, under a wrapper of its own; later one of them holds none."""
    states = dict(
        zip(("encoder", "decoder"), halves(theirs(diffusers, "AutoencoderTiny", TINY).state_dict(), 1), strict=True)
    )
    for half, state in states.items():
        average = {name: value + 1 for name, value in state.items()}
        torch.save({"params": state, "params_ema": average}, tmp_path / f"my_{half}.pth")
    for weights, added, taken in (("raw", 0, "raw"), ("ema", 1, "ema"), ("auto", 1, "ema")):
        found = load(tmp_path / "my_encoder.pth", weights)
        assert found.weights == taken
        for half, state in states.items():
            [own, *_] = getattr(found.first_stage, half).state_dict().values()
            [saved, *_] = state.values()
            assert torch.equal(own, saved + added)
    torch.save(states["decoder"], tmp_path / "my_decoder.pth")
    load(tmp_path / "my_encoder.pth", "raw")
    for half in states:
        with pytest.raises(UserError, match=r"my_encoder\.pth holds a moving average and .*my_decoder\.pth, its other"):
            load(tmp_path / f"my_{half}.pth")
    with pytest.raises(UserError, match=r"weights=ema, but .*my_decoder\.pth holds no moving average"):
        load(tmp_path / "my_encoder.pth", "ema")


def test_what_trains_a_tiny_autoencoder_is_its_reconstruction(diffusers, tmp_path):
    torch.save(theirs(diffusers, "AutoencoderTiny", TINY).state_dict(), tmp_path / "whole.pth")
    first_stage = read(tmp_path / "whole.pth").first_stage.train()
    trained = first_stage(image())
    assert trained.regularisation == {}
    assert torch.equal(trained.image, first_stage.decode(first_stage.latent(first_stage.pack(trained.latent))))
    trained.image.square().mean().backward()
    assert first_stage.last_layer.grad.abs().max() > 0


def psnr(first_stage, photograph):
    """Of the clamped reconstruction of an RGB array (H, W, 3)."""
    pixels = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        decoded = first_stage.decode(first_stage.encode(pixels)).clamp(-1, 1)
    return float(10 * torch.log10(4 / (decoded - pixels).double().square().mean()))


def kodak(shared_data):
    with zipfile.ZipFile(shared_data / "data" / "kodak.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_pretrained_pair_reconstructs_part_of_a_photograph(shared_data, half):
    first_stage = read(shared_data / "weights" / f"taef2_{half}.safetensors").first_stage.eval()
    assert (first_stage.factor, first_stage.channels) == (8, 32)
    assert psnr(first_stage, kodak(shared_data)[1][128:256, 256:384]) > 28


@pytest.mark.slow
@pytest.mark.data
def test_the_pretrained_pair_on_all_kodak_photographs(shared_data):
    first_stage = read(shared_data / "weights" / "taef2_encoder.safetensors").first_stage.eval()
    photographs = kodak(shared_data)
    assert len(photographs) == 24
    assert np.mean([psnr(first_stage, one) for one in photographs]) == pytest.approx(30.19, abs=0.05)
