"""What describe says against networks that are built, operations that run, and records that are there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_plans import ON_REQUEST, identities, plan_of

from experiments import build
from experiments.budget import network_calls
from experiments.commands import describe
from experiments.conditions import Vocabulary
from experiments.counts import (
    CALLING_BYTES,
    TRAINING_BYTES,
    count_denoiser,
    count_first_stage,
    count_sample_decoding,
    sampled_latent_shape,
)
from experiments.main import plan_of as plan_of_run
from experiments.runner import environment
from experiments.stage import Estimate
from experiments.stages import STAGES
from experiments.store import Store
from ldm.data.contract import ImageCache
from ldm.first_stage.losses import FirstStageLoss
from ldm.first_stage.perceptual import EfficientNetPerceptual
from ldm.pretrained import efficientnet_lite
from ldm.records import Cost, StageRecord
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining
from ldm.training.flops import count_flops

THREE = Vocabulary(3)
TINY = ("scale=tiny", "device=cpu", "precision=fp32")
ONE_LEVEL = ("denoiser.channel_mult=[1]", "denoiser.attention_sides=[]")
"""A denoiser of few operations, since each that is counted takes as long as any other."""


def noise_images(n: int, side: int) -> ImageCache:
    """Images of noise in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    labels = np.zeros(n, dtype=np.int64)
    return ImageCache(
        Path(), "noise", side, ("a", "b"), tuple(map(str, labels)), (), pixels, labels, labels.astype(bool)
    )


@pytest.mark.long
@pytest.mark.parametrize("regulariser", [pytest.param("kl", marks=pytest.mark.slow), "vq"])
def test_a_first_stage_is_counted_as_it_is_built_and_as_it_runs(regulariser):
    ae = plan_of(f"ae={regulariser}", "ae.f=4", "ae.loss.perceptual=none").config["ae"]
    counts = count_first_stage(ae, 32)
    model = build.first_stage(ae, 32)
    assert counts.parameters["encoder"] == build.parameters(model.encoder)
    assert counts.parameters["decoder"] == build.parameters(model.decoder)
    assert sum(counts.parameters.values()) - counts.parameters["discriminator"] == build.parameters(model)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latent = model.latent(model.pack(model.encode(image)))
        assert tuple(latent.shape[1:]) == counts.latent_shape
        assert 2 * counts.encode == count_flops(lambda: model.encode(image))
        assert 2 * counts.decode == count_flops(lambda: model.decode(latent))


@pytest.mark.long
@pytest.mark.parametrize("regulariser", [pytest.param("kl", marks=pytest.mark.slow), "vq"])
def test_a_step_of_a_first_stage_is_counted_as_it_runs(regulariser):
    no_adversary = "ae.loss.discriminator.weight=0"
    ae = plan_of(f"ae={regulariser}", "ae.f=4", no_adversary).config["ae"]
    is_vq = regulariser == "vq"
    perceptual = EfficientNetPerceptual(efficientnet_lite.load("lite0"))
    loss = FirstStageLoss(perceptual, "mean", {"codebook": 1.0} if is_vq else {"kl": 1.0}, 1.0, 0.0)
    settings = FirstStageSettings(0, 64, 4, 1e-3, 0, "constant", None, 1.0)
    training = FirstStageTraining(build.first_stage(ae, 32), loss, None, noise_images(8, 32), settings, "cpu")
    training.advance()  # at its first step a codebook is made of one more encoding
    assert count_first_stage(ae, 32).step.work == pytest.approx(count_flops(training.advance) / 4, rel=1e-6)


@pytest.mark.long
def test_the_discriminator_costs_from_its_start_on():
    def flops(start: float) -> float:
        settings = ("ae.loss.perceptual=none", f"ae.loss.discriminator.start={start}")
        return count_first_stage(plan_of("ae.f=2", *settings).config["ae"], 32).step.work

    without, half, always = flops(1), flops(0.5), flops(0)
    assert without < always
    assert half == pytest.approx((without + always) / 2)


@pytest.mark.long
@pytest.mark.parametrize("conditioning", ["class", "none"])
def test_a_denoiser_is_counted_as_it_is_built_and_as_it_runs(conditioning):
    config = plan_of("ae.f=4", f"conditioning={conditioning}").config
    counts = count_denoiser(config, (3, 8, 8), THREE)
    conditions = build.conditioning(config["conditioning"], THREE, config["ae"])
    network = build.denoiser(config["denoiser"], 3, 8, conditions)
    assert (counts.denoiser, counts.conditioning) == (build.parameters(network), build.parameters(conditions))
    x, context = torch.randn(2, 3, 8, 8), None if conditioning == "none" else torch.randn(2, 1, conditions.context_dim)
    with torch.no_grad():
        assert 2 * counts.call == count_flops(lambda: network(x, torch.zeros(2), context=context))
    training = count_flops(lambda: network(x, torch.zeros(2), context=context).sum().backward())
    assert 2 * counts.step.work == pytest.approx(training, rel=1e-3)


@pytest.mark.long
def test_the_classes_count_only_in_the_conditioning():
    config = plan_of("ae.f=4", *ONE_LEVEL).config
    few, many = (count_denoiser(config, (3, 8, 8), Vocabulary(classes)) for classes in (2, 102))
    unknown = count_denoiser(config, (3, 8, 8), Vocabulary(2), is_known=False)
    assert many.conditioning - few.conditioning == 100 * config["conditioning"]["class"]["dim"]
    assert unknown.conditioning is None
    assert few.denoiser == many.denoiser == unknown.denoiser


@pytest.mark.long
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_larger_samples_are_counted_as_they_are_made(regulariser):
    settings = (f"ae={regulariser}", "ae.f=4", "samples.height=40", "samples.width=64")
    whole, tiled = plan_of(*settings).config, plan_of(*settings, "samples.tile=8", "samples.overlap=2").config
    assert sampled_latent_shape(whole, 3) == (3, 10, 16)
    model, x = build.first_stage(whole["ae"], 32), torch.randn(1, 3, 10, 16)
    with torch.no_grad():
        assert count_sample_decoding(whole) == count_flops(lambda: model.decode(x))
        assert count_sample_decoding(tiled) == 2 * 3 * count_flops(lambda: model.decode(x[:, :, :8, :8]))


@pytest.mark.long
def test_a_call_for_a_larger_sample_is_counted_at_its_size():
    config = plan_of("ae.f=4", "conditioning=none", "samples.height=40", "samples.width=64").config
    network = build.denoiser(config["denoiser"], 3, 8, build.conditioning(config["conditioning"], THREE, config["ae"]))
    with torch.no_grad():
        call = count_flops(lambda: network(torch.randn(1, 3, 10, 16), torch.zeros(1)))
    assert count_denoiser(config, (3, 8, 8), THREE).call == call


@pytest.mark.slow
def test_paper_scale_is_planned_and_counted_at_1024_by_384(tmp_path):
    paper = ["scale=paper", "device=cpu", "precision=fp32", "data=folder", "conditioning=none", "ae.f=4"]
    large = ["samples.height=384", "samples.width=1024", "samples.tile=96"]
    square, wide = (
        describe.describe(describe.composed([*paper, *more], needs_path=False), Store(tmp_path)) for more in ([], large)
    )
    found = wide.to_json()
    assert found["sampling"]["size"] == [384, 1024]
    assert found["sampling"]["latent_shape"] == [3, 96, 256]
    assert found["latent_shape"] == [3, 64, 64]
    assert wide.parameters == square.parameters
    # Six times the pixels: convolutions cost six times as much, attention and what tiles share more.
    assert 6 < wide.denoiser.call / square.denoiser.call < 12
    assert 6 < wide.decode / square.decode < 12


def test_pixel_space_has_no_first_stage_to_pay_for():
    counts = count_first_stage(plan_of("ae.f=1").config["ae"], 32)
    assert set(counts.parameters.values()) == {0}
    assert (counts.encode, counts.decode, counts.step, counts.latent_shape) == (0, 0, None, (3, 32, 32))


@pytest.mark.parametrize(
    ("overrides", "calls"),
    [
        ([], 10),
        (["guidance.scale=3"], 20),
        (["guidance.scale=3", "guidance.interval=[0.35,0.75]"], 13),
        (["guidance.scale=3", "guidance.interval=[0.35,0.75]", "sampler.spacing=trailing"], 14),
        (["guidance.interval=[0.35,0.75]"], 10),
        (["sampler=plms"], 11),
        (["sampler=heun"], 19),
        (["sampler=heun", "sampler.final=alpha0"], 20),
        (["sampler=heun", "diffusion.schedule=flow"], 18),
        (["sampler=unipc", "guidance.scale=2"], 20),
    ],
)
def test_network_calls_are_those_of_the_sampler_twice_where_guidance_acts(overrides, calls):
    assert network_calls(plan_of("sampler.steps=10", *overrides).config) == calls


@pytest.mark.long
def test_json_on_standard_output_and_nothing_else(tmp_path, capsys):
    cell = ("ae.f=8", "ae=vq", "ae.loss.perceptual=none", *ONE_LEVEL)
    assert describe.main([*TINY[1:], *cell, f"store={tmp_path / 'none'}", "scale=tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = plan_of_run(describe.composed([*TINY, *cell]), Store(tmp_path))
    assert found["cell"] == run.cell
    assert {line["stage"]: line["identity"] for line in found["stages"]} == identities(run)
    assert found["axes"]["f"] == 8
    assert found["latent_shape"] == [4, 4, 4]
    of_vq = [s.name for s in STAGES if s.name not in {*ON_REQUEST, "rate_curve"}]  # whose latents are no draws
    assert [line["stage"] for line in found["stages"]] == of_vq
    assert {line["is_complete"] for line in found["stages"]} == {False}
    assert {line["seconds"] for line in found["stages"]} == {None}
    assert found["training"]["first_stage"] == {"batch": 8, "steps": 8, "images_seen": 64}
    tensors, processes = found["memory_bytes"], found["process_memory_bytes"]
    assert tensors.keys() == set(of_vq)
    assert all(tensors.values())
    trained = ("first_stage", "diffusion")
    beside = {name: TRAINING_BYTES if name in trained else CALLING_BYTES for name in of_vq}
    assert {name: processes[name] - tensors[name] for name in tensors} == beside
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_no_store_stays_none(tmp_path):
    with describe._store(tmp_path) as store:
        assert store.root != tmp_path
    assert list(tmp_path.iterdir()) == []
    Store(tmp_path)
    with describe._store(tmp_path) as store:
        assert store.root == tmp_path


@pytest.mark.long
def test_without_images_all_is_counted_but_what_hangs_on_classes(tmp_path):
    values = describe.composed([*TINY, "data=folder", "ae.f=1", *ONE_LEVEL], needs_path=False)
    found = describe.describe(values, Store(tmp_path)).to_json()
    assert found["parameters"]["conditioning"] is None
    config = plan_of("ae.f=1", *ONE_LEVEL).config
    assert found["parameters"]["denoiser"] == count_denoiser(config, (3, 32, 32), THREE).denoiser
    assert {line["identity"] for line in found["stages"]} == {None}
    assert found["cell"] is None
    assert "cannot be opened" in found["notes"][0]


@pytest.mark.long
def test_what_a_data_config_declares_is_counted_without_images(tmp_path):
    def described(*overrides):
        few = ("ae.f=1", *ONE_LEVEL)  # little else to be counted
        values = describe.composed([*TINY, *few, *overrides], needs_path=False)
        return describe.describe(values, Store(tmp_path)).to_json()

    width = plan_of("ae.f=1").config["conditioning"]["class"]["dim"]
    assert described("data=imagenet")["parameters"]["conditioning"] == 1001 * width
    faces = described("data=ffhq")
    assert (faces["axes"]["conditioning"], faces["parameters"]["conditioning"]) == ("none", 0)
    assert any("the data has no classes" in note for note in faces["notes"])
    layout = [described("data=folder", "conditioning=layout", *more) for more in ([], ["data.box_classes=3"])]
    assert [found["parameters"]["conditioning"] is None for found in layout] == [True, False]


def record_of(stage, seconds: float, images: int, flops: float, **made_on) -> StageRecord:
    """A record of that stage as this machine would make it."""
    here = {**environment(), "device": "cpu", "config": {"precision": "fp32"}, **made_on}
    return StageRecord("diffusion", stage, {}, {}, cost=Cost(seconds, images, flops), environment=here)


def test_time_is_estimated_from_the_most_similar_record_of_this_machine(tmp_path):
    store, plan, images, flops = Store(tmp_path), plan_of("ae.f=4"), 64, 64e9

    def diffusion():
        return describe._line(plan, "diffusion", Estimate(images, flops), store, is_known=True)

    assert (diffusion().seconds, diffusion().seconds_from, diffusion().is_complete) == (None, "unknown", False)
    store.finish(record_of("elsewhere", 1.0, 10, 10e9, processor="another"))
    store.finish(record_of("half", 1.0, 10, 10e9, config={"precision": "bf16"}))
    assert diffusion().seconds is None
    store.finish(record_of("larger", 1.0, 10, 500e9))
    assert diffusion().seconds == pytest.approx(64 / 500)
    assert "very rough: an image there costs 50 times" in diffusion().seconds_from
    store.finish(record_of("similar", 4.0, 10, 11e9))
    assert diffusion().seconds == pytest.approx(64 * 4 / 11)
    assert diffusion().seconds_from == "rate of diffusion similar"
    store.finish(record_of(plan.stages["diffusion"].identity, 7.5, 64, 64e9))
    assert (diffusion().seconds, diffusion().seconds_from, diffusion().is_complete) == (7.5, "measured", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["ae.ff=8"], "did you mean 'ae.f'?"), (["ae=kll"], "did you mean 'kl'?"), (["ae.f=3"], "not a power of two")],
)
def test_settings_that_cannot_be_are_said_in_one_sentence(arguments, words, capsys):
    assert describe.main([*TINY, *arguments]) == 2
    said = capsys.readouterr().out
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("value", [(None, "unknown"), (0, "0 B"), (999, "999 B"), (30.6e6, "30.6 MB"), (4e18, "4 EB")])
def test_numbers_are_written_with_a_prefix(value):
    assert describe._si(value[0], "B") == value[1]
