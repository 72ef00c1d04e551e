"""Autoencoders of sgm with their yaml: those that have the reference's encoder and decoder, and no others."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ldm.errors import UserError
from ldm.first_stage.kl import KLFirstStage
from ldm.interop import load, load_first_stage
from ldm.interop.compvis_first_stage import build_compvis_first_stage, to_compvis

CODER = {
    "attn_type": "vanilla-xformers",
    "double_z": True,
    "z_channels": 3,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.0,
}
GAUSSIAN = {"target": "sgm.modules.autoencoding.regularizers.DiagonalGaussianRegularizer"}
MODEL = "sgm.modules.diffusionmodules.model"
ENGINE = {
    "loss_config": {"target": "torch.nn.Identity"},
    "regularizer_config": GAUSSIAN,
    "encoder_config": {"target": f"{MODEL}.Encoder", "params": CODER},
    "decoder_config": {"target": f"{MODEL}.Decoder", "params": "${model.params.encoder_config.params}"},
}
LEGACY = {"embed_dim": 3, "ddconfig": CODER, "lossconfig": {"target": "torch.nn.Identity"}}


def identity_convolutions():
    """What stands between coders and latent, and changes nothing."""
    eyes = {"quant_conv.weight": torch.eye(6)[..., None, None], "quant_conv.bias": torch.zeros(6)}
    return eyes | {"post_quant_conv.weight": torch.eye(3)[..., None, None], "post_quant_conv.bias": torch.zeros(3)}


@pytest.fixture(scope="module")
def coders():
    """The weights of an encoder and a decoder, all of them random, under the reference's names."""
    torch.manual_seed(0)
    state = build_compvis_first_stage({"ddconfig": {**CODER, "attn_type": "vanilla"}, "embed_dim": 3}).state_dict()
    noisy = {name: value + 0.05 * torch.randn_like(value) for name, value in to_compvis(state).items()}
    return {name: value for name, value in noisy.items() if name.startswith(("encoder.", "decoder."))}


def written(folder, kind, params, state, around=None):
    folder.mkdir(exist_ok=True)
    model = {"target": f"sgm.models.autoencoder.{kind}", "params": params}
    if around:
        model = {"target": f"sgm.models.diffusion.{around}", "params": {"first_stage_config": model}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_an_engine_is_the_model_with_convolutions_that_change_nothing(dtype, coders, tmp_path):
    whole = coders | identity_convolutions()
    image = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1
    bare = load(written(tmp_path / "engine", "AutoencodingEngine", ENGINE, coders | {"loss.logvar": torch.zeros(1)}))
    assert bare.resolution == 32
    assert isinstance(bare.first_stage, KLFirstStage)
    ours = bare.first_stage.to(dtype)
    for kind, params in {
        "AutoencoderKL": LEGACY,
        "AutoencoderKLInferenceWrapper": LEGACY,
        "AutoencodingEngineLegacy": LEGACY | {"regularizer_config": GAUSSIAN},
    }.items():
        projected = load(written(tmp_path / kind, kind, params, whole)).first_stage.to(dtype)
        assert projected.channels == ours.channels == 3
        encoding, expected = ours.encode(image), projected.encode(image)
        assert torch.equal(encoding.mean, expected.mean)
        assert torch.equal(encoding.logvar, expected.logvar)
        assert torch.equal(ours.decode(encoding.mean), projected.decode(encoding.mean))


def test_an_engine_is_read_out_of_a_whole_model(coders, tmp_path):
    inside = {f"first_stage_model.{name}": value for name, value in coders.items()}
    params = ENGINE | {"decoder_config": {"target": f"{MODEL}.Decoder", "params": CODER}}
    path = written(tmp_path / "whole", "AutoencodingEngine", params, inside, around="DiffusionEngine")
    first_stage = load_first_stage(path).first_stage
    assert torch.equal(first_stage.encoder.stem.weight, coders["encoder.conv_in.weight"])


VIDEO = "sgm.modules.autoencoding.temporal_ae.VideoDecoder"
REFUSED = {
    "video": ({"decoder_config": {"target": VIDEO, "params": CODER}}, f"decoder_config {VIDEO}, which"),
    "vq": ({"regularizer_config": {"target": "a.VectorQuantizer"}}, "regularizer_config a.VectorQuantizer, which"),
    "attention": (
        {"encoder_config": {"target": f"{MODEL}.Encoder", "params": CODER | {"attn_type": "linear"}}},
        "encoder_config.attn_type=linear is not supported",
    ),
    "channels": (
        {"decoder_config": {"target": f"{MODEL}.Decoder", "params": CODER | {"z_channels": 4}}},
        "encoder_config has 3 z_channels, but decoder_config has 4",
    ),
    "nothing to refer to": (
        {"decoder_config": {"target": f"{MODEL}.Decoder", "params": "${model.absent.params}"}},
        "lacks the key 'absent'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_the_references_is_refused_by_its_name(what, coders, tmp_path):
    changed, said = REFUSED[what]
    with pytest.raises(UserError) as refused:
        load(written(tmp_path / "engine", "AutoencodingEngine", ENGINE | changed, coders))
    assert said in str(refused.value)


def test_weights_that_are_not_those_of_the_yaml_are_named(coders, tmp_path):
    with pytest.raises(UserError, match=r"4 weights that the first stage of its yaml lacks, such as 'post_quant_conv"):
        load(written(tmp_path / "a", "AutoencodingEngine", ENGINE, coders | identity_convolutions()))
    with pytest.raises(UserError, match=r"'quant_conv\.bias' is missing|'quant_conv\.weight' is missing"):
        load(written(tmp_path / "b", "AutoencoderKL", LEGACY, coders))
