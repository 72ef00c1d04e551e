"""How long diffusion models were trained, as settings say it, so that advice to train longer is longer than that."""

import math
from collections.abc import Iterable, Mapping, Sequence

LENGTHS = ("trainer.images", "trainer.length")
"""Settings that say how long a diffusion model is trained, the one first that counts where both are given."""


def number(written: str) -> float | None:
    """A setting's number; None where it is none, as null is."""
    try:
        found = float(written)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def times_as_long(setting: str, value: float, times: int) -> str:
    """The override of a training so many times as long."""
    longer = f"{value * times:g}" if setting.endswith("length") else str(round(value * times))
    return f"{setting}={longer}"


def length_of(overrides: Iterable[str]) -> tuple[str, float] | None:
    """The setting that says how long a cell was trained, and its value.

    None where an experiment may set it, which a cell's overrides do not tell, or a budget does.
    """
    given = _given(overrides)
    for setting in LENGTHS:
        value = number(given.get(setting, ""))
        if value is not None and (setting == "trainer.images" or given.get("trainer.budget") != "paper"):
            return setting, value
    if "experiment" in given or given.get("trainer.budget") == "paper":
        return None
    return "trainer.length", 1.0


def in_words(cells: Iterable[Sequence[str]], times: int) -> str:
    """How to train cells with these overrides so many times as long, for brackets."""
    known = {length_of(overrides) for overrides in cells}
    if len(known) != 1 or None in known:
        return f"{times} times the `trainer.length` of each cell, or its `trainer.images` where these are set"
    [found] = known
    assert found is not None
    return f"`{times_as_long(*found, times)}`, where it was {found[1]:g}"


def setting_of(override: str) -> str:
    """What an override sets."""
    return override.partition("=")[0].lstrip("+")


def _given(overrides: Iterable[str]) -> Mapping[str, str]:
    """Values by setting, the last where one is given twice."""
    return {setting_of(item): item.partition("=")[2] for item in overrides}
