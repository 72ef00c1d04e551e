"""Fills what a config leaves open from the scale's tables: one pure function a group, in a stated order, run once.

The one place where values that depend on f, on the conditions or on the sampler are decided, before anything is hashed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from experiments import checks, custom, published
from experiments.budget import fewest_images, images_of_equal_flops, milestones, steps_within
from experiments.build import AUTO, NESTED, is_trained, schedule, smallest_latent
from experiments.conditions import (
    CONDITIONS,
    annotations_read,
    conditions_of,
    filled_conditioning,
    leaves_known,
    sample_size,
    side_unit,
)
from experiments.data_facts import DataFacts
from experiments.settings import SHIFT_RULES, check_settings
from experiments.tables import (
    architecture,
    denoiser_settings,
    filled,
    first_stage_tables,
    for_factor,
    for_regulariser,
    options_of_denoiser,
    paper_training,
)
from ldm.denoiser import ChecksSide
from ldm.diffusion import Schedule
from ldm.diffusion.schedule import time_at
from ldm.errors import UserError
from ldm.first_stage.build import filled_options, first_stage_class, nestable
from ldm.first_stage.contract import ShapableFirstStage
from ldm.first_stage.shaping import LatentBatch
from ldm.first_stage.shapings import only_active, shapings_of
from ldm.parts import options_of
from ldm.samplers import SAMPLERS, inactive_options, own_options

Config = Mapping[str, Any]
Settled = tuple[dict[str, Any], list[str]]
"""Groups of a config as they are from here on, and notes for the user."""

PAPER_DECAY = 0.9999
"""Of the moving average of the weights, a step."""

FEWEST_TO_TUNE = 16
"""With fewer samples or reference images the kernel distance that tuning goes by is left out."""

FEWEST_TO_TRY = 16
"""Of training images, of which a quarter is set aside to compare learning rates by."""

POWER_EMA = ("ema_length", "ema_lengths", "ema_snapshots")
"""Settings of averages that are made after training, inactive where there are none."""

RATE_RULE = ("learning_rate_candidates", "learning_rate_share")
"""Settings of how a learning rate is found, inactive where it is given."""


def resolve(composed: Config, facts: DataFacts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with every null filled in, and notes. Raises: UserError for settings that cannot work."""
    config, notes = dict(composed), list[str]()
    for settle in ORDER:
        settled, said = settle(config, facts)
        config |= settled
        notes += said
    return config, tuple(notes)


def with_scale_sizes(config: Config) -> dict[str, Any]:
    """The group `data`; what is null is taken from the scale, the side from a denoiser that was given."""
    data, sizes = config["data"], config["scale"]["data"]
    if custom.is_custom(data):
        return custom.resolved_data(data)
    data = filled(data, {"resolution": side} if (side := published.trained_resolution(config)) else {})
    return filled(data, sizes.get(data["name"], sizes["folder"]))  # a scale's folder stands for all sets of files


def _typed(config: Config, facts: DataFacts) -> Settled:
    """Values of another type, or out of their range, are refused before anything is derived from them."""
    check_settings(config)
    return {}, []


def _learning_rate(config: Config, facts: DataFacts) -> Settled:
    """Which multiples of the scale's rate are tried where each cell finds its own: the factor is not known then."""
    rule = {name: config["trainer"][name] for name in RATE_RULE}
    trainer = {key: value for key, value in config["trainer"].items() if key not in rule}
    if trainer["learning_rate"] != AUTO:
        return {"trainer": trainer}, []
    asked = f"trainer.learning_rate={AUTO}"
    if published.is_given(config["denoiser"]):
        raise UserError(f"{asked}: the denoiser is given and not trained, so it has no rate to find; leave it out")
    if trainer["learning_rate_factor"] != 1:
        raise UserError(
            f"{asked} finds the factor: leave out trainer.learning_rate_factor={trainer['learning_rate_factor']}, or "
            "give other trainer.learning_rate_candidates"
        )
    if 0 < facts.train_images < FEWEST_TO_TRY:
        raise UserError(
            f"{asked} sets training images aside and needs at least {FEWEST_TO_TRY}, and data={config['data']['name']} "
            f"has {facts.train_images}; give more images, or trainer.learning_rate as a number"
        )
    candidates = _candidates("trainer.learning_rate_candidates", rule["learning_rate_candidates"], "[0.3,1,3]")
    found = {**rule, "learning_rate_candidates": candidates}
    return {"trainer": {**trainer, **found, "learning_rate": None, "learning_rate_factor": AUTO}}, []


def _ema_length(config: Config, facts: DataFacts) -> Settled:
    """How an average of weights is made after training; nothing of it where none is asked for."""
    trainer = config["trainer"]
    plain = {key: value for key, value in trainer.items() if key not in POWER_EMA}
    length = trainer["ema_length"]
    if length is None:
        return {"trainer": plain}, []
    if published.is_given(config["denoiser"]):
        raise UserError(f"trainer.ema_length={length}: the denoiser is given and not trained; leave it out")
    chosen = {"ema_length": length, "ema_snapshots": trainer["ema_snapshots"]}
    if length == AUTO:
        chosen["ema_lengths"] = _candidates("trainer.ema_lengths", trainer["ema_lengths"], "[0.05,0.1,0.2]")
    return {"trainer": {**plain, **chosen}}, []


def _representation(config: Config, facts: DataFacts) -> Settled:
    """What aligns a denoiser's hidden features; nothing of it where there is no teacher."""
    trainer = dict(config["trainer"])
    teacher = trainer.pop("representation")["teacher"]
    if teacher is None:
        return {"trainer": trainer}, []
    if published.is_given(config["denoiser"]):
        raise UserError(
            f"trainer.representation.teacher={teacher}: the denoiser is given and not trained; leave it out"
        )
    if config["compile"] == "always":
        raise UserError(
            f"compile=always: trainer.representation.teacher={teacher} aligns features inside of the denoiser, which "
            "it does not show compiled; leave one of them out"
        )
    checks.check_trained_with(config, teacher, "the teacher that the denoiser's features are aligned with")
    return {}, []


def _data(config: Config, facts: DataFacts) -> Settled:
    return {"data": with_scale_sizes(config)}, []


def _given_first_stage(config: Config, facts: DataFacts) -> Settled:
    """What the file of a given first stage says of it."""
    is_given = published.is_given(config["ae"])
    return ({"ae": published.resolved_first_stage(config)} if is_given else {}), []


def _custom(config: Config, facts: DataFacts) -> Settled:
    """What classes of the user's own say of themselves."""
    return custom.resolved(config), []


def _refused_first(config: Config, facts: DataFacts) -> Settled:
    """What no filling in could mend."""
    ae = config["ae"]
    checks.check_factor(ae["f"], config["data"]["resolution"])
    checks.check_extractors(config)
    return {}, []


def _first_stage(config: Config, facts: DataFacts) -> Settled:
    """Sizes, training and the regulariser's options of a first stage that is trained; at f = 1 the identity."""
    ae, scale = config["ae"], config["scale"]
    if ae["f"] == 1:
        return {"ae": {"regulariser": "identity", "f": 1, "channels": 3, "seed": 0}}, []
    if published.is_given(ae) or (custom.is_custom(ae) and not is_trained(ae)):
        return {}, []
    if ae["regulariser"] == "identity":
        raise UserError(f"ae=identity compresses nothing: ae.f must be 1, not {ae['f']}; use ae=kl or ae=vq")
    if custom.is_custom(ae):
        table = scale["ae"]
        loss = _loss(config, table)
        # A scale's rates of Muon are those that suit this program's coders.
        training = filled(ae["training"], {**table["training"], "matrix_learning_rate": 0})
        return {"ae": {**ae, "loss": loss, "training": training}}, []
    table, notes = first_stage_tables(config)
    coder = for_factor(
        {**table["coder"], **table.get(f"coder_{ae['regulariser']}", {})}, ae["f"], scale, "first-stage architecture"
    )
    sizes = filled(ae["architecture"], {"mid_attention": True, **coder, "initialisation": table["initialisation"]})
    loss = _loss(config, table)
    training = filled(ae["training"], for_regulariser(table, "training", ae))
    rates = table.get("matrix_learning_rate", {})
    training = filled(training, {"matrix_learning_rate": rates.get(ae["f"], 0)})
    channels, used = _channels(ae)
    settled = {**ae, "channels": channels, "architecture": sizes, "loss": loss, "training": training}
    own = filled_options(settled, lambda name: _of(table, name, ae["f"], scale))
    shaped = _shaped(own, config["data"]["resolution"])
    if "alignment" in shaped:
        checks.check_trained_with(
            config, shaped["alignment"]["teacher"], "the teacher that its latents are aligned with"
        )
    shaped.pop("channels_used", None)
    return {"ae": {**shaped, "channels": used or shaped["channels"]}}, notes


def _channels(ae: Config) -> tuple[int | None, int | None]:
    """Channels of the latent that is trained, and of the one that is used; None as the scale has them.

    Raises: UserError where they contradict each other, or none can be cut.
    """
    given, nested, used = ae["channels"], ae.get(NESTED), ae.get("channels_used")
    if nested is None:
        if used is not None and given not in (None, used):
            raise UserError(f"ae.channels_used={used} and ae.channels={given} are two numbers: leave one of them out")
        return given or used, None
    nestable(ae["regulariser"])
    if used is not None and used not in nested:
        raise UserError(f"ae.channels_used={used} is none of ae.nested={list(nested)}: choose one of these")
    return given or (nested[-1] if nested else None), used


def _shaped(ae: Config, resolution: int) -> dict[str, Any]:
    """The group without what shapes no latents. Raises: UserError where something cannot shape such latents."""
    if (active := shapings_of(ae)) and not issubclass(first_stage_class(ae["regulariser"]), ShapableFirstStage):
        raise UserError(
            f"ae.{active[0].name}: latents of ae={ae['regulariser']} cannot be shaped in training; leave it out"
        )
    side, batch = resolution // ae["f"], ae["training"]["batch"]
    return only_active(ae, LatentBatch(batch, ae["channels"], side, smallest_latent(ae, resolution)))


def _loss(config: Config, table: Config) -> dict[str, Any]:
    """The loss of a first stage that is trained. Raises: UserError where its network also judges."""
    ae = config["ae"]
    loss = filled(ae["loss"], table["loss"])
    loss["discriminator"] = filled(loss["discriminator"], for_regulariser(table, "discriminator", ae))
    checks.check_trained_with(config, loss["perceptual"])
    return loss


def _of(table: Config, name: str, f: int, scale: Config) -> Any:
    """What a scale says of an option of a regulariser, for all f or for this one; None where it says nothing."""
    value = table.get(name)
    return for_factor(value, f, scale, name.replace("_", " ")) if isinstance(value, Mapping) else value


def _given_denoiser(config: Config, facts: DataFacts) -> Settled:
    """The groups that the file of a given denoiser settles."""
    return published.resolved_denoiser(config, facts) if published.is_given(config["denoiser"]) else ({}, [])


def _conditioning(config: Config, facts: DataFacts) -> Settled:
    """Sizes of the conditions; none where the data gives none and none is asked for."""
    row, notes = architecture(config, config["ae"]["f"])
    tables, own = config["scale"]["conditioning"], row.get("conditioning", {})
    sizes = {kind: {**tables.get(kind, {}), **own.get(kind, {})} for kind in conditions_of(config)}
    settled, said = filled_conditioning(config["conditioning"], sizes, facts, config["data"]["name"])
    if config["samples"]["paste_known"] and not leaves_known(settled):
        raise UserError("samples.paste_known=true needs conditioning=inpaint: only then are pixels given")
    scale, has_conditions = config["guidance"]["scale"], bool(conditions_of({"conditioning": settled}))
    is_classifier_free = scale not in (None, 1) and config["guidance"]["guide"] == "unconditional"
    if not has_conditions:
        settled = {"dropout": 0.0, **{key: settled[key] for key in ("path", "taken") if key in settled}}
        if is_classifier_free:
            raise UserError(
                f"guidance.scale={scale} needs a condition, and this model has none; use guidance.scale=1, "
                "guidance.guide=milestone, or data with classes and conditioning=class"
            )
    elif is_classifier_free and settled["dropout"] == 0:
        raise UserError(
            f"guidance.scale={scale} needs a model that was also trained without its condition; "
            "use guidance.scale=1, or train with conditioning.dropout=0.1"
        )
    return {"conditioning": settled}, [*notes, *said]


def _trainer(config: Config, facts: DataFacts) -> Settled:
    """Images, batch and learning rate; before the denoiser, since budgets look at what the user set of that."""
    if published.is_given(config["denoiser"]):
        return {"trainer": {**config["trainer"], "budget": "images", "milestones": []}}, []
    scale, f, fewest = config["scale"], config["ae"]["f"], None
    trainer = filled(config["trainer"], {"budget": scale["trainer"]["budget"]})
    length, usual = trainer.pop("length", 1), scale["trainer"]["images"]
    match trainer["budget"]:
        case "images":
            trainer = filled(trainer, {"images": max(1, round(usual * length))})
        case "paper":
            row = paper_training(config)
            batch = trainer["batch"] or row["batch"]
            # A decay of 0.9999 a step at every batch, as all of the reference's models have.
            half_life = batch * math.log(0.5) / math.log(PAPER_DECAY)
            trainer = filled(trainer, {**row, "images": row["steps"] * row["batch"], "ema_half_life": half_life})
        case "flops":
            known, images = facts.vocabulary(annotations_read(config)), trainer["images"] or usual * length
            trainer["images"] = images_of_equal_flops(config, images, f, known)
            # Where a latent is small, steps of the usual batch are mostly overhead.
            trainer = filled(trainer, {"batch": scale["trainer"].get("flops_batch", {}).get(f)})
            if trainer["milestones"] == AUTO:
                fewest = fewest_images(config, images, known)
    trainer = filled(trainer, {key: value for key, value in scale["trainer"].items() if not key.startswith("paper")})
    notes = []
    if trainer["milestones"] == AUTO:
        trainer["milestones"] = milestones(trainer["images"], fewest or trainer["images"], trainer["batch"])
        if trainer["decay"] != "constant":
            notes.append(f"trainer.decay={trainer['decay']}: a milestone is not what a run that ends there would be")
    factor = trainer["learning_rate_factor"]
    rate = trainer["learning_rate"] * (1 if factor == AUTO else factor)
    return {"trainer": {**trainer, "learning_rate": rate}}, notes


def _denoiser(config: Config, facts: DataFacts) -> Settled:
    """Sizes of a denoiser that is trained. Raises: UserError where it is one that such latents do not suit."""
    if published.is_given(config["denoiser"]):
        return {}, []
    settings = denoiser_settings(config, config["ae"]["f"])
    options = options_of_denoiser(settings)
    if isinstance(options, ChecksSide):
        options.check_side(config["data"]["resolution"] // config["ae"]["f"])
    return {"denoiser": settings}, []


def _diffusion(config: Config, facts: DataFacts) -> Settled:
    """Schedule, target, times, what the network gives, and the shift of the noise schedule as a number."""
    if published.is_given(config["denoiser"]):
        return {}, []
    diffusion = filled(config["diffusion"], _diffusion_table(config))
    if diffusion["times"] == "uniform":
        diffusion = {key: value for key, value in diffusion.items() if not key.startswith("times")}
    side = config["data"]["resolution"]
    return {"diffusion": {**diffusion, "shift": shift_of(diffusion.get("shift", 1.0), config["ae"], (side, side))}}, []


def _diffusion_table(config: Config) -> dict[str, Any]:
    """What the scale has for the settings of `diffusion` that are null.

    A scale's schedule, target, times and shift are one choice. Where the user gives another schedule or target, or
    betas, which the straight path does not have, the rest is what the scale has `otherwise`, if anything.
    """
    given = config["diffusion"]
    table = {**PAPERS_PATH, **config["scale"]["diffusion"]}
    departs = any(given[name] not in (None, table[name]) for name in ("schedule", "target"))
    if given["schedule"] is None and table["schedule"] == "flow":
        departs |= any(given[beta] is not None for beta in ("beta_start", "beta_end"))
    if config["ae"]["f"] == 1 and given["target"] in (None, table["target"]):
        table |= table.get("pixels", {})
    return table | (table.get("otherwise", {}) if departs else {})


PAPERS_PATH = {"schedule": "scaled_linear", "times": "uniform", "shift": 1.0}
"""Of a scale that says nothing else."""

FULL_SIZE = 4096
"""Numbers in a latent at which shift=auto_dim is 1 (Zheng et al. 2025, arXiv 2510.11690, section 4.2)."""


def shift_of(given: Any, ae: Config, size: tuple[int, int]) -> float:
    """A shift of noise levels as a number, for the latents of images of that height and width.

    docs/decisions/0011 says why "auto" is what it is. "auto_dim" is sqrt(C H W / 4096), below 1 for small latents.
    """
    f = ae["f"]
    if given == "auto":
        return max(1.0, 4.0 / f)
    if given == "auto_dim":
        return math.sqrt(ae["channels"] * (size[0] // f) * (size[1] // f) / FULL_SIZE)
    return float(given)


def shift_name(shift: float, ae: Config, size: tuple[int, int]) -> str:
    """How tables name a shift: by the rule where it follows it, so that cells of several f share a name."""
    if shift == 1:
        return "none"
    return next((rule for rule in SHIFT_RULES if shift == shift_of(rule, ae, size)), f"{shift:g}")


def _guidance(config: Config, facts: DataFacts) -> Settled:
    """The guidance settings, checked; what no guidance leaves inactive at its default."""
    given = config["guidance"]
    if given["scale"] is None and given["guide"] == "milestone":
        raise UserError("guidance.guide=milestone needs guidance.scale, a number above 1 (2, for example) or auto")
    if given["scale"] is None:
        given = filled(given, _usual_guidance(config))
    scale, interval, rescale = given["scale"], given.get("interval"), given.get("rescale", 0.0)
    if interval is not None:
        if len(interval) != 2 or interval[0] >= interval[1]:
            raise UserError(
                f"guidance.interval={interval} is not [low, high] with 0 <= low < high <= 1, the t between which "
                "guidance acts; null means everywhere"
            )
        interval = None if list(interval) == [0, 1] else [float(end) for end in interval]
    if scale == 1:
        return {"guidance": {"scale": scale, "interval": None, "rescale": 0.0}}, []
    chosen = {"scale": scale, "interval": interval, "rescale": float(rescale), **_guide(config)}
    if scale == AUTO:
        chosen |= {
            "candidates": _candidates("guidance.candidates", given["candidates"], "[1,1.5,2,3]"),
            "tuning_samples": given["tuning_samples"],
        }
    return {"guidance": chosen}, []


GUIDE_SHARE = 1 / 16
"""Of the training, where a guide that is not named is taken (Karras et al. 2024 find a sixteenth good)."""


def _guide(config: Config) -> dict[str, float]:
    """The milestone that guides, as the share of the training at which it was kept; nothing of other guidance."""
    given, trainer = config["guidance"], config["trainer"]
    if given["guide"] != "milestone":
        return {}
    earlier = [share for share in trainer["milestones"] if share < 1]
    if not earlier:
        raise UserError(
            "guidance.guide=milestone needs a milestone of this training before its end, and there is none: "
            "give trainer.milestones, e.g. [0.0625,1], and a denoiser that is trained here"
        )
    if given["milestone"] is None:
        return {"milestone": min(earlier, key=lambda share: abs(math.log(share / GUIDE_SHARE)))}
    if given["milestone"] not in earlier:
        kept = ", ".join(f"{share:g}" for share in earlier)
        raise UserError(f"guidance.milestone={given['milestone']:g} is no milestone before the end: {kept}")
    return {"milestone": given["milestone"]}


def _usual_guidance(config: Config) -> Mapping[str, Any]:
    """The scale's for the model's one condition; none where there is no null condition, or the model was given.

    A scale may say between which noise levels it acts (`log_snr: [low, high]`), which are other t on every schedule.
    """
    kinds, none = conditions_of(config), {"scale": 1.0}
    if published.is_given(config["denoiser"]) or len(kinds) != 1 or config["conditioning"]["dropout"] == 0:
        return none
    usual: Mapping[str, Any] = config["scale"]["guidance"].get(kinds[0], none)
    if "log_snr" not in usual:
        return usual
    return {"scale": usual["scale"], "interval": _times_between(schedule(config["diffusion"]), usual["log_snr"])}


def _times_between(noised: Schedule, log_snr: Sequence[float]) -> list[float]:
    """The t between which a schedule has these noise levels, to hundredths, so that rounding changes no identity."""
    low, high = time_at(noised, torch.tensor(sorted(log_snr, reverse=True))).tolist()
    return [round(low, 2), round(high, 2)]


def _candidates(key: str, given: Any, example: str) -> list[float]:
    """What is tried, rising. Raises: UserError where it is no choice."""
    values = sorted({float(value) for value in given})
    if len(values) < 2 or len(values) != len(given):
        raise UserError(f"{key}={given} is not a list of two or more different numbers, e.g. {example}")
    return values


def _sampler(config: Config, facts: DataFacts) -> Settled:
    """The sampler's settings without those that it does not read, and with the steps that `nfe` stands for."""
    given = config["sampler"]
    if custom.is_custom(given):
        inactive = frozenset(key for part in SAMPLERS.values() for key in options_of(part))
    else:
        own_options(given["name"], given)
        inactive = inactive_options(given["name"])
    settings = {key: value for key, value in given.items() if key not in inactive}
    settings = _with_shift(settings, config)
    calls, usual = settings.pop("nfe", None), dict(config["scale"]["sampler"])
    steps = usual.pop("steps")
    settings = filled(settings, usual)
    if calls is None:
        return {"sampler": filled(settings, {"steps": steps})}, []
    if settings["steps"] is not None:
        raise UserError(
            f"sampler.steps={settings['steps']} and sampler.nfe={calls} both say how long to sample; give one of them"
        )
    return {"sampler": {**settings, "steps": steps_within({**config, "sampler": settings}, calls)}}, []


def _with_shift(sampler: dict[str, Any], config: Config) -> dict[str, Any]:
    """The sampler's settings with its own shift as a number, without one where it samples as was trained."""
    given = sampler.pop("shift", None)
    if given is None:
        return sampler
    shift = shift_of(given, config["ae"], sample_size(config))
    # The shift of a given denoiser's schedule is not told here.
    is_trained_so = not published.is_given(config["denoiser"]) and shift == config["diffusion"]["shift"]
    return sampler if is_trained_so else {**sampler, "shift": shift}


def _metrics(config: Config, facts: DataFacts) -> Settled:
    """How many images are measured."""
    return {"metrics": filled(config["metrics"], config["scale"]["metrics"])}, []


def _samples(config: Config, facts: DataFacts) -> Settled:
    """Batch, conditions, size and tiles of the samples."""
    samples = filled(config["samples"], config["scale"]["samples"])
    # Labels are as frequent in training; what describes one image is better asked of images not trained on.
    of_one_image = any(CONDITIONS[kind].describes_one_image for kind in conditions_of(config))
    samples = filled(samples, {"conditions": "heldout" if of_one_image else "train"})
    return {"samples": {**samples, **_sample_size(config, samples)}}, []


def _sample_size(config: Config, samples: Mapping[str, Any]) -> dict[str, int | None]:
    """Both sides of the samples, or neither where they are the training images': these are no other samples."""
    resolution, f, denoiser = config["data"]["resolution"], config["ae"]["f"], config["denoiser"]
    options = None if published.is_given(denoiser) else options_of_denoiser(denoiser)
    halvings = denoiser["halvings"] if options is None else options.halvings
    divides = options.divides if isinstance(options, ChecksSide) else f"{halvings} halvings in the denoiser"
    unit = math.lcm(f * 2**halvings, side_unit(config["conditioning"]))
    sides = {name: resolution if samples[name] is None else samples[name] for name in ("height", "width")}
    for name, side in sides.items():
        if side < resolution or side % unit:
            larger = max(resolution, math.ceil(side / unit) * unit)
            if samples[name] is None:
                fitting = " or ".join(str(n) for n in (resolution // unit * unit, larger) if n)
                raise UserError(
                    f"data.resolution={resolution} is no side for images of this model: it must be a multiple of "
                    f"{unit} (ae.f={f} and {divides}); use {fitting}"
                )
            raise UserError(
                f"samples.{name}={side} is no side for samples of this model: it must be a multiple of {unit} "
                f"(ae.f={f} and {divides}) and at least the {resolution} px of the training "
                f"images, the windows in which samples are measured; use samples.{name}={larger}"
            )
    return dict.fromkeys(sides) if set(sides.values()) == {resolution} else sides


def _tuning(config: Config, facts: DataFacts) -> Settled:
    """How many samples each candidate of guidance is measured by, the same for every cell of a scale."""
    guidance, samples, metrics = config["guidance"], config["samples"], config["metrics"]
    if config["trainer"].get("ema_length") == AUTO:
        _enough_to_tune(config, facts, f"trainer.ema_length={AUTO}", "trainer.ema_length")
        if metrics["progress_samples"] < FEWEST_TO_TUNE:
            raise UserError(
                f"trainer.ema_length={AUTO} compares samples with real images; metrics.progress_samples="
                f"{metrics['progress_samples']} is too few to measure, use {FEWEST_TO_TUNE} or more"
            )
    if guidance["scale"] != AUTO:
        return {}, []
    guidance = filled(guidance, {"tuning_samples": metrics["progress_samples"]})
    if guidance["tuning_samples"] < FEWEST_TO_TUNE:
        raise UserError(
            f"guidance.tuning_samples={guidance['tuning_samples']} is too few to measure; use {FEWEST_TO_TUNE} or more"
        )
    _enough_to_tune(config, facts, f"guidance.scale={AUTO}", "guidance.scale")
    if samples["height"] is not None:
        raise UserError(
            f"guidance.scale={AUTO} tunes at the training size only, and these samples are "
            f"{samples['width']}x{samples['height']} px; tune there first and give the scale that it finds"
        )
    return {"guidance": guidance}, []


def _enough_to_tune(config: Config, facts: DataFacts, asked: str, key: str) -> None:
    """Raises UserError where there are too few real images to compare candidates of the setting `key` with."""
    reference = config["metrics"]["reference"]
    images, kind = {
        "heldout": (facts.heldout_images, "held-out"),
        "train": (facts.train_images, "training"),
    }[reference]
    if images < FEWEST_TO_TUNE:
        raise UserError(
            f"{asked} compares samples with at least {FEWEST_TO_TUNE} {kind} images "
            f"(metrics.reference={reference}), and data={config['data']['name']} has {images}; "
            f"give more images, hold out a larger share, or give {key} as a number"
        )


def _tiles(config: Config, facts: DataFacts) -> Settled:
    """Tile and overlap, or neither where one tile covers the latent, which is said."""
    samples, f = config["samples"], config["ae"]["f"]
    tile, overlap = samples["tile"], samples["overlap"]
    latent = [side // f for side in sample_size(config)]
    if tile is None or tile >= max(latent):
        shape = " x ".join(map(str, latent))
        notes = [] if tile is None else [f"samples.tile={tile} covers the latent of {shape}: it is decoded whole"]
        return {"samples": {**samples, "tile": None, "overlap": None}}, notes
    shared = tile // 4 if overlap is None else overlap
    if 2 * shared > tile:
        raise UserError(f"samples.overlap={overlap} is outside 0 to {tile // 2}, half of samples.tile={tile}")
    return {"samples": {**samples, "overlap": shared}}, []


ORDER: tuple[Callable[[Config, DataFacts], Settled], ...] = (
    _typed,
    _learning_rate,
    _ema_length,
    _representation,
    _data,
    _given_first_stage,
    _custom,
    _refused_first,
    _first_stage,
    _given_denoiser,
    _conditioning,
    _trainer,
    _denoiser,
    _diffusion,
    _guidance,
    _sampler,
    _metrics,
    _samples,
    _tuning,
    _tiles,
)
"""Each reads the groups that are settled before it."""
