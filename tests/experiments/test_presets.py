"""The presets of the paper: the networks of every row, counted on the meta device; every preset is planned and runs."""

import copy
import json
import math
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_plans
import torch
from program import records, run
from released_first_stages import RATE, RELEASED
from tiny_plans import changed, set_values

from analysis import papers
from experiments import build
from experiments.commands import describe
from experiments.compose import composed, settings_only, swept
from experiments.conditions import Vocabulary, annotations_read
from experiments.main import plan_of
from experiments.plan import make_plan
from experiments.schema import CONF
from experiments.stage import Plan
from experiments.stages import STAGES
from experiments.store import Store
from ldm.conditioning import Conditioning
from ldm.errors import UserError
from ldm.pretrained import lpips
from ldm.training.first_stage import FirstStageSettings

PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OF_FILES = {"autoencoder_zoo"}
"""Of files that its user gives: tests/experiments/test_autoencoder_zoo.py."""
ON_CPU = ("device=cpu", "precision=fp32")

# Counted on the architecture of CompVis/latent-diffusion@a506df57: the network alone, without conditioner, first stage
# or 1 x 1 quantisation convolutions. By the row's name: what is given behind +experiment=, and the count.
UNETS = {
    "Table 13 LDM-1": ("imagenet_f_study ae.f=1", 396835971),
    "Table 13 LDM-2": ("imagenet_f_study ae.f=2", 390888578),
    "Table 13 LDM-4": ("imagenet_f_study ae.f=4", 400920579),
    "Table 13 LDM-8": ("imagenet_f_study ae.f=8", 394984196),
    "Table 13 LDM-16": ("imagenet_f_study ae.f=16", 395002632),
    "Table 13 LDM-32": ("imagenet_f_study ae.f=32", 395113248),
    "Table 14 LDM-1": ("celebahq_f_study ae.f=1", 270458115),
    "Table 14 LDM-2": ("celebahq_f_study ae.f=2", 264510722),
    "Table 14 LDM-4": ("celebahq_f_study ae.f=4", 274056163),
    "Table 14 LDM-8": ("celebahq_f_study ae.f=8", 257733124),
    "Table 14 LDM-16": ("celebahq_f_study ae.f=16", 257751560),
    "Table 14 LDM-32": ("celebahq_f_study ae.f=32", 257862176),
    "Table 15 inpainting": ("inpaint", 215230467),
    "released bsr_sr": ("superres_bsr", 113622563),
    "released celeba256": ("celebahq", 274056163),
    "released cin256": ("imagenet_class ae.f=8", 394984196),
    "released cin256-v2": ("imagenet_class ae.f=4", 400920579),
    "released ffhq256": ("ffhq", 274056163),
    "released inpainting_big": ("inpaint_big", 387245827),
    "released layout2img-openimages256": ("layout_openimages", 246277379),
    "released lsun_beds256": ("lsun_bedrooms", 274056163),
    "released lsun_churches256": ("lsun_churches", 294966916),
    "released semantic_synthesis256": ("semantic", 215229315),
    "released semantic_synthesis512": ("semantic data.resolution=512", 215229315),
    "released text2img256": ("text_f4", 403623939),
    "released txt2img-1p4B-eval": ("text_1p45b", 872300484),
}
# The same for encoder and decoder.
CODERS = {
    "released first stage kl-f4": ("first_stage_kl ae.f=4", 22351238, 32960771),
    "released first stage kl-f8": ("first_stage_kl ae.f=8", 34163592, 49490179),
    "released first stage kl-f16": ("first_stage_kl ae.f=16", 28265760, 41343875),
    "released first stage kl-f32": ("first_stage_kl ae.f=32", 42614656, 61244803),
    "released first stage vq-f4": ("first_stage_vq ae.f=4", 22337411, 32960771),
    "released first stage vq-f4-noattn": ("first_stage_vq_noattn", 21285763, 31909123),
    "released first stage vq-f8": ("first_stage_vq ae.f=8", 27397764, 40253955),
    "released first stage vq-f8-n256": ("first_stage_vq_n256 ae.f=8", 27397764, 40253955),
    "released first stage vq-f16": ("first_stage_vq ae.f=16", 28155144, 41307011),
}
COUNTS = {(row, "UNet"): (preset, count) for row, (preset, count) in UNETS.items()}
COUNTS |= {(row, "encoder"): (preset, count) for row, (preset, count, _) in CODERS.items()}
COUNTS |= {(row, "decoder"): (preset, count) for row, (preset, _, count) in CODERS.items()}

ALIKE = {"noise_shift": 1}
"""Points of a sweep that are the same cell as another: at f = 4 the shift is none."""

# Millions that Tables 12 to 15 print (pages 24 and 25) for UNet and conditioner.
PRINTED = {
    "imagenet_f_study ae.f=1": 396,
    "imagenet_f_study ae.f=2": 391,
    "imagenet_f_study ae.f=8": 395,
    "imagenet_f_study ae.f=16": 395,
    "imagenet_f_study ae.f=32": 395,
    "celebahq_f_study ae.f=1": 270,
    "celebahq_f_study ae.f=2": 265,
    "celebahq_f_study ae.f=4": 274,
    "celebahq_f_study ae.f=8": 258,
    "celebahq_f_study ae.f=16": 260,
    "celebahq_f_study ae.f=32": 258,
    "celebahq": 274,
    "ffhq": 274,
    "lsun_bedrooms": 274,
    "lsun_churches": 294,
    "text_1p45b": 1450,
    "layout_openimages": 306,
    "layout_coco": 345,
    "inpaint": 215,
    "semantic data.semantic_classes=182": 215,
    "semantic ae.f=8 data.semantic_classes=182": 215,
}


def sweep_of(preset: str) -> dict[str, list[str]]:
    """What its file sweeps."""
    return swept([f"+experiment={preset}"])


def first_point(preset: str) -> list[str]:
    """Of its sweep."""
    return [f"{key}={values[0]}" for key, values in sweep_of(preset).items()]


@lru_cache
def _composed(preset: str, scale: str, choices: tuple[str, ...]) -> dict[str, Any]:
    return settings_only(composed([f"+experiment={preset}", f"scale={scale}", *ON_CPU, *choices], needs_path=False))


def settings_of(preset: str, *overrides: str, scale: str = "paper") -> dict[str, Any]:
    """The settings of a preset without the point of its sweep; values are set after composing, which takes long."""
    choices = tuple(override for override in overrides if "." not in override)
    settings = copy.deepcopy(_composed(preset, scale, choices))
    set_values(settings, (override for override in overrides if override not in choices))
    return settings


def declared_plan(*preset: str) -> tuple[Plan, Vocabulary]:
    """The plan at scale=paper without any image, of what the preset's data declares, and that."""
    settings = settings_of(*preset)
    facts = describe.declared_of(settings["data"]).as_facts()
    plan = make_plan(settings, facts, STAGES)
    return plan, facts.vocabulary(annotations_read(plan.config))


def conditioning_of(plan: Plan, known: Vocabulary) -> Conditioning:
    """On the meta device."""
    with torch.device("meta"):
        return build.conditioning(plan.config["conditioning"], known, plan.config["ae"])


@lru_cache
def unet_parameters(preset: str) -> int:
    """Of the network as it is built at scale=paper."""
    plan, known = declared_plan(*preset.split())
    ae, conditions = plan.config["ae"], conditioning_of(plan, known)
    with torch.device("meta"):
        side = plan.config["data"]["resolution"] // ae["f"]
        return build.parameters(build.denoiser(plan.config["denoiser"], ae["channels"], side, conditions))


@lru_cache
def coder_parameters(preset: str) -> dict[str, int]:
    """Of encoder and decoder as they are built at scale=paper."""
    config = declared_plan(*preset.split())[0].config
    with torch.device("meta"):
        first_stage = build.first_stage(config["ae"], config["data"]["resolution"])
    return {part: build.parameters(getattr(first_stage, part)) for part in ("encoder", "decoder")}


def total_parameters(preset: str) -> int:
    """Of UNet and conditioner, with the output layer of the reference's token transformer, which the paper's totals
    include: nothing reads it, and ours does not build it.
    """
    conditions = conditioning_of(*declared_plan(*preset.split()))
    transformer = getattr(conditions, "transformer", None)
    unused = transformer.vocabulary * (conditions.context_dim + 1) if transformer else 0
    return unet_parameters(preset) + build.parameters(conditions) + unused


@pytest.mark.long
@pytest.mark.parametrize(("row", "part"), COUNTS)
def test_a_preset_has_the_networks_of_its_row(row, part):
    preset, count = COUNTS[row, part]
    assert (unet_parameters(preset) if part == "UNet" else coder_parameters(preset)[part]) == count


def test_every_row_of_the_published_counts_has_a_preset():
    published = {(row["model"], row["part"]): int(row["parameters"]) for row in papers.read("ldm_parameter_counts")}
    assert published == {row: count for row, (_, count) in COUNTS.items()}


@pytest.mark.long
@pytest.mark.parametrize("preset", PRINTED)
def test_totals_agree_with_the_paper_to_a_hundredth(preset):
    assert total_parameters(preset) == pytest.approx(PRINTED[preset] * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "printed", "why"),
    [
        ("imagenet_f_study ae.f=4", 391, "Table 13, where Tables 3, 10 and 18 say 400 M of the same network"),
        ("imagenet_class ae.f=4", 395, "Table 15, where Tables 3, 10 and 18 say 400 M of the same network"),
        ("superres", 169, "Tables 5 and 15; the released network of the same settings has 114 M"),
        ("inpaint_big", 215, "Table 15; the network that was released has 387 M"),
    ],
)
def test_where_the_paper_contradicts_itself_the_counted_architecture_is_built(preset, printed, why):
    assert total_parameters(preset) != pytest.approx(printed * 1e6, rel=0.01), why
    assert unet_parameters(preset) in {count for _, count in UNETS.values()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_its_question_its_command_and_its_cost(preset):
    lines = (CONF / "experiment" / f"{preset}.yaml").read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    titles = [line.split()[1] for line in head if line.startswith("# ") and line[2] != " "]
    assert titles[1:4] == ["Question", "Command", "Cost"]
    assert f"python run.py +experiment={preset} " in "\n".join(head)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of VGG's convolutions for LPIPS, all zero, of which one number a tensor is kept."""
    weights, channels, index = {}, 3, 0
    for layer in lpips.trunk("vgg").layers:
        if isinstance(layer, lpips.Conv):
            weights[f"features.{index}.weight"] = torch.zeros(1).expand(layer.channels, channels, 3, 3)
            weights[f"features.{index}.bias"] = torch.zeros(1).expand(layer.channels)
            channels = layer.channels
        index += 2 if isinstance(layer, lpips.Conv) else 1
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(weights, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["tiny", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("preset", sorted({*PRESETS} - OF_FILES))
def test_a_preset_is_planned_on_the_embedded_images_at_every_scale(preset, scale, vgg, tmp_path):
    given = ("data=emoji", f"ae.loss.perceptual_path={vgg}", *first_point(preset))
    plan = plan_of(settings_of(preset, *given, scale=scale), Store(tmp_path))
    names = {plan.config["denoiser"]["architecture"], plan.config["ae"].get("architecture", {}).get("name")} - {None}
    said = [note for note in plan.notes if "its own networks are used instead" in note]
    assert len(said) == (0 if scale == "paper" else len(names)), plan.notes


def test_a_name_changes_no_identity():
    for preset, key in (("celebahq", "denoiser.architecture"), ("first_stage_kl", "ae.architecture.name")):
        named, plain = (declared_plan(preset, *more)[0] for more in ([], [f"{key}=null"]))
        assert not changed(named, plain)


def test_a_named_first_stage_changes_what_its_table_says_and_nothing_else():
    released, matched = (
        declared_plan(name, "ae.f=16")[0].config["ae"] for name in ("first_stage_kl", "first_stage_vq")
    )
    assert (released["channels"], matched["channels"]) == (16, 8)
    assert released["architecture"] == {**matched["architecture"], "name": "kl_released"}
    small, large = (declared_plan(name, "ae.f=8")[0].config["ae"] for name in ("first_stage_vq_n256", "first_stage_vq"))
    assert (small["codebook"]["codes"], large["codebook"]["codes"]) == (256, 16384)


@pytest.mark.parametrize(
    ("preset", "batch", "steps", "learning_rate"),
    [
        ("celebahq", 48, 410_000, 9.6e-5),
        ("ffhq", 42, 635_000, 8.4e-5),
        ("imagenet_class ae.f=4", 1200, 178_000, 1e-4),
        ("imagenet_f_study ae.f=4", 40, 2_000_000, 8e-5),
        ("layout_coco", 48, 170_000, 4.8e-5),
    ],
)
def test_the_budget_of_the_paper_is_the_row_s_own(preset, batch, steps, learning_rate):
    trainer = declared_plan(*preset.split(), "trainer.budget=paper")[0].config["trainer"]
    assert (trainer["batch"], trainer["images"], trainer["learning_rate"]) == (batch, batch * steps, learning_rate)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("inpaint_big trainer.budget=paper", ["inpaint_big", "f = 4", "not published"]),
        ("ffhq denoiser.architecture=fhq", ["denoiser.architecture=fhq", "did you mean 'ffhq'"]),
        ("first_stage_kl ae.architecture.name=kl", ["ae.architecture.name=kl", "kl_released"]),
        ("layout_coco ae.f=4", ["layout_coco", "ae.f=4", "f = 8"]),
    ],
)
def test_what_the_paper_does_not_have_is_refused_in_one_sentence(preset, words):
    with pytest.raises(UserError) as refused:
        declared_plan(*preset.split())
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.slow
def test_a_sweep_is_described_at_its_first_point_or_where_it_is_asked(tmp_path):
    assert swept(["+experiment=regulariser"]) == {"ae": ["kl", "vq"], "ae.f": ["4", "8", "16", "32"]}
    assert swept(["+experiment=regulariser", "ae=vq", "ae.f=8"]) == {}
    found = describe.described(["+experiment=regulariser", "ae.f=8", "scale=tiny", *ON_CPU, f"store={tmp_path}"])
    assert (found.plan.axes["regulariser"], found.plan.axes["f"]) == ("kl", 8)
    assert "this is ae=kl;" in found.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted({preset for preset, _ in COUNTS.values()}))
def test_describe_counts_a_preset_without_its_images(preset, capsys):
    arguments = [f"+experiment={preset.split()[0]}", *preset.split()[1:], "scale=paper", *ON_CPU, "--json"]
    assert describe.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["parameters"]
    parts = {"UNet": "denoiser", "encoder": "encoder", "decoder": "decoder"}
    rows = {part: count for (_, part), (given, count) in COUNTS.items() if given == preset}
    assert {part: found[parts[part]] for part in rows} == rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all presets: what they share is trained once."""
    return tmp_path_factory.mktemp("presets") / "store"


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted({*PRESETS} - OF_FILES))
def test_every_preset_runs_on_the_embedded_images(preset, store):
    few = [] if {"sampler.steps", "sampler.nfe"} & set(sweep_of(preset)) else ["sampler.steps=2"]
    done = run(store, f"+experiment={preset}", "data=emoji", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    newest = max((store / "sweeps").glob("*.json"), key=lambda path: path.stat().st_mtime)
    cells = json.loads(newest.read_text())["cells"]
    points = math.prod(map(len, sweep_of(preset).values()))
    assert len(cells) == points - ALIKE.get(preset, 0)
    assert {item for cell in cells for item in cell["stages"].items()} <= records(store)


@pytest.mark.parametrize("name", RELEASED)
def test_the_preset_of_a_released_first_stage_is_that_model_key_by_key(name):
    model = RELEASED[name]
    found = declared_plan(*CODERS[f"released first stage {name}"][0].split())[0].config["ae"]
    sizes, training, discriminator = found["architecture"], found["training"], found["loss"]["discriminator"]
    assert (found["regulariser"], found["f"], found["channels"]) == (model.regulariser, model.f, model.channels)
    assert (sizes["ch"], tuple(sizes["ch_mult"]), sizes["num_res_blocks"]) == (128, model.ch_mult, 2)
    assert (tuple(sizes["attention_sides"]), sizes["mid_attention"]) == (model.attention_sides, model.mid_attention)
    assert (sizes["dropout"], sizes["initialisation"]) == (0.0, "reference")
    assert training["batch"] == model.batch
    assert training["images"] == model.steps * model.batch
    assert training["learning_rate"] == pytest.approx(RATE * model.batch)
    assert (training["decay"], training["warm_up"], training["gradient_clip"]) == ("constant", 0, None)
    assert training["matrix_learning_rate"] == 0  # Adam trains all
    steps = FirstStageSettings(
        0, training["images"], model.batch, 1e-4, 0, "constant", None, adversarial_from=discriminator["start"]
    )
    assert steps.steps == model.steps
    assert [steps.is_adversarial(step) for step in (model.start - 1, model.start)] == [False, True]
    assert (discriminator["weight"], discriminator["layers"]) == (model.weight, model.layers)
    assert (discriminator["channels"], discriminator["norm"]) == (64, "batch")
    assert (found["loss"]["perceptual"], found["loss"]["perceptual_weight"]) == ("lpips_vgg", 1.0)
    if model.regulariser == "kl":
        assert found["kl_weight"] == 1e-6
    else:
        book = found["codebook"]
        assert (book["codes"], book["weight"], book["beta"]) == (model.codes, 1.0, 0.25)
        assert (book["legacy"], book["revive_every"]) == (True, 0)


def test_every_released_first_stage_has_a_preset_and_its_published_steps():
    assert {f"released first stage {name}" for name in RELEASED} == set(CODERS)
    rows = papers.read("ldm_released_autoencoders")
    published = Counter((row["family"].lower(), int(row["f"]), int(row["train_steps"])) for row in rows)
    assert published == Counter((model.regulariser, model.f, model.steps) for model in RELEASED.values())


@pytest.mark.parametrize(
    ("factor", "alone"),
    [
        ("ae.f=4", ("first_stage_vq_noattn", "ae.architecture.name=null")),
        ("ae.f=8", ("first_stage_vq", "ae.f=8", "ae.codebook.codes=256")),
    ],
)
def test_one_difference_alone_is_trained_as_the_model_that_it_is_compared_to(factor, alone):
    usual, found = (declared_plan(*given)[0].config["ae"] for given in (("first_stage_vq", factor), alone))
    assert (found["training"], found["loss"]) == (usual["training"], usual["loss"])
    assert (found["architecture"] == usual["architecture"]) != (found["codebook"] == usual["codebook"])


@pytest.mark.long
def test_a_name_brings_no_attention_where_its_model_has_none():
    for given, has_attention in ((["vq_noattn"], False), (["vq_noattn", "mid_attention=true"], True), (["null"], True)):
        settings = [f"ae.architecture.{key}" for key in (f"name={given[0]}", *given[1:])]
        found = tiny_plans.plan_of("ae=vq", "ae.f=4", *settings, scale="paper").config["ae"]
        assert found["architecture"]["mid_attention"] is has_attention


@pytest.mark.long
def test_a_missing_file_of_the_perceptual_loss_is_refused_when_a_run_is_planned(tmp_path):
    missing = tmp_path / "vgg16.pth"
    given = ("data=emoji", "ae.f=4", f"ae.loss.perceptual_path={missing}")
    with pytest.raises(UserError, match=re.escape(str(missing))) as refused:
        plan_of(settings_of("first_stage_kl", *given), Store(tmp_path / "store"))
    assert "\n" not in str(refused.value)
