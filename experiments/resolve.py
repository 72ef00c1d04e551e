"""Fills what a config leaves open from the scale's tables, and refuses what cannot work.

The one place where values that depend on f, on the conditions or on the sampler are decided, before anything is hashed.
"""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

from experiments import published
from experiments.conditions import (
    ANNOTATION_OF,
    GIVES_TOKENS,
    NEEDED_AS,
    DataFacts,
    Vocabulary,
    conditions_of,
    sample_size,
)
from ldm.data.degradation import DEGRADATIONS
from ldm.data.masks import MASK_KINDS
from ldm.denoiser import DENOISERS, Denoiser, UNetOptions, denoiser_options
from ldm.diffusion.guidance import CLIPS
from ldm.diffusion.schedule import SCHEDULES, STEPS
from ldm.diffusion.target import TARGETS
from ldm.diffusion.weighting import WEIGHTINGS
from ldm.errors import UserError, nearest
from ldm.first_stage.initialisation import INITIALISATIONS
from ldm.metrics.extractors import EXTRACTORS
from ldm.parts import defaults_of, look_up
from ldm.pretrained import lpips
from ldm.samplers import inactive_options, own_options
from ldm.samplers.spacing import FINALS, SPACINGS

AUTO = "auto"
"""The value of guidance.scale that asks for a stage of its own to find it."""

FEWEST_TO_TUNE = 16
"""With fewer samples or reference images the kernel distance that tuning goes by is left out."""

PLAIN_UNET: Mapping[str, Any] = defaults_of(UNetOptions)
"""What a UNet is where neither the user nor a table of the scale says otherwise."""


CHOICES: Mapping[str, Collection[Any]] = {
    "latents.scale": ("std_scalar", "per_channel", "none"),
    "samples.keep": ("features", "images"),
    "metrics.reference": ("heldout", "train"),
    "diffusion.schedule": SCHEDULES,
    "diffusion.target": TARGETS,
    "diffusion.weighting": WEIGHTINGS,
    "trainer.decay": ("constant", "cosine"),
    "ae.training.decay": ("constant", "cosine"),
    "ae.loss.discriminator.norm": ("group", "batch"),
    "sampler.spacing": SPACINGS,
    "sampler.final": FINALS,
    "ae.architecture.initialisation": INITIALISATIONS,
    "sampler.clip": CLIPS,
    "metrics.likelihood_clip": CLIPS,
    "samples.conditions": ("train", "heldout"),
    "conditioning.superres.scale": (2, 4, 8),
    "conditioning.superres.degradation": DEGRADATIONS,
}
"""Settings that have a few names to choose from, checked when a run is planned."""

NUMBERS: Mapping[str, tuple[str, int, float]] = {
    "metrics.n_samples": ("number of images", 2, math.inf),
    "metrics.progress_samples": ("number of images", 2, math.inf),
    "metrics.progress_steps": ("number of steps", 1, STEPS),
    "metrics.seed": ("seed", 0, 2**63 - 1),
    "metrics.likelihood_samples": ("number of images", 2, math.inf),
    "metrics.likelihood_levels": ("number of noise levels", 2, STEPS),
    "samples.batch": ("number of images", 1, math.inf),
    **dict.fromkeys(("seed", "ae.seed", "sampler.seed"), ("seed", 0, 2**63 - 1)),
}
"""Whole numbers: what they are, the least and the most. Checked when a run is planned."""

SWITCHES = (
    *(f"metrics.{name}" for name in ("coding", "predictors", "likelihood", "memorisation", "allow_same_network")),
    "samples.paste_known",
)
"""Settings that are true or false, and nothing that merely looks like it."""


def resolve(composed: Mapping[str, Any], facts: DataFacts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fills every null from the scale's tables: the one place where values that depend on f are decided."""
    config = copy.deepcopy(dict(composed))
    config["data"] = with_scale_sizes(config)
    scale, ae, notes = config["scale"], config["ae"], []
    resolution = config["data"]["resolution"]
    is_given = published.is_given(ae)
    if is_given:
        config["ae"] = ae = published.resolved_first_stage(config)
    _check_factor(ae["f"], resolution)
    _check_judges(config)
    _check_switches(config)
    if ae["regulariser"] != "identity" and not is_given:
        _check_trained_with(config)
    if ae["f"] == 1:
        config["ae"] = ae = {"regulariser": "identity", "f": 1, "channels": 3, "seed": 0}
    elif not is_given:
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
        if ae["training"].get("matrix_learning_rate") is None:
            rates = table.get("matrix_learning_rate", {})
            ae["training"]["matrix_learning_rate"] = rates.get(ae["f"], 0)
        if not _from_zero_on(weight := ae.get("kl_weight", 0)):
            raise UserError(f"ae.kl_weight={weight} is no number from 0 on")
        if ae["regulariser"] == "vq":
            ae["codebook"]["codes"] = ae["codebook"]["codes"] or _for_factor(table["codes"], ae["f"], scale, "codebook")
    _check_choices(config)
    if published.is_given(config["denoiser"]):
        settled, said = published.resolved_denoiser(config, facts)
        config |= settled
        notes += said
    notes += _fill_conditioning(config, facts)
    if not published.is_given(config["denoiser"]):
        _fill_trainer(config, facts.vocabulary(config))  # before the denoiser: it looks at what the user set of that
        config["denoiser"] = denoiser_settings(config, ae["f"])
        config["diffusion"]["shift"] = shift_of(config["diffusion"].get("shift"), ae["f"])
    config["guidance"] = _resolve_guidance(config["guidance"])
    config["sampler"] = _resolve_sampler(config)
    for group in ("metrics", "samples"):
        _fill(config[group], scale[group])
    _check_numbers(config)
    _settle_sample_size(config)
    _settle_tuning(config, facts)
    notes += _settle_tiles(config)
    return config, tuple(notes)


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
        given = {key: config["conditioning"][key] for key in ("path", "taken") if key in config["conditioning"]}
        config["conditioning"] = {"dropout": 0.0, **given}
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
    """The data settings of a config; what is null is taken from the scale, the side from a denoiser that was given."""
    data, sizes = dict(config["data"]), config["scale"]["data"]
    _fill(data, {"resolution": published.trained_resolution(config)})
    _fill(data, sizes.get(data["name"], sizes["folder"]))  # what a scale says of a folder holds for all sets of files
    return data


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
    """The denoiser's settings at downsampling factor f: the user's, then the scale's tables, then its own defaults.

    Raises: UserError for an unknown denoiser, or where the scale has no such architecture, or none for that f.
    """
    settings = dict(config["denoiser"])
    part = look_up(DENOISERS, settings["name"], "denoiser.name")
    row, _ = _architecture(config, f)
    family = _row_family(config["scale"]["denoiser"], settings["name"], config)
    table = row.get("denoiser") or ({} if family is None else _for_factor(family, f, config["scale"], "denoiser"))
    defaults = defaults_of(part)
    _fill(settings, {**defaults, **table})
    if not _has_tokens(config):
        settings |= {key: defaults[key] for key in part.context_options}
    return settings


def options_of_denoiser(settings: Mapping[str, Any]) -> Denoiser:
    """The options of a denoiser that is trained, checked; `settings` are a group `denoiser` that is filled in.

    Those of the small denoiser hold no name, since it is a UNet always.
    """
    options = {key: value for key, value in settings.items() if key not in ("name", "architecture")}
    return denoiser_options(settings.get("name", "unet"), options)


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


def shift_of(given: Any, f: int) -> float:
    """The shift of the noise schedule as a number: docs/decisions/0011 says why "auto" is what it is."""
    if given is None:
        return 1.0
    if given == "auto":
        return max(1.0, 4.0 / f)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise UserError(f"diffusion.shift={given} is neither null, auto, nor a number above 0")
    return float(given)


def shift_name(shift: float, f: int) -> str:
    """How tables name a shift: by the rule where it follows it, so that cells of several f share a name."""
    if shift == 1:
        return "none"
    return "auto" if shift == shift_of("auto", f) else f"{shift:g}"


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
    chosen = {"scale": scale, "interval": interval, "rescale": float(rescale)}
    if scale == AUTO:
        return {**chosen, "candidates": _candidates(given["candidates"]), "tuning_samples": given["tuning_samples"]}
    if not _from_zero_on(scale):
        raise UserError(
            f"guidance.scale={scale} is no number from 0 on; use 1 for none, or {AUTO} to tune it for each cell"
        )
    return chosen


def _from_zero_on(given: Any) -> bool:
    """Whether it is a finite number from 0 on."""
    return isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < math.inf


def _candidates(given: Any) -> list[float]:
    """The guidance scales that tuning tries, rising. Raises: UserError where they are no choice."""
    scales = (
        sorted({float(scale) for scale in given if _from_zero_on(scale)}) if isinstance(given, list | tuple) else []
    )
    if len(scales) < 2 or len(scales) != len(given):
        raise UserError(
            f"guidance.candidates={given} is not a list of two or more different scales from 0 on, e.g. [1,1.5,2,3]"
        )
    return scales


def _settle_tuning(config: dict[str, Any], facts: DataFacts) -> None:
    """How many samples each candidate of guidance is judged by, the same for every cell of a scale."""
    guidance, samples = config["guidance"], config["samples"]
    if guidance["scale"] != AUTO:
        return
    _fill(guidance, {"tuning_samples": config["metrics"]["progress_samples"]})
    if not isinstance(guidance["tuning_samples"], int) or guidance["tuning_samples"] < FEWEST_TO_TUNE:
        raise UserError(
            f"guidance.tuning_samples={guidance['tuning_samples']} is too few to judge by; use {FEWEST_TO_TUNE} or more"
        )
    images, kind = {
        "heldout": (facts.heldout_images, "held-out"),
        "train": (facts.train_images, "training"),
    }[config["metrics"]["reference"]]
    if images < FEWEST_TO_TUNE:
        raise UserError(
            f"guidance.scale={AUTO} compares samples with at least {FEWEST_TO_TUNE} {kind} images "
            f"(metrics.reference={config['metrics']['reference']}), and data={config['data']['name']} has {images}; "
            "give more images, hold out a larger share, or give guidance.scale as a number"
        )
    if samples["height"] is not None:
        raise UserError(
            f"guidance.scale={AUTO} tunes at the training size only, and these samples are "
            f"{samples['width']}x{samples['height']} px; tune there first and give the scale that it finds"
        )


def _resolve_sampler(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's settings without those that it does not read, and with the steps that `nfe` stands for."""
    own_options(config["sampler"]["name"], config["sampler"])
    inactive = inactive_options(config["sampler"]["name"])
    settings = {key: value for key, value in config["sampler"].items() if key not in inactive}
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
    denoiser = config["denoiser"]
    halvings = denoiser["halvings"] if published.is_given(denoiser) else options_of_denoiser(denoiser).halvings
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


def _value_at(config: Mapping[str, Any], key: str, absent: Any = None) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return absent
        value = value[part]
    return value


def _check_choices(config: Mapping[str, Any]) -> None:
    """Raises UserError for a setting that is none of its choices."""
    for key, choices in CHOICES.items():
        value = _value_at(config, key)
        if value is not None and value not in choices:
            names = [str(choice) for choice in choices]
            raise UserError(f"{key}={value} is none of {', '.join(names)}{nearest(str(value), names)}")


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Raises UserError for a number of images, steps or levels with which nothing could be measured."""
    for key, (what, least, most) in NUMBERS.items():
        if key.startswith("metrics.likelihood") and not config["metrics"]["likelihood"]:
            continue
        given = _value_at(config, key, absent=least)
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            upper = f" to {most}" if most <= STEPS else " or more"
            raise UserError(f"{key}={given} is no {what}: use {least}{upper}")


def _check_switches(config: Mapping[str, Any]) -> None:
    """Raises UserError for a switch that is neither on nor off; a word like `no` would count as on."""
    for key in SWITCHES:
        if not isinstance(given := _value_at(config, key), bool):
            raise UserError(f"{key}={given} is neither true nor false")


def _check_judges(config: Mapping[str, Any]) -> None:
    """Raises UserError for extractors and weights that the program could not measure with."""
    metrics, judge = config["metrics"], config["metrics"]["extractor"]
    look_up(EXTRACTORS, judge, "metrics.extractor")
    least, side = lpips.trunk("alex").smallest_side, config["data"]["resolution"]
    if metrics["lpips"] and side < least:
        raise UserError(f"metrics.lpips: LPIPS takes images of {least} px or more, these have {side} px: leave it out")
    also = metrics["also"]
    if not isinstance(also, Mapping):
        raise UserError(f"metrics.also={also} names no extractor: give metrics.also.clip=PATH, for example")
    for name, given in also.items():
        if not isinstance(given, bool | str):
            raise UserError(f"metrics.also.{name}={given} is neither true nor false nor the path of its weights")
    if also.get(judge):
        raise UserError(f"metrics.also.{judge}: {judge} is metrics.extractor, which judges anyway: leave it out")
    for key, name, path in (("weights", judge, metrics["weights"]), *((f"also.{n}", n, p) for n, p in also.items())):
        if isinstance(path, str) and look_up(EXTRACTORS, name, "metrics.also").is_packaged:
            raise UserError(f"metrics.{key}={path}: {name} reads the weights of its package, so leave the path out")


def _check_trained_with(config: Mapping[str, Any]) -> None:
    """The network that judges must not be the one that the first stage was trained with."""
    judge, trained_with = config["metrics"]["extractor"], config["ae"]["loss"]["perceptual"]
    also = config["metrics"]["also"]
    # EfficientNet-Lite2 also measures the feature distance of reconstructions, whatever the extractor.
    # LPIPS is that of AlexNet.
    judges = {judge, "efficientnet_lite2", *(name for name, given in also.items() if given)}
    judges |= {"lpips_alex"} if config["metrics"]["lpips"] else set()
    if trained_with in judges and not config["metrics"]["allow_same_network"]:
        raise UserError(
            f"{trained_with}, the perceptual loss that trains the first stage, would also be a judge, and biased; "
            "choose another, or set metrics.allow_same_network=true, which marks the rows"
        )


def _fill_trainer(config: dict[str, Any], known: Vocabulary) -> None:
    trainer, scale, f = config["trainer"], config["scale"], config["ae"]["f"]
    length, usual = trainer.pop("length", 1), scale["trainer"]["images"]
    if isinstance(length, bool) or not isinstance(length, int | float) or length <= 0:
        raise UserError(f"trainer.length={length} must be a number above 0: how many times the images of the scale")
    match trainer["budget"]:
        case "images":
            _fill(trainer, {"images": max(1, round(usual * length))})
        case "paper":
            row = _paper_training(config)
            _fill(trainer, {**row, "images": row["steps"] * row["batch"]})
        case "flops":
            from experiments.build import flops_per_training_image

            reference = scale["trainer"]["flops_reference_f"]
            images = trainer["images"] or usual * length
            ratio = flops_per_training_image(config, reference, known) / flops_per_training_image(config, f, known)
            trainer["images"] = max(1, round(images * ratio))
        case other:
            raise UserError(f"trainer.budget={other} is none of images, flops, paper")
    _fill(trainer, {key: value for key, value in scale["trainer"].items() if not key.startswith("paper")})
    factor = trainer["learning_rate_factor"]
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
        raise UserError(f"trainer.learning_rate_factor={factor} is no number above 0")
    trainer["learning_rate"] *= factor


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
