"""Plans of every experiment file at every scale, and of cells that use every kind of setting, for made-up images."""

import copy
import itertools
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tiny_plans import is_value, set_values

from experiments.compose import composed, settings_only, swept
from experiments.conditions import DataFacts
from experiments.plan import make_plan
from experiments.schema import CONF
from experiments.stage import Plan
from experiments.stages import STAGES
from ldm.data.contract import Annotation
from ldm.errors import UserError

ON_CPU = ("device=cpu", "precision=fp32", "scale=cpu")
SCALES = ("tiny", "cpu", "gpu", "paper")
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

MEASURES = tuple(f"metrics.{name}=true" for name in ("coding", "predictors", "likelihood", "memorisation"))
CELLS: dict[str, tuple[str, ...]] = {
    "default": (),
    **{f"f={f}": (f"ae.f={f}",) for f in (1, 2, 8, 16, 32)},
    **{f"vq f={f}": ("ae=vq", f"ae.f={f}") for f in (1, 2, 4, 8, 16, 32)},
    **{f"{name} f={f}": (f"ae={name}", f"ae.f={f}") for name in ("fsq", "lfq", "bsq") for f in (1, 4, 32)},
    "levels": ("ae=fsq", "ae.levels=[8,5,5]"),
    "bits": ("ae=lfq", "ae.channels=5", "ae.entropy_weight=0.2"),
    "seeds": ("seed=3", "ae.seed=1", "sampler.seed=2"),
    "everything measured": (*MEASURES, "metrics.also.inception=true"),
    "everything measured of vq": ("ae=vq", "ae.f=8", *MEASURES),
    "another judge": ("metrics.extractor=inception", "metrics.reference=train", "metrics.seed=1"),
    "same network": ("ae.loss.perceptual=efficientnet_lite2", "metrics.allow_same_network=true"),
    **{f"sampler {name}": (f"sampler={name}",) for name in ("ddpm", "plms", "dpmpp", "heun", "euler", "unipc")},
    "sampler options": ("sampler.eta=0.5", "sampler.spacing=uniform", "sampler.final=alpha0", "sampler.clip=range"),
    "large variance": ("sampler=ddpm", "sampler.variance=large"),
    "network calls": ("sampler=heun", "sampler.nfe=15", "guidance.scale=2"),
    "guidance": ("guidance.scale=2", "guidance.interval=[0.1,0.8]", "guidance.rescale=0.5"),
    "autoguidance": ("guidance.guide=milestone", "guidance.scale=2", "conditioning=none"),
    "tuned autoguidance": ("guidance.guide=milestone", "guidance.scale=auto", "guidance.milestone=0.5"),
    "tuned guidance": ("guidance.scale=auto", "metrics.n_samples=40", "guidance.tuning_samples=20"),
    **{
        f"conditioning {name}": (f"conditioning={name}",)
        for name in ("none", "text", "layout", "semantic", "superres", "inpaint", "[class,semantic]")
    },
    "pasted": ("conditioning=inpaint", "samples.paste_known=true", "conditioning.inpaint.masks=[thin,box]"),
    "larger samples": ("data.resolution=32", "samples.height=64", "samples.width=128", "samples.tile=8"),
    "kept samples": ("samples.keep=images",),
    "conditions of held-out images": ("samples.conditions=heldout",),
    **{
        f"target {target}": ("diffusion.schedule=flow" if target == "flow" else "", f"diffusion.target={target}")
        for target in ("x0", "v", "flow")
    },
    "cosine": ("diffusion.schedule=cosine", "diffusion.shift=auto", "diffusion.weighting=min_snr", "ae.f=2"),
    "times and shifts": ("diffusion.times=logit_normal", "diffusion.shift=auto_dim", "sampler.shift=1"),
    "unbiased times": ("diffusion.times=logit_normal", "diffusion.times_std=2", "diffusion.times_unbiased=true"),
    "errors at noise levels": ("metrics.level_error=true",),
    "budget of FLOPs": ("trainer.budget=flops", "ae.f=8"),
    "tuned learning rate": ("trainer.learning_rate=auto", "trainer.learning_rate_share=0.25"),
    "an average of a length": ("trainer.ema_length=0.1", "metrics.likelihood=true"),
    "a tuned average": ("trainer.ema_length=auto", "guidance.scale=auto", "metrics.sampler_check=true"),
    "trainer": ("trainer.length=2", "trainer.learning_rate_factor=0.5", "trainer.decay=cosine"),
    "own sizes": ("ae.channels=5", "denoiser.num_res_blocks=1", "ae.kl_weight=1e-3", "latents.scale=per_channel"),
    "until latents": ("until=latents",),
    "equivariance": ("ae.equivariance.rotation=true", "ae.equivariance.scaling=true"),
    "downsampling": ("ae=vq", "ae.f=8", "ae.downsampling.loss_weight=0.25"),
    "nested channels": ("ae.nested=[2,4,8]", "ae.channels_used=4"),
    "alignment": ("ae.f=8", "ae.alignment.teacher=efficientnet_lite0"),
    **{f"dc f={f}": ("ae.architecture.family=dc", f"ae.f={f}") for f in (1, 4, 32, 64)},
    "vq dc f=64": ("ae=vq", "ae.architecture.family=dc", "ae.f=64", "data.resolution=64"),
    "a dropped-out first stage": ("ae.architecture.dropout=0.1", "ae.loss.discriminator.norm=batch"),
}


def _names(n: int) -> tuple[str, ...]:
    return tuple(f"name {i}" for i in range(n))


def made_up_facts(data: dict[str, Any]) -> DataFacts:
    """Images that nobody has, with as many classes of each kind as their config declares, and with annotations."""
    count = data.get("classes")
    classes = _names(3 if count is None else count)
    kinds = {"captions": (), "boxes": _names(data.get("box_classes") or 4)}
    kinds["semantic"] = _names(data.get("semantic_classes") or 5)

    def annotations(split: str) -> dict[str, Annotation]:
        return {kind: Annotation(f"{kind} of {data['name']} {split}", names) for kind, names in kinds.items()}

    sizes = (90_000, 10_000)
    splits = (f"{data['name']} train", f"{data['name']} heldout")
    return DataFacts(*splits, *sizes, classes, annotations("train"), annotations("heldout"))


@lru_cache
def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    return settings_only(composed([*ON_CPU, *choices], needs_path=False))


@lru_cache
def _table_of(scale: str) -> dict[str, Any]:
    table: dict[str, Any] = composed([*ON_CPU[:2], f"scale={scale}"])["scale"]
    return table


def settings_of(scale: str, *overrides: str) -> dict[str, Any]:
    """Composed settings; the scale, which only its own group says, and values are set after composing: it takes long.

    Where a scale is set otherwise too, the identities are others than those that are known.
    """
    given = [override for override in overrides if override]
    values = [override for override in given if is_value(override)]
    choices = tuple(override for override in given if override not in values)
    settings = copy.deepcopy(_composed(choices))
    settings["scale"] = copy.deepcopy(_table_of(scale))
    set_values(settings, values)
    return settings


def planned(scale: str, *overrides: str) -> Plan:
    """The plan of these overrides for made-up images."""
    settings = settings_of(scale, *overrides)
    return make_plan(settings, made_up_facts(settings["data"]), STAGES)


@lru_cache
def points_of(experiment: str) -> list[tuple[str, ...]]:
    """All points of what an experiment sweeps."""
    grid = swept([*ON_CPU, f"+experiment={experiment}"])
    each = [[f"{key}={value}" for value in values] for key, values in grid.items()]
    return list(itertools.product(*each))


def _identities(scale: str, *overrides: str) -> dict[str, str]:
    try:
        plan = planned(scale, *overrides)
    except UserError as error:
        return {"refused": str(error)}
    return {"cell": plan.cell, **{name: stage.identity for name, stage in plan.stages.items()}}


def all_points(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Scale and overrides of all points of an experiment, or of the cells above, by the name of the point."""
    if name in EXPERIMENTS:
        points = {" ".join(point) or "-": (f"+experiment={name}", *point) for point in points_of(name)}
    else:
        points = CELLS
    return {f"{scale}: {point}": (scale, overrides) for scale in SCALES for point, overrides in points.items()}


def identities_of(name: str, points: Iterable[str]) -> dict[str, dict[str, str]]:
    """By point the cell's name and the identity of each stage, or why the scale does not plan for it."""
    known = all_points(name)
    return {point: _identities(known[point][0], *known[point][1]) for point in points}


def few_of(name: str) -> list[str]:
    """Of an experiment its last point at every scale; of the cells all at scale=tiny, and the first at every scale.

    At the other scales trainings are divided by FLOPs, which are counted anew for each network. Predictors at the small
    scales only: their small denoiser's share is counted in FLOPs of the large network.
    """
    known, scales = all_points(name), SCALES[:2] if name.startswith("predictors") else SCALES
    own = {scale: [point for point, (of, _) in known.items() if of == scale] for scale in scales}
    if name in EXPERIMENTS:
        return [points[-1] for points in own.values()]
    return [*own["tiny"], *(points[place] for points in own.values() for place in (0, -1) if points is not own["tiny"])]
