"""The samplers by name, and what is derived from their options."""

from collections.abc import Mapping
from typing import Any

from ldm.diffusion.schedule import Schedule
from ldm.parts import checked, checked_options, look_up, options_of
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpmpp import DPMSolverPlusPlus
from ldm.samplers.euler import Euler
from ldm.samplers.heun import Heun
from ldm.samplers.loop import Sampler
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC

SAMPLERS: Mapping[str, type[Sampler]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "plms": PLMS,
    "dpmpp": DPMSolverPlusPlus,
    "heun": Heun,
    "euler": Euler,
    "unipc": UniPC,
}
"""Each is built from `schedule` and its own options."""

AXES = ("steps", "eta", "variance", "spacing", "final", "clip")
"""Settings of a sampler that have a column in tables, in this order; options of further samplers follow them."""


def build_sampler(name: str, schedule: Schedule, settings: Mapping[str, Any]) -> Sampler:
    """The sampler of a name with its own options of these settings, which may hold others.

    Raises: UserError for an unknown name, or an option that is not allowed.
    """
    return checked(look_up(SAMPLERS, name, "sampler"), own_options(name, settings), "sampler", schedule=schedule)


def own_options(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler reads of these settings, checked.

    Raises: UserError for an unknown name, or an option that is not allowed.
    """
    part = look_up(SAMPLERS, name, "sampler")
    return checked_options(part, {key: settings[key] for key in options_of(part) if key in settings}, "sampler")


def inactive_options(name: str) -> frozenset[str]:
    """The options that other samplers have and this one has not. Raises: UserError for an unknown name."""
    own = options_of(look_up(SAMPLERS, name, "sampler"))
    return frozenset(key for part in SAMPLERS.values() for key in options_of(part) if key not in own)


def sampler_axes() -> tuple[str, ...]:
    """The settings of the group `sampler` that are columns of tables: the common ones, and all samplers' own."""
    own = (key for part in SAMPLERS.values() for key in options_of(part))
    return tuple(dict.fromkeys((*AXES, *own)))
