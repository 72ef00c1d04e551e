"""Exports: loaded by diffusers they sample what this program samples; read back they are the same bit for bit."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from ldm.conditioning import ClassConditioning, SuperResolutionConditioning, Unconditional
from ldm.conditioning.contract import Condition
from ldm.denoiser import UNet
from ldm.diffusion import DenoisingModel, Guidance, guided, make_schedule
from ldm.errors import UserError
from ldm.first_stage import IdentityFirstStage, build_first_stage
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.tiny import TinyFirstStage, TinyLevel, tiny_decoder, tiny_encoder
from ldm.interop import load
from ldm.interop.diffusers_denoiser import unet_state
from ldm.interop.export import TrainedModel, is_plain, write_pipeline
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.samplers import DDIM, sample, time_grid

SIDE, CLASSES = 8, 3


@pytest.fixture(scope="module")
def diffusers():
    ensure_torchvision()
    return pytest.importorskip("diffusers")


def shaken(module):
    """Every weight random, also those that start at zero; for use."""
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def first_stage(regulariser, **changes):
    if regulariser == "identity":
        return IdentityFirstStage()
    sizes = {"channels": 4, "ch": 16, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "attn_sides": (16,)}
    return build_first_stage(
        regulariser=regulariser,
        factor=4,
        resolution=4 * SIDE,
        mid_attention=True,
        dropout=0.0,
        options={"vq": {"codes": 11}, "fsq": {"levels": [5] * 4}}.get(regulariser, {}),
        **sizes,
        **changes,
    )


ONE_NUMBER = LatentScale(torch.zeros(4).double(), torch.full((4,), 1.7).double())
BY_CHANNEL = LatentScale(torch.tensor([0.3, -1.0, 0.0, 2.0]).double(), torch.tensor([1.0, 0.5, 2.0, 3.0]).double())


def trained(regulariser="kl", classes=None, scale=ONE_NUMBER, target="eps", schedule="scaled_linear", **unet):
    """A model of random weights, as a training might leave it."""
    torch.manual_seed(0)
    channels = 3 if regulariser == "identity" else 4
    conditioning = Unconditional() if classes is None else ClassConditioning(classes, 12)
    widths = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 2, "num_head_channels": 16, **unet}
    network = UNet(
        in_channels=channels,
        out_channels=channels,
        latent_side=SIDE,
        attention_sides=(4,),
        context_dim=conditioning.context_dim,
        **widths,
    )
    if regulariser == "identity":
        scale = LatentScale(scale.shift[:3], scale.std[:3])
    return TrainedModel(
        shaken(first_stage(regulariser)),
        scale,
        shaken(network),
        shaken(conditioning),
        make_schedule(schedule),
        target,
        SIDE,
    )


def ours(model, x_T, steps, labels=None, scale=1.0):
    """The image and the latent that this program samples."""
    fields = {} if labels is None else {"label": labels}
    condition = model.conditioning(fields)
    null = model.conditioning.null(fields, len(x_T)) if scale != 1 else None
    denoise = guided(DenoisingModel(model.network, model.schedule, model.target), condition, null, Guidance(scale))
    times = time_grid(model.spacing, steps, model.final)
    *_, z = sample(DDIM(model.schedule), denoise, x_T, times, lambda shape: torch.zeros(1))
    return model.first_stage.decode(model.scale.denormalise(z)), z


def noise(model, n=2):
    shape = (n, model.network.in_channels, SIDE, SIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def assert_close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    deviation = (found - expected).abs().max() / expected.abs().max()
    assert deviation < tolerance, f"deviates by {deviation:.2e} of the largest value"


def as_image(array):
    """A pipeline's array (N, H, W, 3) in [0, 1] as our image."""
    return torch.from_numpy(array).permute(0, 3, 1, 2) * 2 - 1


@pytest.mark.long
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_unconditional_models_are_plain_pipelines(diffusers, tmp_path, regulariser):
    model = trained(regulariser)
    assert is_plain(model)
    write_pipeline(tmp_path / "out", model, "")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline) is diffusers.LDMPipeline
    kind = diffusers.AutoencoderKL if regulariser == "kl" else diffusers.VQModel
    assert type(pipeline.vqvae) is kind
    assert type(pipeline.unet) is diffusers.UNet2DModel
    assert not list((tmp_path / "out").rglob("*.py"))
    # The pipeline draws the noise itself, the generator decides which.
    x_T = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    found = pipeline(2, torch.Generator().manual_seed(7), num_inference_steps=10, output_type="np").images
    assert_close(as_image(found), ours(model, x_T, 10)[0].clamp(-1, 1))


CASES = {
    "classes": {"classes": CLASSES},
    "classes, guided": {"classes": CLASSES},
    "classes, codes": {"classes": CLASSES, "regulariser": "vq"},
    "scale by channel": {"scale": BY_CHANNEL},
    "scale by channel, codes": {"scale": BY_CHANNEL, "regulariser": "vq"},
    "pixels": {"regulariser": "identity", "scale": BY_CHANNEL},
    "narrow": {"model_channels": 16},
    "8 groups, classes": {"classes": CLASSES, "model_channels": 24, "num_head_channels": 8, "norm_groups": 8},
    "narrow, classes": {"classes": CLASSES, "channel_mult": (1, 3.125), "num_head_channels": None, "num_heads": 4},
    "adaptive norms": {"use_scale_shift_norm": True, "model_channels": 24, "num_head_channels": 24},
    "v": {"target": "v", "classes": CLASSES},
    "x0, cosine": {"target": "x0", "schedule": "cosine", "classes": CLASSES},
    "linear": {"schedule": "linear", "classes": CLASSES},
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_other_models_bring_their_pipeline(diffusers, tmp_path, name):
    model = trained(**CASES[name])
    assert not is_plain(model)
    write_pipeline(tmp_path / "out", model, "the card")
    assert (tmp_path / "out" / "README.md").read_text() == "the card"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    x_T = noise(model)
    labels = torch.tensor([2, 0]) if "classes" in CASES[name] else None
    scale = 2.5 if "guided" in name else 1.0
    image, z = ours(model, x_T, 10, labels, scale)
    told = {} if labels is None else {"class_labels": labels, "guidance_scale": scale}
    told |= {"latents": x_T, "batch_size": 2, "num_inference_steps": 10}
    assert_close(pipeline(**told, output_type="latent").images, z)
    assert_close(as_image(pipeline(**told, output_type="np").images), image.clamp(-1, 1))


@pytest.mark.long
def test_networks_and_scheduler_by_their_own_classes(diffusers, tmp_path):
    """As the model card says it is done by hand."""
    model = trained(classes=CLASSES)
    folder = tmp_path / "out"
    write_pipeline(folder, model, "")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    coder = diffusers.AutoencoderKL.from_pretrained(folder / "vqvae")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    [table] = load_file(folder / "class_embedding" / "diffusion_pytorch_model.safetensors").values()
    labels = torch.tensor([1, 2])
    x_T = z = noise(model)
    scheduler.set_timesteps(20)
    with torch.no_grad():
        for step in scheduler.timesteps:
            z = scheduler.step(unet(z, step, table[labels][:, None]).sample, step, z).prev_sample
        image = coder.decode(z / coder.config.scaling_factor).sample
    expected_image, expected = ours(model, x_T, 20, labels)
    assert_close(z, expected)
    assert_close(image, expected_image)


@pytest.mark.long
@pytest.mark.parametrize("name", [*CASES, "plain"])
def test_read_back_it_is_the_same_bit_for_bit(tmp_path, name):
    model = trained(**CASES.get(name, {}))
    write_pipeline(tmp_path / "out", model, "")
    back = load(tmp_path / "out")
    assert back.weights == "ema"
    with pytest.raises(UserError, match=r"weights=raw, but the UNet of .* has its moving average"):
        load(tmp_path / "out", "raw")
    own = model.network
    expected = own.state_dict()
    heads_first = UNet.state_dict(back.network)
    z, step = noise(model), torch.tensor([3, 700])
    labels = torch.tensor([1, 2])
    given = model.conditioning({"label": labels}) if "classes" in CASES.get(name, {}) else Condition()
    assert torch.equal(back.network(z, step, given.context), own(z, step, given.context))
    assert heads_first.keys() == expected.keys()
    for key, value in expected.items():
        if "qkv" not in key:  # whose rows diffusers orders otherwise
            assert torch.equal(heads_first[key], value)
    if given.context is not None:
        assert torch.equal(back.conditioning(labels), given.context)
        assert back.conditioning.named.null_class == CLASSES
    if back.first_stage is not None:
        theirs, mine = back.first_stage.state_dict(), model.first_stage.state_dict()
        assert theirs.keys() == mine.keys()
        assert all(torch.equal(theirs[key], mine[key]) for key in mine)
        scale = back.latent_scale()
        torch.testing.assert_close(scale.std, model.scale.std, rtol=1e-15, atol=0)
        assert torch.equal(scale.shift, model.scale.shift)
    torch.testing.assert_close(back.schedule.alpha_bar, model.schedule.alpha_bar, rtol=1e-9, atol=0)
    assert back.target == model.target


def test_joint_projections_go_out_and_come_back(tmp_path):
    model = trained()
    write_pipeline(tmp_path / "out", model, "")
    weights = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    back = unet_state(weights, model.network)
    assert any("qkv" in key for key in back)
    assert all(torch.equal(back[key], value) for key, value in model.network.state_dict().items())


@pytest.mark.long
@pytest.mark.parametrize(
    ("spacing", "final", "steps"), [("leading", "alpha0", 10), ("uniform", "alpha0", 20), ("leading", "clean", 5)]
)
def test_the_samplers_grid_and_end_are_the_schedulers(diffusers, tmp_path, spacing, final, steps):
    model = dataclasses.replace(trained(), spacing=spacing, final=final)
    write_pipeline(tmp_path / "out", model, "")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    x_T = z = noise(model)
    pipeline.scheduler.set_timesteps(steps)
    with torch.no_grad():
        for step in pipeline.scheduler.timesteps:
            z = pipeline.scheduler.step(pipeline.unet(z, step).sample, step, z).prev_sample
    assert_close(z, ours(model, x_T, steps)[1])


def test_schedules_that_diffusers_names_are_named(tmp_path):
    for schedule, name in (("scaled_linear", "scaled_linear"), ("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        write_pipeline(tmp_path / schedule, trained(schedule=schedule), "")
        config = json.loads((tmp_path / schedule / "scheduler" / "scheduler_config.json").read_text())
        assert config["beta_schedule"] == name
        assert "trained_betas" not in config
        if schedule == "scaled_linear":
            assert (config["beta_start"], config["beta_end"]) == (0.0015, 0.0195)


def test_what_diffusers_has_not_is_refused(tmp_path):
    model = trained()
    tiny = TinyFirstStage(tiny_encoder(4, 8, [TinyLevel(1)] * 3), tiny_decoder(4, 8, [TinyLevel(1)] * 3))
    for change, message in (
        ({"schedule": make_schedule("flow"), "target": "flow"}, "none that a DDIMScheduler knows"),
        ({"spacing": "quadratic"}, "sampler.spacing=quadratic"),
        ({"spacing": "neutral"}, "sampler.spacing=neutral"),
        ({"first_stage": tiny}, "TinyFirstStage has no class in diffusers"),
        ({"first_stage": first_stage("fsq")}, "FSQFirstStage has no class in diffusers: it cannot be exported"),
        ({"first_stage": first_stage("lfq")}, "LFQFirstStage has no class in diffusers"),
        ({"first_stage": first_stage("bsq")}, "BSQFirstStage has no class in diffusers"),
        ({"first_stage": first_stage("kl", family="dc")}, "diffusers has no KLFirstStage with a DCEncoder"),
        ({"conditioning": SuperResolutionConditioning(4, 4)}, "SuperResolutionConditioning cannot be exported"),
        ({"network": trained(resblock_updown=True).network}, "resblock_updown=true has no counterpart"),
        ({"network": trained(fold=2).network}, "fold=2 has no counterpart"),
    ):
        with pytest.raises(UserError, match=message):
            write_pipeline(tmp_path / "out", dataclasses.replace(model, **change), "")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        write_pipeline(tmp_path / "there", model, "")
