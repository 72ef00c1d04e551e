"""The one table of what may shape latents in training, and what a config's group `ae` says of them."""

from collections.abc import Mapping
from typing import Any

from ldm.first_stage.alignment import Alignment
from ldm.first_stage.downsampling import Downsampling
from ldm.first_stage.equivariance import Equivariance
from ldm.first_stage.nested import Nested
from ldm.first_stage.shaping import LatentBatch, LatentShaping
from ldm.parts import checked, options_of

SHAPINGS: tuple[type[LatentShaping], ...] = (Equivariance, Downsampling, Nested, Alignment)


def prefix_of(part: type[LatentShaping]) -> str:
    """Where its options stand in a config."""
    return "ae" if part.group is None else f"ae.{part.group}"


def _keys(part: type[LatentShaping]) -> tuple[str, ...]:
    """What a group `ae` holds of it."""
    return tuple(options_of(part)) if part.group is None else (part.group,)


def _given(part: type[LatentShaping], ae: Mapping[str, Any]) -> LatentShaping | None:
    """It as `ae` sets it; None where `ae` has no word of it."""
    if not any(key in ae for key in _keys(part)):
        return None
    values = ae[part.group] if part.group is not None else {key: ae[key] for key in _keys(part) if key in ae}
    return checked(part, values, prefix_of(part))


def shapings_of(ae: Mapping[str, Any]) -> list[LatentShaping]:
    """Those that are on. Raises: UserError for an option that is not allowed."""
    found = [_given(part, ae) for part in SHAPINGS]
    return [each for each in found if each is not None and each.value is not None]


def only_active(ae: Mapping[str, Any], latents: LatentBatch) -> dict[str, Any]:
    """The group without those that are off. Raises: UserError where one that is on cannot shape such latents."""
    active = shapings_of(ae)
    for each in active:
        each.check(latents)
    off = [key for part in SHAPINGS if not any(type(each) is part for each in active) for key in _keys(part)]
    return {key: value for key, value in ae.items() if key not in off}


def axis_values(ae: Mapping[str, Any]) -> dict[str, str | None]:
    """The value of the axis of each, by name."""
    values = {each.name: each.value for each in shapings_of(ae)}
    return {part.name: values.get(part.name) for part in SHAPINGS}
