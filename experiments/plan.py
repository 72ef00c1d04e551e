"""From a composed config to a plan: the stages a cell needs, each with its resolved config, parents and identity.

The identity of a stage is a hash of what can change its numbers: its resolved config without inactive keys and without
options at their default, the identities of its parents, the fingerprint of the data, and the version of the stage's
code, raised by hand when its numbers change. Device, threads, workers, micro-batch and checkpoint interval are not
in it.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import published
from experiments.conditions import DataFacts, annotations_read, conditions_of, probed, sample_size, task_of
from experiments.resolve import AUTO, PLAIN_UNET, resolve, shift_name
from ldm.data.contract import Annotation
from ldm.errors import UserError
from ldm.records import STAGES, content_hash

CODE_VERSIONS: Mapping[str, int] = {
    **dict.fromkeys(STAGES, 1),
    "reference": 2,
    "reconstruction": 2,
    "predictors": 3,
    "tuning": 3,
    "evaluation": 2,
    "memorisation": 2,
}
"""Raise a stage's number when the same config gives other numbers; tests/experiments/test_golden.py notices."""


PARENTS: Mapping[str, tuple[str, ...]] = {
    "reference": (),
    "other_references": (),
    "first_stage": (),
    "reconstruction": ("first_stage", "reference"),
    "coding": ("first_stage",),
    "latents": ("first_stage",),
    "predictors": ("latents", "reference"),
    "diffusion": ("latents",),
    "progress": ("diffusion", "reference"),
    "likelihood": ("diffusion",),
    "probe": (),
    "tuning": ("diffusion", "reference"),
    "samples": ("diffusion", "probe", "tuning"),
    "evaluation": ("samples", "reference", "other_references"),
    "training_set": ("reference",),
    "memorisation": ("samples", "training_set"),
}
"""What each stage needs, as far as a plan holds it: `probe` only where samples have a condition to ask it for, and
`other_references` where other extractors judge too."""


ON_REQUEST: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "other_references": lambda config: bool(other_judges(config)),
    "coding": lambda config: config["metrics"]["coding"] and config["ae"]["f"] > 1,  # pixels are not coded
    "predictors": lambda config: config["metrics"]["predictors"],
    "likelihood": lambda config: config["metrics"]["likelihood"],
    "tuning": lambda config: config["guidance"]["scale"] == AUTO,
    "training_set": lambda config: config["metrics"]["memorisation"],
    "memorisation": lambda config: config["metrics"]["memorisation"],
}
"""Stages that a plan holds only where its config asks for them."""


OF_FIRST_STAGE = ("reconstruction", "coding", "predictors")
OF_MODEL = (*OF_FIRST_STAGE, "progress", "likelihood")

UNTIL: Mapping[str, tuple[str, ...]] = {
    "first_stage": OF_FIRST_STAGE,
    "latents": (*OF_FIRST_STAGE, "latents"),
    "diffusion": OF_MODEL,
    "samples": (*OF_MODEL, "samples"),
    "evaluation": (*OF_MODEL, "evaluation", "memorisation"),
}
"""The stages that `until=` asks for, as far as a plan holds them; what they need comes with them."""


OPTIONAL: Mapping[str, Any] = {
    "first_stage.codebook.legacy": False,
    "first_stage.architecture.dropout": 0.0,
    "first_stage.architecture.mid_attention": True,
    "first_stage.architecture.initialisation": "reference",
    "first_stage.loss.discriminator.norm": "group",
    "first_stage.training.matrix_learning_rate": 0,
    **{f"diffusion.denoiser.{key}": value for key, value in PLAIN_UNET.items()},
    "diffusion.diffusion.shift": 1,
    "diffusion.diffusion.weighting": "plain",
    "samples.sampler.clip": "none",
    "samples.guidance.interval": None,
    "samples.guidance.rescale": 0,
    "samples.keep": "features",
    "samples.height": None,
    "samples.width": None,
    "samples.tile": None,
    "samples.overlap": None,
    "samples.paste_known": False,
}
"""Options that stand at these values leave the identity as it was before the option existed."""


WEIGHT_FILES = ("weights", "perceptual_path", "encoder", "clip_model", "lpips_weights")
"""Keys whose values are paths of weights, of a file or of a folder."""


@dataclass(frozen=True)
class Stage:
    """One stage of a plan."""

    name: str
    identity: str
    config: Mapping[str, Any]
    parents: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """All stages of one cell. `notes` are sentences the user should read; `config` is the full resolved config."""

    cell: str
    axes: Mapping[str, Any]
    stages: Mapping[str, Stage]
    config: Mapping[str, Any]
    notes: tuple[str, ...]

    def needed(self, targets: tuple[str, ...]) -> list[Stage]:
        """The targets and all their ancestors, parents first."""
        wanted = set(targets)
        for name in reversed(STAGES):
            if name in wanted and name in self.stages:
                wanted.update(self.stages[name].parents)
        return [stage for name, stage in self.stages.items() if name in wanted]


def make_plan(config: Mapping[str, Any], facts: DataFacts) -> Plan:
    """The plan of a composed config (plain dicts); facts of its data come from `experiments.build.data_facts`.

    Raises: UserError for settings that cannot work.
    """
    resolved, notes = resolve(config, facts)
    stages = _stages(resolved, facts)
    unseeded, _ = resolve({**config, "seed": 0}, facts)
    cell = _stages(unseeded, facts)["evaluation"].identity[:10]
    return Plan(cell, cell_axes(resolved), stages, resolved, notes)


def cell_axes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes cells in tables and plots."""
    return {
        "data": config["data"]["name"],
        "resolution": config["data"]["resolution"],
        "scale": config["scale"]["name"],
        "budget": config["trainer"]["budget"],
        "f": config["ae"]["f"],
        "regulariser": config["ae"]["regulariser"],
        "channels": config["ae"]["channels"],
        "conditioning": "+".join(conditions_of(config)) or "none",
        "task": task_of(config),
        **{key: config["diffusion"].get(key) for key in ("schedule", "target", "weighting")},
        "learning_rate_factor": config["trainer"]["learning_rate_factor"],
        "shift": shift_name(config["diffusion"]["shift"], config["ae"]["f"]),
        "sampler": config["sampler"]["name"],
        **{key: config["sampler"].get(key) for key in ("steps", "eta", "variance", "spacing", "final", "clip")},
        "guidance_scale": config["guidance"]["scale"],
        **_guidance_axes(config["guidance"]),
        "latent_scale": config["latents"]["scale"],
        "height": sample_size(config)[0],
        "width": sample_size(config)[1],
        "tile": config["samples"]["tile"],
        "seed": config["seed"],
        "ae_seed": config["ae"]["seed"],
        "sampler_seed": config["sampler"]["seed"],
        "extractor": config["metrics"]["extractor"],
        **published.axes(config),
    }


def _stages(config: Mapping[str, Any], facts: DataFacts) -> dict[str, Stage]:
    metrics, precision = config["metrics"], config["precision"]
    extractor, others = _extractor(metrics["extractor"], metrics["weights"]), other_judges(config)
    judged_against = {
        # It stands in the protocol of all that is measured against these features, and of these stages' children.
        **({"allow_same_network": True} if metrics["allow_same_network"] else {}),
        "heldout": facts.heldout_fingerprint,
        "train": facts.train_fingerprint,
        "reference": metrics["reference"],
        "n_samples": metrics["n_samples"],
        "seed": metrics["seed"],
    }
    asked = _conditions(config, facts)
    annotations = _annotations(config, facts.annotations)
    configs: dict[str, dict[str, Any]] = {
        "reference": {"extractor": extractor, **judged_against},
        "other_references": {"extractors": others, **judged_against},
        "first_stage": _unnamed(config["ae"]),  # at f = 1 nothing else: all data sets share one identity function
        "reconstruction": {
            "n_samples": metrics["n_samples"],
            "seed": metrics["seed"],
            **({"lpips_weights": metrics["lpips"]} if metrics["lpips"] else {}),
        },
        "latents": {"data": facts.train_fingerprint, "scale": config["latents"]["scale"]},
        "diffusion": {
            **annotations,
            "seed": config["seed"],
            "precision": precision,
            "conditioning": config["conditioning"],
            "denoiser": {key: value for key, value in config["denoiser"].items() if key != "architecture"},
            "diffusion": config["diffusion"],
            "training": {
                # What the names stand for is filled in: a rule or a factor changes no numbers but through it.
                key: value
                for key, value in config["trainer"].items()
                if key not in ("micro_batch", "checkpoint_seconds", "budget", "learning_rate_factor")
            },
        },
        "progress": {
            **asked,
            "n_samples": metrics["progress_samples"],
            "steps": metrics["progress_steps"],
            "precision": precision,
            "seed": metrics["seed"],
        },
        "probe": {
            "data": facts.train_fingerprint,
            **annotations,
            "heldout": {"data": facts.heldout_fingerprint, **_annotations(config, facts.heldout_annotations)},
            "probes": {kind: _probe_settings(config, kind) for kind in probed(config)},
            "seed": 0,  # not that of the evaluation, with which all samples would be made anew
        },
        "samples": {
            "sampler": config["sampler"],
            "guidance": config["guidance"],
            "n_samples": metrics["n_samples"],
            **{key: value for key, value in config["samples"].items() if key not in ("batch", "conditions")},
            **asked,
            **_task_judges(config),
            "extractor": extractor,
            **({"other_extractors": others} if others else {}),
            "precision": precision,
        },
        "evaluation": {"seed": metrics["seed"]},
        "tuning": {
            "sampler": config["sampler"],
            "guidance": config["guidance"],
            "paste_known": config["samples"]["paste_known"],
            **asked,
            "precision": precision,
            "seed": metrics["seed"],
        },
        "training_set": {
            "extractor": extractor,
            "train": facts.train_fingerprint,
            "heldout": facts.heldout_fingerprint,
            "seed": metrics["seed"],
        },
        "memorisation": {},
    }
    if metrics["coding"]:
        configs["coding"] = {
            "train": facts.train_fingerprint,
            "heldout": facts.heldout_fingerprint,
            "n_samples": metrics["n_samples"],
            "seed": metrics["seed"],
        }
    if metrics["predictors"] and not published.is_given(config["denoiser"]):
        configs["predictors"] = _predictors(config, facts)
    if metrics["likelihood"]:
        configs["likelihood"] = {
            "heldout": {"data": facts.heldout_fingerprint, **_annotations(config, facts.heldout_annotations)},
            "n_samples": metrics["likelihood_samples"],
            "levels": metrics["likelihood_levels"],
            "clip": metrics["likelihood_clip"],
            "precision": precision,
            "seed": metrics["seed"],
        }
    if config["ae"]["f"] > 1 and not published.is_given(config["ae"]):
        configs["first_stage"] |= {
            "data": facts.train_fingerprint,
            "classes": list(facts.classes),
            "resolution": config["data"]["resolution"],
            "precision": precision,
        }
    parents_of, left_out = dict(PARENTS), _left_out(config)
    if published.is_given(config["denoiser"]):
        configs["diffusion"] = _given_denoiser(config, facts, annotations)
        parents_of["diffusion"] = ("first_stage",)
    stages: dict[str, Stage] = {}
    for name in STAGES:
        if name in left_out:
            continue
        parents = {parent: stages[parent].identity for parent in parents_of[name] if parent in stages}
        stages[name] = Stage(name, identity(name, configs[name], parents), configs[name], parents)
    return stages


def _left_out(config: Mapping[str, Any]) -> set[str]:
    """The stages that a plan for this config does not hold."""
    left_out = {name for name, is_asked_for in ON_REQUEST.items() if not is_asked_for(config)}
    if not probed(config):
        left_out.add("probe")
    if published.is_given(config["denoiser"]):
        left_out |= {"latents", "predictors", "progress"}  # nothing is trained, so nothing is seen on the way
        if config["until"] not in ("first_stage", "latents"):
            left_out.add("reconstruction")
    return left_out


def identity(name: str, config: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """The identity of a stage under this version of the code."""
    hashed = {
        "stage": name,
        "code": CODE_VERSIONS[name],
        "config": _without_defaults(_by_content(config), name),
        "parents": parents,
    }
    return content_hash(hashed)


JUDGES = ("extractor", "other_extractors", "keep", "clip_model", "lpips_weights")
"""What a samples stage is told of those who look at the samples, and of what stays of them: it changes no pixel."""


def pixels_hash(config: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """What makes the pixels of sample i, of a samples stage's config and parents."""
    makers = {key: value for key, value in config.items() if key not in (*JUDGES, "n_samples")}
    made_by = {"model": parents["diffusion"]}
    if "tuning" in parents:  # another judge may have found another guidance
        made_by["tuning"] = parents["tuning"]
    return content_hash({"config": _without_defaults(_by_content(makers), "samples"), **made_by})


def other_judges(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The extractors of `metrics.also` by name: they look at the samples in the same pass, and at nothing else."""
    asked = config["metrics"]["also"]
    return {name: _extractor(name, None if given is True else given) for name, given in asked.items() if given}


def _extractor(name: str, weights: str | None) -> dict[str, Any]:
    # Whatever trained and sampled, the judge computes in float32: a bf16 judge gives other distances (490 instead of
    # 501 in one trial), and a number must not depend on which machine had fast bf16.
    return {"name": name, "weights": weights, "precision": "fp32"}


def _predictors(config: Mapping[str, Any], facts: DataFacts) -> dict[str, Any]:
    """What predictors of a latent space are measured on, and the small denoiser with its share of the main training."""
    from experiments.build import images_of_small_denoiser, small_denoiser_settings

    metrics, trainer = config["metrics"], config["trainer"]
    return {
        "train": facts.train_fingerprint,
        "heldout": facts.heldout_fingerprint,
        "n_samples": metrics["n_samples"],
        "seed": metrics["seed"],
        "precision": config["precision"],
        "small_denoiser": {
            "denoiser": small_denoiser_settings(config),
            "diffusion": {**config["diffusion"], "target": "v", "weighting": "plain"},
            "images": images_of_small_denoiser(config, facts.vocabulary(config)),
            "batch": trainer["batch"],
            "learning_rate": trainer["learning_rate"],
            "samples": metrics["progress_samples"],
            "steps": metrics["progress_steps"],
        },
    }


def _given_denoiser(config: Mapping[str, Any], facts: DataFacts, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a diffusion stage that trains nothing: what was given, for latents of which side, for what data.

    Of the data samples owe only their conditions.
    """
    told = {key: value for key, value in config["conditioning"].items() if key not in ("dropout", "path", "taken")}
    return {
        "precision": config["precision"],
        "seed": config["seed"],
        "latent_side": config["data"]["resolution"] // config["ae"]["f"],
        "denoiser": config["denoiser"],
        "diffusion": config["diffusion"],
        "conditioning": config["conditioning"],
        **({"data": facts.train_fingerprint, **annotations} if told else {}),
    }


def _probe_settings(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Sizes and training of a probe; that of layouts asks about no more boxes than the model is told of."""
    tables, scale = config["scale"]["probe"], config["scale"]["name"]
    if kind not in tables:
        raise UserError(f"scale={scale} has no probe for conditioning={kind}; it has them for {', '.join(tables)}")
    return {**tables[kind], **({"most": config["conditioning"]["layout"]["boxes"]} if kind == "layout" else {})}


def _task_judges(config: Mapping[str, Any]) -> dict[str, Any]:
    """The networks beside probes that judge samples by their conditions, where they were given."""
    metrics, kinds = config["metrics"], conditions_of(config)
    judges = {
        "clip_model": metrics["clip"] if "text" in kinds else None,
        "lpips_weights": metrics["lpips"] if {"superres", "inpaint"} & set(kinds) else None,
    }
    return {name: path for name, path in judges.items() if path is not None}


def _unnamed(ae: Mapping[str, Any]) -> dict[str, Any]:
    """The group without the name of the architecture, whose sizes are filled in: a name changes no numbers."""
    sizes = {key: value for key, value in ae.get("architecture", {}).items() if key != "name"}
    return {**ae, "architecture": sizes} if sizes else dict(ae)


def _annotations(config: Mapping[str, Any], known: Mapping[str, Annotation]) -> dict[str, Any]:
    """The content of the annotations that the conditions read, where they read any."""
    read = annotations_read(config)
    return {"annotations": {kind: known[kind].fingerprint for kind in read}} if read else {}


def _conditions(config: Mapping[str, Any], facts: DataFacts) -> dict[str, Any]:
    """Whose conditions samples are given, where these are not the training images, which the parents name already."""
    if config["samples"]["conditions"] == "train":
        return {}
    return {
        "conditions": {
            "split": "heldout",
            "data": facts.heldout_fingerprint,
            **_annotations(config, facts.heldout_annotations),
        }
    }


def _without_defaults(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in config.items():
        here = f"{path}.{key}"
        if here in OPTIONAL and value == OPTIONAL[here]:
            continue
        kept[key] = _without_defaults(value, here) if isinstance(value, Mapping) else _same_number(value)
    return kept


def _same_number(value: Any) -> Any:
    """1 where 1.0 was given: guidance.scale=1 is the default 1.0."""
    if isinstance(value, list | tuple):
        return [_same_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _by_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with files of weights named by what they hold, so that moving one changes no identity."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key in WEIGHT_FILES and value is not None:
            kept[key] = _file_hash(Path(value).expanduser())
        elif key == "path":
            kept[key] = published.file_hash(value, _file_hash)
        else:
            kept[key] = _by_content(value) if isinstance(value, Mapping) else value
    return kept


@functools.lru_cache
def _file_hash(path: Path) -> str:
    """The hash of a file, or of a folder's files."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            return content_hash([[file.relative_to(path).as_posix(), _file_hash(file)] for file in files])
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"there are no weights at {path} ({error.strerror})") from error


def _guidance_axes(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """How guidance acts, for tables; nothing where there is none."""
    if guidance["scale"] == 1:
        return {"guidance_interval": None, "guidance_rescale": None}
    low, high = guidance["interval"] or (0, 1)
    return {"guidance_interval": f"{low:g} to {high:g}", "guidance_rescale": guidance["rescale"]}
