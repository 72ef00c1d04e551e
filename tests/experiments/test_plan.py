"""Identities: what changes them, what must not, and which settings are refused."""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pytest
import torch
from tiny_plans import FACTS, ON_REQUEST, changed, identities, plan_of, planned, reversed_keys, settings_of, stage_named

from experiments import build
from experiments.budget import flops_per_training_image, images_at, network_calls
from experiments.conditions import DataFacts, Vocabulary, larger_maps
from experiments.plan import make_plan
from experiments.stages import STAGES
from ldm.denoiser import UNetOptions
from ldm.errors import UserError
from ldm.parts import option, options_of
from ldm.samplers import SAMPLERS
from ldm.training.flops import count_flops

ALWAYS = {stage.name for stage in STAGES} - ON_REQUEST
JUDGED = {"reference", "reconstruction", "gaussian", "progress", "evaluation"}
"""Stages whose rows are of what an extractor sees."""
FROM_DIFFUSION_ON = {"diffusion", "progress", "samples", "evaluation"}


def test_the_order_of_keys_changes_no_identity():
    settings = settings_of("ae=vq")
    assert identities(planned(reversed_keys(settings))) == identities(planned(settings))


def test_pixel_space_is_one_cell_under_every_regulariser():
    plans = [plan_of("ae=kl", "ae.f=1"), plan_of("ae=vq", "ae.f=1"), plan_of("ae=identity")]
    assert plans[0].cell == plans[1].cell == plans[2].cell
    assert identities(plans[0]) == identities(plans[1]) == identities(plans[2])
    assert plan_of("ae=kl").cell != plan_of("ae=vq").cell


@pytest.mark.parametrize(
    "setting", ["ae.channels=7", "ae.seed=5", "ae.loss.perceptual_weight=3", "ae.training.images=9"]
)
def test_settings_of_the_first_stage_are_inactive_in_pixel_space(setting):
    assert not changed(plan_of("ae.f=1"), plan_of("ae.f=1", setting))
    assert "first_stage" in changed(plan_of("ae.f=4"), plan_of("ae.f=4", setting))


def test_pixel_space_is_one_first_stage_for_all_images():
    other = DataFacts("other", "heldout", 64, 40, FACTS.classes)
    assert changed(plan_of("ae.f=1"), plan_of("ae.f=1", facts=other)) == ALWAYS - {"first_stage", "rate_curve"}
    assert changed(plan_of("ae.f=4"), plan_of("ae.f=4", facts=other)) == ALWAYS


@pytest.mark.parametrize("setting", ["sampler.steps=7", "sampler.eta=1", "sampler.seed=3", "guidance.scale=2"])
def test_sampling_settings_change_only_what_is_sampled(setting):
    assert changed(plan_of(), plan_of(setting)) == {"samples", "evaluation"}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("metrics.n_samples=20", {"samples", "rate_curve", *JUDGED}),
        ("metrics.seed=1", {"rate_curve", *JUDGED}),
        ("metrics.reference=train", JUDGED),
        ("metrics.extractor=inception", {"samples", *JUDGED}),
        ("metrics.also.inception=true", {"other_references", "samples", "evaluation"}),
        ("metrics.also.efficientnet_lite2=true", {"other_references", "samples", "evaluation"}),
        ("metrics.progress_samples=9", {"progress"}),
        ("metrics.progress_steps=3", {"progress"}),
    ],
)
def test_how_is_measured_trains_nothing_anew(setting, expected):
    assert changed(plan_of(), plan_of(setting)) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("scale", "spacing"), [("tiny", "neutral"), ("cpu", "neutral"), ("gpu", "neutral"), ("paper", "trailing")]
)
def test_the_spacing_is_that_of_the_scale_unless_it_is_given(scale, spacing):
    for steps in ("sampler.steps=7", "sampler.nfe=7"):
        asked = [planned(settings_of(steps, *more, scale=scale)) for more in ([], ["sampler.spacing=uniform"])]
        assert [plan.config["sampler"]["spacing"] for plan in asked] == [spacing, "uniform"]
        assert [plan.axes["spacing"] for plan in asked] == [spacing, "uniform"]


def test_other_judges_have_references_of_their_own_and_the_plan_s_own_is_none_of_them(tmp_path):
    assert "other_references" not in plan_of().stages
    both = plan_of("metrics.also.inception=true", f"metrics.also.dinov2={tmp_path}")
    assert set(both.stages["other_references"].settings["extractors"]) == {"inception", "dinov2"}
    with pytest.raises(UserError, match=r"metrics.also.inception: inception is metrics.extractor, which measures"):
        plan_of("metrics.extractor=inception", "metrics.also.inception=true")
    with pytest.raises(UserError, match=r"metrics.also.inception=3 is neither true nor false nor the path"):
        plan_of("metrics.also.inception=3")


def test_seeds_change_what_they_seed_and_nothing_before_it():
    base, seeded = plan_of(), plan_of("seed=1")
    assert changed(base, seeded) == FROM_DIFFUSION_ON
    assert base.cell == seeded.cell
    assert (base.axes["seed"], seeded.axes["seed"]) == (0, 1)
    assert changed(base, plan_of("ae.seed=1")) == ALWAYS - {"reference", "probe"}


@pytest.mark.parametrize(
    "setting",
    [
        "workers=7",
        "store=elsewhere",
        "until=samples",
        "trainer.micro_batch=4",
        "trainer.devices=2",
        "trainer.checkpoint_seconds=1",
        "samples.batch=5",
        "tracker.mode=online",
        "tracker.project=other",
    ],
)
def test_what_changes_no_number_is_in_no_identity(setting):
    assert not changed(plan_of(), plan_of(setting))
    assert plan_of(setting).cell == plan_of().cell


def test_the_device_is_in_no_identity_and_the_precision_is():
    on_gpu, in_bf16 = settings_of(), settings_of()
    on_gpu["device"], in_bf16["precision"] = "cuda", "bf16"
    assert not changed(plan_of(), planned(on_gpu))
    # The judge computes in one format, whatever trained and sampled.
    assert changed(plan_of(), planned(in_bf16)) == ALWAYS - {"reference", "probe"}


SUPERRES_8 = ("conditioning=superres", "conditioning.superres.scale=8")
OTHER_VALUES = {
    "first_stage.codebook.legacy": True,
    "first_stage.architecture.dropout": 0.5,
    "first_stage.architecture.mid_attention": False,
    "first_stage.architecture.initialisation": "components",
    "first_stage.architecture.family": "dc",
    "first_stage.loss.discriminator.norm": "batch",
    "first_stage.training.matrix_learning_rate": 1e-3,
    "diffusion.denoiser.dropout": 0.5,
    "diffusion.denoiser.transformer_depth": 2,
    "diffusion.denoiser.use_scale_shift_norm": True,
    "diffusion.denoiser.resblock_updown": True,
    "diffusion.denoiser.dense_small_maps": True,
    "diffusion.denoiser.fold": 2,
    "diffusion.denoiser.size": "S",
    **{f"diffusion.denoiser.{name}": True for name in ("rms_norm", "swiglu", "rope", "qk_norm")},
    "diffusion.diffusion.shift": 2,
    "diffusion.diffusion.weighting": "min_snr",
    "diffusion.diffusion.output": "x0",
    "diffusion.training.ema_share": 0.5,
    "diffusion.training.noise": "philox",
    "diffusion.training.matrix_learning_rate": 1e-3,
    "samples.sampler.clip": "range",
    "samples.guidance.interval": [0.2, 0.8],
    "samples.guidance.rescale": 0.7,
    "samples.keep": "images",
    "samples.height": 40,
    "samples.width": 64,
    "samples.tile": 4,
    "samples.overlap": 2,
    "samples.paste_known": True,
}
OTHER_VALUES |= {path.replace("diffusion", "learning_rate", 1): value for path, value in OTHER_VALUES.items()}
GROUPS = {"first_stage": ("ae",), "diffusion": (), "learning_rate": (), "samples": ()}


OF_OTHERS = {"nested"}
"""Stages whose defaults are those of another, `first_stage`."""


@pytest.mark.parametrize(
    "path", [f"{stage.name}.{path}" for stage in STAGES if stage.name not in OF_OTHERS for path in stage.defaults]
)
def test_an_option_at_its_default_leaves_the_identity_as_before_it_existed(path):
    stage, *keys = path.split(".")
    is_own = stage == "samples" and len(keys) == 1
    if stage in ("diffusion", "learning_rate") and keys[0] == "training":
        keys[0] = "trainer"
    keys = ["samples", *keys] if is_own else [*GROUPS[stage], *keys]
    # Where there are transformers, known pixels, and guidance, without which how it acts is inactive; without tiles
    # nothing overlaps.
    cell = ["ae=vq", "conditioning=[class,inpaint]", "conditioning.dropout=0.1", "guidance.scale=2"]
    cell += ["trainer.learning_rate=auto"] if stage == "learning_rate" else []
    if keys[0] == "denoiser" and keys[-1] not in options_of(UNetOptions):
        cell.append("denoiser=dit")
    given = [*cell, *(["samples.tile=4"] if path == "samples.overlap" else [])]
    before, other = settings_of(*given), settings_of(*given)
    del _inside(before, keys)[keys[-1]]
    _inside(other, keys)[keys[-1]] = OTHER_VALUES[path]
    if not is_own or path == "samples.keep":  # planning reads the rest by name
        assert not changed(plan_of(*cell), planned(before))
    assert stage in changed(plan_of(*given), planned(other))


@pytest.mark.parametrize(
    "settings",
    [
        ["samples.height=32"],
        ["samples.width=32", "samples.height=32"],
        ["samples.tile=8"],
        ["samples.tile=99", "samples.overlap=3"],
        ["samples.overlap=3"],
    ],
)
def test_the_training_size_and_tiles_that_cover_all_change_nothing(settings):
    assert not changed(plan_of("ae.f=4"), plan_of("ae.f=4", *settings))
    assert [note for note in plan_of("ae.f=4", *settings).notes if "decoded whole" in note] == [
        f"samples.tile={value} covers the latent of 8 x 8: it is decoded whole"
        for value in (8, 99)
        if f"samples.tile={value}" in settings
    ]


def test_size_and_tiles_of_samples_train_nothing_anew():
    square, wide = plan_of("ae.f=4"), plan_of("ae.f=4", "samples.width=64", "samples.tile=8")
    assert changed(square, wide) == {"probe", "samples", "evaluation"}  # larger samples are asked nothing
    assert (wide.axes["height"], wide.axes["width"], wide.axes["tile"]) == (32, 64, 8)
    assert (square.axes["height"], square.axes["width"], square.axes["tile"]) == (32, 32, None)
    one_side, both_sides = plan_of("samples.width=64"), plan_of("samples.width=64", "samples.height=32")
    assert not changed(one_side, both_sides)
    assert wide.config["samples"]["overlap"] == 2
    assert not changed(wide, plan_of("ae.f=4", "samples.width=64", "samples.tile=8", "samples.overlap=2"))


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [("class", None), ("none", None), ("superres", (32, 64)), ("[class,inpaint]", (32, 64))],
)
def test_only_maps_are_asked_for_at_the_size_of_the_samples(conditioning, expected):
    assert larger_maps(plan_of(f"conditioning={conditioning}", "samples.width=64", "ae.f=4").config) == expected
    assert larger_maps(plan_of(f"conditioning={conditioning}", "ae.f=4").config) is None


def test_the_scale_of_latents_is_an_axis():
    assert plan_of("latents.scale=none").axes["latent_scale"] == "none"


def _inside(settings, keys):
    for key in keys[:-1]:
        settings = settings[key]
    return settings


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "unipc"])
def test_settings_of_other_samplers_are_in_no_identity(sampler):
    base = plan_of(f"sampler={sampler}")
    for setting, reader in (("sampler.eta=1", "ddim"), ("sampler.variance=large", "ddpm")):
        expected = {"samples", "evaluation"} if sampler == reader else set()
        assert changed(base, plan_of(f"sampler={sampler}", setting)) == expected
    assert (sampler == "ddim") == (not changed(base, plan_of()))
    assert set(base.config["sampler"]) - {"eta", "variance"} == {"name", "steps", "spacing", "final", "clip", "seed"}


def test_an_option_of_a_new_sampler_is_in_the_identity_of_its_samples_alone(monkeypatch):
    @dataclass(frozen=True)
    class Toy:
        title: ClassVar[str] = "Toy"
        schedule: Any
        share: float = option(0.5, above=0, high=1, help="of the way")

        def step(self, denoise, x_t, t, s, state, noise):
            return x_t + self.share * (denoise(x_t, t) - x_t), None

    monkeypatch.setitem(SAMPLERS, "toy", Toy)

    def plan(name, share):
        settings = settings_of()
        settings["sampler"] |= {"name": name, "share": share}
        return planned(settings)

    assert changed(plan("toy", 0.5), plan("toy", 0.25)) == {"samples", "evaluation"}
    assert plan("toy", 0.5).config["sampler"].keys() == {"name", "share", "steps", "spacing", "final", "clip", "seed"}
    assert changed(plan("ddim", 0.5), plan_of()) == set()
    with pytest.raises(UserError, match=r"sampler\.share=0 is no number above 0 and up to 1"):
        plan("toy", 0)


@pytest.mark.parametrize("setting", ["guidance.interval=[0.2,0.8]", "guidance.rescale=0.5"])
def test_how_guidance_acts_is_inactive_where_there_is_none(setting):
    assert not changed(plan_of(), plan_of(setting))
    assert changed(plan_of("guidance.scale=2"), plan_of("guidance.scale=2", setting)) == {"samples", "evaluation"}


def test_guidance_over_all_noise_levels_is_guidance_everywhere():
    everywhere = plan_of("guidance.scale=2")
    assert not changed(everywhere, plan_of("guidance.scale=2", "guidance.interval=[0,1]"))
    assert everywhere.axes["guidance_interval"] == "0 to 1"
    assert plan_of("guidance.scale=2", "guidance.interval=[0.2,1]").axes["guidance_interval"] == "0.2 to 1"
    assert plan_of("guidance.interval=[0.2,1]").axes["guidance_interval"] is None


@pytest.mark.parametrize(
    ("overrides", "steps", "calls"),
    [
        (["sampler.nfe=20"], 20, 20),
        (["sampler=plms", "sampler.nfe=20"], 19, 20),
        (["sampler=heun", "sampler.nfe=20"], 10, 19),
        (["sampler=heun", "sampler.nfe=20", "guidance.scale=2"], 5, 18),
        (["sampler=dpmpp", "sampler.nfe=1"], 1, 1),
        (["sampler.nfe=7", "guidance.scale=2", "guidance.interval=[0,0.5]"], 5, 7),
    ],
)
def test_a_budget_of_network_calls_becomes_the_most_steps_that_fit(overrides, steps, calls):
    plan = plan_of(*overrides)
    assert plan.config["sampler"]["steps"] == plan.axes["steps"] == steps
    assert network_calls(plan.config) == calls
    by_steps = [f"sampler.steps={steps}", *(o for o in overrides if not o.startswith("sampler.nfe"))]
    assert not changed(plan, plan_of(*by_steps))


@pytest.mark.parametrize(("f", "shift"), [(1, 4.0), (2, 2.0), (4, 1.0), (8, 1.0), (32, 1.0)])
def test_the_automatic_shift_is_that_of_the_side_against_f_4(f, shift):
    plan = plan_of(f"ae.f={f}", "diffusion.shift=auto")
    assert plan.config["diffusion"]["shift"] == shift
    assert plan.axes["shift"] == ("auto" if f < 4 else "none")
    assert not changed(plan, plan_of(f"ae.f={f}", f"diffusion.shift={shift:g}"))
    assert (FROM_DIFFUSION_ON if f < 4 else set()) == changed(plan, plan_of(f"ae.f={f}"))


@pytest.mark.parametrize("setting", ["diffusion.target=flow", "diffusion.schedule=flow", "diffusion.weighting=min_snr"])
def test_what_is_trained_changes_the_diffusion_model(setting):
    assert changed(plan_of(), plan_of(setting)) == FROM_DIFFUSION_ON


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("guidance.scale=1", "guidance.scale=1.0"),
        ("diffusion.shift=1", "diffusion.shift=null"),
        ("ae.kl_weight=1e-6", "ae.kl_weight=0.000001"),
        ("sampler.eta=0", "sampler.eta=0.0"),
    ],
)
def test_a_number_is_the_same_however_it_is_written(one, other):
    assert not changed(plan_of(one), plan_of(other))


def test_images_without_classes_are_trained_on_unconditionally_and_it_is_said():
    unlabelled = DataFacts("train", "heldout", 64, 40, ())
    plan = plan_of(facts=unlabelled)
    assert [note for note in plan.notes if "no classes" in note]
    assert plan.axes["conditioning"] == "none"
    assert not changed(plan, plan_of("conditioning=none", facts=unlabelled))
    assert not plan_of().notes


def test_what_a_stage_needs_stands_before_it():
    plan = plan_of()
    needed = [stage.name for stage in plan.needed(("evaluation",))]
    assert needed == ["reference", "first_stage", "latents", "diffusion", "probe", "samples", "evaluation"]
    for position, name in enumerate(needed):
        assert set(plan.stages[name].parents) <= set(needed[:position])
        assert set(stage_named(name).parents) - set(needed[:position]) <= ON_REQUEST


@pytest.mark.long
@pytest.mark.parametrize(
    ("scale", "f", "levels", "bits"),
    [("tiny", 4, [8, 8], 6), ("cpu", 4, [8, 8, 8], 9), ("cpu", 32, [8, 8, 8], 9), ("gpu", 8, [7, 5, 5, 5, 5], 12)],
)
def test_quantisers_have_about_as_many_codes_as_a_codebook(scale, f, levels, bits):
    common = (f"ae.f={f}", "trainer.budget=images")  # as many FLOPs would be counted, which takes long
    fsq, lfq, bsq = (plan_of(f"ae={name}", *common, scale=scale).config["ae"] for name in ("fsq", "lfq", "bsq"))
    assert (fsq["levels"], fsq["channels"]) == (levels, len(levels))
    assert (lfq["channels"], bsq["channels"]) == (bits, bits)
    given = plan_of("ae=fsq", *common, f"ae.levels={levels}", f"ae.channels={len(levels)}", scale=scale)
    default = plan_of("ae=fsq", *common, scale=scale)
    assert given.stages["first_stage"].identity == default.stages["first_stage"].identity


def test_a_family_of_coders_has_tables_of_its_own_at_every_f_up_to_64():
    for f in (2, 4, 8, 16, 32, 64):
        ae = plan_of("ae.architecture.family=dc", f"ae.f={f}", "data.resolution=64").config["ae"]
        assert len(ae["architecture"]["ch_mult"]) == f.bit_length()
        reference = None if f == 64 else plan_of(f"ae.f={f}", "data.resolution=64").config["ae"]
        assert ae["channels"] == (32 if reference is None else reference["channels"])
    own = plan_of("ae.architecture.family=dc", scale="cpu").config["ae"]["architecture"]
    assert (own["ch_mult"], own["initialisation"], own["mid_attention"]) == ([1, 2, 4], "reference", True)
    with pytest.raises(UserError, match=r"scale=paper has no first stages of ae\.architecture\.family=dc"):
        plan_of("ae.architecture.family=dc", "data.resolution=256", scale="paper")


def test_the_family_of_coders_is_no_part_of_the_identity_at_f_1():
    assert not changed(plan_of("ae.f=1"), plan_of("ae.f=1", "ae.architecture.family=dc"))
    assert "first_stage" in changed(plan_of(), plan_of("ae.architecture.family=dc"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ae.f=3"], ["ae.f=3", "power of two"]),
        (["ae.f=0"], ["ae.f=0 is no whole number from 1 on"]),
        (["ae.f=2.5"], ["ae.f=2.5 is no whole number"]),
        (["ae.f=64"], ["ae.f=64", "32 pixels", "up to 32"]),
        (["ae.architecture.family=dc", "ae.f=64"], ["ae.f=64", "32 pixels", "up to 32"]),
        (["ae.f=64", "data.resolution=64"], ["no first-stage architecture for ae.f=64", "f = 2, 4, 8, 16, 32"]),
        (["ae.architecture.family=dcc"], ["ae.architecture.family=dcc is none of reference, dc"]),
        (
            ["ae.architecture.family=dc", "ae.architecture.name=kl_released"],
            ["ae.architecture.name=kl_released is a row of the paper's", "leave one of them out"],
        ),
        (["data.resolution=24", "ae.f=16"], ["ae.f=16", "24 pixels", "up to 8"]),
        (["ae=identity", "ae.f=4"], ["ae=identity", "ae=kl"]),
        (["ae.loss.perceptual=efficientnet_lite2"], ["efficientnet_lite2", "metrics.allow_same_network"]),
        (["metrics.n_samples=0"], ["metrics.n_samples=0 is no whole number of samples from 2"]),
        (["metrics.n_samples=10.5"], ["metrics.n_samples=10.5 is no whole number of samples"]),
        (["metrics.progress_steps=0"], ["metrics.progress_steps=0 is no whole number of steps from 1 to 1000"]),
        (["metrics.extractor=efficientnet_lite0"], ["metrics.extractor=efficientnet_lite0 is none of", "lite2"]),
        (["ae=fsq", "ae.channels=4"], ["ae.channels=4 does not fit ae.levels=[8, 8]", "leave ae.channels out"]),
        (["ae=fsq", "ae.levels=[8,2]"], ["ae.levels=[8, 2] is no list of whole numbers from 3 on"]),
        (["ae=lfq", "ae.channels=30"], ["ae.channels=30 gives 2^30 codes", "24 channels or fewer"]),
        (["ae=bsq", "ae.temperature=0"], ["ae.temperature=0 is no number above 0"]),
        (["ae.kl_weight=-1"], ["ae.kl_weight=-1 is no number from 0 on"]),
        (["seed=foo"], ["seed=foo is no whole number from 0"]),
        (["ae.seed=1.5"], ["ae.seed=1.5 is no whole number"]),
        (["metrics.seed=-1"], ["metrics.seed=-1 is no whole number from 0"]),
        (["metrics.coding=no"], ["metrics.coding=no is neither true nor false"]),
        (["samples.paste_known=yes"], ["samples.paste_known=yes is neither true nor false"]),
        (["metrics.also=null"], ["metrics.also=None names no extractor"]),
        (["ae=identity", "ae.f=1", "metrics.also.inception=5"], ["metrics.also.inception=5", "path of its weights"]),
        (
            ["ae=identity", "ae.f=1", "metrics.also.efficientnet_lite2_colour=true"],
            ["metrics.extractor", "leave it out"],
        ),
        (["metrics.weights=/etc/hostname"], ["metrics.weights=/etc/hostname", "leave the path out"]),
        (["conditioning=none", "guidance.scale=2"], ["guidance.scale=2", "conditioning=class"]),
        (["trainer.budget=paper"], ["trainer.budget=paper", "scale=tiny"]),
        (["trainer.budget=hours"], ["trainer.budget=hours", "flops"]),
        (["ae.f=4", "samples.height=44"], ["samples.height=44", "multiple of 8", "samples.height=48"]),
        (["ae.f=8", "samples.width=40"], ["samples.width=40", "multiple of 16", "1 halvings", "samples.width=48"]),
        (["samples.height=16"], ["samples.height=16", "at least the 32 px", "samples.height=32"]),
        (["samples.width=64.5"], ["samples.width=64.5 is no whole number of pixels"]),
        (["samples.width=wide"], ["samples.width=wide is no whole number of pixels"]),
        (["denoiser.channel_mult=[2]", "ae.f=4", "samples.width=34"], ["multiple of 4"]),
        (
            [*("denoiser.channel_mult=[2]", "ae.f=4", "samples.width=36"), *SUPERRES_8],
            ["samples.width=36", "multiple of 8"],
        ),
        (["samples.tile=0"], ["samples.tile=0", "null"]),
        (["samples.tile=4", "samples.overlap=3"], ["samples.overlap=3", "0 to 2", "samples.tile=4"]),
        (["sampler.nfe=20", "sampler.steps=10"], ["sampler.steps=10", "sampler.nfe=20", "one of them"]),
        (["sampler.nfe=0"], ["sampler.nfe=0 is no whole number of calls from 1 on"]),
        (["sampler.nfe=1", "guidance.scale=2"], ["sampler.nfe=1", "one step of sampler=ddim"]),
        (["sampler=ddpm", "sampler.variance=larg"], ["sampler.variance=larg", "did you mean 'large'?"]),
        (["sampler.eta=2"], ["sampler.eta=2 is no number from 0 to 1"]),
        (["sampler.name=dimm"], ["sampler=dimm is none of ddim, ddpm", "did you mean 'ddim'?"]),
        (["denoiser.name=unett"], ["denoiser.name=unett is none of unet", "did you mean 'unet'?"]),
        (["denoiser.name=unett", "trainer.budget=flops"], ["denoiser.name=unett is none of unet"]),
        (["denoiser.dropout=1"], ["denoiser.dropout=1 is no number from 0 on and below 1"]),
        (["denoiser.channel_mult=two"], ["denoiser.channel_mult=two is no list of numbers above 0"]),
        (["sampler.spacing=trailin"], ["sampler.spacing=trailin", "did you mean 'trailing'?"]),
        (["diffusion.target=flwo"], ["diffusion.target=flwo", "did you mean 'flow'?"]),
        (["diffusion.schedule=cosin"], ["diffusion.schedule=cosin", "did you mean 'cosine'?"]),
        (["diffusion.weighting=minsnr"], ["diffusion.weighting=minsnr", "did you mean 'min_snr'?"]),
        (["diffusion.shift=0"], ["diffusion.shift=0", "auto"]),
        (["diffusion.shift=aut"], ["diffusion.shift=aut", "auto"]),
        (["guidance.interval=[0.8,0.2]"], ["guidance.interval=[0.8, 0.2]", "[low, high]"]),
        (["guidance.interval=0.5"], ["guidance.interval=0.5 is no list of numbers from 0 to 1"]),
        (["guidance.rescale=2"], ["guidance.rescale=2", "0 to 1"]),
        (["metrics.lpips=alexnet.pth", "data.resolution=16", "ae.f=4"], ["metrics.lpips", "31 px", "16 px"]),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(overrides, words):
    with pytest.raises(UserError) as refused:
        plan_of(*overrides)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


def test_the_judge_may_be_the_loss_network_where_the_user_says_so():
    settings = ["ae.loss.perceptual=efficientnet_lite2", "metrics.allow_same_network=true"]
    # The mark is part of what is measured, so all that bears it is measured anew, and nothing is trained for it.
    for f in (1, 4):
        marked = changed(plan_of(f"ae.f={f}"), plan_of(f"ae.f={f}", "metrics.allow_same_network=true"))
        assert marked == JUDGED
    assert plan_of(*settings).axes["extractor"] == "efficientnet_lite2_colour"


@pytest.mark.long
@pytest.mark.parametrize("f", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_a_budget_of_flops_costs_the_same_at_every_factor(f):
    images_at_f4, step_at_f4 = _budget(4)
    images, step = _budget(f)
    assert images_at_f4 == 100_000
    assert images * step == pytest.approx(images_at_f4 * step_at_f4, rel=0.01)


@lru_cache
def _budget(f: int) -> tuple[int, float]:
    """Images to train on under trainer.budget=flops, and FLOPs of one of them."""
    plan = plan_of(f"ae.f={f}", "trainer.budget=flops", "trainer.images=100000")
    channels, side = plan.config["ae"]["channels"], plan.config["data"]["resolution"] // f
    network, conditions = _network(plan, len(FACTS.classes))
    x, index, context = (
        torch.empty(size, device="meta") for size in ((1, channels, side, side), 1, (1, 1, conditions.context_dim))
    )
    return plan.config["trainer"]["images"], count_flops(lambda: network(x, index, context).sum().backward())


def _network(plan, classes):
    config = plan.config
    with torch.device("meta"):
        conditions = build.conditioning(config["conditioning"], Vocabulary(classes), config["ae"])
        side = config["data"]["resolution"] // config["ae"]["f"]
        return build.denoiser(config["denoiser"], config["ae"]["channels"], side, conditions), conditions


@pytest.mark.long
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("conditioning", ["class", "none"])
def test_the_cells_of_a_study_have_the_same_parameters(scale, conditioning):
    counts = {}
    for f in (1, 2, 4, 8, 16, 32):
        plan = plan_of(f"ae.f={f}", f"conditioning={conditioning}", "trainer.budget=images", scale=scale)
        counts[f] = sum(build.parameters(part) for part in _network(plan, len(FACTS.classes)))
    of_pixels = counts.pop(1)
    assert max(counts.values()) / min(counts.values()) < 1.07, counts
    # At scale=cpu patches of 8 x 8 pixels enter and leave: 192 channels instead of a few.
    assert of_pixels / min(counts.values()) < (1.19 if scale == "cpu" else 1.07), (of_pixels, counts)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_under_a_budget_of_images_the_cells_see_the_same_images_in_the_same_batches(scale):
    seen = set()
    for f in (1, 2, 4, 8, 16, 32):
        trainer = plan_of(f"ae.f={f}", "trainer.budget=images", scale=scale).config["trainer"]
        seen.add((math.ceil(trainer["images"] / trainer["batch"]) * trainer["batch"], trainer["batch"]))
    assert len(seen) == 1


@pytest.mark.long
@pytest.mark.parametrize("scale", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_the_cells_of_a_study_cost_the_same_flops(scale):
    spent = {}
    for f in (1, 2, 4, 8, 16, 32):
        config = plan_of(f"ae.f={f}", scale=scale).config
        trainer = config["trainer"]
        assert (trainer["budget"], config["sampler"]["clip"]) == ("flops", "range")
        assert config["diffusion"]["target"] == {"cpu": "flow", "gpu": "v"}[scale]
        seen = math.ceil(trainer["images"] / trainer["batch"]) * trainer["batch"]
        spent[f] = seen * flops_per_training_image(config, f, Vocabulary(len(FACTS.classes)))
    assert max(spent.values()) / min(spent.values()) < 1.02, spent
    usual = {f: plan_of(f"ae.f={f}", scale=scale).config["trainer"]["batch"] for f in (4, 16, 32)}
    assert usual == ({4: 64, 16: 512, 32: 2048} if scale == "cpu" else dict.fromkeys(usual, usual[4]))
    given = plan_of("ae.f=32", "trainer.batch=16", scale=scale).config["trainer"]
    assert given["batch"] == 16


@pytest.mark.long
def test_the_length_of_training_counts_in_the_images_of_the_scale():
    usual = settings_of()["scale"]["trainer"]["images"]
    assert plan_of("trainer.length=3").config["trainer"]["images"] == 3 * usual
    assert not changed(plan_of(f"trainer.images={3 * usual}"), plan_of("trainer.length=3"))
    assert not changed(plan_of("trainer.images=40"), plan_of("trainer.images=40", "trainer.length=3"))
    ratio = plan_of("ae.f=8", "trainer.budget=flops").config["trainer"]["images"] / usual
    longer = plan_of("ae.f=8", "trainer.budget=flops", "trainer.length=3").config["trainer"]["images"]
    assert longer == pytest.approx(3 * usual * ratio, rel=0.05)
    for wrong in ("0", "long", "true"):
        with pytest.raises(UserError, match=r"trainer\.length"):
            plan_of(f"trainer.length={wrong}")


def test_without_milestones_no_quality_over_training_is_measured():
    assert set(plan_of().stages) - set(plan_of("trainer.milestones=[]").stages) == {"progress"}


def _milestones(f: int, *overrides: str) -> list[int]:
    """Images seen at the milestones that `auto` stands for."""
    trainer = plan_of(f"ae.f={f}", "trainer.milestones=auto", *overrides).config["trainer"]
    return images_at(trainer["milestones"], trainer["images"], trainer["batch"])


def test_milestones_halve_a_training_of_equal_images():
    assert (
        _milestones(4, "trainer.images=1024") == _milestones(1, "trainer.images=1024") == [32, 64, 128, 256, 512, 1024]
    )
    assert _milestones(4, "trainer.images=64") == [16, 32, 64]  # four steps of 16


@pytest.mark.long
def test_trainings_of_equal_flops_have_milestones_at_equal_flops_and_at_equal_images():
    equal = ("trainer.budget=flops", "trainer.images=100000", "trainer.batch=1")
    factors = (1, 4, 8)
    found = {f: _milestones(f, *equal) for f in factors}
    fewest = min((found[f][-1], f) for f in factors)[1]
    assert len(found[fewest]) == 6
    for f, seen in found.items():
        assert seen == sorted(set(seen))
        for halving in range(6):
            assert round(seen[-1] / 2**halving) in seen
            assert min(abs(n - found[fewest][-1] / 2**halving) / n for n in seen) <= 0.1, (f, halving)
        assert all(other / one > 1.09 for one, other in itertools.pairwise(seen))
    assert found[4][-1] == 100_000


def test_milestones_of_a_falling_rate_are_said_to_be_no_runs_that_end_there():
    said = "a milestone is not what a run that ends there would be"
    assert any(said in note for note in plan_of("trainer.milestones=auto", "trainer.decay=cosine").notes)
    assert not any(said in note for note in plan_of("trainer.milestones=auto").notes)
    with pytest.raises(UserError, match=r"trainer\.milestones=often is no list of numbers.* or auto"):
        plan_of("trainer.milestones=often")


def test_the_half_life_of_the_average_may_have_no_limit():
    training = plan_of("trainer.ema_half_life=none").stages["diffusion"].settings["training"]
    assert training["ema_half_life"] == "none"
    assert changed(plan_of(), plan_of("trainer.ema_half_life=none")) == FROM_DIFFUSION_ON
    with pytest.raises(UserError, match=r"trainer\.ema_half_life=never is no number of images above 0 or none"):
        plan_of("trainer.ema_half_life=never")


def test_of_pixels_the_network_gives_what_the_scale_says_unless_another_target_is_given():
    def output(*overrides: str, scale: str = "cpu") -> str | None:
        found: str | None = plan_of(*overrides, scale=scale).config["diffusion"]["output"]
        return found

    assert output("ae.f=1") == output("ae.f=1", "diffusion.output=x0", "diffusion.target=eps") == "x0"
    assert output("ae.f=1", "diffusion.target=flow") == output("ae.f=1", "diffusion.schedule=cosine") == "x0"
    assert output("ae.f=1", "diffusion.output=v") == "v"
    assert output("ae.f=1", "diffusion.target=v") is None
    assert output("ae.f=4") is None
    assert output("ae.f=1", scale="tiny") is None
    assert plan_of("ae.f=1", scale="cpu").axes["target"] == plan_of("ae.f=4", scale="cpu").axes["target"] == "flow"


@pytest.mark.long
def test_guidance_is_the_scales_for_the_condition_where_none_is_set():
    usual = {"scale": 4.5, "interval": [0.42, 0.96], "rescale": 0.0}
    none = {"scale": 1.0, "interval": None, "rescale": 0.0}
    found = {
        overrides: plan_of(*overrides, scale="cpu").config["guidance"]
        for overrides in (
            (),
            ("conditioning=none",),
            ("conditioning=superres",),
            ("conditioning.dropout=0",),
            ("guidance.scale=1",),
            ("guidance.scale=2",),
        )
    }
    assert found[()] == usual
    assert found[("guidance.scale=2",)] == {**none, "scale": 2}
    assert all(found[kind] == none for kind in list(found)[1:5])
    assert all(plan_of(scale=scale).config["guidance"] == none for scale in ("tiny", "gpu"))


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ((), ("flow", "flow", "logit_normal", 4.0)),
        (("diffusion.schedule=flow", "diffusion.target=flow"), ("flow", "flow", "logit_normal", 4.0)),
        (("diffusion.times=uniform", "diffusion.shift=1"), ("flow", "flow", "uniform", 1.0)),
        (("diffusion.target=eps",), ("scaled_linear", "eps", "uniform", 1.0)),
        (("diffusion.schedule=cosine",), ("cosine", "v", "uniform", 1.0)),
        (("diffusion.schedule=flow", "diffusion.target=x0"), ("flow", "x0", "uniform", 1.0)),
        (("diffusion.target=v", "diffusion.shift=2"), ("scaled_linear", "v", "uniform", 2.0)),
        (("diffusion.beta_end=0.02",), ("scaled_linear", "v", "uniform", 1.0)),
    ],
)
def test_a_scale_chooses_schedule_target_times_and_shift_together(overrides, found):
    diffusion = plan_of("ae.f=1", *overrides, scale="cpu").config["diffusion"]
    # What is no density of its own is left out, so that older trainings keep their identities.
    times = diffusion.get("times", "uniform")
    assert (diffusion["schedule"], diffusion["target"], times, diffusion["shift"]) == found


@pytest.mark.parametrize(
    ("overrides", "interval"),
    [
        (("ae.f=4",), [0.2, 0.8]),
        (("ae.f=4", "diffusion.schedule=flow"), [0.44, 0.94]),
        (("ae.f=1", "diffusion.schedule=flow", "diffusion.shift=auto"), [0.16, 0.79]),
        (("ae.f=4", "guidance.scale=2", "guidance.interval=[0.1,0.9]"), [0.1, 0.9]),
    ],
)
def test_a_scale_may_say_at_which_noise_levels_guidance_acts(overrides, interval):
    """The same noise is other t on every schedule: on the straight path log-SNR = 2 ln((1 - t) / t) - 2 ln(shift)."""
    settings = settings_of(*overrides)
    settings["scale"]["guidance"] = {"class": {"scale": 3.0, "log_snr": [-5.46, 0.476]}}
    assert make_plan(settings, FACTS, STAGES).config["guidance"]["interval"] == interval
    if "diffusion.schedule=flow" in overrides:
        shift = 4 if "diffusion.shift=auto" in overrides else 1
        ends = [2 * math.log((1 - t) / t) - 2 * math.log(shift) for t in interval]
        assert ends == pytest.approx([0.476, -5.46], abs=0.1)
