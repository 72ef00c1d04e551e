"""The options of the released latent diffusion models are read, and what cannot be is named."""

import pytest
import torch
from compvis_models import RELEASED, made_of, published, write

from ldm import interop
from ldm.denoiser.attention import SelfAttention, SpatialTransformer, TokenAttention
from ldm.errors import UserError

RAW = {
    "cin256-v2": torch.tensor([3, 6]),
    "layout2img-openimages256": torch.arange(22).view(2, 11),
    "txt2img-1p4B": torch.arange(154).view(2, 77),
    "semantic_synthesis512": torch.arange(2048).view(2, 32, 32) % 5,
    "bsr_sr": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16),
    "inpainting_big": {
        "image": torch.linspace(-1, 1, 6144).view(2, 3, 32, 32),
        "mask": torch.ones(2, 1, 32, 32).tril(),
    },
}


@pytest.mark.long
@pytest.mark.parametrize("name", RELEASED)
def test_a_released_models_options_are_read_and_it_samples(name, tmp_path):
    config, state = published(name)
    model = interop.load(write(tmp_path, config, state))
    params, unet = config["model"]["params"], config["model"]["params"]["unet_config"]["params"]
    has_ema = params.get("use_ema", True)
    assert (model.weights, model.latent_shape, model.resolution) == ("ema" if has_ema else "raw", (3, 16, 16), 32)
    taken = "model_ema.diffusion_modelout2bias" if has_ema else "model.diffusion_model.out.2.bias"
    assert torch.equal(model.network.conv_out.bias, state[taken])
    assert model.scale == (0.25 if params.get("scale_by_std") else params.get("scale_factor", 1.0))
    heads = {m.heads for m in model.network.modules() if isinstance(m, SelfAttention | TokenAttention)}
    assert heads == ({unet["num_heads"]} if unet["num_head_channels"] == -1 else {2})  # 64 channels, 32 a head
    depths = {len(m.blocks) for m in model.network.modules() if isinstance(m, SpatialTransformer)}
    assert depths == ({unet["transformer_depth"]} if "context_dim" in unet else set())
    assert (model.conditioning is None) == (name not in RAW)
    x_T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    z = interop.sample(model, x_T, steps=2, condition=RAW.get(name))
    assert z.shape == x_T.shape
    assert z.isfinite().all()


def test_an_inpainting_model_is_told_black_where_the_mask_is_and_the_masks_nearest_pixels(tmp_path):
    model = interop.load(write(tmp_path, *published("inpainting_big")))
    image, mask = RAW["inpainting_big"]["image"], RAW["inpainting_big"]["mask"]
    with torch.no_grad():
        made = model.conditioning({"image": image, "mask": mask})
        latent = model.first_stage.encode(torch.where(mask > 0, torch.tensor(-1.0), image))
    nearest = torch.nn.functional.interpolate(mask, scale_factor=0.5, mode="nearest")
    assert torch.allclose(made, torch.cat([latent, 2 * nearest - 1], dim=1), atol=1e-6)
    assert torch.equal(model.conditioning(made), made)


@pytest.mark.long
def test_a_layout_model_is_told_boxes_or_their_tokens(tmp_path):
    model = interop.load(write(tmp_path, *published("layout2img-openimages256")))
    boxes = torch.tensor([[[4, 0.0, 0.2, 0.6, 0.8], [11, 0.4, 0.0, 1.0, 1.0], [-1.0] * 5]])
    tokens = torch.tensor([[4, 6, 4 * 6 + 3, 11, 2, 35, 39, 39, 39, 0, 35]])
    made = model.conditioning(tokens)
    assert made.shape == (1, 11, 24)
    assert torch.equal(model.conditioning(boxes), made)
    assert torch.equal(model.conditioning({"boxes": boxes}), made)
    assert torch.equal(model.conditioning({"tokens": tokens}), made)
    assert torch.equal(model.conditioning(made), made)


@pytest.mark.long
@pytest.mark.parametrize(("key", "length"), [("caption", 11), ("coordinates_bbox", 10)])
def test_tokens_that_are_no_boxes_are_read_as_they_are(key, length, tmp_path):
    model = RELEASED["layout2img-openimages256"]
    options = {**model["condition"], "params": {**model["condition"]["params"], "max_seq_len": length}}
    params = {**model["params"], "cond_stage_key": key}
    found = interop.load(write(tmp_path, *made_of({**model, "condition": options, "params": params})))
    assert found.conditioning.named.fields == ("tokens",)
    assert found.conditioning(torch.arange(length)[None]).shape == (1, length, 24)


def change(config, state, what):
    """A config and state dict that no longer fit: `what` names the change."""
    params = config["model"]["params"]
    unet, first_stage = params["unet_config"]["params"], params["first_stage_config"]["params"]
    match what:
        case "no levels":
            del first_stage["ddconfig"]["ch_mult"]
        case "no side":
            del unet["image_size"]
        case "no condition":
            del params["cond_stage_config"]
        case "another class":
            config["model"]["target"] = "ldm.models.diffusion.ddpm.LatentUpscaleDiffusion"
        case "an unknown option":
            params["reset_ema"] = True
        case "hybrid conditioning":
            params["conditioning_key"] = "hybrid"
        case "another conditioner":
            params["cond_stage_config"] = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
        case "another schedule":
            params["beta_schedule"] = "sigmoid"
        case "another target":
            params["parameterization"] = "edm"
        case "a remapped codebook":
            first_stage["remap"] = "used.npy"
        case "more classes":
            params["cond_stage_config"]["params"]["n_classes"] = 8
        case "wider tokens":
            unet["context_dim"] = 32
        case "a missing weight":
            del state["model.diffusion_model.middle_block.1.proj_in.weight"]
        case "a weight of another shape":
            state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(16, 3, 3, 3)
        case "one level fewer":
            first_stage["ddconfig"]["ch_mult"] = [1]
        case "only a UNet":
            for name in [name for name in state if name.startswith("first_stage_model.")]:
                del state[name]
        case "no UNet":
            for name in [name for name in state if name.startswith("model.")]:
                del state[name]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no levels", "lacks the key 'ch_mult'"),
        ("no side", "lacks the key 'image_size'"),
        ("no condition", "lacks the key 'cond_stage_config'"),
        ("another class", "LatentUpscaleDiffusion, which this program cannot be: it reads LatentDiffusion"),
        ("an unknown option", "sets reset_ema"),
        ("hybrid conditioning", "conditioning_key=hybrid"),
        ("another conditioner", "conditions by ldm.modules.encoders.modules.FrozenCLIPEmbedder"),
        ("another schedule", "beta_schedule=sigmoid: only linear"),
        ("another target", "parameterization=edm: only eps"),
        ("a remapped codebook", "remap=used.npy"),
        ("more classes", r"embedding.weight' of shape \(7, 24\), but its yaml says \(8, 24\)"),
        ("wider tokens", "tokens of width 32 .* gives width 24"),
        ("a missing weight", "no weight 'model.diffusion_model.middle_block.1.proj_in.weight'"),
        ("a weight of another shape", r"encoder.conv_in.weight' has shape \(16, 3, 3, 3\); expected \(32, 3, 3, 3\)"),
        (
            "one level fewer",
            "weights that the first stage of its yaml lacks, such as 'first_stage_model.decoder.up.0.block.0.nin",
        ),
        ("only a UNet", "whose weights begin with 'first_stage_model.encoder.', but .* looks like a whole CompVis"),
        ("no UNet", "begin with 'model.diffusion_model.', but .* looks like the first stage of a CompVis"),
    ],
)
def test_what_does_not_fit_is_told_by_name(what, message, tmp_path):
    config, state = published("cin256-v2")
    change(config, state, what)
    with pytest.raises(UserError, match=message):
        interop.load(write(tmp_path, config, state), "raw")


def test_the_first_stage_of_a_model_that_cannot_be_read_as_a_whole_can(tmp_path):
    config, state = published("cin256-v2")
    change(config, state, "another conditioner")
    found = interop.load_first_stage(write(tmp_path, config, state))
    assert (found.network, found.first_stage.factor) == (None, 2)
    assert torch.equal(found.first_stage.encoder.stem.weight, state["first_stage_model.encoder.conv_in.weight"])


@pytest.mark.long
def test_weights_that_the_file_has_not_are_refused(tmp_path):
    folder = write(tmp_path / "raw", *published("cin256-v2"))
    with pytest.raises(UserError, match=r"weights=ema, but .* holds no moving average"):
        interop.load(folder, "ema")
    with pytest.raises(UserError, match="weights=mean is none of auto, ema, raw"):
        interop.load(folder, "mean")
    config, state = published("lsun_churches256")
    del state["scale_factor"]
    with pytest.raises(UserError, match="scale_by_std, but the checkpoint has no 'scale_factor'"):
        interop.load(write(tmp_path / "std", config, state))


def test_a_place_without_a_model_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is nothing at .*absent; give a CompVis checkpoint"):
        interop.load(tmp_path / "absent")
    folder = write(tmp_path / "model", *published("celeba256"))
    (folder / "config.yaml").rename(folder / "first.yaml")
    (folder / "second.yaml").write_text((folder / "first.yaml").read_text())
    with pytest.raises(UserError, match=r"several model yamls \(first.yaml, second.yaml\)"):
        interop.load(folder)
    (folder / "second.yaml").rename(folder / "model.yaml")
    assert interop.load(folder / "model.ckpt").source == "CompVis latent diffusion model"
    for yaml in folder.glob("*.yaml"):
        yaml.unlink()
    with pytest.raises(UserError, match="lies no yaml that describes its model"):
        interop.load(folder)
    (folder / "model.ckpt").unlink()
    (folder / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no model \(notes.txt\); give"):
        interop.load(folder)
