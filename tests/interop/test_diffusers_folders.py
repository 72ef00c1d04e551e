"""Folders that diffusers wrote, read without it: the same numbers as its own classes give."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.errors import UserError
from ldm.first_stage.contract import Gaussian
from ldm.interop import load, load_first_stage, sample
from ldm.pretrained.torchvision_ops import ensure_torchvision

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the largest value."""

WIDTHS = {"block_out_channels": (32, 64), "layers_per_block": 1}
CODER = {
    **WIDTHS,
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
FIRST_STAGES = {
    "kl": ("AutoencoderKL", {**CODER, "latent_channels": 4, "scaling_factor": 0.3, "shift_factor": 0.2}),
    "kl-unprojected": (
        "AutoencoderKL",
        {**CODER, "latent_channels": 4, "use_quant_conv": False, "use_post_quant_conv": False},
    ),
    "vq": ("VQModel", {**CODER, "latent_channels": 3, "num_vq_embeddings": 13, "vq_embed_dim": 4}),
    "tiny": (
        "AutoencoderTiny",
        {
            "latent_channels": 4,
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
        },
    ),
    "asymmetric": (
        "AsymmetricAutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "down_block_out_channels": (32, 64),
            "layers_per_down_block": 1,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "up_block_out_channels": (32, 96),
            "layers_per_up_block": 2,
        },
    ),
    "deep-compression": (
        "AutoencoderDC",
        {
            "latent_channels": 8,
            "attention_head_dim": 8,
            "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (16, 32, 64),
            "decoder_block_out_channels": (16, 32, 64),
            "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "encoder_qkv_multiscales": ((), (), (5,)),
            "decoder_qkv_multiscales": ((), (), (5,)),
            "scaling_factor": 0.4,
        },
    ),
}
PLAIN = {
    **WIDTHS,
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
}
CROSS = {
    **WIDTHS,
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
}


@pytest.fixture(scope="module")
def diffusers():
    ensure_torchvision()
    return pytest.importorskip("diffusers")


def made(kind, config, seed=0):
    """A model of diffusers with every weight random, of a size that keeps networks alive."""
    torch.manual_seed(seed)
    model = kind(**config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    deviation = (ours - theirs).abs().max() / theirs.abs().max()
    assert deviation < tolerance, f"deviates by {deviation:.2e} of the largest value"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_equal_their_classes(diffusers, tmp_path, name, dtype):
    kind, config = FIRST_STAGES[name]
    theirs = made(getattr(diffusers, kind), config)
    theirs.save_pretrained(tmp_path)
    theirs.to(dtype)
    loaded = load(tmp_path)
    assert (loaded.network, loaded.conditioning, loaded.schedule) == (None, None, None)
    assert loaded.scale == theirs.config.scaling_factor
    assert loaded.shift == (theirs.config.get("shift_factor") or 0)
    first_stage = loaded.first_stage.to(dtype)
    image = normal(2, 3, 16, 24, dtype=dtype).clamp(-1, 1)
    encoding, expected = first_stage.encode(image), theirs.encode(image)
    raw = first_stage.latent(first_stage.pack(encoding))
    if isinstance(encoding, Gaussian):
        assert_close(encoding.mean, expected.latent_dist.mean, TOLERANCE[dtype])
        assert_close(encoding.logvar, expected.latent_dist.logvar, TOLERANCE[dtype])
        assert first_stage.cache_channels == 2 * first_stage.channels
    else:
        assert_close(raw, expected[0], TOLERANCE[dtype])
        assert first_stage.cache_channels == first_stage.channels
    assert raw.shape == (2, first_stage.channels, 16 // first_stage.factor, 24 // first_stage.factor)
    assert_close(first_stage.decode(raw), theirs.decode(raw).sample, TOLERANCE[dtype])
    assert first_stage.last_layer.shape[0] == 3


@pytest.mark.parametrize("name", ["asymmetric", "deep-compression"])
def test_wrapped_first_stages_train(diffusers, tmp_path, name):
    kind, config = FIRST_STAGES[name]
    made(getattr(diffusers, kind), config).save_pretrained(tmp_path)
    first_stage = load(tmp_path).first_stage.requires_grad_(True).train()
    trained = first_stage(normal(2, 3, 16, 16))
    assert set(trained.regularisation) == ({"kl"} if name == "asymmetric" else set())
    (trained.image.square().mean() + sum(trained.regularisation.values())).backward()
    assert first_stage.last_layer.grad.abs().max() > 0


def test_latent_statistics_by_channel_are_scale_and_shift(diffusers, tmp_path):
    mean, std = [0.5, -1.0, 0.0, 2.0], [1.0, 2.0, 4.0, 0.5]
    config = {**CODER, "latent_channels": 4, "scaling_factor": 0.5, "latents_mean": mean, "latents_std": std}
    made(diffusers.AutoencoderKL, config).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    raw = normal(2, 4, 3, 5, dtype=torch.float64)
    channel = (-1, 1, 1)
    expected = (raw - torch.tensor(mean).view(channel)) * 0.5 / torch.tensor(std).view(channel)
    assert_close(loaded.latent_scale().normalise(raw), expected.double(), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "config"), [("UNet2DModel", PLAIN), ("UNet2DConditionModel", CROSS)])
def test_networks_equal_their_classes(diffusers, tmp_path, kind, config, dtype):
    own = {**config, "in_channels": 3, "out_channels": 3}
    own |= {"cross_attention_dim": 12} if config is CROSS else {}
    theirs = made(getattr(diffusers, kind), own)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert list(tmp_path.glob("*.index.json"))
    theirs.to(dtype)
    loaded = load(tmp_path)
    assert loaded.first_stage is None
    assert loaded.latent_shape == (3, 8, 8)
    z, timestep = normal(2, 3, 8, 8, dtype=dtype), torch.tensor([3, 800])
    context = (normal(2, 5, 12, dtype=dtype),) if config is CROSS else ()
    assert_close(
        loaded.network.to(dtype)(z, timestep, *context), theirs(z, timestep, *context).sample, TOLERANCE[dtype]
    )


@pytest.mark.long
def test_classes_that_a_network_embeds_itself_are_its_condition(diffusers, tmp_path):
    scheduler = diffusers.DDIMScheduler(**SCHEDULERS["v"], clip_sample=False)
    plain, averaged = (made(diffusers.UNet2DModel, {**PLAIN, "num_class_embeds": 5}, seed) for seed in (0, 1))
    plain.save_pretrained(tmp_path / "alone")
    diffusers.DDPMPipeline(plain, scheduler).save_pretrained(tmp_path / "pipeline")
    averaged.save_pretrained(tmp_path / "pipeline" / "unet_ema")
    x_T, labels = normal(2, 3, 8, 8), torch.tensor([4, 1])
    model = load(tmp_path / "alone")
    expected = plain(x_T, 5, labels).sample
    assert_close(model.network(x_T, torch.tensor([5, 5]), model.conditioning(labels)), expected, 1e-5)
    for weights, unet in (("raw", plain), ("auto", averaged)):
        model = load(tmp_path / "pipeline", weights)
        z = sample(model, x_T, 4, spacing="trailing", final="clean", condition=labels)
        assert_close(z, denoised(scheduler, lambda z, step, unet=unet: unet(z, step, labels).sample, x_T, 4))


def test_attention_under_its_former_names(diffusers, tmp_path):
    theirs = made(diffusers.UNet2DModel, PLAIN)
    theirs.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in load_file(weights).items():
        for current, before in former.items():
            name = name.replace(f".{current}.", f".{before}.")
        renamed[name] = value
    assert any("proj_attn" in name for name in renamed)
    weights.unlink()
    torch.save(renamed, tmp_path / "diffusion_pytorch_model.bin")
    z = normal(2, 3, 8, 8)
    assert_close(load(tmp_path).network(z, torch.tensor([7, 7])), theirs(z, 7).sample)


def denoised(scheduler, network, z, steps):
    """DDIM as diffusers' pipelines run it."""
    scheduler.set_timesteps(steps)
    for step in scheduler.timesteps:
        z = scheduler.step(network(z, step), step, z).prev_sample
    return z


SCHEDULERS = {
    "latent-diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "set_alpha_to_one": True,
    },
    "v": {"beta_schedule": "linear", "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "clean": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "timestep_spacing": "trailing"},
    "table": {"trained_betas": [0.0005 + 0.00001 * step for step in range(1000)], "timestep_spacing": "trailing"},
}


@pytest.mark.long
@pytest.mark.parametrize("name", SCHEDULERS)
def test_unconditional_pipelines(diffusers, tmp_path, name):
    config = {**SCHEDULERS[name], "clip_sample": False}
    scheduler = diffusers.DDIMScheduler(**config)
    coder = made(diffusers.VQModel, {**FIRST_STAGES["vq"][1], "scaling_factor": 0.7})
    unet = made(diffusers.UNet2DModel, {**PLAIN, "in_channels": 4, "out_channels": 4})
    pipeline = diffusers.LDMPipeline(vqvae=coder, unet=unet, scheduler=scheduler)
    pipeline.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.source == "diffusers LDMPipeline"
    assert model.conditioning is None
    assert model.latent_shape == (4, 8, 8)
    spacing = config.get("timestep_spacing", "leading")
    x_T = normal(2, 4, 8, 8)
    z = sample(model, x_T, 10, spacing=spacing, final="clean")
    expected = denoised(scheduler, lambda z, step: unet(z, step).sample, x_T, 10)
    assert_close(z, expected)
    image = model.first_stage.decode(model.latent_scale().denormalise(z))
    assert_close(image, coder.decode(expected / 0.7).sample)


def bert(diffusers, **changes):
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    sizes = {"vocab_size": 30522, "max_position_embeddings": 9, "encoder_layers": 2, "encoder_ffn_dim": 80}
    return made(LDMBertModel, {"config": LDMBertConfig(**sizes, d_model=20, **changes)})


def text_pipeline(diffusers, folder):
    from ldm.pretrained.text import bert_tokeniser

    tokeniser = bert_tokeniser(9).tokeniser
    scheduler = diffusers.DDIMScheduler(**SCHEDULERS["latent-diffusion"], clip_sample=False)
    coder = made(diffusers.AutoencoderKL, FIRST_STAGES["kl"][1])
    unet = made(diffusers.UNet2DConditionModel, {**CROSS, "cross_attention_dim": 20})
    text = bert(diffusers)
    pipeline = diffusers.LDMTextToImagePipeline(coder, text, tokeniser, unet, scheduler)
    pipeline.save_pretrained(folder)
    return unet, text, scheduler


@pytest.mark.long
@pytest.mark.parametrize("tokeniser_file", ["tokenizer.json", "vocab.txt"])
def test_text_pipelines(diffusers, tmp_path, tokeniser_file):
    unet, text, scheduler = text_pipeline(diffusers, tmp_path)
    if tokeniser_file == "vocab.txt":  # as earlier versions of transformers wrote it
        file = tmp_path / "tokenizer" / "tokenizer.json"
        pieces = json.loads(file.read_text())["model"]["vocab"]
        (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.get)))
        file.unlink()
    model = load(tmp_path)
    tokens = torch.randint(0, 30522, (2, 9), generator=torch.Generator().manual_seed(4))
    context = text(tokens)[0]
    assert_close(model.conditioning(tokens), context)
    null = model.conditioning.named.null_tokens
    assert null.tolist() == [101, 102, 0, 0, 0, 0, 0, 0, 0]
    x_T = normal(2, 4, 8, 8)

    def guided(z, step):
        empty, told = unet(z.repeat(2, 1, 1, 1), step, torch.cat([text(null.expand(2, 9))[0], context])).sample.chunk(2)
        return empty + 3 * (told - empty)

    expected = denoised(scheduler, guided, x_T, 5)
    options = {"spacing": "leading", "final": "clean", "guidance_scale": 3.0}
    z = sample(model, x_T, 5, condition=tokens, null_condition=null.expand(2, 9), **options)
    assert_close(z, expected)


def test_clip_text_encoders(diffusers, tmp_path, clip_folder):
    from transformers import AutoTokenizer, CLIPTextModel

    text = CLIPTextModel.from_pretrained(clip_folder)
    tokeniser = AutoTokenizer.from_pretrained(clip_folder)
    text.save_pretrained(tmp_path / "text_encoder")
    tokeniser.save_pretrained(tmp_path / "tokenizer")
    width = text.config.hidden_size
    unet = made(diffusers.UNet2DConditionModel, {**CROSS, "cross_attention_dim": width})
    unet.save_pretrained(tmp_path / "unet")
    parts = {"text_encoder": ["transformers", "CLIPTextModel"], "unet": ["diffusers", "UNet2DConditionModel"]}
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPTokenizer"], **parts}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))
    model = load(tmp_path)
    named = model.conditioning.named
    tokens = torch.randint(0, 20, (2, named.tokens), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = text(tokens).last_hidden_state
    condition = model.conditioning.condition(tokens)
    assert_close(condition.context, expected)
    assert condition.context_mask.all()
    z = normal(2, 4, 8, 8)
    predicted = model.network(z, torch.tensor([5, 5]), condition.context, context_mask=condition.context_mask)
    assert_close(predicted, unet(z, 5, expected).sample)


def test_super_resolution_pipelines_decode_what_the_network_gives(diffusers, tmp_path):
    coder = made(diffusers.VQModel, {**FIRST_STAGES["vq"][1], "vq_embed_dim": 3})
    unet = made(diffusers.UNet2DModel, {**PLAIN, "in_channels": 6, "out_channels": 3})
    scheduler = diffusers.DDIMScheduler(**SCHEDULERS["latent-diffusion"], clip_sample=False)
    diffusers.LDMSuperResolutionPipeline(coder, unet, scheduler).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert (model.scale, model.shift) == (1.0, 0.0)
    small, x_T = normal(2, 3, 8, 8, seed=5), normal(2, 3, 8, 8)
    z = sample(model, x_T, 5, spacing="leading", final="clean", condition=small)
    expected = denoised(scheduler, lambda z, step: unet(torch.cat([z, small], 1), step).sample, x_T, 5)
    assert_close(z, expected)


def test_the_moving_average_beside_a_network(diffusers, tmp_path):
    plain, averaged = (made(diffusers.UNet2DModel, PLAIN, seed) for seed in (0, 1))
    diffusers.DDPMPipeline(plain, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    z = normal(2, 3, 8, 8)
    with pytest.raises(UserError, match="no unet_ema"):
        load(tmp_path, "ema")
    assert load(tmp_path).weights == "raw"
    averaged.save_pretrained(tmp_path / "unet_ema")
    for asked, taken, network in (("auto", "ema", averaged), ("ema", "ema", averaged), ("raw", "raw", plain)):
        model = load(tmp_path, asked)
        assert model.weights == taken
        assert_close(model.network(z, torch.tensor([5, 5])), network(z, 5).sample)


def test_a_first_stage_of_diffusers_own_moving_average(diffusers, tmp_path):
    from diffusers.training_utils import EMAModel

    coder = made(diffusers.VQModel, FIRST_STAGES["vq"][1])
    EMAModel(coder.parameters(), model_cls=diffusers.VQModel, model_config=coder.config).save_pretrained(tmp_path)
    found = load_first_stage(tmp_path, "ema")
    assert found.weights == load_first_stage(tmp_path).weights == "ema"
    assert_close(found.first_stage.encode(normal(1, 3, 16, 16)), coder.encode(normal(1, 3, 16, 16)).latents)
    with pytest.raises(UserError, match=r"weights=raw, but .* holds a moving average alone"):
        load_first_stage(tmp_path, "raw")


def changed(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.long
def test_what_cannot_be_read_is_named(diffusers, tmp_path):
    whole = tmp_path / "whole"
    coder = made(diffusers.VQModel, FIRST_STAGES["vq"][1])
    unet = made(diffusers.UNet2DModel, {**PLAIN, "in_channels": 4, "out_channels": 4})
    scheduler = diffusers.DDIMScheduler()
    diffusers.LDMPipeline(vqvae=coder, unet=unet, scheduler=scheduler).save_pretrained(whole)
    weights = "unet/diffusion_pytorch_model.safetensors"
    name = "mid_block.resnets.0.conv1.weight"
    held = load_file(whole / weights)

    def refused(file, message, **changes):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        if changes:
            changed(folder / file, **changes)
        else:
            (folder / file).unlink()
        with pytest.raises(UserError, match=message) as raised:
            load(folder)
        assert "\n" not in str(raised.value)

    refused("unet/config.json", "flip_sin_to_cos=False", flip_sin_to_cos=False)
    refused("unet/config.json", "holds a PixArtTransformer2DModel", _class_name="PixArtTransformer2DModel")
    refused("unet/config.json", "the UNet has novelty='deep', an option", novelty="deep")
    refused("vqvae/config.json", "the autoencoder has novelty=2, an option", novelty=2)
    refused("vqvae/config.json", "act_fn", act_fn="relu")
    refused("vqvae/config.json", "ControlNetModel is no autoencoder", _class_name="ControlNetModel")
    refused("vqvae/config.json", "AutoencoderOobleck encodes video or sound", _class_name="AutoencoderOobleck")
    refused("scheduler/scheduler_config.json", "use_flow_sigmas=True", use_flow_sigmas=True)
    refused("scheduler/scheduler_config.json", "beta_schedule=sigmoid", beta_schedule="sigmoid")
    refused("scheduler/scheduler_config.json", "FlowMatch", _class_name="FlowMatchEulerDiscreteScheduler")
    for file, values in {
        "vqvae/config.json": {"scaling_factor": "x", "norm_num_groups": 0, "dropout": -1, "block_out_channels": []},
        "unet/config.json": {"sample_size": "x", "norm_num_groups": 0, "dropout": -1, "layers_per_block": None},
        "model_index.json": {"unet": []},
        "scheduler/scheduler_config.json": {"beta_start": None, "num_train_timesteps": -1},
    }.items():
        for key, value in values.items():
            refused(file, ".", **{key: value})  # whatever the sentence
    refused("vqvae/config.json", r"describes no network .*\(ValueError: could not convert", scaling_factor="x")
    refused("model_index.json", r"part text_encoder_2 \(T5\)", text_encoder_2=["transformers", "T5"])
    refused("unet/config.json", r"unet/config\.json is missing")
    refused(weights, r"unet holds no weights named diffusion_pytorch_model\.safetensors")
    for state, message in (
        ({key: value for key, value in held.items() if key != name}, f"no '{name}'"),
        ({**held, name: held[name][:1]}, rf"'{name}' of shape \(1, 64, 3, 3\); expected \(64, 64, 3, 3\)"),
    ):
        save_file(state, whole / weights)
        with pytest.raises(UserError, match=message):
            load(whole)


def test_the_folder_of_a_moving_average_is_read_as_diffusers_saves_it(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    training_utils = pytest.importorskip("diffusers.training_utils")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    average = training_utils.EMAModel(
        network.parameters(), model_cls=diffusers.UNet2DModel, model_config=network.config
    )
    average.save_pretrained(tmp_path / "unet_ema")
    found = load(tmp_path / "unet_ema", weights="ema")
    assert found.weights == load(tmp_path / "unet_ema").weights == "ema"
    z, step = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    with torch.no_grad():
        torch.testing.assert_close(found.network(z, step), network(z, step).sample, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"weights=raw, but .* moving average"):
        load(tmp_path / "unet_ema", weights="raw")
