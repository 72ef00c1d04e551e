"""First stages against diffusers, against outputs of the reference implementation, and against published sizes."""

import ast

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.errors import UserError
from ldm.first_stage.vq import VQFirstStage
from ldm.interop.compvis_first_stage import build_compvis_first_stage, from_compvis, to_compvis
from ldm.interop.diffusers_first_stage import build_diffusers_first_stage, from_diffusers, to_diffusers
from ldm.pretrained.torchvision_ops import ensure_torchvision

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the largest value."""


@pytest.fixture(scope="module")
def autoencoders():
    """diffusers' autoencoders by kind."""
    ensure_torchvision()
    diffusers = pytest.importorskip("diffusers")
    return {"kl": diffusers.AutoencoderKL, "vq": diffusers.VQModel}


def assert_close(ours, theirs, tolerance):
    """Largest deviation, in parts of the largest value."""
    assert ours.shape == theirs.shape
    deviation = (ours - theirs).abs().max() / theirs.abs().max()
    assert deviation < tolerance, f"deviates by {deviation:.2e} of the largest value"


def perturb(module, seed):
    """Replaces every parameter, so that no bias or scale keeps a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def attention_blocks(levels, attended):
    return {
        "down_block_types": tuple(
            "AttnDownEncoderBlock2D" if i in attended else "DownEncoderBlock2D" for i in range(levels)
        ),
        "up_block_types": tuple(
            "AttnUpDecoderBlock2D" if i in attended else "UpDecoderBlock2D" for i in reversed(range(levels))
        ),
    }


DIFFUSERS_CONFIGS = {
    "kl-f4": ("kl", {"block_out_channels": (32, 64, 64), "latent_channels": 3, **attention_blocks(3, ())}),
    "kl-f8-attention": (
        "kl",
        {
            "block_out_channels": (32, 32, 64, 96),
            "latent_channels": 4,
            "layers_per_block": 2,
            "sample_size": 64,
            **attention_blocks(4, (1, 3)),
        },
    ),
    "kl-f4-widths": (
        "kl",
        {"block_out_channels": (24, 40, 32), "latent_channels": 4, "norm_num_groups": 8, **attention_blocks(3, (1,))},
    ),
    "kl-f2-8-groups": (
        "kl",
        {"block_out_channels": (24, 48), "latent_channels": 5, "norm_num_groups": 8, **attention_blocks(2, ())},
    ),
    "vq-f4-attention": (
        "vq",
        {
            "block_out_channels": (32, 64, 64),
            "latent_channels": 3,
            "vq_embed_dim": 5,
            "num_vq_embeddings": 61,
            **attention_blocks(3, (2,)),
        },
    ),
    "vq-f8-no-attention": (
        "vq",
        {
            "block_out_channels": (32, 32, 64, 64),
            "latent_channels": 4,
            "num_vq_embeddings": 37,
            "mid_block_add_attention": False,
            **attention_blocks(4, ()),
        },
    ),
}


def diffusers_pair(autoencoders, name, dtype):
    """diffusers' model with random weights and ours with the same."""
    kind, config = DIFFUSERS_CONFIGS[name]
    torch.manual_seed(0)
    theirs = autoencoders[kind](**config).to(dtype).eval()
    perturb(theirs, seed=1)
    ours = build_diffusers_first_stage(theirs.config).to(dtype).eval()
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    return theirs, ours


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DIFFUSERS_CONFIGS)
@torch.no_grad()
def test_equals_diffusers(autoencoders, name, dtype):
    theirs, ours = diffusers_pair(autoencoders, name, dtype)
    image = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(2), dtype=dtype) * 2 - 1
    tolerance = TOLERANCE[dtype]
    if isinstance(ours, VQFirstStage):
        raw = theirs.encode(image).latents
        assert_close(ours.encode(image), raw, tolerance)
        quantised, _, (_, _, indices) = theirs.quantize(raw)
        assert torch.equal(ours.quantise(raw).indices.flatten(), indices.flatten())
        assert_close(ours.quantise(raw).latent, quantised, tolerance)
        assert_close(ours.decode(raw), theirs.decode(raw).sample, tolerance)
    else:
        posterior = theirs.encode(image).latent_dist
        ours_posterior = ours.encode(image)
        assert_close(ours_posterior.mean, posterior.mean, tolerance)
        assert_close(ours_posterior.logvar, posterior.logvar, tolerance)
        assert_close(ours.decode(posterior.mean), theirs.decode(posterior.mean).sample, tolerance)


@pytest.mark.long
@pytest.mark.parametrize("name", ["kl-f8-attention", "vq-f4-attention"])
def test_gradients_equal_diffusers(autoencoders, name):
    """One training pass gives the same loss and the same gradient of the first and the last convolution."""
    theirs, ours = diffusers_pair(autoencoders, name, torch.float64)
    theirs.train()
    ours.train()
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    if isinstance(ours, VQFirstStage):
        quantised, regularisation, _ = theirs.quantize(theirs.encode(image).latents)
        their_image = theirs.decode(quantised, force_not_quantize=True).sample
        reconstruction = ours.forward_train(image)
        ours_regularisation = reconstruction.regularisation["codebook"]
    else:
        posterior = theirs.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        their_image = theirs.decode(posterior.mean + posterior.std * noise).sample
        regularisation = posterior.kl().mean()
        reconstruction = ours.forward_train(image, noise)
        ours_regularisation = reconstruction.regularisation["kl"]
    assert_close(reconstruction.image, their_image, 1e-9)
    assert_close(ours_regularisation, regularisation, 1e-9)
    (their_image.square().mean() + 1e-2 * regularisation).backward()
    (reconstruction.image.square().mean() + 1e-2 * ours_regularisation).backward()
    assert_close(ours.encoder.stem.weight.grad, theirs.encoder.conv_in.weight.grad, 1e-9)
    assert_close(ours.last_layer.grad, theirs.decoder.conv_out.weight.grad, 1e-9)
    if isinstance(ours, VQFirstStage):
        assert_close(ours.quantiser.codebook.grad, theirs.quantize.embedding.weight.grad, 1e-9)


@pytest.mark.parametrize("name", DIFFUSERS_CONFIGS)
def test_diffusers_names_are_inverted(autoencoders, name):
    theirs, ours = diffusers_pair(autoencoders, name, torch.float32)
    exported = to_diffusers(ours.state_dict())
    expected = theirs.state_dict()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[key], expected[key]) for key in expected)


def test_former_diffusers_attention_names(autoencoders):
    theirs, ours = diffusers_pair(autoencoders, "kl-f4", torch.float32)
    former = {
        key.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): value
        for key, value in theirs.state_dict().items()
    }
    assert former.keys() != theirs.state_dict().keys()
    translated, expected = from_diffusers(former), ours.state_dict()
    assert translated.keys() == expected.keys()
    assert all(torch.equal(translated[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"act_fn": "relu"}, "act_fn"),
        ({"up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")}, "up_block_types"),
    ],
)
def test_other_diffusers_networks_are_refused(change, named):
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (32, 64),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "sample_size": 32,
        **attention_blocks(2, (1,)),
    }
    build_diffusers_first_stage(config)
    with pytest.raises(UserError, match=named):
        build_diffusers_first_stage({**config, **change})


FIXTURES = [
    "kl_f4",
    "kl_f8_attention",
    "vq_f2_no_attention",
    "vq_f4_attention",
    "class_crossattention_vq",
    "inpaint_concat_updown_vq",
    "semantic_concat_vq",
    "text_crossattention_kl",
    "unconditional_kl_scaled",
    "unconditional_vq",
]


def load_fixture(folder):
    """First stage, its CompVis state, and the outputs to expect, of a first stage alone or within a whole LDM."""
    params = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]
    state = torch.load(folder / "model.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    expected = load_file(folder / "expected.safetensors")
    prefix = ""
    if "first_stage_config" in params:
        params, prefix = params["first_stage_config"]["params"], "first_stage_model."
        mark = "first_stage."
        expected = {key.removeprefix(mark): value for key, value in expected.items() if key.startswith(mark)}
    first_stage = build_compvis_first_stage(params).eval()
    first_stage.load_state_dict(from_compvis(state, prefix))
    return first_stage, state, expected


@pytest.mark.data
@pytest.mark.parametrize("name", FIXTURES)
@torch.no_grad()
def test_equals_the_reference(shared_data, name):
    first_stage, _, expected = load_fixture(shared_data / "fixtures" / "compvis" / name)
    encoding = first_stage.encode(expected["image"])
    if isinstance(first_stage, VQFirstStage):
        assert_close(encoding, expected["pre_quantisation"], 1e-4)
        quantised = first_stage.quantise(expected["pre_quantisation"])
        assert torch.equal(quantised.indices, expected["indices"].view_as(quantised.indices))
        assert_close(quantised.latent, expected["quantised"], 1e-4)
        assert_close(first_stage.decode(expected["pre_quantisation"]), expected["decoded"], 1e-4)
        assert_close(first_stage.decode_quantised(expected["quantised"]), expected["decoded"], 1e-4)
    else:
        assert_close(encoding.mean, expected["mean"], 1e-4)
        assert_close(encoding.logvar, expected["logvar"], 1e-4)
        assert_close(first_stage.decode(expected["mean"]), expected["decoded"], 1e-4)


@pytest.mark.data
@pytest.mark.parametrize("name", ["kl_f8_attention", "vq_f4_attention", "unconditional_vq"])
def test_compvis_names_are_inverted(shared_data, name):
    first_stage, state, _ = load_fixture(shared_data / "fixtures" / "compvis" / name)
    prefix = "first_stage_model." if name == "unconditional_vq" else ""
    exported = to_compvis(first_stage.state_dict(), prefix)
    networks = tuple(prefix + part for part in ("encoder.", "decoder.", "quant", "post_quant"))
    expected = {key: value for key, value in state.items() if key.startswith(networks)}
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[key], expected[key].float()) for key in expected)


def ddconfig(text):
    """A ddconfig as the table of published sizes writes it: "key=value; key=value"."""
    pairs = (item.split("=") for item in text.split("; "))
    return {key: value if value == "none" else ast.literal_eval(value) for key, value in pairs}


COMMON = "resolution=256; in_channels=3; out_ch=3; ch=128; num_res_blocks=2; dropout=0.0; "

# Parameters of encoder and decoder, without the 1x1 quantisation convolutions, counted on the architecture of
# github.com/CompVis/latent-diffusion at commit a506df57.
PUBLISHED_SIZES = {
    "kl-f4": ("double_z=True; z_channels=3; ch_mult=[1, 2, 4]; attn_resolutions=[]", 22351238, 32960771),
    "kl-f8": ("double_z=True; z_channels=4; ch_mult=[1, 2, 4, 4]; attn_resolutions=[]", 34163592, 49490179),
    "kl-f16": ("double_z=True; z_channels=16; ch_mult=[1, 1, 2, 2, 4]; attn_resolutions=[16]", 28265760, 41343875),
    "kl-f32": (
        "double_z=True; z_channels=64; ch_mult=[1, 1, 2, 2, 4, 4]; attn_resolutions=[16, 8]",
        42614656,
        61244803,
    ),
    "vq-f4": ("double_z=False; z_channels=3; ch_mult=[1, 2, 4]; attn_resolutions=[]", 22337411, 32960771),
    "vq-f4-noattn": (
        "attn_type=none; double_z=False; z_channels=3; ch_mult=[1, 2, 4]; attn_resolutions=[]",
        21285763,
        31909123,
    ),
    "vq-f16": ("double_z=False; z_channels=8; ch_mult=[1, 1, 2, 2, 4]; attn_resolutions=[16]", 28155144, 41307011),
}


def test_other_compvis_networks_are_refused():
    config = ddconfig(COMMON + PUBLISHED_SIZES["kl-f4"][0])
    params = {"embed_dim": 3, "ddconfig": config}
    for key, value in {"attn_type": "linear", "tanh_out": True, "double_z": False}.items():
        with torch.device("meta"), pytest.raises(UserError, match=key):
            build_compvis_first_stage({**params, "ddconfig": {**config, key: value}})
    with pytest.raises(UserError, match="embed_dim"):
        build_compvis_first_stage({"ddconfig": config})
    with pytest.raises(UserError, match=r"encoder\.surprise"):
        from_compvis({"encoder.surprise.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_parameters_of_the_released_models(name):
    text, encoder, decoder = PUBLISHED_SIZES[name]
    config = ddconfig(COMMON + text)
    params = {"embed_dim": config["z_channels"], "ddconfig": config} | ({} if config["double_z"] else {"n_embed": 16})
    with torch.device("meta"):
        first_stage = build_compvis_first_stage(params)
    assert sum(p.numel() for p in first_stage.encoder.parameters()) == encoder
    assert sum(p.numel() for p in first_stage.decoder.parameters()) == decoder
