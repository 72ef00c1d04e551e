"""From a composed config to a plan: the stages a cell needs, each with its resolved config, parents and identity.

The identity of a stage is a hash of what can change its numbers: its resolved config without inactive keys and without
options at their default, the identities of its parents, the fingerprint of the data, and the version of the stage's
code, raised by hand when its numbers change. Device, threads, workers, micro-batch and checkpoint interval are not
in it.
"""

import copy
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.data.contract import Annotation
from ldm.data.degradation import DEGRADATIONS
from ldm.data.masks import MASK_KINDS
from ldm.errors import UserError, nearest
from ldm.probes import PROBES
from ldm.records import STAGES, content_hash

CODE_VERSIONS: Mapping[str, int] = dict.fromkeys(STAGES, 1)
"""Raise a stage's number when the same config gives other numbers; tests/experiments/test_golden.py notices."""

PARENTS: Mapping[str, tuple[str, ...]] = {
    "reference": (),
    "first_stage": (),
    "reconstruction": ("first_stage", "reference"),
    "latents": ("first_stage",),
    "diffusion": ("latents",),
    "progress": ("diffusion", "reference"),
    "probe": (),
    "samples": ("diffusion", "probe"),
    "evaluation": ("samples", "reference"),
}
"""What each stage needs; a plan holds `probe` only where its samples have a condition that a probe can be asked for."""

UNTIL: Mapping[str, tuple[str, ...]] = {
    "first_stage": ("reconstruction",),
    "latents": ("reconstruction", "latents"),
    "diffusion": ("reconstruction", "progress"),
    "samples": ("reconstruction", "progress", "samples"),
    "evaluation": ("reconstruction", "progress", "evaluation"),
}
"""The stages that `until=` asks for; what they need comes with them."""

CONDITIONS = ("class", "text", "layout", "semantic", "superres", "inpaint")
MAPS = ("semantic", "superres", "inpaint")
"""The conditions that are images themselves."""
"""What a diffusion model can be told; the keys of the group `conditioning` that name conditions."""

GIVES_TOKENS = ("class", "text", "layout")
"""The conditions that are given by cross-attention; the others are concatenated."""

ANNOTATION_OF: Mapping[str, str] = {"text": "captions", "layout": "boxes", "semantic": "semantic"}
"""What the data must know of its images for a condition."""

NEEDED_AS: Mapping[str, str] = {
    "captions": "a caption for every image",
    "boxes": "bounding boxes with classes",
    "semantic": "a label map for every image",
}

PLAIN_UNET: Mapping[str, Any] = {
    "transformer_depth": 1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "dropout": 0.0,
}
"""What a UNet is where neither the user nor a table of the scale says otherwise."""

OPTIONAL: Mapping[str, Any] = {
    "first_stage.codebook.legacy": False,
    "first_stage.architecture.dropout": 0.0,
    "first_stage.architecture.mid_attention": True,
    "first_stage.architecture.initialisation": "reference",
    "first_stage.loss.discriminator.norm": "group",
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


CHOICES: Mapping[str, tuple[Any, ...]] = {
    "latents.scale": ("std_scalar", "per_channel", "none"),
    "samples.keep": ("features", "images"),
    "metrics.reference": ("heldout", "train"),
    "diffusion.schedule": ("scaled_linear", "linear", "cosine", "flow"),
    "diffusion.target": ("eps", "x0", "v", "flow"),
    "diffusion.weighting": ("plain", "min_snr", "likelihood"),
    "trainer.decay": ("constant", "cosine"),
    "ae.training.decay": ("constant", "cosine"),
    "ae.loss.discriminator.norm": ("group", "batch"),
    "sampler.variance": ("small", "large"),
    "sampler.spacing": ("uniform", "quadratic", "leading", "trailing"),
    "sampler.final": ("clean", "alpha0"),
    "ae.architecture.initialisation": ("reference", "near_linear"),
    "sampler.clip": ("none", "range"),
    "samples.conditions": ("train", "heldout"),
    "conditioning.superres.scale": (2, 4, 8),
    "conditioning.superres.degradation": DEGRADATIONS,
}
"""Settings that have a few names to choose from, checked when a run is planned."""

SAMPLER_OPTIONS: Mapping[str, str] = {"eta": "ddim", "variance": "ddpm"}
"""Settings of the sampler group that only this one reads; under the others they are inactive."""

WEIGHT_FILES = ("weights", "perceptual_path", "encoder", "clip_model", "lpips_weights")
"""Keys whose values are paths of weights, of a file or of a folder."""


@dataclass(frozen=True)
class Vocabulary:
    """How many different things conditions can name, so that networks can be built."""

    classes: int
    box_classes: int = 0
    semantic_classes: int = 0


@dataclass(frozen=True)
class DataFacts:
    """What planning needs to know of the images: sizes, classes and content."""

    train_fingerprint: str
    heldout_fingerprint: str
    train_images: int
    heldout_images: int
    classes: tuple[str, ...]
    annotations: Mapping[str, Annotation] = field(default_factory=dict)
    heldout_annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def vocabulary(self, config: Mapping[str, Any]) -> Vocabulary:
        """How many classes of each kind there are, of the annotations that the config's conditions read."""
        return vocabulary_of(len(self.classes), self.annotations, annotations_read(config))


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
            if name in wanted:
                wanted.update(PARENTS[name])
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


def resolve(composed: Mapping[str, Any], facts: DataFacts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fills every null from the scale's tables: the one place where values that depend on f are decided."""
    config = copy.deepcopy(dict(composed))
    config["data"] = with_scale_sizes(config)
    scale, ae, notes = config["scale"], config["ae"], []
    resolution = config["data"]["resolution"]
    _check_factor(ae["f"], resolution)
    if ae["regulariser"] != "identity":
        _check_judge(config)
    if ae["f"] == 1:
        config["ae"] = ae = {"regulariser": "identity", "f": 1, "channels": 3, "seed": 0}
    else:
        if ae["regulariser"] == "identity":
            raise UserError(f"ae=identity compresses nothing: ae.f must be 1, not {ae['f']}; use ae=kl or ae=vq")
        table, stand_in = _first_stage_tables(config)
        notes += stand_in
        ae["channels"] = ae["channels"] or _for_factor(table["latent_channels"], ae["f"], scale, "latent channels")
        coder = {**table["coder"], **table.get(f"coder_{ae['regulariser']}", {})}
        _fill(ae["architecture"], _for_factor(coder, ae["f"], scale, "first-stage architecture"))
        _fill(ae["architecture"], {"initialisation": table["initialisation"]})
        _fill(ae["loss"]["discriminator"], table["discriminator"])
        _fill(ae["training"], table["training"])
        if ae["regulariser"] == "vq":
            ae["codebook"]["codes"] = ae["codebook"]["codes"] or _for_factor(table["codes"], ae["f"], scale, "codebook")
    _check_choices(config)
    notes += _fill_conditioning(config, facts)
    _fill_trainer(config, facts.vocabulary(config))  # before the denoiser: it looks at what the user set of that
    config["denoiser"] = denoiser_settings(config, ae["f"])
    config["diffusion"]["shift"] = _shift(config["diffusion"].get("shift"), ae["f"])
    config["guidance"] = _resolve_guidance(config["guidance"])
    config["sampler"] = _resolve_sampler(config)
    for group in ("metrics", "samples"):
        _fill(config[group], scale[group])
    _settle_sample_size(config)
    notes += _settle_tiles(config)
    return config, tuple(notes)


def larger_maps(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size at which images are asked for the conditions of samples; None: at the training size.

    Conditions that are maps must be made at the samples' own size; tokens say the same of any.
    """
    is_larger = config["samples"]["height"] is not None
    return sample_size(config) if is_larger and set(MAPS) & set(conditions_of(config)) else None


def sample_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the samples of a resolved config, in pixels."""
    resolution = config["data"]["resolution"]
    return config["samples"]["height"] or resolution, config["samples"]["width"] or resolution


def conditions_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions that a config's group `conditioning` names, in a fixed order."""
    return tuple(kind for kind in CONDITIONS if kind in config["conditioning"])


def annotations_read(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of annotations that a config's conditions read."""
    return tuple(ANNOTATION_OF[kind] for kind in conditions_of(config) if kind in ANNOTATION_OF)


def probed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions of a resolved config that probes ask its samples for; none of larger samples."""
    is_larger = config["samples"]["height"] is not None
    return () if is_larger else tuple(kind for kind in conditions_of(config) if kind in PROBES)


def vocabulary_of(classes: int, known: Mapping[str, Annotation], read: Iterable[str]) -> Vocabulary:
    """How many classes of each kind there are; only the annotations in `read` are looked at, which may read files."""
    counts = {kind: len(known[kind].names) for kind in read}
    return Vocabulary(classes, counts.get("boxes", 0), counts.get("semantic", 0))


def _fill_conditioning(config: dict[str, Any], facts: DataFacts) -> list[str]:
    """Sizes of the conditions from the scale; returns notes.

    Raises: UserError where the data cannot give them.
    """
    row, notes = _architecture(config, config["ae"]["f"])
    settings, tables = config["conditioning"], config["scale"]["conditioning"]
    if "class" in settings and len(facts.classes) < 2:
        del settings["class"]
        kept = f" beside {', '.join(conditions_of(config))}" if conditions_of(config) else ""
        notes.append(f"the data has no classes: the diffusion model is trained without them{kept}")
    for kind in conditions_of(config):
        needed = ANNOTATION_OF.get(kind)
        if needed is not None and needed not in facts.annotations:
            raise UserError(
                f"conditioning={kind} needs {NEEDED_AS[needed]}, and data={config['data']['name']} has none; add them, "
                "or choose another conditioning"
            )
        _fill(settings[kind], {**tables.get(kind, {}), **row.get("conditioning", {}).get(kind, {})})
    if "text" in settings and settings["text"]["encoder"]:
        settings["text"] |= {"dim": None, "depth": None}  # the encoder's own
    if "inpaint" in settings:
        unknown = [mask for mask in settings["inpaint"]["masks"] if mask not in MASK_KINDS]
        if unknown or not settings["inpaint"]["masks"]:
            raise UserError(
                f"conditioning.inpaint.masks={settings['inpaint']['masks']} must name some of {', '.join(MASK_KINDS)}"
            )
    elif config["samples"]["paste_known"]:
        raise UserError("samples.paste_known=true needs conditioning=inpaint: only then are pixels known")
    if not conditions_of(config):
        config["conditioning"] = {"dropout": 0.0}
        if config["guidance"]["scale"] != 1:
            raise UserError(
                f"guidance.scale={config['guidance']['scale']} needs a condition, and this model has none; "
                "use guidance.scale=1, or data with classes and conditioning=class"
            )
    elif config["guidance"]["scale"] != 1 and config["conditioning"]["dropout"] == 0:
        raise UserError(
            f"guidance.scale={config['guidance']['scale']} needs a model that was also trained without its condition; "
            "use guidance.scale=1, or train with conditioning.dropout=0.1"
        )
    if config["samples"]["conditions"] is None:
        # Labels are as frequent in training; what describes one image is better asked of images not trained on.
        config["samples"]["conditions"] = "train" if conditions_of(config) in ((), ("class",)) else "heldout"
    return notes


def with_scale_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The data settings of a config, what is null taken from the scale."""
    data, sizes = dict(config["data"]), config["scale"]["data"]
    _fill(data, sizes.get(data["name"], sizes["folder"]))  # what a scale says of a folder holds for all sets of files
    return data


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
        **{key: config["diffusion"].get(key) for key in ("schedule", "target", "weighting")},
        "shift": _shift_name(config["diffusion"]["shift"], config["ae"]["f"]),
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
    }


def _stages(config: Mapping[str, Any], facts: DataFacts) -> dict[str, Stage]:
    metrics, precision = config["metrics"], config["precision"]
    extractor = {
        "name": metrics["extractor"],
        "weights": metrics["weights"],
        # Whatever trained and sampled, the judge computes in float32: a bf16 judge gives other distances (490 instead
        # of 501 in one trial), and a number must not depend on which machine had fast bf16.
        "precision": "fp32",
    }
    asked = _conditions(config, facts)
    annotations = _annotations(config, facts.annotations)
    configs: dict[str, dict[str, Any]] = {
        "reference": {
            "extractor": extractor,
            "heldout": facts.heldout_fingerprint,
            "train": facts.train_fingerprint,
            "reference": metrics["reference"],
            "n_samples": metrics["n_samples"],
            "seed": metrics["seed"],
        },
        "first_stage": _unnamed(config["ae"]),  # at f = 1 nothing else: all data sets share one identity function
        "reconstruction": {"n_samples": metrics["n_samples"], "seed": metrics["seed"]},
        "latents": {"data": facts.train_fingerprint, "scale": config["latents"]["scale"]},
        "diffusion": {
            **annotations,
            "seed": config["seed"],
            "precision": precision,
            "conditioning": config["conditioning"],
            "denoiser": {key: value for key, value in config["denoiser"].items() if key != "architecture"},
            "diffusion": config["diffusion"],
            "training": {
                k: v for k, v in config["trainer"].items() if k not in ("micro_batch", "checkpoint_seconds", "budget")
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
            "precision": precision,
        },
        "evaluation": {"seed": metrics["seed"]},
    }
    if config["ae"]["f"] > 1:
        configs["first_stage"] |= {
            "data": facts.train_fingerprint,
            "classes": list(facts.classes),
            "resolution": config["data"]["resolution"],
            "precision": precision,
        }
    stages: dict[str, Stage] = {}
    for name in STAGES:
        if name == "probe" and not probed(config):
            continue
        parents = {parent: stages[parent].identity for parent in PARENTS[name] if parent in stages}
        hashed = {
            "stage": name,
            "code": CODE_VERSIONS[name],
            "config": _without_defaults(_by_content(configs[name]), name),
            "parents": parents,
        }
        stages[name] = Stage(name, content_hash(hashed), configs[name], parents)
    return stages


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


def _fill(target: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in target.items():
        if value is None and key in table:
            target[key] = copy.deepcopy(table[key])


def _for_factor(table: Mapping[Any, Any], f: int, scale: Mapping[str, Any], what: str) -> Any:
    if f not in table:
        known = ", ".join(str(key) for key in table)
        raise UserError(f"scale={scale['name']} has no {what} for ae.f={f}; it has them for f = {known}")
    return table[f]


def denoiser_settings(config: Mapping[str, Any], f: int) -> dict[str, Any]:
    """The denoiser's settings at downsampling factor f: the user's, then the scale's tables, then the plain UNet.

    Raises: UserError where the scale has no such architecture, or none for that f.
    """
    settings = dict(config["denoiser"])
    row, _ = _architecture(config, f)
    table = row.get("denoiser") or _for_factor(
        _row_family(config["scale"]["denoiser"], settings["name"], config), f, config["scale"], "denoiser"
    )
    _fill(settings, {**PLAIN_UNET, **table})
    if not _has_tokens(config):
        settings["transformer_depth"] = PLAIN_UNET["transformer_depth"]  # there are no transformers
    return settings


def _has_tokens(config: Mapping[str, Any]) -> bool:
    return any(kind in config["conditioning"] for kind in GIVES_TOKENS)


def _row_family(tables: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> Any:
    """The table of that name; for a model without cross-attention the unconditional one where the scale has it."""
    return tables.get(name if _has_tokens(config) else f"{name}_unconditional", tables.get(name))


def _architecture(config: Mapping[str, Any], f: int) -> tuple[Mapping[str, Any], list[str]]:
    """What the scale says of `denoiser.architecture` at downsampling factor f, and notes.

    A mapping of "denoiser", "conditioning" and "training", as far as they are not the scale's usual ones; empty where
    no architecture is named, or where the scale has none with names, which is noted.
    """
    scale = config["scale"]
    found, notes = _named(
        scale.get("architectures"), "denoiser.architecture", config["denoiser"]["architecture"], scale
    )
    return (_for_factor(found, f, scale, config["denoiser"]["architecture"]) if found else {}), notes


def _first_stage_tables(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The scale's tables of first stages, with those of `ae.architecture.name` in front, and notes."""
    tables, name = config["scale"]["first_stage"], config["ae"]["architecture"]["name"]
    found, notes = _named(tables.get("architectures"), "ae.architecture.name", name, config["scale"])
    return {**tables, **{key: {**tables[key], **table} for key, table in found.items()}}, notes


def _named(
    tables: Mapping[str, Any] | None, key: str, name: str | None, scale: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[str]]:
    """The table of that name, and notes; a scale without named tables has networks of its own, which is noted."""
    if name is None:
        return {}, []
    if tables is None:
        return {}, [f"scale={scale['name']} has no {key}={name}: its own networks stand in"]
    if name not in tables:
        raise UserError(
            f"{key}={name} is none that scale={scale['name']} has{nearest(name, tables)} "
            f"(there are {', '.join(sorted(tables))})"
        )
    return tables[name], []


def _shift(given: Any, f: int) -> float:
    """The shift of the noise schedule as a number: docs/decisions/0011 says why "auto" is what it is."""
    if given is None:
        return 1.0
    if given == "auto":
        return max(1.0, 4.0 / f)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise UserError(f"diffusion.shift={given} is neither null, auto, nor a number above 0")
    return float(given)


def _shift_name(shift: float, f: int) -> str:
    """How tables name a shift: by the rule where it follows it, so that cells of several f share a name."""
    if shift == 1:
        return "none"
    return "auto" if shift == _shift("auto", f) else f"{shift:g}"


def _resolve_guidance(given: Mapping[str, Any]) -> dict[str, Any]:
    """The guidance settings, checked; what no guidance leaves inactive at its default."""
    scale, interval, rescale = given["scale"], given.get("interval"), given.get("rescale", 0.0)
    if not isinstance(rescale, int | float) or not 0 <= rescale <= 1:
        raise UserError(f"guidance.rescale={rescale} is not a number from 0 to 1")
    if interval is not None:
        numbers = isinstance(interval, list | tuple) and all(isinstance(end, int | float) for end in interval)
        if not numbers or len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise UserError(
                f"guidance.interval={interval} is not [low, high] with 0 <= low < high <= 1, the t between which "
                "guidance acts; null means everywhere"
            )
        interval = None if list(interval) == [0, 1] else [float(end) for end in interval]
    if scale == 1:
        return {"scale": scale, "interval": None, "rescale": 0.0}
    return {"scale": scale, "interval": interval, "rescale": float(rescale)}


def _guidance_axes(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """How guidance acts, for tables; nothing where there is none."""
    if guidance["scale"] == 1:
        return {"guidance_interval": None, "guidance_rescale": None}
    low, high = guidance["interval"] or (0, 1)
    return {"guidance_interval": f"{low:g} to {high:g}", "guidance_rescale": guidance["rescale"]}


def _resolve_sampler(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's settings without those that it does not read, and with the steps that `nfe` stands for."""
    name = config["sampler"]["name"]
    settings = {k: v for k, v in config["sampler"].items() if SAMPLER_OPTIONS.get(k, name) == name}
    calls = settings.pop("nfe", None)
    if calls is None:
        _fill(settings, config["scale"]["sampler"])
        return settings
    if settings["steps"] is not None:
        raise UserError(
            f"sampler.steps={settings['steps']} and sampler.nfe={calls} both say how long to sample; give one of them"
        )
    from experiments.build import steps_within

    return {**settings, "steps": steps_within({**config, "sampler": settings}, calls)}


def _check_factor(f: Any, resolution: int) -> None:
    if not isinstance(f, int) or f < 1 or f & (f - 1):
        raise UserError(f"ae.f={f} is not a power of two; use 1, 2, 4, 8, 16 or 32")
    if f > resolution or resolution % f:
        largest = math.gcd(resolution, 2**30)
        raise UserError(
            f"ae.f={f} does not fit images of {resolution} pixels a side; "
            f"use ae.f up to {largest}, or a data.resolution divisible by {f}"
        )


def _settle_sample_size(config: dict[str, Any]) -> None:
    """Both sides of the samples, or neither where they are the training images': these are no other samples."""
    samples, resolution, f = config["samples"], config["data"]["resolution"], config["ae"]["f"]
    halvings = len(config["denoiser"]["channel_mult"]) - 1
    low = config["conditioning"].get("superres", {}).get("scale", 1)  # the low-resolution image has whole pixels
    unit = math.lcm(f * 2**halvings, low)
    for name in ("height", "width"):
        side = samples[name] = resolution if samples[name] is None else samples[name]
        if not isinstance(side, int) or side < resolution or side % unit:
            wanted = side if isinstance(side, int | float) else 0
            larger = max(resolution, math.ceil(wanted / unit) * unit)
            raise UserError(
                f"samples.{name}={side} is no side for samples of this model: it must be a multiple of {unit} "
                f"(ae.f={f} and {halvings} halvings in the denoiser) and at least the {resolution} px of the training "
                f"images, the windows in which samples are measured; use samples.{name}={larger}"
            )
    if samples["height"] == samples["width"] == resolution:
        samples["height"] = samples["width"] = None


def _settle_tiles(config: dict[str, Any]) -> list[str]:
    """Tile and overlap, or neither where one tile covers the latent, which is said."""
    samples, f = config["samples"], config["ae"]["f"]
    tile, overlap = samples["tile"], samples["overlap"]
    latent = [side // f for side in sample_size(config)]
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise UserError(f"samples.tile={tile} is no number of latents a side; use 1 or more, or null for no tiles")
    if tile is None or tile >= max(latent):
        samples["tile"] = samples["overlap"] = None
        shape = " x ".join(map(str, latent))
        return [] if tile is None else [f"samples.tile={tile} covers the latent of {shape}: it is decoded whole"]
    samples["overlap"] = tile // 4 if overlap is None else overlap
    if not isinstance(samples["overlap"], int) or not 0 <= 2 * samples["overlap"] <= tile:
        raise UserError(f"samples.overlap={overlap} is outside 0 to {tile // 2}, half of samples.tile={tile}")
    return []


def _check_choices(config: Mapping[str, Any]) -> None:
    """Raises UserError for a setting that is none of its choices."""
    for key, choices in CHOICES.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value not in choices:
            names = [str(choice) for choice in choices]
            raise UserError(f"{key}={value} is none of {', '.join(names)}{nearest(str(value), names)}")


def _check_judge(config: Mapping[str, Any]) -> None:
    """The network that judges must not be the one that the first stage was trained with."""
    judge, trained_with = config["metrics"]["extractor"], config["ae"]["loss"]["perceptual"]
    # EfficientNet-Lite2 also measures the feature distance of reconstructions, whatever the extractor.
    # LPIPS of super-resolution and inpainting is that of AlexNet.
    judges = {judge, "efficientnet_lite2", "lpips_alex" if config["metrics"]["lpips"] else judge}
    if trained_with in judges and not config["metrics"]["allow_same_network"]:
        raise UserError(
            f"{trained_with}, the perceptual loss that trains the first stage, would also be a judge, and biased; "
            "choose another, or set metrics.allow_same_network=true, which marks the rows"
        )


def _fill_trainer(config: dict[str, Any], known: Vocabulary) -> None:
    trainer, scale, f = config["trainer"], config["scale"], config["ae"]["f"]
    match trainer["budget"]:
        case "images":
            pass
        case "paper":
            row = _paper_training(config)
            _fill(trainer, {**row, "images": row["steps"] * row["batch"]})
        case "flops":
            from experiments.build import flops_per_training_image

            reference = scale["trainer"]["flops_reference_f"]
            images = trainer["images"] or scale["trainer"]["images"]
            ratio = flops_per_training_image(config, reference, known) / flops_per_training_image(config, f, known)
            trainer["images"] = max(1, round(images * ratio))
        case other:
            raise UserError(f"trainer.budget={other} is none of images, flops, paper")
    _fill(trainer, {key: value for key, value in scale["trainer"].items() if not key.startswith("paper")})


def _paper_training(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Batch, steps and learning rate of the paper for a config's architecture, or else for its f and conditioning."""
    scale, f, name = config["scale"], config["ae"]["f"], config["denoiser"]["architecture"]
    rows = _row_family(scale["trainer"], "paper", config)
    if rows is None:
        raise UserError(
            f"trainer.budget=paper is defined at scale=paper, not at scale={scale['name']}; use images or flops"
        )
    if name is None:
        return _for_factor(rows, f, scale, "training row")
    row, _ = _architecture(config, f)
    if "training" not in row:
        raise UserError(
            f"trainer.budget=paper: how denoiser.architecture={name} was trained at f = {f} is not published; use "
            "trainer.budget=images"
        )
    return row["training"]
