"""Every setting with its type, range and unit: those of no part here, those of parts as the parts declare them.

Values are checked when they are composed, before anything is read or run. Defaults stand in conf/ alone.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from experiments.conditions import CONDITIONS
from experiments.custom import is_custom
from experiments.schema import CONF, leaf_values
from ldm.data.sources import SOURCES
from ldm.denoiser import DENOISERS
from ldm.diffusion.guidance import CLIPS, GUIDES
from ldm.diffusion.schedule import SCHEDULES, STEPS
from ldm.diffusion.target import TARGETS
from ldm.diffusion.times import TIMES
from ldm.diffusion.weighting import WEIGHTINGS
from ldm.first_stage.build import FAMILIES, FIRST_STAGES
from ldm.first_stage.initialisation import INITIALISATIONS
from ldm.first_stage.shapings import SHAPINGS, prefix_of
from ldm.interop.contract import WEIGHTS
from ldm.parts import LARGEST, Option, option, options_of
from ldm.samplers import SAMPLERS
from ldm.samplers.spacing import FINALS, SPACINGS
from ldm.training.compiled import COMPILES
from ldm.training.draws import DRAWS
from ldm.training.power_ema import LONGEST
from ldm.training.representation import Representation

SHIFT_RULES: Final = ("auto", "auto_dim")
"""Words for a shift that follows from the latents (`experiments.resolve.shift_of`)."""


def _seed(what: str) -> Any:
    return option(low=0, high=LARGEST, help=f"seed of {what}")


MOST_AT_ONCE: Final = 2**20
MOST_SAMPLES: Final = 10**7
MOST_CHANNELS: Final = 2**16


def _count(what: str, unit: str = "images", low: int = 1, high: int | None = None) -> Any:
    return option(low=low, high=high, unit=unit, help=what)


@dataclass(frozen=True)
class _Run:
    store: str = option(help="folder of all results")
    seed: int = _seed("diffusion training")
    device: str = option(choices=("auto", "cpu", "cuda"), help="where stages run")
    precision: str = option(choices=("auto", "bf16", "fp32"), help="number format of the networks")
    compile: str = option(choices=COMPILES, help="whether denoisers are compiled by torch, which changes rounding only")
    until: str = option(help="the last stage; measurements of what is made are included")
    workers: int | None = _count("that decode images", "threads")
    report: bool | None = option(help="whether the run ends by writing report.html")


@dataclass(frozen=True)
class _FirstStage:
    f: int | None = option(low=1, help="downsampling factor, a power of two")
    channels: int | None = option(low=1, high=MOST_CHANNELS, help="channels of the latent")
    channels_used: int | None = option(
        low=1, high=MOST_CHANNELS, help="of nested channels, how many are used; null: all; else as ae.channels"
    )
    seed: int = _seed("the first stage's weights and training")
    path: Path | None = option(help="file or folder of given weights")
    weights: str = option(choices=WEIGHTS, help="moving average (auto: where there is one) or plain given weights")


@dataclass(frozen=True)
class _Loss:
    perceptual: str | None = option(help="network of the perceptual loss, or none")
    perceptual_path: Path | None = option(help="its weights")
    perceptual_weight: float = option(low=0, help="weight of the perceptual loss")


@dataclass(frozen=True)
class _Discriminator:
    start: float | None = option(low=0, help="share of the training after which it takes part; 1: never")
    channels: int | None = option(low=1, high=MOST_CHANNELS, help="channels of its first layer")
    layers: int | None = option(low=1, help="layers that halve the side; null: by resolution")
    norm: str | None = option(choices=("group", "batch"), help="normalisation")
    weight: float | None = option(low=0, help="weight of the adversarial term")


@dataclass(frozen=True)
class _Coders:
    name: str | None = option(help="a named architecture of scale=paper")
    family: str = option(choices=FAMILIES, help="how encoder and decoder are made")
    ch: int | None = option(low=1, high=MOST_CHANNELS, help="channels of the first level")
    ch_mult: tuple[int, ...] | None = option(low=1, help="what each level has times that")
    num_res_blocks: int | None = option(low=0, help="residual blocks a level")
    attention_sides: tuple[int, ...] | None = option(low=1, help="sides of the feature maps with attention")
    mid_attention: bool | None = option(help="whether there is attention at the latent's side")
    dropout: float = option(low=0, below=1, help="share of activations dropped in training")
    initialisation: str | None = option(choices=INITIALISATIONS, help="what the weights are at the beginning")


@dataclass(frozen=True)
class _FirstStageTraining:
    images: int | None = _count("seen in training")
    batch: int | None = _count("a step", high=MOST_AT_ONCE)
    learning_rate: float | None = option(above=0, help="the rate of Adam")
    matrix_learning_rate: float | None = option(low=0, help="the rate of Muon for matrices; 0: Adam for all")
    warm_up: int | None = _count("over which the rate rises", low=0)
    decay: str | None = option(choices=("constant", "cosine"), help="the rate over the training")
    gradient_clip: float | None = option(above=0, help="largest norm of the gradient; null: none")


@dataclass(frozen=True)
class _Latents:
    scale: str = option(choices=("std_scalar", "per_channel", "none"), help="what latents are divided by")


@dataclass(frozen=True)
class _Conditioning:
    dropout: float = option(low=0, high=1, help="share of training images whose condition is dropped")


@dataclass(frozen=True)
class _Diffusion:
    schedule: str | None = option(choices=SCHEDULES, help="noise schedule")
    shift: float | None = option(above=0, words=SHIFT_RULES, help="shift of the noise schedule")
    target: str | None = option(choices=TARGETS, help="what the network predicts")
    output: str | None = option(choices=TARGETS, help="what the network gives, where it is not the target")
    weighting: str = option(choices=WEIGHTINGS, help="weight of the loss over t")
    times: str | None = option(choices=TIMES, help="density of the t that training draws")
    times_mean: float = option(help="mean of logit(t), of times=logit_normal")
    times_std: float = option(above=0, help="standard deviation of logit(t)")
    times_unbiased: bool = option(help="whether losses are over their density, so that it changes their noise alone")


@dataclass(frozen=True)
class _Sampler:
    steps: int | None = option(low=1, high=STEPS, unit="steps", help="of the time grid")
    nfe: int | None = option(low=1, unit="calls", help="of the network an image, guidance included, in place of steps")
    spacing: str | None = option(choices=SPACINGS, help="how the time grid is spaced")
    final: str = option(choices=FINALS, help="where the time grid ends")
    clip: str | None = option(
        choices=CLIPS, help="whether estimates of x0 are clamped to the range of the training latents"
    )
    shift: float | None = option(
        above=0, words=SHIFT_RULES, help="shift of the noise levels that are visited; null: as trained"
    )
    seed: int = _seed("the samples' noise")


@dataclass(frozen=True)
class _Samples:
    keep: str = option(choices=("features", "images"), help="what stays of the samples")
    batch: int | None = _count("sampled at a time", high=MOST_AT_ONCE)
    height: int | None = _count("of the samples", "pixels")
    width: int | None = _count("of the samples", "pixels")
    tile: int | None = _count("a side of the tiles that are decoded", "latents")
    overlap: int | None = _count("that neighbouring tiles share", "latents", low=0)
    conditions: str | None = option(choices=("train", "heldout"), help="images that the conditions come from")
    paste_known: bool = option(help="whether inpainting puts the given pixels back")


@dataclass(frozen=True)
class _Guidance:
    scale: float | None = option(low=0, words=("auto",), help="scale of classifier-free guidance; 1: none")
    interval: tuple[float, ...] | None = option(low=0, high=1, help="[low, high] of t at which guidance acts")
    guide: str = option(choices=GUIDES, help="the worse model that guidance leads away from")
    milestone: float | None = option(
        above=0, high=1, help="share of the training at which guide=milestone was kept; null: nearest to a sixteenth"
    )
    rescale: float = option(low=0, high=1, help="share of the prediction that is given the conditional one's deviation")
    candidates: tuple[float, ...] = option(low=0, help="scales tried by guidance.scale=auto")
    tuning_samples: int | None = _count("of each candidate", low=2, high=MOST_SAMPLES)


@dataclass(frozen=True)
class _Metrics:
    weights: Path | None = option(help="weights of the extractor")
    extra: tuple[str, ...] = option(help="further metrics of your own")
    n_samples: int | None = _count("of a cell", "samples", low=2, high=MOST_SAMPLES)
    reference: str = option(choices=("heldout", "train"), help="real images that samples are compared with")
    seed: int = _seed("what is random in a metric")
    allow_same_network: bool = option(help="whether the extractor may have trained the first stage")
    progress_samples: int | None = _count("of each milestone", "samples", low=2, high=MOST_SAMPLES)
    progress_steps: int = option(low=1, high=STEPS, unit="steps", help="of DDIM for them")
    coding: bool = option(help="whether latents are sent through an entropy coder")
    predictors: bool = option(help="whether the latent space is measured before diffusion is trained on it")
    level_error: bool = option(help="whether the error on held-out images is measured at each noise level")
    likelihood: bool = option(help="whether the variational bound is measured")
    likelihood_samples: int | None = _count("of the held-out ones", low=2, high=MOST_SAMPLES)
    likelihood_levels: int | None = option(
        low=2, high=STEPS, unit="noise levels", help="one network call an image each"
    )
    likelihood_clip: str = option(choices=CLIPS, help="whether estimates of x0 are clamped")
    memorisation: bool = option(help="whether samples are compared with their nearest training images")
    sampler_check: bool | None = option(help="whether samples are compared with those of twice the steps")
    clip: Path | None = option(help="transformers folder of a CLIP model")
    lpips: Path | None = option(help="torchvision's AlexNet weights")


@dataclass(frozen=True)
class _Trainer:
    budget: str | None = option(choices=("images", "flops", "paper"), help="what all f have in equal amounts")
    images: int | None = _count("seen in training")
    length: float = option(above=0, help="times the images of the scale")
    batch: int | None = _count("a step", high=MOST_AT_ONCE)
    micro_batch: int | None = _count("in one pass", high=MOST_AT_ONCE)
    learning_rate: float | None = option(
        above=0, words=("auto",), help="the rate of AdamW; auto: found for each cell by short trials"
    )
    learning_rate_candidates: tuple[float, ...] = option(
        above=0, help="multiples of the scale's rates tried by trainer.learning_rate=auto"
    )
    learning_rate_share: float = option(above=0, high=1, help="of the training's images, what each trial sees")
    learning_rate_factor: float = option(above=0, help="times that rate")
    matrix_learning_rate: float | None = option(
        low=0, help="the rate of Muon for the denoiser's matrices; 0: AdamW for all"
    )
    warm_up: int | None = _count("over which the rate rises", low=0)
    decay: str = option(choices=("constant", "cosine"), help="the rate over the training")
    weight_decay: float = option(low=0, help="of AdamW")
    gradient_clip: float | None = option(low=0, help="largest norm of the gradient; 0: none")
    ema_half_life: float | None = option(
        above=0, unit="images", words=("none",), help="over which a weight's part in the EMA halves; none: no limit"
    )
    ema_share: float | None = option(
        above=0, high=1, help="of the images seen so far, the longest that this half-life may be"
    )
    ema_length: float | None = option(
        above=0,
        high=LONGEST,
        words=("auto",),
        help="of an average of weights made after training; null: ema_half_life and ema_share",
    )
    ema_lengths: tuple[float, ...] = option(above=0, high=LONGEST, help="lengths tried by trainer.ema_length=auto")
    ema_snapshots: int = option(low=2, high=1000, help="times that averages are kept, where there is an ema_length")
    noise: str | None = option(choices=DRAWS, help="what draws the noise, images and noise levels of a step")
    milestones: tuple[float, ...] | None = option(
        above=0, high=1, words=("auto",), help="shares of the training at which quality is measured; auto: halvings"
    )
    devices: int = option(
        low=1, high=1024, words=("auto",), help="GPUs (with device=cpu, processes) that divide a stage; auto: all"
    )
    checkpoint_seconds: float = option(low=0, unit="seconds", help="between checkpoints")


@dataclass(frozen=True)
class _Shortlist:
    keep: int | None = _count("that diffusion is trained on, the best by a predictor; null: on all", "first stages")
    controls: int = _count("of the others that it is trained on too, drawn at random", "first stages")
    predictor: str = option(help="row of the stage predictors that ranks them; auto: the best supported by this store")
    seed: int = _seed("the draw of controls")


@dataclass(frozen=True)
class _Tracker:
    name: str = option(choices=("wandb", "trackio", "tensorboard", "none"), help="what shows the runs")
    mode: str = option(choices=("offline", "online", "disabled"), help="where W&B writes; disabled: nothing is tracked")
    project: str = option(help="of W&B or Trackio")
    entity: str | None = option(help="of W&B")


GROUPS: Final[Mapping[str, type]] = {
    "": _Run,
    "ae": _FirstStage,
    "ae.loss": _Loss,
    "ae.loss.discriminator": _Discriminator,
    "ae.architecture": _Coders,
    "ae.training": _FirstStageTraining,
    "latents": _Latents,
    "conditioning": _Conditioning,
    "diffusion": _Diffusion,
    "sampler": _Sampler,
    "samples": _Samples,
    "guidance": _Guidance,
    "metrics": _Metrics,
    "trainer": _Trainer,
    "trainer.representation": Representation,
    "shortlist": _Shortlist,
    "tracker": _Tracker,
}
"""Settings that belong to no part, by the group in which they stand."""

WHOLE: Final = tuple(dict.fromkeys(group.partition(".")[0] for group in ("data", "denoiser", *GROUPS) if group))
"""The groups that every run has."""

PARTS: Final[Mapping[str, Mapping[str, type]]] = {
    "data": SOURCES,
    "denoiser": DENOISERS,
    "sampler": SAMPLERS,
    "diffusion": SCHEDULES,
}
"""Tables of parts whose options stand in a group."""

CHOOSES: Final = {"data": "name", "denoiser": "name", "diffusion": "schedule"}
"""The key of a group that says whose options stand in it; in others those of all parts do."""


def _under(group: str, options: Mapping[str, Option], is_open: bool) -> Iterator[tuple[str, Option, bool]]:
    prefix = f"{group}." if group else ""
    return ((f"{prefix}{name}", each, is_open) for name, each in options.items())


def declared(config: Mapping[str, Any] | None = None) -> dict[str, tuple[Option, bool]]:
    """By dotted key, what a setting may be, and whether null may stand for what a table says.

    Of parts those that the config chooses; without one, all.
    """
    chosen = tuple(None if config is None else config[group].get(key) for group, key in CHOOSES.items())
    known = tuple(map(tuple, (*PARTS.values(), FIRST_STAGES, CONDITIONS)))
    return _declared(tuple(name if isinstance(name, str) else None for name in chosen), known)


@functools.lru_cache
def _declared(chosen: tuple[str | None, ...], known: tuple[tuple[str, ...], ...]) -> dict[str, tuple[Option, bool]]:
    """For parts that are chosen by `CHOOSES`; `known`: the names in all tables."""
    choice = dict(zip(CHOOSES, chosen, strict=True))
    found: list[tuple[str, Option, bool]] = []
    for group, cls in GROUPS.items():
        found += _under(group, options_of(cls), is_open=False)
    for group, table in PARTS.items():
        name = choice.get(group)
        parts = list(table.values()) if name is None or name not in table else [table[name]]
        for part in parts:
            found += _under(group, options_of(part), is_open=True)
    for kind in FIRST_STAGES.values():
        found += _under("ae" if kind.group is None else f"ae.{kind.group}", options_of(kind.Options), is_open=True)
    for shaping in SHAPINGS:
        found += _under(prefix_of(shaping), options_of(shaping), is_open=False)
    for name, condition in CONDITIONS.items():
        options: type = condition.options
        found += _under(f"conditioning.{name}", options_of(options), is_open=True)
    return {key: (each, is_open) for key, each, is_open in reversed(found)}


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises UserError for the first setting of a composed config that is not of its type, or out of its range."""
    known = declared(config)
    own = {group for group in ("data", "denoiser", "ae", "sampler") if is_custom(config[group])}
    for key, value in leaf_values(config, known):
        if key in known and not (key.partition(".")[0] in own and key not in _OWN_TOO):
            each, is_open = known[key]
            if not (value is None and is_open):
                each.checked(value, key)


_OWN_TOO: Final = {f"{group}.{name}" for group, cls in GROUPS.items() if group for name in options_of(cls)}
"""Settings that a class of the user's own does not replace."""


def defaults() -> dict[str, Any]:
    """What conf/ gives to every setting that it has, by dotted key; of groups, first what is chosen by default."""
    listed = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(listed, dict)
    chosen = {group: name for each in listed["defaults"] if isinstance(each, dict) for group, name in each.items()}

    def last(path: Path) -> tuple[bool, bool, str]:
        return chosen.get(path.parent.name) == path.stem, path.stem == "base", path.stem

    found: dict[str, Any] = {}
    for path in sorted(CONF.glob("*/*.yaml"), key=last):
        if path.parent.name not in ("experiment", "scale", "hydra"):
            found |= {f"{path.parent.name}.{key}": value for key, value in leaf_values(_plain(path))}
    return found | dict(leaf_values(_plain(CONF / "config.yaml")))


def _plain(path: Path) -> Mapping[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items() if key not in ("defaults", "hydra", "sweep")}


def spelled() -> dict[str, dict[str, str]]:
    """What --help says of each setting, by dotted key: under "" of all, under KEY=NAME where that choice differs."""
    found = {"": _words(declared())}
    for group, key in CHOOSES.items():
        for name in PARTS[group]:
            chosen: dict[str, dict[str, str]] = {each: {} for each in CHOOSES} | {group: {key: name}}
            words = _words(declared(chosen)).items()
            found[f"{group}.{key}={name}"] = {key: text for key, text in words if found[""][key] != text}
    return {choice: words for choice, words in found.items() if words}


def _words(known: Mapping[str, tuple[Option, bool]]) -> dict[str, str]:
    nulls = {key: each.is_optional or is_open for key, (each, is_open) in known.items()}
    return {
        key: f"{each.allowed}{' or null' if nulls[key] and 'null' not in each.allowed else ''}; {each.help}"
        for key, (each, _) in sorted(known.items())
    }


def reference(defaults: Mapping[str, Any]) -> str:
    """All settings as a table in Markdown: key, default, what it may be, and what it is; `defaults` by dotted key."""
    lines = ["| key | default | may be | what |", "|---|---|---|---|"]
    for key, (each, _) in sorted(declared().items()):
        given = defaults.get(key, "")
        null = " or null" if each.is_optional and "null" not in each.allowed else ""
        shown = "null" if given is None else str(given)
        allowed = f"{each.allowed}{null}".replace("|", "\\|")
        lines.append(f"| `{key}` | {shown} | {allowed} | {each.help} |")
    return "\n".join(lines) + "\n"
