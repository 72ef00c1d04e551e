"""The denoisers by name."""

from collections.abc import Mapping
from typing import Any

from ldm.denoiser.contract import Denoiser
from ldm.denoiser.dit import DiTOptions
from ldm.denoiser.unet import UNetOptions
from ldm.parts import checked, look_up

DENOISERS: Mapping[str, type[Denoiser]] = {
    "unet": UNetOptions,
    "dit": DiTOptions,
}


def denoiser_options(name: str, given: Mapping[str, Any]) -> Denoiser:
    """The options of a denoiser, checked. Raises: UserError for an unknown name or an option that is not allowed."""
    return checked(look_up(DENOISERS, name, "denoiser.name"), given, "denoiser")
