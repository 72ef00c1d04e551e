"""What a config will cost: network calls of a sample, FLOPs of a training image, and what fits into a budget."""

import bisect
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from experiments import build, custom
from experiments.data_facts import Vocabulary
from experiments.tables import PAPERS_OWN, denoiser_settings, factors
from ldm.denoiser import DENOISERS, UNetOptions
from ldm.diffusion.schedule import STEPS
from ldm.errors import UserError
from ldm.parts import defaults_of, options_of
from ldm.samplers import asked_levels
from ldm.training.flops import count_flops


def network_calls(config: Mapping[str, Any]) -> int:
    """Network evaluations (NFE) that one image costs under a resolved config, those of guidance counted twice.

    Of a scale that is still to be found: what it costs at most.
    """
    given = config["guidance"]
    settled = {**given, "scale": max(given["candidates"])} if given["scale"] == build.AUTO else given
    schedule, guides = build.schedule(config["diffusion"]), build.guidance(settled)
    chosen, times = build.sampler(config["sampler"], schedule), build.time_grid_of(config["sampler"], schedule)
    return sum(2 if guides.acts_at(t) else 1 for t in asked_levels(chosen, times))


def steps_within(config: Mapping[str, Any], calls: int) -> int:
    """The most steps of the configured sampler, its spacing and guidance, that cost at most so many network calls.

    Raises: UserError for a number that is no budget, or not enough for a single step.
    """
    if not isinstance(calls, int) or calls < 1:
        raise UserError(f"sampler.nfe={calls} is not a whole number of network calls above 0")
    candidates = range(1, min(calls, STEPS) + 1)
    steps = bisect.bisect_right(
        candidates, calls, key=lambda n: network_calls({**config, "sampler": {**config["sampler"], "steps": n}})
    )
    if steps == 0:
        raise UserError(f"sampler.nfe={calls} is less than one step of sampler={config['sampler']['name']} costs here")
    return steps


def images_of_equal_flops(config: Mapping[str, Any], images: float, f: int, known: Vocabulary) -> int:
    """Images after which training at f has cost as many FLOPs as `images` of them at the scale's reference factor.

    There they are a UNet's, whichever of this program's denoisers the config has, so that these cost alike too.
    """
    reference = config["scale"]["trainer"]["flops_reference_f"]
    plain = {**config, "trainer": {key: value for key, value in config["trainer"].items() if key != "representation"}}
    of_reference = flops_per_training_image(_with_reference_denoiser(plain), reference, known)
    return max(1, round(images * of_reference / flops_per_training_image(config, f, known)))


def _with_reference_denoiser(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with the UNet of the scale in place of another denoiser of this program; a user's own stays."""
    given = config["denoiser"]
    if custom.is_custom(given) or given["name"] == PAPERS_OWN:
        return config
    options = dict.fromkeys(options_of(DENOISERS[PAPERS_OWN]))
    return {**config, "denoiser": {"name": PAPERS_OWN, "architecture": given["architecture"], **options}}


def fewest_images(config: Mapping[str, Any], images: float, known: Vocabulary) -> int:
    """Images that equal FLOPs leave to the costliest factor of the scale; in most, pixel space."""
    return min(images_of_equal_flops(config, images, f, known) for f in factors(config))


HALVINGS = 5
"""How often a training is halved for its milestones: six from a thirty-second to all of it."""
ALIKE = 0.1
"""Milestones that are nearer to each other than this share are one."""


def milestones(images: int, fewest: int, batch: int) -> list[float]:
    """Shares of a training: its halvings, and as far as it has none near, those of the shortest training of a study.

    So every two trainings of equal FLOPs have milestones at equal FLOPs and, up to the shortest, at equal images.
    """
    steps, shortest = (-(-count // batch) for count in (images, min(fewest, images)))
    own = _halved(steps)
    shared = {step for step in _halved(shortest) if all(abs(step - mine) > ALIKE * mine for mine in own)}
    return [step / steps for step in sorted(own | shared)]


def images_at(milestones: Sequence[float], images: int, batch: int) -> list[int]:
    """Images seen at shares of a training, whole steps of it, rising."""
    steps = -(-images // batch)
    return [batch * step for step in sorted({max(1, round(share * steps)) for share in milestones})]


def _halved(steps: int) -> set[int]:
    return {max(1, round(steps / 2**halving)) for halving in range(HALVINGS + 1)}


SMALL_DENOISER_SHARE = 0.01
"""Of the FLOPs of the main training, what the small denoiser that looks at a latent space may spend."""


def small_denoiser_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A UNet without conditions, of two levels; of one four times as wide where the latent's side is under 4 or odd."""
    side = config["data"]["resolution"] // config["ae"]["f"]
    sizes = config["scale"]["small_denoiser"]
    settings = {**defaults_of(UNetOptions), **sizes, "channel_mult": [1, 2], "attention_sides": [], "num_heads": None}
    if side < 4 or side % 2:  # a level of side 1 needs channels, or its norms would leave nothing
        settings |= {"channel_mult": [1], "model_channels": 4 * sizes["model_channels"]}
    del settings["dense_small_maps"], settings["fold"]  # younger than the identities that hold these settings
    return settings


def images_of_small_denoiser(config: Mapping[str, Any], known: Vocabulary) -> int:
    """Images after which the small denoiser has spent its share of the main training's FLOPs, one batch at least."""
    ae, side, trainer = config["ae"], config["data"]["resolution"] // config["ae"]["f"], config["trainer"]
    each = _flops_of_training_image(_text(small_denoiser_settings(config)), "{}", ae["channels"], side, ae["f"], known)
    budget = SMALL_DENOISER_SHARE * trainer["images"] * flops_per_training_image(config, ae["f"], known)
    return max(int(trainer["batch"]), round(budget / each))


def flops_per_training_image(config: Mapping[str, Any], f: int, known: Vocabulary) -> float:
    """FLOPs of one training image's forward and backward pass at downsampling factor f, counted on the meta device.

    What the user set of the denoiser stands; the rest is the scale's for that f, so `config` is one not yet filled in.
    """
    if f == config["ae"]["f"]:
        channels = config["ae"]["channels"]
    else:
        channels = 3 if f == 1 else config["scale"]["ae"]["latent_channels"][f]
    settings, side = denoiser_settings(config, f), config["data"]["resolution"] // f
    return _flops_of_training_image(
        _text(settings), _text(config["conditioning"]), channels, side, f, known, _text(_counted(config["trainer"]))
    )


def _counted(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What of a training's settings makes a step cost more."""
    return {key: value for key, value in trainer.items() if key == "representation"}


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@functools.cache
def _flops_of_training_image(
    settings: str,
    condition_settings: str,
    channels: int,
    side: int,
    f: int,
    known: Vocabulary,
    trainer: str = "{}",
) -> float:
    """FLOPs of a training image from groups as JSON, counted once: a sweep plans many cells of one network."""
    with torch.device("meta"):
        conditions = build.conditioning(json.loads(condition_settings), known, {"f": f, "channels": channels})
        network = build.denoiser(json.loads(settings), channels, side, conditions)
        x, index, given = torch.empty(1, channels, side, side), torch.empty(1), conditions.placeholder(1, (side, side))
    step = build.step_of_training(json.loads(trainer), network, torch.empty(1, 3, f * side, f * side, device="meta"))
    return count_flops(lambda: step(lambda: network(x, index, given.context, given.concat).sum()))
