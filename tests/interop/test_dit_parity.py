"""Diffusion transformers of diffusers and of their authors' names, in and out: the same numbers as theirs."""

import pytest
import torch
import torch.nn.functional as F
from dit_checkpoint import CLASSES, made_up

from ldm.conditioning import ClassConditioning, Unconditional
from ldm.denoiser import DiT
from ldm.diffusion import DenoisingModel, Guidance, guided, make_schedule
from ldm.errors import UserError
from ldm.first_stage import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.interop import load, load_first_stage
from ldm.interop.dit_weights import from_diffusers
from ldm.interop.export import TrainedModel, write_pipeline
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.samplers import DDIM, sample, time_grid

SIDE = 8


@pytest.fixture(scope="module")
def diffusers():
    ensure_torchvision()
    return pytest.importorskip("diffusers")


def theirs(diffusers, **changes):
    """A network of diffusers with random weights, whose blocks share the embedding of noise level and class."""
    torch.manual_seed(0)
    config = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "num_layers": 2}
    config |= {"sample_size": SIDE, "patch_size": 2, "num_embeds_ada_norm": CLASSES}
    model = diffusers.DiTTransformer2DModel(**{**config, **changes}).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return model


@pytest.mark.parametrize("changes", [{}, {"out_channels": 6}, {"patch_size": 4}, {"norm_eps": 1e-2}])
def test_the_network_of_diffusers_gives_the_same(diffusers, changes):
    """In float64; with the variance that is left out, other patches, another epsilon of the second norm."""
    model = theirs(diffusers, **changes).double()
    network, classes = from_diffusers(dict(model.config), model.state_dict())
    x = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    index, labels = torch.tensor([0, 500, 999]), torch.tensor([0, 3, CLASSES])
    expected = model(x, index, class_labels=labels).sample[:, :3]
    found = network.double()(x, index, classes.double()({"label": labels}).context)
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()
    assert classes.null_class == CLASSES


def test_what_is_another_network_is_refused(diffusers):
    model = theirs(diffusers)
    config, weights = dict(model.config), model.state_dict()
    with pytest.raises(UserError, match="has activation_fn='geglu', which this program's DiT cannot do"):
        from_diffusers({**config, "activation_fn": "geglu"}, weights)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(UserError, match=r"embed noise level and class each in a way of its own"):
        from_diffusers(config, {**weights, name: weights[name] + 1})
    with pytest.raises(UserError, match=r"has no weight 'transformer_blocks.1.attn1.to_q.weight'"):
        from_diffusers(config, {k: v for k, v in weights.items() if k != "transformer_blocks.1.attn1.to_q.weight"})
    with pytest.raises(UserError, match=r"has 1 weights too many, such as 'other'"):
        from_diffusers(config, {**weights, "other": torch.zeros(1)})


def plain_dit(state, x, index, labels, heads):
    """The authors' network, written from the paper's figure 3 and their names alone."""

    def linear(name, value):
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    patch = state["x_embedder.proj.weight"].shape[-1]
    h = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
    n, width, rows, columns = h.shape
    h = h.flatten(2).transpose(1, 2) + state["pos_embed"]
    angles = index[:, None] * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", waves)))
    c = F.silu(c + state["y_embedder.embedding_table.weight"][labels])[:, None]
    block = 0
    while f"blocks.{block}.attn.qkv.weight" in state:
        name = f"blocks.{block}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{name}.adaLN_modulation.1", c).chunk(6, dim=2)
        normal = F.layer_norm(h, (width,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = linear(f"{name}.attn.qkv", normal).view(n, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).softmax(dim=3)
        h = h + gate1 * linear(f"{name}.attn.proj", (weight @ v).transpose(1, 2).flatten(2))
        normal = F.layer_norm(h, (width,), eps=1e-6) * (1 + scale2) + shift2
        h = h + gate2 * linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", normal), approximate="tanh"))
        block += 1
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=2)
    h = linear("final_layer.linear", F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift)
    pixels = h.view(n, rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", pixels).reshape(n, -1, rows * patch, columns * patch)


@pytest.mark.long
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_the_authors_names(tmp_path, wrapped, caplog):
    """Bare as they were released, and as their training saves it, with the moving average beside the weights."""
    state = made_up()
    others = {name: value if name == "pos_embed" else torch.zeros_like(value) for name, value in state.items()}
    torch.save({"model": others, "ema": state, "opt": {}} if wrapped else state, tmp_path / "DiT.pt")
    found = load(tmp_path / "DiT.pt")
    assert (found.latent_shape, found.target, found.weights) == ((4, 8, 8), "eps", "ema" if wrapped else "raw")
    assert caplog.text.count("it is taken") == wrapped  # said once, however often the file is looked at
    caplog.clear()
    assert load(tmp_path / "DiT.pt", "raw").weights == "raw"
    assert "it is taken" not in caplog.text
    assert float(1 - found.schedule.alpha_bar[0]) == pytest.approx(1e-4)
    state = {name: value.double() for name, value in state.items()}
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    index, labels = torch.tensor([0, 321, 999]), torch.tensor([0, 3, CLASSES])
    expected = plain_dit(state, x, index, labels, heads=6)[:, :4]
    context = found.conditioning.named.double()({"label": labels}).context
    # Places and waves are float32, as there, whose last digits other code rounds differently.
    assert (found.network.double()(x, index, context) - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.long
def test_checkpoints_that_are_not_understood_are_refused(tmp_path):
    state = made_up()
    for changes, said in [
        ({"pos_embed": state["pos_embed"] + 0.1}, "other embeddings of places"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(64)}, "1 weights too many, such as 'blocks.0.attn.q_norm.weight'"),
        (
            made_up(width=96),
            "of width 96, whose heads no file tells: they are known of the paper's widths alone, 384, 768, 1024, 1152",
        ),
    ]:
        torch.save({**state, **changes}, tmp_path / "DiT.pt")
        with pytest.raises(UserError, match=said):
            load(tmp_path / "DiT.pt")
    with pytest.raises(UserError, match="looks like no autoencoder's weights"):
        load_first_stage(tmp_path / "DiT.pt")


def trained(classes=None, **changes):
    torch.manual_seed(0)
    conditioning = Unconditional() if classes is None else ClassConditioning(classes, 12)
    network = DiT(
        in_channels=3,
        out_channels=3,
        context_dim=conditioning.context_dim,
        **{"width": 24, "depth": 2, "heads": 2, "patch": 2, "adds_context": classes is not None, **changes},
    )
    for module in (network, conditioning):
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        module.eval().requires_grad_(False)
    scale = LatentScale(torch.zeros(3).double(), torch.full((3,), 0.7).double())
    return TrainedModel(IdentityFirstStage(), scale, network, conditioning, make_schedule("scaled_linear"), "v", SIDE)


@pytest.mark.parametrize(("classes", "guidance"), [(None, 1.0), (CLASSES, 1.0), (CLASSES, 2.5)])
def test_an_export_samples_alike_and_comes_back(diffusers, tmp_path, classes, guidance):
    model = trained(classes)
    write_pipeline(tmp_path / "out", model, "the card")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(pipeline.transformer) is diffusers.DiTTransformer2DModel
    x_T = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    labels = None if classes is None else torch.tensor([4, 1])
    fields = {} if labels is None else {"label": labels}
    null = model.conditioning.null(fields, 2) if guidance != 1 else None
    inner = DenoisingModel(model.network, model.schedule, model.target)
    denoise = guided(inner, model.conditioning(fields), null, Guidance(guidance))
    times = time_grid(model.spacing, 10, model.final)
    *_, z = sample(DDIM(model.schedule), denoise, x_T, times, lambda shape: torch.zeros(1))
    told = {} if labels is None else {"class_labels": labels, "guidance_scale": guidance}
    found = pipeline(**told, latents=x_T, batch_size=2, num_inference_steps=10, output_type="latent").images
    assert (found - z).abs().max() < 1e-4 * z.abs().max()
    back = load(tmp_path / "out")
    assert (back.weights, back.target, back.latent_shape) == ("ema", "v", (3, SIDE, SIDE))
    assert (back.conditioning is None) == (classes is None)
    context = None if labels is None else back.conditioning(labels)
    index = torch.tensor([3.0, 700.0])
    expected = model.network(x_T, index, model.conditioning(fields).context)
    torch.testing.assert_close(back.network(x_T, index, context), expected, rtol=0, atol=1e-5)
    with pytest.raises(
        UserError, match=r"weights=raw, but the transformer of .* there is no transformer_ema beside it"
    ):
        load(tmp_path / "out", "raw")


def test_a_pipeline_of_diffusers_is_read(diffusers, tmp_path):
    """Their DiTPipeline, with its autoencoder, scheduler and names of classes."""
    coder = diffusers.AutoencoderKL(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                                    up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3)  # fmt: skip
    model = theirs(diffusers, out_channels=6)
    parts = {"transformer": model, "vae": coder, "scheduler": diffusers.DDIMScheduler(clip_sample=False)}
    diffusers.DiTPipeline(**parts, id2label={0: "goldfish"}).save_pretrained(tmp_path)
    found = load(tmp_path)
    assert (found.source, found.scale, found.latent_shape) == ("diffusers DiTPipeline", 0.18215, (3, SIDE, SIDE))
    assert found.conditioning.named.classes == CLASSES
    x, labels = torch.randn(2, 3, SIDE, SIDE), torch.tensor([1, CLASSES])
    expected = model(x, torch.tensor([7, 7]), class_labels=labels).sample[:, :3]
    out = found.network(x, torch.tensor([7.0, 7.0]), found.conditioning(labels))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope": True, "heads": 3}, "denoiser.rope=true has no counterpart in diffusers' DiTTransformer2DModel"),
        ({"context_dim": 5}, "has no cross-attention: a DiT of several tokens cannot be exported"),
        ({"frequency_shift": 0.0}, "knows another embedding of noise levels"),
    ],
)
def test_what_diffusers_has_not_is_not_exported(tmp_path, changes, said):
    if "context_dim" in changes:
        model = trained()
        network = DiT(in_channels=3, out_channels=3, width=24, depth=1, heads=2, patch=2, **changes)
        model = TrainedModel(**{**vars(model), "network": network})
    else:
        model = trained(**changes)
    with pytest.raises(UserError, match=said):
        write_pipeline(tmp_path / "out", model, "")
    assert not (tmp_path / "out").exists()
