"""Parts of the user's own: the examples of docs/custom_parts.md run, and what breaks a contract is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import program
import pytest
import torch
from custom_page import examples, write_examples
from safetensors.torch import save_file
from tiny_plans import FACTS, changed, identities, plan_of, planned, settings_of

from experiments import build, custom
from experiments.budget import network_calls
from experiments.counts import count_denoiser, count_first_stage
from experiments.custom import SOURCES, sources_of
from experiments.data_facts import Vocabulary
from experiments.images import Images, data_facts
from experiments.resolve import with_scale_sizes
from experiments.runner import _with_sources
from experiments.stage import PlannedStage
from experiments.store import Store
from experiments.tracking import Tracker
from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.first_stage.coder import Coders
from ldm.records import write_json
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining

KNOWN = Vocabulary(3)
SAMPLER = ("sampler=custom", "sampler.target=renoised:Renoised")
FIRST_STAGE = ("ae=custom", "ae.target=patches:Patches")
DENOISER = ("denoiser=custom", "denoiser.target=convolutions:Convolutions")
EXTRACTOR = ("metrics.extractor=custom", "metrics.target=thumbnails:Thumbnails")
METRIC = ("metrics.extra=[mean_shift:mean_shift]",)
IMAGES = ("data=custom", "data.target=stripes:Stripes")

BROKEN = """
from dataclasses import dataclass
import numpy as np
from torch import nn
from ldm.metrics.features import Features
from convolutions import Convolutions
from patches import Patches
from renoised import Renoised
from stripes import Drawn, Stripes
from thumbnails import Thumbnails

class Stateless(Renoised):
    def step(self, *arguments):
        return super().step(*arguments)[0]

class Doubled(Renoised):
    def step(self, *arguments):
        return super().step(*arguments)[0].double(), None

class Idle(Renoised):
    def step(self, denoise, x_t, t, s, state, noise):
        return x_t, state

class Unversioned:
    pass

class OtherFactor(Patches):
    @classmethod
    def build(cls, coders, channels, options):
        model = super().build(coders, channels, options)
        model.factor = 2
        return model

class LargeLatents(Patches):
    @classmethod
    def build(cls, coders, channels, options):
        model = super().build(coders, channels, options)
        model.encoder = nn.Conv2d(3, channels, 2, 2)
        return model

class HalfImages(Patches):
    def decode(self, raw):
        return super().decode(raw).half()

class Nameless(Patches):
    regulariser = "kl"

class ManyChannels(Convolutions):
    def build(self, *, out_channels, **sizes):
        return super().build(out_channels=out_channels + 1, **sizes)

class DoubleFeatures(Thumbnails):
    def __call__(self, images):
        return Features(super().__call__(images).features.astype(np.float64), None)

class Growing(Thumbnails):
    def __call__(self, images):
        return Features(np.zeros((len(images), len(images)), np.float32), None)

class Inception(Thumbnails):
    name = "inception"

class Tall(Stripes):
    def open(self, size, memo):
        return {split: Drawn(split, self.resolution + 1, 4) for split in ("train", "heldout")}

def number(generated, reference):
    return 1.0
number.version = 1

def fails(generated, reference):
    raise ValueError("too few")
fails.version = 1
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_examples(folder)
    (folder / "broken_parts.py").write_text(BROKEN)
    (folder / "mended_not.py").write_text("import no_such_package")
    return folder


@pytest.fixture(autouse=True)
def beside_them(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    monkeypatch.syspath_prepend(written)


def weights(name: str, seed: int = 0) -> str:
    """A file with weights of the example."""
    torch.manual_seed(seed)
    part = custom.load("patches:Patches", "ae.target").part
    save_file(part.build(Coders(4, 6, 0, (), 0, 32, (), False, 0.0), 6, part.Options()).state_dict(), name)
    return name


def trained(file: str) -> tuple[str, ...]:
    return ("ae=custom", "ae.target=trained_patches:TrainedPatches", f"ae.options={{weights: {file}}}")


def checked(*overrides: str) -> None:
    """Plans and tries the parts of these overrides."""
    plan = plan_of("conditioning=none", *overrides)
    build.check_networks(plan.config, KNOWN)


def test_the_page_has_an_example_of_each_part() -> None:
    page = {"renoised", "patches", "squared", "trained_patches", "convolutions", "thumbnails", "mean_shift", "stripes"}
    assert {name.removesuffix(".py") for name in examples()} == page


@pytest.mark.long
def test_they_all_run_together_and_a_changed_source_is_refused_until_its_version_is_raised(tmp_path: Path) -> None:
    write_examples(tmp_path)
    store, own = tmp_path / "store", (*SAMPLER, *FIRST_STAGE, *DENOISER, *EXTRACTOR, *METRIC, *IMAGES)
    arguments = (*own, "conditioning=none", "sampler.options={strength: 0.5}", "device=cpu")
    first = program.run(store, *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    found = {(stage, metric): value for (stage, _, metric, _), value in program.rows(store).items()}
    assert {("evaluation", "mean_shift"), ("evaluation", "fd_thumbnails")} <= found.keys()
    assert found["evaluation", "mean_shift"] > 0
    [record] = [json.loads(path.read_text()) for path in store.glob("samples/*/record.json")]
    assert record["environment"]["sources"].keys() == {"renoised:Renoised", "thumbnails:Thumbnails", "stripes:Stripes"}
    assert record["config"]["sampler"]["version"] == 1
    before = program.records(store)

    file = tmp_path / "renoised.py"
    text = file.read_text()
    file.write_text(text + "\n# another word\n")
    refused = program.run(store, *arguments)
    assert refused.returncode == 2
    assert "renoised:Renoised changed" in refused.stdout + refused.stderr
    assert program.records(store) == before

    file.write_text(text.replace("version = 1", "version = 2"))
    again = program.run(store, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {stage for stage, _ in program.records(store) - before} == {"samples", "evaluation"}

    images = tmp_path / "stripes.py"
    images.write_text(images.read_text() + "\n# another word\n")
    refused = program.run(store, *arguments)
    assert refused.returncode == 2
    assert "stripes:Stripes changed" in refused.stdout + refused.stderr


def test_a_sampler_runs_and_its_network_calls_are_counted() -> None:
    plan = plan_of(*SAMPLER, "sampler.nfe=6")
    build.check_networks(plan.config, KNOWN)
    assert plan.config["sampler"]["steps"] == 6 == network_calls(plan.config)
    assert "eta" not in plan.config["sampler"]


@pytest.mark.long
def test_its_identity_holds_options_and_version_but_not_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, sampled = plan_of(*SAMPLER), {"samples", "evaluation"}
    assert changed(plan, plan_of(*SAMPLER, "sampler.options={strength: 1}")) == set()
    assert changed(plan, plan_of(*SAMPLER, "sampler.options={strength: 0.25}")) == sampled
    part = custom.load("renoised:Renoised", "sampler.target").part
    loaded = custom.Loaded(part, 1, "another hash")
    monkeypatch.setattr(custom, "load", lambda target, where: loaded)
    assert identities(planned(settings_of(*SAMPLER))) == identities(plan)
    assert sources_of(plan.config) == {"renoised:Renoised": {"version": 1, "hash": "another hash"}}
    monkeypatch.setattr(custom, "load", lambda target, where: custom.Loaded(part, 2, ""))
    assert changed(planned(settings_of(*SAMPLER)), plan) == sampled


def images_of(n: int) -> ImageCache:
    pixels = (np.arange(n * 32 * 32 * 3) % 251).astype(np.uint8).reshape(n, 32, 32, 3)
    return ImageCache(None, "counted", 32, (), tuple(map(str, range(n))), (), pixels, np.full(n, -1), np.zeros(n, bool))


@pytest.mark.long
@pytest.mark.parametrize("target", ["patches:Patches", "squared:Squared"])
def test_a_first_stage_is_built_counted_and_trained_for_a_step(target: str) -> None:
    plan = plan_of("ae=custom", f"ae.target={target}", "ae.options={width: 8}", "ae.loss.perceptual=none")
    build.check_networks(plan.config, KNOWN)
    ae = plan.config["ae"]
    assert (ae["f"], ae["channels"], ae["regulariser"]) == (4, 6, target.partition(":")[0])
    assert "architecture" not in ae
    assert count_first_stage(ae, 32).step.work > 0
    model, loss = build.first_stage(ae, 32), build.first_stage_loss(ae, None)
    before = model.last_layer.detach().clone()
    settings = FirstStageSettings(0, 4, 4, 1e-3, 0, "constant", None, adversarial_from=1)
    FirstStageTraining(model, loss, None, images_of(4), settings, "cpu").advance()
    assert not torch.equal(model.last_layer, before)
    if target == "squared:Squared":
        assert build.discriminator(ae, 32) is None
        image, other = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
        assert loss.generator_terms(image, other, {}).total == pytest.approx(0.25)


@pytest.mark.long
def test_one_that_comes_trained_has_no_training_and_its_weights_count_by_content() -> None:
    plan = plan_of(*trained(weights("one.safetensors")))
    build.check_networks(plan.config, KNOWN)
    settings = plan.stages["first_stage"].settings
    assert not build.is_trained(plan.config["ae"])
    assert settings.keys().isdisjoint({"training", "loss", "data", "precision"})
    assert changed(plan, plan_of(*trained(weights("moved.safetensors")))) == set()
    assert "first_stage" in changed(plan, plan_of(*trained(weights("other.safetensors", seed=1))))
    built = build.first_stage(settings, 1).state_dict()
    custom_seed = build.first_stage({**settings, "seed": 5}, 1).state_dict()
    assert all(torch.equal(built[name], custom_seed[name]) for name in built)


def test_pixel_space_is_the_same_cell_under_it() -> None:
    assert changed(plan_of(*FIRST_STAGE, "ae.f=1"), plan_of("ae.f=1")) == set()


@pytest.mark.long
@pytest.mark.parametrize("conditions", ["class", "superres", "none"])
def test_a_denoiser_is_built_and_counted_under_any_condition(conditions: str) -> None:
    plan = plan_of(*DENOISER, "denoiser.options={width: 8}", f"conditioning={conditions}")
    build.check_networks(plan.config, KNOWN)
    counts = count_denoiser(plan.config, (3, 8, 8), KNOWN)
    assert counts.step.work > 2 * counts.call > 0
    assert plan.stages["diffusion"].settings["denoiser"]["options"] == {"width": 8}


def test_an_extractor_is_named_by_its_own_name() -> None:
    plan = plan_of(*EXTRACTOR, "metrics.options={side: 2}")
    build.check_networks(plan.config, KNOWN)
    settings = plan.stages["samples"].settings["extractor"]
    assert (settings["name"], settings["options"], plan.axes["extractor"]) == ("thumbnails", {"side": 2}, "thumbnails")
    assert build.extractor(settings, "cpu")(torch.zeros(5, 3, 32, 32, dtype=torch.uint8)).features.shape == (5, 12)


def test_a_metric_changes_the_evaluation_alone() -> None:
    assert changed(plan_of(*METRIC), plan_of()) == {"evaluation"}
    assert plan_of("metrics.extra=[]").stages["evaluation"].settings.keys() == {"seed"}


def test_images_are_opened_under_a_fingerprint_that_holds_options_and_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = with_scale_sizes(settings_of(*IMAGES, "data.options={n: 6}"))
    assert (data["resolution"], data["version"], data["options"]) == (32, 1, {"n": 6})
    facts = data_facts(data, store)
    assert (facts.train_images, facts.classes) == (6, ("across", "down"))
    other = data_facts({**data, "version": 2}, store)
    assert other.train_fingerprint != facts.train_fingerprint
    cache = Images(data, store, 1).open("train", (), (32, 64))
    assert cache.images.shape == (6, 32, 64, 3)
    assert list(json.loads((cache.folder / SOURCES).read_text())) == ["stripes:Stripes"]


BREAKS = [
    (
        "sampler",
        "broken_parts:Stateless",
        r"step must give \(x_s, state\), found a float32 tensor of shape \(2, 3, 4, 4\)",
    ),
    ("sampler", "broken_parts:Doubled", r"must be a float32 tensor of shape .*, found a float64 tensor"),
    ("sampler", "broken_parts:Idle", "never did"),
    ("sampler", "broken_parts:Unversioned", "declares no version .* `version = 1`"),
    ("sampler", "broken_parts:Stateles", "has no Stateles, did you mean 'Stateless'"),
    ("sampler", "broken_part:Stateless", "no module broken_part in .*, did you mean 'broken_parts'"),
    ("sampler", "broken_parts.Stateless", "write it as package.module:Class"),
    ("sampler", "mended_not:Any", "cannot be imported .*no_such_package"),
    ("sampler", "mean_shift:mean_shift", "is a function, and a class is needed"),
    ("ae", "broken_parts:OtherFactor", "its factor must be 4, as ae.f says, and is 2"),
    ("ae", "broken_parts:LargeLatents", r"shape \(2, 6, 8, 8\), found a float32 tensor of shape \(2, 6, 16, 16\)"),
    ("ae", "broken_parts:HalfImages", r"decode\(raw\) must be a float32 tensor .* found a float16"),
    ("ae", "broken_parts:Nameless", "needs a `regulariser` of its own"),
    ("ae", "renoised:Renoised", "is no first stage"),
    ("denoiser", "broken_parts:ManyChannels", r"\(2, 3, 8, 8\), found a float32 tensor of shape \(2, 4, 8, 8\)"),
    ("metrics", "broken_parts:DoubleFeatures", r"float32 array of shape \(2, d\), found a float64 array"),
    ("metrics", "broken_parts:Growing", r"float32 array of shape \(3, 2\), found a float32 array of shape \(3, 3\)"),
    ("metrics", "broken_parts:Inception", "needs a `name` of its own"),
    ("extra", "broken_parts:number", "must give a MetricValue or a LeftOut, found an object of type float"),
    ("extra", "broken_parts:fails", r"trial on random features failed \(ValueError: too few\)"),
]


@pytest.mark.parametrize(("group", "target", "sentence"), BREAKS)
def test_what_breaks_its_contract_is_refused_in_one_sentence(group: str, target: str, sentence: str) -> None:
    overrides = {
        "metrics": ("metrics.extractor=custom", f"metrics.target={target}"),
        "extra": (f"metrics.extra=[{target}]",),
    }.get(group, (f"{group}=custom", f"{group}.target={target}"))
    with pytest.raises(UserError, match=sentence) as refused:
        checked(*overrides)
    assert target in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    data = with_scale_sizes(settings_of("data=custom", "data.target=broken_parts:Tall"))
    with pytest.raises(UserError, match=r"shape \(32, 32, 3\), found a uint8 array of shape \(33, 33, 3\)"):
        data_facts(data, Store(tmp_path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("{strenth: 0.5}", r"sampler.options.strenth=0.5 is no option of Renoised, did you mean 'strength'"),
        ("{strength: 2}", "sampler.options.strength=2 is no number from 0 to 1"),
        ("[1]", "is no mapping"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(options: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plan_of(*SAMPLER, f"sampler.options={options}")


def test_a_target_is_refused_where_no_custom_extractor_is_chosen() -> None:
    with pytest.raises(UserError, match="go together"):
        plan_of("metrics.target=thumbnails:Thumbnails")


def test_what_another_source_left_unfinished_is_no_beginning(tmp_path: Path) -> None:
    plan = plan_of(*SAMPLER, facts=FACTS)
    stage: PlannedStage = plan.stages["samples"]
    folder = tmp_path / "samples"
    settings = {"name": "tensorboard", "mode": "offline", "project": "p", "entity": None}
    tracker = Tracker(tmp_path / "store", settings, "sweep")
    told = tracker.told / f"samples-{stage.identity}"
    write_json(told, 32)
    assert _with_sources(stage, plan, folder, tracker)["sources"].keys() == {"renoised:Renoised"}
    (folder / "part").touch()
    _with_sources(stage, plan, folder, tracker)
    assert (folder / "part").exists()
    assert told.exists()
    text = (folder / SOURCES).read_text()
    (folder / SOURCES).write_text(text.replace('"hash": "', '"hash": "0'))
    _with_sources(stage, plan, folder, tracker)
    assert not (folder / "part").exists()
    assert not told.exists()
    assert (folder / SOURCES).read_text() == text
    assert _with_sources(SimpleNamespace(settings={}), plan_of(), tmp_path / "none", tracker) == {}
    assert not (tmp_path / "none").exists()
