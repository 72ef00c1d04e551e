"""Our UNet against diffusers' and the reference's, with the same weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.denoiser import UNet
from ldm.errors import UserError
from ldm.interop import compvis_denoiser, diffusers_denoiser
from ldm.pretrained.torchvision_ops import ensure_torchvision

WHOLE_MODELS = (
    "unconditional_vq",
    "unconditional_kl_scaled",
    "class_crossattention_vq",
    "inpaint_concat_updown_vq",
    "semantic_concat_vq",
    "text_crossattention_kl",
)

PLAIN = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
CROSS = {
    **PLAIN,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": 24,
}
CONFIGS = {
    "self-attention": PLAIN,
    "self-attention, one head, adaptive norm": {
        **PLAIN,
        "attention_head_dim": None,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,
        "block_out_channels": (64, 96, 128),
        "layers_per_block": 1,
    },
    "self-attention, 8 groups, no sample size": {
        **PLAIN,
        "block_out_channels": (24, 40, 64),
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "sample_size": None,
    },
    "cross-attention": CROSS,
    "cross-attention, 4 groups": {**CROSS, "block_out_channels": (20, 36, 36), "norm_num_groups": 4},
    "cross-attention, two blocks, constant head width, linear": {
        **CROSS,
        "layers_per_block": 1,
        "transformer_layers_per_block": 2,
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
    },
}


def diffusers_unet(config):
    """A UNet of diffusers with every weight random, in float64."""
    ensure_torchvision()
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DConditionModel if "cross_attention_dim" in config else diffusers.UNet2DModel
    unet = theirs(**config).eval().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return unet


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_predictions_and_gradients_equal_those_of_diffusers(name, dtype, tolerance):
    theirs = diffusers_unet(CONFIGS[name]).to(dtype)
    # The config as a file gives it: lists for tuples, and all defaults spelt out.
    config = json.loads(theirs.to_json_string())
    ours = UNet(**diffusers_denoiser.unet_arguments(config)).to(dtype)
    ours.load_state_dict(diffusers_denoiser.unet_state(theirs.state_dict(), ours))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 8, generator=generator, dtype=dtype).requires_grad_()
    index = torch.tensor([0, 17, 999])
    context = torch.randn(3, 5, 24, generator=generator, dtype=dtype) if "cross_attention_dim" in config else None
    expected = theirs(x, index).sample if context is None else theirs(x, index, context).sample
    out = ours(x, index, context)
    gradients = [torch.autograd.grad(result.square().sum(), x)[0] for result in (out, expected)]
    for mine, yours in ((out, expected), gradients):
        assert (mine - yours).abs().max() < tolerance * yours.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ({"norm_num_groups": 24}, "multiples of norm_num_groups=24"),
        ({"attn_norm_num_groups": 16}, "attn_norm_num_groups=16 beside norm_num_groups=32"),
        ({"downsample_padding": 0}, "downsample_padding=0"),
        ({"block_out_channels": (48, 64, 64)}, "multiples of norm_num_groups=32"),
        ({"down_block_types": ("SkipDownBlock2D",) * 3}, "'SkipDownBlock2D'"),
        ({"up_block_types": ("UpBlock2D",) * 3}, r"levels \[1, 2\] down but \[\] up"),
        ({"layers_per_block": (1, 2, 2)}, r"layers_per_block=\[1, 2, 2\]"),
        ({"resnet_time_scale_shift": "scale_shift"}, "middle attention has no norm"),
        ({"num_class_embeds": 7, "cross_attention_dim": 24}, "num_class_embeds=7 beside cross_attention_dim"),
    ],
)
def test_diffusers_configs_of_another_architecture_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        diffusers_denoiser.unet_arguments({**PLAIN, **change})


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("self")])
def test_classes_added_to_the_time_embedding_equal_those_of_diffusers(name, dtype, tolerance):
    theirs = diffusers_unet({**CONFIGS[name], "num_class_embeds": 7}).float().to(dtype)
    config, weights = json.loads(theirs.to_json_string()), theirs.state_dict()
    ours = diffusers_denoiser.unet_from_diffusers(config, weights).to(dtype)
    told = diffusers_denoiser.classes_from_diffusers(config, weights).to(dtype)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
    index, labels = torch.tensor([0, 17, 999]), torch.tensor([6, 0, 3])
    with torch.no_grad():
        expected = theirs(x, index, labels).sample
        ours_out = ours(x, index, told({"label": labels}).context)
        other = ours(x, index, told({"label": labels.flip(0)}).context)
    assert (ours_out - expected).abs().max() < tolerance * expected.abs().max()
    assert (other - expected).abs().max() > 1e-2 * expected.abs().max()


def test_diffusers_weights_must_be_neither_fewer_nor_more():
    theirs = diffusers_unet(PLAIN)
    weights = theirs.state_dict()
    with pytest.raises(UserError, match="hold 1 more than the UNet needs, such as 'extra'"):
        diffusers_denoiser.unet_from_diffusers(PLAIN, {**weights, "extra": torch.zeros(1)})
    del weights["mid_block.attentions.0.to_k.bias"]
    with pytest.raises(UserError, match=r"no 'mid_block\.attentions\.0\.to_k\.bias'"):
        diffusers_denoiser.unet_from_diffusers(PLAIN, weights)


def compvis_model(folder: Path):
    """The yaml's model parameters and the checkpoint's state dict."""
    params = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]
    checkpoint = torch.load(folder / "model.ckpt", weights_only=True, map_location="cpu")
    return params, checkpoint["state_dict"]


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("name", WHOLE_MODELS)
@torch.no_grad()
def test_predictions_equal_those_of_the_reference(name, shared_data):
    folder = shared_data / "fixtures" / "compvis" / name
    params, checkpoint = compvis_model(folder)
    expected = load_file(folder / "expected.safetensors")
    condition = {"context": expected.get("context"), "concat": expected.get("concat_map")}
    for ema, key in ((False, "eps_raw_weights"), (True, "eps_ema_weights")):
        unet = compvis_denoiser.unet_from_compvis(params["unet_config"]["params"], checkpoint, ema).eval()
        out = unet(expected["z_t"], expected["timestep"], **condition)
        error = (out - expected[key]).abs().max() / expected[key].abs().max()
        assert error < 1e-4, key


@pytest.mark.data
@pytest.mark.parametrize("name", ["inpaint_concat_updown_vq", "text_crossattention_kl", "unconditional_vq"])
def test_weights_go_out_under_the_names_and_shapes_they_came_in(name, shared_data):
    params, checkpoint = compvis_model(shared_data / "fixtures" / "compvis" / name)
    unet = compvis_denoiser.unet_from_compvis(params["unet_config"]["params"], checkpoint, ema=False)
    given = {key: value.float() for key, value in checkpoint.items() if key.startswith("model.diffusion_model.")}
    written = compvis_denoiser.compvis_unet_state(unet)
    assert {key: value.shape for key, value in written.items()} == {key: value.shape for key, value in given.items()}
    assert all(torch.equal(written[key], given[key]) for key in given)


@pytest.mark.data
def test_class_tokens_equal_those_of_the_reference(shared_data):
    folder = shared_data / "fixtures" / "compvis" / "class_crossattention_vq"
    _, checkpoint = compvis_model(folder)
    expected, sampling = load_file(folder / "expected.safetensors"), load_file(folder / "sampling.safetensors")
    conditioning = compvis_denoiser.class_conditioning_from_compvis(checkpoint, classes=9)
    context = conditioning({"label": expected["class_label"]}).context
    torch.testing.assert_close(context, expected["context"], rtol=0, atol=1e-7)
    null = conditioning({"label": sampling["null_label"]}).context
    assert torch.equal(conditioning.null({"label": sampling["null_label"]}, len(null)).context, null)
    whole = compvis_denoiser.class_conditioning_from_compvis(checkpoint, classes=10)
    assert torch.equal(whole.embedding.weight, conditioning.embedding.weight)
    with pytest.raises(UserError, match="without a null class"):
        whole.null({"label": torch.tensor([0])}, 1)
    with pytest.raises(UserError, match="10 rows, which do not fit 11 classes"):
        compvis_denoiser.class_conditioning_from_compvis(checkpoint, classes=11)


COMPVIS = {
    "image_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "attention_resolutions": [2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 16,
}


def test_attention_factors_become_sides_and_the_new_head_order_is_told_apart():
    arguments = compvis_denoiser.unet_arguments(
        {**COMPVIS, "attention_resolutions": [4, 2, 16], "use_new_attention_order": True}
    )
    assert arguments["attention_sides"] == (2, 4)
    assert arguments["head_order"] == "qkv_first"
    assert compvis_denoiser.unet_arguments(COMPVIS)["head_order"] == "heads_first"


def test_a_head_width_wins_over_a_number_of_heads_as_in_the_reference():
    arguments = compvis_denoiser.unet_arguments({**COMPVIS, "num_heads": 2})
    assert (arguments["num_head_channels"], arguments["num_heads"]) == (16, None)
    arguments = compvis_denoiser.unet_arguments({**COMPVIS, "num_heads": 2, "num_head_channels": -1})
    assert (arguments["num_head_channels"], arguments["num_heads"]) == (None, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 10}, "sets num_classes"),
        ({"dims": 3}, "sets dims"),
        ({"novelty": 1}, "sets novelty"),
        ({"context_dim": 24}, "use_spatial_transformer and context_dim together"),
    ],
)
def test_compvis_options_of_another_architecture_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        compvis_denoiser.unet_arguments({**COMPVIS, **change})


def test_compvis_weights_must_be_neither_fewer_nor_more_nor_of_another_size():
    source = UNet(**compvis_denoiser.unet_arguments(COMPVIS))
    weights = compvis_denoiser.compvis_unet_state(source)
    with pytest.raises(UserError, match=r"no weight 'model_ema\.diffusion_modeltime_embed0weight'"):
        compvis_denoiser.unet_from_compvis(COMPVIS, weights, ema=True)
    with pytest.raises(UserError, match="1 weights that the UNet of its yaml lacks"):
        compvis_denoiser.unet_from_compvis(COMPVIS, {**weights, "model.diffusion_model.x": torch.zeros(1)}, ema=False)
    with pytest.raises(UserError, match=r"'model.diffusion_model.out.2.bias' has shape \(4,\)"):
        compvis_denoiser.unet_from_compvis(
            COMPVIS, {**weights, "model.diffusion_model.out.2.bias": torch.zeros(4)}, ema=False
        )
