"""No stage can read what its identity does not hold: of a job at run time, and of the code by its syntax tree."""

import ast
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_plans import FACTS, changed, identities, job_for, plan_of, settings_of

from experiments import main, stage
from experiments.images import Images
from experiments.stage import Job, Machine, Parent, PlannedStage, targets, until_choices
from experiments.stages import STAGES
from ldm.data.contract import SPLITS, Annotation

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"

EVERYTHING = (
    *("ae.f=4", "ae.nested=[2,4]", "conditioning=[class,text]", "trainer.learning_rate=auto"),
    *("guidance.scale=auto", "metrics.also.inception=true", "trainer.ema_length=auto", "metrics.level_error=true"),
    *(f"metrics.{name}=true" for name in ("coding", "predictors", "likelihood", "memorisation", "sampler_check")),
)
CAPTIONS = {"captions": Annotation("captions")}
ANNOTATED = dataclasses.replace(FACTS, annotations=CAPTIONS, heldout_annotations=CAPTIONS)


def images_of(facts):
    """Images that say which was opened instead of opening it."""
    content = {"train": facts.train_fingerprint, "heldout": facts.heldout_fingerprint}
    annotated = {"train": facts.annotations, "heldout": facts.heldout_annotations}

    def fingerprints(split, annotations=()):
        return [content[split], *(annotated[split][kind].fingerprint for kind in annotations)]

    return SimpleNamespace(
        resolution=32,
        fingerprints=fingerprints,
        open=lambda split, annotations=(), size=None: (split, tuple(annotations)),
        vocabulary=lambda annotations: tuple(annotations),
    )


def may_read(job: Job, split: str, annotations: tuple[str, ...] = ()) -> bool:
    """Whether a job opens these images."""
    try:
        return job.images(split, annotations) == (split, annotations)
    except RuntimeError as error:
        return f"{job.stage.name} reads {split} images that its identity does not hold" not in str(error)


OTHER = {"captions": Annotation("other captions")}
OTHERS = {
    ("train", ()): {"train_fingerprint": "other"},
    ("heldout", ()): {"heldout_fingerprint": "other"},
    ("train", ("captions",)): {"annotations": OTHER},
    ("heldout", ("captions",)): {"heldout_annotations": OTHER},
}


@pytest.mark.parametrize(("asked", "other"), OTHERS.items())
def test_a_job_opens_just_the_images_whose_content_is_in_its_identity(asked, other):
    split, annotations = asked
    # Captions of both splits are alike in a scene; here each stands under a name of its own.
    facts = dataclasses.replace(ANNOTATED, heldout_annotations={"captions": Annotation("captions heldout")})
    plan = plan_of(*EVERYTHING, facts=facts)
    assert set(plan.stages) == {stage.name for stage in STAGES}
    readers = changed(plan, plan_of(*EVERYTHING, facts=dataclasses.replace(facts, **other)))
    images = images_of(facts)
    opened = {name for name in plan.stages if may_read(job_for(plan, name, images, {}), split, annotations)}
    assert opened == readers
    assert readers
    of_others = images_of(dataclasses.replace(facts, **other))
    assert not any(may_read(job_for(plan, name, of_others, {}), split, annotations) for name in plan.stages)


def test_the_images_of_a_run_are_known_by_their_content(tmp_path):
    """Planned for other images than are there: nothing is opened, nothing is counted."""
    plan = plan_of()
    job = job_for(plan, "first_stage", Images(plan.config["data"], main.Store(tmp_path), None), {})
    for split in SPLITS:
        with pytest.raises(RuntimeError, match=f"first_stage reads {split} images that its identity does not hold"):
            job.images(split)
    with pytest.raises(RuntimeError, match="train images"):
        job.vocabulary(())
    here = main.plan_of({**settings_of(), "overrides": []}, main.Store(tmp_path))
    assert job_for(here, "first_stage", job.image_sets, {}).vocabulary(()).classes > 1
    assert not list(tmp_path.glob("data/*/meta.json"))


def test_a_job_reads_just_the_ancestors_that_its_identity_holds():
    plan = plan_of(*EVERYTHING, facts=ANNOTATED)
    for name in plan.stages:
        job, ancestors = job_for(plan, name, images_of(ANNOTATED), {}), {s.name for s in plan.needed((name,))} - {name}
        for other in plan.stages:
            if other in ancestors:
                assert job.parent(other).record.identity == identities(plan)[other]
            else:
                with pytest.raises(RuntimeError, match=f"^stage {name} reads {other}, on which it does not hang here$"):
                    job.parent(other)


@pytest.mark.parametrize("expected", ["0123456789abcdef", None, "planned"])
def test_a_job_of_a_sweep_makes_what_it_was_planned_with_or_nothing(expected, tmp_path, monkeypatch, capsys):
    given = {**settings_of(), "store": str(tmp_path), "overrides": [], "command": "python run.py -m"}
    store = main.Store(tmp_path)
    planned = main.plan_of(given, store).stages["latents"]
    wanted = planned.identity if expected == "planned" else expected
    ran = []
    monkeypatch.setattr(main, "run_stages", lambda stages, plan, needed, *_: ran.append(needed[-1]))
    main._run_job({**given, "sweep": {"target": "latents", "identity": wanted, "id": "s"}})
    said = capsys.readouterr().out
    if wanted in (None, planned.identity):
        assert (ran, said) == ([planned], "")
        return
    assert ran == []
    assert "failed: UserError: this job was to make latents 0123456789abcdef" in " ".join(said.split())
    # The sweep, which looks for what it planned, finds why it is not there.
    assert f"plans {planned.identity}" in store.failure("latents", wanted).error
    assert not store.is_complete("latents", wanted)


def test_stages_stand_behind_their_parents_and_only_asked_ones_can_be_asked_for():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    for position, found in enumerate(STAGES):
        assert set(found.parents) <= set(names[:position])
    choices = until_choices(STAGES)
    assert choices == ("first_stage", "latents", "diffusion", "samples", "evaluation")
    plan = plan_of()
    for one, next_one in itertools.pairwise(choices):
        assert targets(STAGES, one)
        made, more = ({planned.name for planned in plan.needed(targets(STAGES, until))} for until in (one, next_one))
        assert made < more


def test_a_diffusion_model_is_trained_where_it_is_asked_for_without_milestones():
    needed = {planned.name for planned in plan_of("trainer.milestones=[]").needed(targets(STAGES, "diffusion"))}
    assert "diffusion" in needed
    assert not {"progress", "samples"} & needed


# ---- the syntax tree ----


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files(*places: str) -> list[Path]:
    """The modules at these places in experiments/."""
    found = [path for place in places for path in sorted(EXPERIMENTS.glob(place))]
    assert len(found) >= len(places)
    return found


RUNS_IN_A_STAGE = ("stages/*.py", "conditions/*.py", "generate.py", "scoring.py", "artifacts.py", "task.py")


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions of a module by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def parameters(function: ast.FunctionDef | ast.Lambda) -> set[str]:
    given = function.args
    return {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


def called(function: ast.AST) -> set[str]:
    """The plain names that stand in a function and are none of its own, among them those it calls."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} - own


def reached(known: dict[str, ast.FunctionDef], start: set[str]) -> set[str]:
    """The functions of a module that these reach, themselves among them."""
    found, open_names = set[str](), set(start) & set(known)
    while open_names:
        found |= open_names
        open_names = {name for one in open_names for name in called(known[one])} & set(known) - found
    return found


@pytest.mark.parametrize("path", files("stages/*.py"), ids=lambda path: path.stem)
def test_only_what_plans_a_stage_is_given_a_config(path):
    tree = tree_of(path)
    known = functions(tree)
    planning, work = {"settings", "needs"}, set(known) - reached(known, {"settings", "needs"})
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and {"config", "plan"} & parameters(node):
            assert isinstance(node, ast.FunctionDef), "a lambda takes a config"
            assert node.name in planning or (node.name.startswith("_") and node.name not in work), node.name
    assert not (work | reached(known, {"run"})) & {
        name for name, function in known.items() if "config" in parameters(function)
    }
    if path.stem != "__init__":
        defines_a_stage = "run" in known
        assert defines_a_stage == ("settings" in known)
        assert not defines_a_stage or parameters(known["run"]) == {"job"}


def test_what_a_stage_is_handed_holds_no_config():
    held = {cls: {field.name for field in dataclasses.fields(cls)} for cls in (Job, Machine, Parent, PlannedStage)}
    assert held[Job] == {"stage", "planned", "folder", "parents", "machine", "label", "log", "image_sets", "still_ours"}
    assert held[Parent] == {"record", "settings", "file"}
    assert held[PlannedStage] == {"name", "identity", "settings", "parents"}
    assert held[Machine] == {"device", "workers", "batch", "micro_batch", "checkpoint_seconds", "compile"}


def attributes(tree: ast.AST, of: str) -> Iterator[str]:
    """What is asked of all that bears this name, as `job.x` and `self.job.x` for "job"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            holder = node.value
            if (isinstance(holder, ast.Name) and holder.id == of) or (
                isinstance(holder, ast.Attribute) and holder.attr == of
            ):
                yield node.attr


def public(cls: type) -> set[str]:
    return {name for name in (*vars(cls), *getattr(cls, "__annotations__", {})) if not name.startswith("_")}


def test_attributes_are_seen_however_deep_the_object_lies():
    tree = ast.parse("job.a\nself.job.b(job.c.d)\nother.e\n[f.job for f in g]")
    assert sorted(attributes(tree, "job")) == ["a", "b", "c"]


JOBS_OF_A_CLUSTER = ("slurm.py", "submissions.py", "submit.py", "ledger.py", "ray_tasks.py")
"""Modules in which a job is one of Slurm's, or a task of Ray's."""


@pytest.mark.long
def test_a_job_is_asked_for_nothing_but_its_public_fields():
    inside = [path for path in files("*.py", "*/*.py") if path.name not in JOBS_OF_A_CLUSTER]
    asked = {name for path in inside for name in attributes(tree_of(path), "job")}
    assert {"settings", "parent", "images", "machine"} <= asked <= public(Job)
    of_images = {name for path in files("*.py", "*/*.py") for name in attributes(tree_of(path), "image_sets")}
    assert of_images <= public(stage.ImageSets)


def test_no_config_is_reached_through_what_a_stage_is_handed():
    """A record holds, for its reader, the config that it was made under: `environment`. No plan is in reach either."""
    for path in files(*RUNS_IN_A_STAGE):
        tree = tree_of(path)
        for name, function in functions(tree).items():
            if name != "made_on":  # the machine of a record, by three keys
                assert "environment" not in [n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)], name
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "config"], path
        imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
        assert not {"Plan", "make_plan", "resolve", "composed", "job_of"} & set(imported), path


OUTSIDE = ("main.py", "runner.py", "tracking.py")
"""Modules that make plans, run them and mirror them."""


def test_the_config_of_a_plan_is_read_outside_of_stages_only():
    readers = set()
    for path in files("*.py", "*/*.py"):
        if path.name in OUTSIDE or path.parent.name == "commands":
            continue
        for name, function in functions(tree_of(path)).items():
            if "config" in attributes(function, "plan"):
                readers.add(f"{path.stem}.{name}")
    chosen = {f"shortlist.{name}" for name in ("chooses", "check", "settled")}
    assert readers == {"saved_samples.sample_notes", "custom.check_sources", *chosen}


RUNS = tuple(f"tracking/{name}" for name in ("runs", "wandb_runs", "trackio_runs", "tensorboard_runs"))
NAMELESS = ("plan", "runner", "sweep", "commands/ledger", "commands/describe", *RUNS)
NAMES = {stage.name for stage in STAGES}


def named_stages(tree: ast.AST) -> list[str]:
    """Stages that are named as text, but for groups of a config of the same name."""
    groups = [
        node.slice
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name | ast.Attribute)
        if (node.value.id if isinstance(node.value, ast.Name) else node.value.attr) == "config"
    ]
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in groups]
    return [node.value for node in texts if node.value in NAMES]


def test_a_stage_named_as_text_is_seen_and_a_group_of_settings_is_none():
    text = 'a = plan.stages["samples"]\nb = config["samples"]["latents"]\nc = plan.config["diffusion"]'
    assert sorted(named_stages(ast.parse(text))) == ["latents", "samples"]


@pytest.mark.parametrize("module", NAMELESS)
def test_what_plans_runs_and_shows_stages_names_none(module):
    assert named_stages(tree_of(EXPERIMENTS / f"{module}.py")) == []
