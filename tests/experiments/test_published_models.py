"""Cells whose first stage and denoiser are given: what is planned, what is computed, and that it is the model's own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from compvis_models import KL, PIXELS, RELEASED, made_of, write
from program import records, run
from tiny_plans import FACTS, changed, identities, plan_of

from experiments import build, published
from experiments.conditions import Vocabulary
from experiments.pictures import to_uint8
from ldm import interop
from ldm.conditioning import Condition
from ldm.data.contract import Annotation
from ldm.errors import UserError
from ldm.randomness import SampleNoise, generator


@pytest.fixture
def models(shared_data):
    """The folder of published models."""
    return shared_data / "fixtures" / "compvis"


def given(path, *overrides, facts=FACTS):
    """The plan of a cell with the model at `path`."""
    return plan_of("ae=pretrained", "denoiser=pretrained", f"denoiser.path={path}", *overrides, facts=facts)


@pytest.mark.long
@pytest.mark.data
def test_only_samples_and_evaluation_hang_on_a_given_model(models):
    plan = given(models / "unconditional_vq")
    assert set(plan.stages) == {"reference", "first_stage", "diffusion", "samples", "evaluation"}
    assert dict(plan.stages["diffusion"].parents) == {"first_stage": plan.stages["first_stage"].identity}
    assert {
        axis: plan.axes[axis] for axis in ("f", "channels", "regulariser", "target", "resolution", "conditioning")
    } == {
        "f": 4,
        "channels": 3,
        "regulariser": "vq",
        "target": "eps",
        "resolution": 32,
        "conditioning": "none",
    }
    assert changed(plan, given(models / "unconditional_vq", "sampler.steps=7")) == {"samples", "evaluation"}
    assert changed(plan, given(models / "unconditional_vq", "seed=1", "trainer.images=8")) == set()
    assert "reconstruction" in given(models / "unconditional_vq", "until=first_stage").stages
    assert given(models / "class_crossattention_vq").axes["resolution"] == 16  # 8 latents a side at f = 2


@pytest.mark.data
def test_a_given_first_stage_is_shared_by_all_data_and_the_rest_is_trained(models):
    plan = plan_of("ae=pretrained", f"ae.path={models / 'kl_f8_attention'}")
    ordinary = plan_of("ae.f=8", "ae.channels=4")
    assert set(plan.stages) == set(ordinary.stages)
    assert changed(plan, ordinary) == set(plan.stages) - {"reference", "probe"}
    assert (plan.axes["f"], plan.axes["regulariser"], plan.axes["ae_weights"]) == (8, "kl", "kl_f8_attention")


@pytest.mark.long
def test_a_given_model_of_pixels_has_the_identity_as_first_stage(tmp_path):
    write(tmp_path, *made_of(PIXELS))
    plan = given(tmp_path)
    assert (plan.axes["f"], plan.axes["regulariser"], plan.axes["resolution"]) == (1, "identity", 16)
    assert identities(given(tmp_path, "ae=identity")) == identities(plan)
    assert plan.stages["first_stage"].identity == plan_of("ae.f=1").stages["first_stage"].identity


@pytest.mark.long
def test_a_conditioned_network_whose_conditioning_is_not_read_is_refused(tmp_path, monkeypatch):
    write(tmp_path, *made_of(RELEASED["cin256-v2"]))
    without = dataclasses.replace(interop.load(tmp_path), conditioning=None)
    monkeypatch.setattr(published, "loaded", lambda path, weights="auto": without)
    with pytest.raises(UserError, match="is conditioned, but on what, this program does not read of a CompVis"):
        given(tmp_path)


@pytest.mark.long
def test_guidance_of_a_model_without_a_null_class_is_refused(tmp_path):
    write(tmp_path, *made_of(RELEASED["cin256-v2"]))
    plan = given(tmp_path, "guidance.scale=2")
    build.check_networks(plan.config, Vocabulary(6))  # the last of seven rows is no class
    with pytest.raises(UserError, match="without a null class"):
        build.check_networks(plan.config, Vocabulary(7))
    with pytest.raises(UserError, match=r"knows 7 classes .* but the data has 3"):
        build.check_networks(plan.config, Vocabulary(3))


BOXES = {"boxes": Annotation("boxes", ("cat", "dog"))}
BOXED = dataclasses.replace(FACTS, annotations=BOXES, heldout_annotations=BOXES)


@pytest.mark.long
def test_a_layout_models_sizes_are_those_of_its_tokens(tmp_path):
    write(tmp_path, *made_of(RELEASED["layout2img-openimages256"]))
    plan = given(tmp_path, "conditioning=layout", facts=BOXED)
    told = plan.config["conditioning"]["layout"]
    assert told == {"dim": 24, "depth": 2, "grid": 6, "boxes": 3}
    build.check_networks(plan.config, Vocabulary(3, box_classes=39))
    with pytest.raises(UserError, match="vocabulary of 40 tokens, which holds at most 39 classes, but the data has 40"):
        build.check_networks(plan.config, Vocabulary(3, box_classes=40))
    with pytest.raises(UserError, match="is conditioned on layout: use conditioning=layout"):
        given(tmp_path, facts=BOXED)
    with pytest.raises(UserError, match="conditioning=layout needs bounding boxes"):
        given(tmp_path, "conditioning=layout")


@pytest.mark.long
@pytest.mark.data
def test_the_identity_is_what_the_files_hold_and_not_where_they_lie(models, tmp_path):
    source = models / "class_crossattention_vq"
    for name in ("model.ckpt", "config.yaml"):
        shutil.copyfile(source / name, tmp_path / name)
    plan = given(source)
    assert identities(given(tmp_path)) == identities(plan)
    assert identities(given(tmp_path / "model.ckpt", f"ae.path={source}")) == identities(plan)
    assert identities(given(source, "denoiser.weights=ema")) == identities(plan)
    assert changed(plan, given(source, "denoiser.weights=raw")) == {"diffusion", "samples", "evaluation"}
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("other"))
    checkpoint = torch.load(source / "model.ckpt", weights_only=True)
    checkpoint["state_dict"]["first_stage_model.quant_conv.bias"] += 1
    torch.save(checkpoint, other / "model.ckpt")
    assert changed(plan, given(other)) == {"first_stage", "diffusion", "samples", "evaluation"}


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize(
    ("denoiser", "overrides", "message"),
    [
        ("unconditional_vq", ("ae=kl",), "not of one trained here, ae=kl: add ae=pretrained"),
        ("unconditional_vq", ("ae.f=8",), "ae.f=8, but the first stage at .* has 4"),
        ("unconditional_vq", ("ae.path={models}/vq_f2_no_attention",), "3 channels, but the first stage has 2"),
        ("unconditional_vq", ("conditioning=text",), "is unconditional: use conditioning=none"),
        ("unconditional_vq", ("guidance.scale=2",), "guidance.scale=2 needs a condition"),
        ("unconditional_vq", ("metrics.predictors=true",), "trains a small denoiser"),
        ("unconditional_vq", ("sampler.clip=range",), "no file of weights tells"),
        ("semantic_concat_vq", (), "is conditioned on semantic: use conditioning=semantic"),
        ("text_crossattention_kl", ("conditioning=text",), "tokens of a vocabulary of 100, which are neither"),
        ("kl_f4", (), "a CompVis first stage, which holds no denoiser"),
        ("nowhere", (), "there is nothing at .*nowhere; give a CompVis checkpoint"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(denoiser, overrides, message, models):
    with pytest.raises(UserError, match=message):
        given(models / denoiser, *(override.format(models=models) for override in overrides))


def sampled(store):
    """The images, uint8 (N, 3, H, W), and steps of every sample set of a store."""
    for path in store.glob("samples/*/record.json"):
        yield torch.from_numpy(np.load(path.parent / "images.npy")), json.loads(path.read_text())["config"]


def assert_same_images(ours, expected):
    """But for roundings: a batch in another memory layout may differ by a grey level here and there."""
    difference = (ours.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.01


@pytest.mark.data
@pytest.mark.program
@pytest.mark.slow
def test_one_command_measures_a_published_model_at_several_steps(models, begun_store):
    path = models / "unconditional_vq"
    done = run(
        begun_store,
        *("-m", "ae=pretrained", "denoiser=pretrained", f"denoiser.path={path}", "sampler.steps=2,4"),
        *("samples.keep=images", "precision=fp32", "sampler.spacing=uniform", "sampler.final=alpha0"),
    )
    assert done.returncode == 0, done.stderr
    counts = {name: sum(stage == name for stage, _ in records(begun_store)) for name in ("samples", "evaluation")}
    assert counts == {"samples": 2, "evaluation": 2}
    assert {stage for stage, _ in records(begun_store)} == {"reference", "first_stage", "diffusion", *counts}
    model = interop.load(path)
    for images, config in sampled(begun_store):
        x_T = SampleNoise(0, range(len(images)))(model.latent_shape)
        z = interop.sample(model, x_T, config["sampler"]["steps"])
        assert_same_images(images, to_uint8(model.first_stage.decode(model.latent_scale().denormalise(z))))


@pytest.mark.data
@pytest.mark.program
@pytest.mark.slow
def test_a_published_class_model_is_guided_by_its_own_null_class(models, tmp_path):
    path = models / "class_crossattention_vq"
    done = run(
        tmp_path / "store",
        *("ae=pretrained", "denoiser=pretrained", f"denoiser.path={path}", "guidance.scale=3", "sampler.steps=4"),
        *("samples.keep=images", "precision=fp32"),
    )
    assert done.returncode == 0, done.stderr
    model = interop.load(path)
    [(images, _)] = sampled(tmp_path / "store")
    n = len(images)
    labels = np.load(next((tmp_path / "store" / "data").glob("train-*")) / "labels.npy")
    drawn = [int(labels[int(torch.randint(len(labels), (), generator=generator(0, "condition", i)))]) for i in range(n)]
    asked = {"condition": torch.tensor(drawn), "null_condition": torch.full((n,), 9)}
    x_T = SampleNoise(0, range(n))(model.latent_shape)
    z = interop.sample(model, x_T, 4, "trailing", guidance_scale=3.0, final="clean", **asked)
    assert_same_images(images, to_uint8(model.first_stage.decode(z)))
    given_already = {name: Condition(context=model.conditioning(labels)) for name, labels in asked.items()}
    assert torch.equal(interop.sample(model, x_T, 4, "trailing", guidance_scale=3.0, final="clean", **given_already), z)


def tokens_by_hand(boxes):
    """The reference's sequence for boxes as a cache keeps them: three of them, 6 places a side, 39 for nothing."""
    tokens = []
    for label, _, *corners, _ in boxes[:3]:
        x0, y0, x1, y1 = (round(5 * corner) for corner in corners)
        tokens += [label, 6 * y0 + x0, 6 * y1 + x1]
    return [*tokens, *[39] * (9 - len(tokens)), 0, 35]


@pytest.mark.program
@pytest.mark.slow
def test_a_published_layout_model_is_told_the_boxes_of_the_data(tmp_path):
    torch.manual_seed(0)
    released = RELEASED["layout2img-openimages256"]
    config, state = made_of({**released, "first_stage": KL, "params": {**released["params"], "use_ema": False}})
    # A fresh UNet's last layers are zero: it would make nothing of what it is told.
    state = {name: w + 0.05 * torch.randn_like(w) if name.startswith("model.") else w for name, w in state.items()}
    path = write(tmp_path / "layout", config, state)
    done = run(
        tmp_path / "store",
        *("ae=pretrained", "denoiser=pretrained", f"denoiser.path={path}", "conditioning=layout", "guidance.scale=3"),
        *("samples.keep=images", "precision=fp32", "metrics.n_samples=8", "data.n_train=16", "data.n_heldout=8"),
    )
    assert done.returncode == 0, done.stderr
    [(images, config)] = sampled(tmp_path / "store")
    [place] = (tmp_path / "store" / "data").glob("heldout-*/boxes-*.json")
    boxes = json.loads(place.read_text())
    order = torch.randperm(len(boxes), generator=generator(0, "condition")).tolist()
    told = torch.tensor([tokens_by_hand(boxes[index]) for index in order])
    assert len(told.unique(dim=0)) > 4
    model = interop.load(path)
    asked = {"condition": told, "null_condition": torch.tensor([[*[39] * 9, 0, 35]]).expand(len(told), -1)}
    x_T, steps = SampleNoise(0, range(len(told)))(model.latent_shape), config["sampler"]["steps"]
    z = interop.sample(model, x_T, steps, "trailing", guidance_scale=3.0, final="clean", **asked)
    assert_same_images(images, to_uint8(model.first_stage.decode(z)))
    for other in ({"condition": told.flip(0)}, {"null_condition": told}):
        z = interop.sample(model, x_T, steps, "trailing", guidance_scale=3.0, final="clean", **{**asked, **other})
        assert (to_uint8(model.first_stage.decode(z)) != images).double().mean() > 0.1
