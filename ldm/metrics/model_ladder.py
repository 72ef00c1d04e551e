"""Images that models made, on the ladder: what a good extractor puts above what.

They are measured against the same reference as the damaged images, so that a distance of one and of the other mean the
same. Decoded images are the undamaged half of the ladder, through a first stage.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ldm.metrics.intervals import Interval
from ldm.metrics.ladder import kendall_tau, verdict

DECODED, GAUSSIAN, GAUSSIAN_BY_CLASS = "decoded", "Gaussian", "Gaussian by class"
SAMPLES, MILESTONE = "samples", "milestone"
KINDS: Final = (DECODED, GAUSSIAN, GAUSSIAN_BY_CLASS, SAMPLES, MILESTONE)

MORE_SATURATED: Final = 0.1
"""By how much more of its values are 0 or 255 of a set that must not be preferred for it."""

GAUSSIAN_ABOVE = "a Gaussian above decoded images"
SAMPLES_ABOVE = "samples above decoded images"
RISES = "decoded images above those of a smaller f"
SATURATED_ABOVE = "saturated images above others"
CHECKS: Final = (GAUSSIAN_ABOVE, SAMPLES_ABOVE, RISES, SATURATED_ABOVE)
"""What must lie above what; all but the third of one first stage."""


@dataclass(frozen=True)
class Made:
    """A set of images that models made, and the kernel distance of n of them.

    `kind`: one of `KINDS`. `series`: what tells it from others of its kind, but for f. `first_stage`: a name of what
    decoded it. `saturated`: the share of its values that are 0 or 255, None where it is not known. `images_seen`: by
    the training of a milestone.
    """

    kind: str
    series: str
    f: int
    first_stage: str
    n: int
    distance: Interval
    saturated: float | None = None
    images_seen: int | None = None

    @property
    def title(self) -> str:
        """The set in words."""
        after = "" if self.images_seen is None else f" after {self.images_seen:,} images"
        return f"{self.kind} {self.series} f = {self.f}{after}"


@dataclass(frozen=True)
class Checked:
    """One of `CHECKS` of two sets: HELD, OPEN or REVERSED, as of `ldm.metrics.ladder`."""

    check: str
    worse: Made
    better: Made
    found: str


def checked(made: Sequence[Made]) -> list[Checked]:
    """The checks that can be made of these sets, whose images and reference are in one order each."""
    pairs = [(RISES, worse, better) for row in series(made, DECODED) for better, worse in pairwise(row)]
    ends = [one for one in made if one.kind != MILESTONE]
    for better in ends:
        for worse in ends:
            if worse.first_stage != better.first_stage or worse is better or worse.kind == DECODED:
                continue
            if better.kind == DECODED:
                pairs.append((SAMPLES_ABOVE if worse.kind == SAMPLES else GAUSSIAN_ABOVE, worse, better))
            elif worse.kind == SAMPLES and _is_more_saturated(worse, better):
                pairs.append((SATURATED_ABOVE, worse, better))
    found = [Checked(check, worse, better, verdict(worse, better)) for check, worse, better in pairs]
    return sorted(found, key=lambda one: CHECKS.index(one.check))


def _is_more_saturated(one: Made, other: Made) -> bool:
    known = one.saturated is not None and other.saturated is not None
    return known and one.saturated - other.saturated > MORE_SATURATED  # type: ignore[operator]


def series(made: Iterable[Made], kind: str) -> list[list[Made]]:
    """The sets of a kind by series, in the order of their appearance, each by rising f and images seen."""
    found: dict[tuple[str, int], list[Made]] = {}
    for one in made:
        if one.kind == kind:
            found.setdefault((one.series, one.f if kind == MILESTONE else 0), []).append(one)
    return [sorted(row, key=lambda one: (one.f, one.images_seen or 0)) for row in found.values()]


def tau_of(row: Sequence[Made]) -> float | None:
    """Kendall's, of distance and place in a series; None of one set."""
    return kendall_tau([one.distance.value for one in row]) if len(row) > 1 else None
