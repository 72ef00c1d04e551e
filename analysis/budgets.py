"""What may be spent on a cell, as a person writes it ("5 images/s", "2 h training"), and what cells cost."""

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import text
from analysis.costs import TRAINED
from ldm.errors import UserError

FORMS = '"5 images/s", "2 h training", "1e15 FLOPs" or "8 GiB memory"'
"""One budget of each kind."""


@dataclass(frozen=True)
class Spent:
    """What a cell costs, mean over its seeds; NaN where no record tells.

    Training: first stage, encoding the training set once, and diffusion, in FLOPs (one multiply-add = 2) and seconds.
    Sampling: images a second. Memory: bytes, of the stage that needs most.
    """

    flops: float = math.nan
    seconds: float = math.nan
    images_per_second: float = math.nan
    peak_bytes: float = math.nan

    @property
    def words(self) -> str:
        """All that is known, in a line."""
        told = {
            "trained with": f"{self.flops:.2g} FLOPs",
            "in": duration(self.seconds),
            "samples": f"{text.number(self.images_per_second)} images/s",
            "needs": f"{text.number(self.peak_bytes / 2**20)} MiB",
        }
        values = (self.flops, self.seconds, self.images_per_second, self.peak_bytes)
        known = [f"{word} {said}" for (word, said), value in zip(told.items(), values, strict=True) if value > 0]
        return ", ".join(known)


@dataclass(frozen=True)
class Kind:
    """A kind of budget: what of `Spent` it bounds, from above or below, and its units."""

    cost: str
    is_most: bool
    words: str
    units: Mapping[str, float] = field(hash=False)


_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_FLOPS = {
    f"{prefix}flop{plural}": 1000.0**power
    for power, prefix in enumerate(("", "k", "m", "g", "t", "p", "e", "z"))
    for plural in ("", "s")
}
_SPEEDS = {
    f"{image}/{per}": 1 / _SECONDS[per]
    for image in ("image", "images", "img", "imgs")
    for per in ("s", "sec", "second", "min", "minute", "h", "hour")
}
_BYTES = {
    "b": 1.0,
    **{f"{prefix}b": 1000.0**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmgt", 1)},
}

KINDS = (
    Kind("images_per_second", False, "at least {} images/s", _SPEEDS),
    Kind("seconds", True, "at most {} of training", _SECONDS),
    Kind("flops", True, "at most {} FLOPs of training", _FLOPS),
    Kind("peak_bytes", True, "at most {} MiB of memory", _BYTES),
)
"""All kinds; a unit is of one of them."""

_FILLERS = r"\b(?:of|to|for|training|train|trained|sampling|sample|memory)\b"
_AMOUNT = re.compile(r"\s*([0-9][0-9,_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(.*?)\s*")


@dataclass(frozen=True)
class Budget:
    """A bound on what a cell costs, in the unit of its kind's field."""

    kind: Kind
    bound: float

    @property
    def words(self) -> str:
        """The bound as a person writes it."""
        return self.kind.words.format(_amount(self.kind.cost, self.bound))

    def fits(self, spent: Spent) -> bool:
        """Whether a cell is within it; one whose cost is not known is not."""
        cost = getattr(spent, self.kind.cost)
        return bool(cost <= self.bound if self.kind.is_most else cost >= self.bound)

    def excess(self, spent: Spent) -> float:
        """By which factor a cell misses it; 1 and less: it fits, infinite: nobody knows."""
        cost = getattr(spent, self.kind.cost)
        if not cost > 0:
            return math.inf
        return float(cost / self.bound if self.kind.is_most else self.bound / cost)

    def cost_in_words(self, spent: Spent) -> str:
        """What a cell costs of it."""
        unit = {"images_per_second": " images/s", "flops": " FLOPs", "peak_bytes": " MiB"}.get(self.kind.cost, "")
        return _amount(self.kind.cost, getattr(spent, self.kind.cost)) + unit


def read(written: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets that a person wrote, each of which must be kept.

    Raises: UserError with the valid forms where one is none.
    """
    return tuple(map(_one, written))


def _one(written: str) -> Budget:
    found = _AMOUNT.fullmatch(written)
    if found is not None:
        amount = float(found[1].replace(",", "").replace("_", ""))
        unit = re.sub(r"\bper\b", "/", found[2].lower())
        unit = re.sub(r"\s+", "", re.sub(_FILLERS, "", unit))
        for kind in KINDS:
            if unit in kind.units and 0 < amount < math.inf:
                return Budget(kind, amount * kind.units[unit])
    raise UserError(f"--budget '{written}' is none: give an amount and a unit, such as {FORMS}.")


COLUMNS = (
    "identity",
    *(f"{stage}_{unit}" for stage in TRAINED for unit in ("flops", "seconds")),
    "sample_images_per_second",
    "peak_bytes",
)
"""What costs are read from."""


def spent_on(rows: pd.DataFrame) -> Spent:
    """What a cell with these rows costs, one a repetition."""
    runs = firsts(rows["identity"].tolist())
    columns = {name: [values[at] for at in runs] for name in COLUMNS for values in [rows[name].tolist()]}

    def total(unit: str) -> float:
        parts = zip(*(columns[f"{stage}_{unit}"] for stage in TRAINED), strict=True)
        # Of a denoiser that is given nobody knows what it cost; a first stage that is given costs nothing more.
        known = [of_run for of_run, model in zip(parts, columns[f"diffusion_{unit}"], strict=True) if pd.notna(model)]
        return mean([sum(float(part) for part in of_run if pd.notna(part)) for of_run in known])

    speed, memory = mean(columns["sample_images_per_second"]), mean(columns["peak_bytes"])
    return Spent(total("flops"), total("seconds"), speed, memory)


def firsts(values: Sequence[Hashable]) -> list[int]:
    """Where each value stands first."""
    found: dict[Hashable, int] = {}
    for at, value in enumerate(values):
        found.setdefault(value, at)
    return list(found.values())


def mean(values: Iterable[Any]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [float(value) for value in values if pd.notna(value)]
    return float(np.mean(known)) if known else math.nan


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    if not seconds >= 120:
        return f"{text.number(seconds)} s"
    for length, name in ((86400.0, "days"), (3600.0, "h")):
        if seconds >= 2 * length:
            return f"{text.number(seconds / length)} {name}"
    return f"{text.number(seconds / 60)} min"


def _amount(cost: str, value: float) -> str:
    """A cost in the unit of its field, memory in MiB."""
    match cost:
        case "seconds":
            return duration(value)
        case "flops":
            return f"{value:.3g}"
        case "peak_bytes":
            return text.number(value / 2**20)
    return text.number(value)
