"""Each condition by itself: what it reads, builds, draws and scores; and a condition of one's own."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_plans import FACTS, changed, plan_of, planned, settings_of
from torch import Tensor

from experiments import build
from experiments.condition_pictures import condition_pictures, save_condition_grid
from experiments.conditions import (
    CONDITIONS,
    AskedConditions,
    BuildContext,
    DataFacts,
    Vocabulary,
    annotations_read,
    fields_of,
    probe_options,
    task_scores_of,
    task_weights,
    tau_theta,
)
from experiments.conditions.asked import GivenSample
from experiments.conditions.condition import ConditionKind
from experiments.conditions.pairs import NO_LPIPS
from experiments.conditions.scores import MeasuredSamples, asked_facts
from experiments.task import measures_of, scores_of, task_facts
from ldm.conditioning import Condition, Conditioning
from ldm.conditioning.contract import field_of, masked_items
from ldm.data import build_cache, open_splits
from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.metrics.clip_score import MISSING
from ldm.metrics.features import Features
from ldm.parts import option
from ldm.probes import build_probe
from ldm.records import Protocol

N = 24
F, CHANNELS = 4, 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> ImageCache:
    source = open_splits("emoji", 32, n_train=N, n_heldout=N)["train"]
    folder = tmp_path_factory.mktemp("scenes") / "cache"
    return build_cache(source, folder, 1, annotations=("captions", "boxes", "semantic"))


def plan_for(scenes: ImageCache, *overrides: str):
    facts = DataFacts("a", "b", N, N, scenes.classes, scenes.annotations, scenes.annotations)
    return planned(settings_of(*overrides), facts)


def group_of(scenes: ImageCache, name: str) -> dict:
    return plan_for(scenes, f"conditioning={name}").config["conditioning"]


def context_of(scenes: ImageCache) -> BuildContext:
    names = {kind: len(annotation.names) for kind, annotation in scenes.annotations.items()}
    known = Vocabulary(len(scenes.classes), names["boxes"], names["semantic"])
    return BuildContext(known, F, CHANNELS, "cpu", lambda image: torch.nn.functional.avg_pool2d(image, F))


def asked_of(scenes: ImageCache, group: dict) -> AskedConditions:
    return AskedConditions(fields_of(group, scenes, "cpu"), list(range(N)), seed=0)


@pytest.mark.long
@pytest.mark.parametrize("name", CONDITIONS)
def test_tau_theta_reads_the_fields_and_gives_what_it_says(scenes, name):
    """Also on the meta device, where networks are counted, it has the sizes of what it gives there and here."""
    group, kind = group_of(scenes, name), CONDITIONS[name]
    made = tau_theta(group, context_of(scenes))
    fields = asked_of(scenes, group).of(range(3))
    assert set(fields) == set(made.fields)
    condition, expected = made(fields), made.placeholder(3, (8, 8))
    for part in ("context", "concat"):
        found, wanted = getattr(condition, part), getattr(expected, part)
        assert (found is not None) == (kind.gives_tokens == (part == "context"))
        assert found is None or found.shape == wanted.shape
    with torch.device("meta"):
        counted = tau_theta(group, context_of(scenes))
    assert build.parameters(counted) == build.parameters(made)
    assert all(weight.is_meta for weight in counted.parameters())


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_picture_shows_what_a_sample_was_given(scenes, name):
    group = group_of(scenes, name)
    fields = asked_of(scenes, group).of(range(N))
    drawn = []
    for item in range(N):
        own = {key: field[item] for key, field in fields.items()}
        [picture] = condition_pictures(group, GivenSample(own, scenes, item), (120, 90))
        assert (picture.size, picture.mode) == ((120, 90), "RGB")
        drawn.append(np.asarray(picture).tobytes())
    if name == "class":
        assert len(set(drawn)) == len(set(scenes.labels.tolist()))
    else:
        assert len(set(drawn)) > N // 2


@pytest.mark.parametrize("name", CONDITIONS)
def test_data_that_cannot_give_a_condition_is_refused_or_trained_without_it(name):
    kind = CONDITIONS[name]
    without = dataclasses.replace(FACTS, classes=())
    settings = settings_of(f"conditioning={name}")
    if kind.needs is None:
        assert planned(settings, without).axes["conditioning"] == name
    elif kind.is_optional:
        plan = planned(settings, without)
        assert plan.axes["conditioning"] == "none"
        assert any(f"has no {kind.needs}" in note for note in plan.notes)
    else:
        with pytest.raises(UserError, match=f"conditioning={name} needs {kind.needs}, and data=emoji has none"):
            planned(settings, without)


@pytest.mark.parametrize("name", ["class", "text", "semantic", "superres", "inpaint"])
def test_the_options_of_an_imported_model_are_those_it_was_built_from(scenes, name):
    group, form = group_of(scenes, name), CONDITIONS[name].imported
    made = tau_theta(group, context_of(scenes))
    assert isinstance(made, form.conditioning)
    found = form.options(made, "model.ckpt")
    assert found == {key: group[name][key] for key in found}
    assert found or name == "inpaint"


GENERATION = Protocol(
    kind="generation",
    n_samples=N,
    reference="heldout",
    reference_hash="of the reference",
    n_reference=100,
    resolution=32,
    resize="bilinear_antialias",
    extractor="colours",
    extractor_size=32,
    extractor_weights="none",
    extractor_precision="float32",
    class_balance="as in the training images",
    evaluation_seed=5,
    marks=("a mark",),
)


def colours(images: Tensor) -> Features:
    """An extractor: the mean colour of each image."""
    return Features(images.float().mean(dim=(2, 3)).numpy(), None)


SETTINGS = {"height": None, "clip_model": None, "lpips_weights": None}


def scored_samples(scenes, group, samples, probes, obstacles=None, settings=SETTINGS):
    """The scores of samples that were given the conditions of all scenes, in two batches."""
    asked = asked_of(scenes, group)
    measures = measures_of(group, settings, asked, colours, probes, "cpu")
    parts = []
    for part in (range(20), range(20, N)):
        fields = asked.of(part)
        batch = samples[part.start : part.stop]
        parts.append({name: found for measure in measures for name, found in measure(batch, part, fields).items()})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    facts = task_facts(group, settings, asked, "heldout", "cpu")
    known = {
        "probes": {kind: {"side": probe.side, "weights_hash": "hash"} for kind, probe in probes.items()},
        "obstacles": obstacles or {},
    }
    return scores_of(group, MeasuredSamples(values, colours(samples), GENERATION, settings, facts, known))


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_score_stands_beside_its_floor_or_says_why_it_is_missing(scenes, name):
    """Samples that are the images themselves but for a grey level here and there beat the floors without a network."""
    group, kind = group_of(scenes, name), CONDITIONS[name]
    noise = torch.randint(0, 2, (N, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    samples = (scenes.uint8(range(N)).int() - noise).clamp(0, 255).byte()
    options = {} if kind.probe is None else dict(probe_options(group, name))
    probes = {} if kind.probe is None else {name: build_probe(name, 16, 4, scenes, 0, options)}
    scored, left_out = scored_samples(scenes, group, samples, probes)
    found = {value.metric: value.value for one in scored for value in one.values}
    assert kind.all_scores
    for score in kind.all_scores:
        floors = [metric for metric in found if metric.startswith(score.floor.prefix)]
        if score.weights.keys() == {"clip_model"}:
            assert [(item.metric, item.reason) for item in left_out] == [("clip_score", MISSING)]
            continue
        assert floors
        for metric in floors:
            assert metric.removeprefix(score.floor.prefix) in found
    if kind.probe is None:
        assert [(item.metric, item.reason) for item in left_out] == [(f"{name}_lpips_alex", NO_LPIPS)]
        distance = f"{name}_feature_distance_efficientnet_lite2"
        assert found[distance] < found[f"{kind.scores[0].floor.prefix}{distance}"] / 2
    protocols = {value.metric: one.protocol for one in scored for value in one.values}
    assert {(one.n_samples, one.resolution, one.evaluation_seed) for one in protocols.values()} == {(N, 32, 5)}
    assert {one.reference_hash for one in protocols.values()} == {
        asked_facts(scenes, "heldout", annotations_read({"conditioning": group}))["hash"]
    }
    assert len({one.id for one in protocols.values()}) == len([one for one in scored if one.values])


def test_the_networks_of_a_comparison_stand_in_its_protocol(scenes):
    group = group_of(scenes, "inpaint")
    scored, _ = scored_samples(scenes, group, scenes.uint8(range(N)), {})
    extractors = [one.protocol.extractor for one in scored]
    assert extractors == ["none", "feature_distance_efficientnet_lite2", "colours"]
    assert [one.protocol.marks for one in scored] == [(), ("a mark",), ("a mark",)]
    assert {one.protocol.class_balance for one in scored} == {"as in the heldout images"}


def test_a_probe_that_could_not_be_trained_leaves_its_score_out_with_the_reason(scenes):
    group = group_of(scenes, "[class,layout]")
    probes = {"class": build_probe("class", 16, 4, scenes, 0)}
    scored, left_out = scored_samples(
        scenes, group, scenes.uint8(range(N)), probes, {"layout": "no box is large enough"}
    )
    assert [(item.metric, item.reason) for item in left_out] == [("layout_accuracy", "no box is large enough")]
    assert [value.metric for one in scored for value in one.values] == ["class_accuracy", "shuffled_class_accuracy"]


def test_samples_of_another_size_are_not_measured(scenes):
    group = group_of(scenes, "[class,superres]")
    assert measures_of(group, {**SETTINGS, "height": 64}, asked_of(scenes, group), colours, {}, "cpu") == []


def test_the_first_scores_of_all_conditions_stand_before_the_second_of_any(scenes):
    group = group_of(scenes, "[superres,text]")
    kinds = [CONDITIONS["text"].probe, CONDITIONS["superres"].scores[0], CONDITIONS["text"].scores[0]]
    assert [score for score, _ in task_scores_of(group)] == kinds


def test_only_weights_that_a_score_reads_are_in_the_settings_of_samples(scenes):
    metrics = {"clip": "a folder", "lpips": "a file"}
    read = {
        name: task_weights(group_of(scenes, name), metrics) for name in ("class", "text", "inpaint", "[text,superres]")
    }
    assert read == {
        "class": {},
        "text": {"clip_model": "a folder"},
        "inpaint": {"lpips_weights": "a file"},
        "[text,superres]": {"clip_model": "a folder", "lpips_weights": "a file"},
    }
    assert task_weights(group_of(scenes, "text"), {"clip": None, "lpips": "a file"}) == {}


@dataclasses.dataclass(frozen=True)
class TintOptions:
    """strength: what the colour is multiplied by. space: of the colour."""

    strength: float
    space: str = option(choices=("rgb", "linear"), help="")


class Tint(Conditioning):
    """The mean colour of the image everywhere beside the latent."""

    fields = ("tint",)
    tokens = 0
    context_dim = None
    concat_channels = 3

    def __init__(self, strength: float, side: int) -> None:
        super().__init__()
        self.strength, self.side = strength, side

    def forward(self, fields):
        tint = self.strength * field_of(fields, "tint")
        return Condition(concat=tint[:, :, None, None].expand(-1, -1, self.side, self.side))

    def drop(self, fields, mask):
        return {**fields, "tint": masked_items(field_of(fields, "tint"), mask, 0.0)}


def tint_of(images, indices, draw):
    return images.batch(indices).mean(dim=(2, 3))


def swatch(given, size):
    grey = ((given.fields["tint"] + 1) * 127.5).round().int().tolist()
    return Image.new("RGB", size, tuple(grey))


TINT = ConditionKind(
    name="tint",
    options=TintOptions,
    fields=lambda options, device: {"tint": tint_of},
    conditioning=lambda options, context: Tint(options.strength, 32 // context.f),
    picture=swatch,
    gives_tokens=False,
    task=lambda options: f"colour times {options.strength:g}",
)


@pytest.fixture
def tinted(monkeypatch):
    """Composed settings of a cell with a condition that is no file of the program."""
    monkeypatch.setitem(CONDITIONS, "tint", TINT)
    settings = settings_of("conditioning=none", "ae.f=4")
    settings["conditioning"] |= {"tint": {"strength": None, "space": "rgb"}, "dropout": 0.1}
    settings["scale"]["conditioning"]["tint"] = {"strength": 2.0}
    return settings


def test_a_condition_of_ones_own_is_planned_built_and_drawn(tinted, scenes, tmp_path):
    plan = planned(tinted)
    assert (plan.axes["conditioning"], plan.axes["task"]) == ("tint", "colour times 2")
    assert plan.config["samples"]["conditions"] == "heldout"
    assert "probe" not in plan.stages
    unconditional = plan_of("conditioning=none", "ae.f=4")
    assert {"diffusion", "samples", "evaluation"} <= changed(plan, unconditional)
    assert not {"first_stage", "latents"} & changed(plan, unconditional)

    build.check_networks(plan.config, Vocabulary(3))
    group, ae = plan.config["conditioning"], plan.config["ae"]
    conditions = build.conditioning(group, Vocabulary(3), ae)
    network = build.denoiser(plan.config["denoiser"], ae["channels"], 8, conditions)
    asked = asked_of(scenes, group)
    given = conditions(asked.of(range(2)))
    assert network(torch.zeros(2, ae["channels"], 8, 8), torch.zeros(2), None, given.concat).shape[1] == ae["channels"]

    save_condition_grid(tmp_path / "conditions.png", group, asked, scenes.uint8(range(1)))
    picture = np.asarray(Image.open(tmp_path / "conditions.png"))
    assert np.abs(picture[0, 0].astype(int) - scenes.images[0].mean(axis=(0, 1))).max() <= 1


def test_a_condition_of_ones_own_has_its_choices_checked_and_needs_no_score(tinted, scenes):
    group = planned(tinted).config["conditioning"]
    asked = asked_of(scenes, group)
    assert measures_of(group, SETTINGS, asked, colours, {}, "cpu") == []
    assert task_facts(group, SETTINGS, asked, "train", "cpu")["asked"]["images"] == N
    tinted["conditioning"]["tint"]["space"] = "rgbb"
    with pytest.raises(UserError, match=r"conditioning\.tint\.space=rgbb is none of rgb, linear"):
        planned(tinted)
