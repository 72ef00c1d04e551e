"""What limits each cell, from its own records, so that verdicts say what they do not know.

`LIMITS` holds what is looked for, in the order in which it is named: a new limit is one entry. What finds a limit gives
a sentence with the numbers, "" where it finds none, and None where nothing was measured that would tell.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis import lengths, text
from analysis.collect import Finished, Study
from analysis.compare import (
    BETTER,
    NO_BETTER,
    OF_CELL,
    SUFFICES,
    WORSE,
    Comparison,
    Floors,
    Limit,
    Measured,
    Place,
    SeedFactor,
    Table,
    above_decoded,
    against_gaussian,
    alike,
    compare,
    mean_over_seeds,
    measured,
    names_of,
    one_cell,
    places,
    seed_factor,
    tables,
)
from analysis.headline import Headline, direction, headline, title_of
from analysis.limited import doubled
from ldm.records import SHUFFLED, TASK

LEAST_IMAGES = 200
"""Images a side below which the interval of a distance is as wide as what cells differ by."""

LATENT_STD = (0.7, 1.3)
"""Of normalised latents of samples; 1 in training."""

MOST_SATURATED = 0.2
"""Share of saturated pixel values above that of real images (above none where theirs is not known)."""

NOTHING_LEFT = 0.05
"""Share of the cell's distance: where it is above that of decoded images by surely no more, nothing is left to gain."""

MOST_DOUBLINGS = 5
"""Of the images seen, beyond which no curve is extrapolated."""


OF_CANDIDATE = ("cell", "model", "samples", "identity", "protocol", "extractor", "regulariser")
"""Columns of a cell's rows that its limits are read from."""

OF_LOOKUP = (
    *OF_CELL,
    *("metric", "protocol", "images_seen", "extractor", "network", "base", "variant", "title", "higher_is_better"),
    "guidance_scale",
)
"""Columns of what is measured of it beside: frames of all columns take a millisecond to select from."""


@dataclass(frozen=True)
class Candidate:
    """A cell, with all that its limits are read from: its rows of the study's headline metric are one a repetition."""

    study: Study
    metric: Headline
    rows: pd.DataFrame
    cell: Measured
    factor: SeedFactor
    place: Place
    floors: Floors
    kept: "Kept"

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where higher is."""
        return _sign(self.metric)

    def finished(self, stage: str, identities: Iterable[str]) -> list[Finished]:
        """Those of a stage that have these identities."""
        found = (self.kept.finished.get((stage, identity)) for identity in set(identities))
        return [self.study.finished[at] for at in sorted(at for at in found if at is not None)]


class Kept:
    """What limits are read from, by what cells know of it: each cell would else look through all of the study."""

    def __init__(self, study: Study) -> None:
        frame = study.frame
        self.finished = {(one.record.stage, one.record.identity): at for at, one in enumerate(study.finished)}
        checks = (at for (stage, _), at in self.finished.items() if stage == "sampler_check")
        self.checks = _by((study.finished[at].cell.cell, at) for at in checks)
        self.doubled = _by((cell, at) for at, pair in enumerate(doubled(study)) for cell in pair.cells)
        self.milestones = headline(frame, "progress")
        is_milestone = frame["metric"] == (self.milestones.metric if self.milestones is not None else "")
        self.progress = RowsBy(frame[(frame["stage"] == "progress") & is_milestone], "model")
        is_nearer = (frame["kind"] == "nearer_train") & (frame["variant"] == "")
        self.nearer = RowsBy(frame[(frame["stage"] == "memorisation") & is_nearer], "samples")
        is_score = (frame["group"] == TASK) & (frame["variant"] == "")
        is_score |= frame["variant"] == SHUFFLED
        self.scores = RowsBy(frame[(frame["stage"] == "evaluation") & is_score], "identity")
        self.curves: dict[tuple[frozenset[str], str], Curve | None] = {}


class RowsBy:
    """Rows by the value that they have in a column."""

    def __init__(self, rows: pd.DataFrame, column: str) -> None:
        self._rows = rows[list(OF_LOOKUP)]
        self._places = _by((value, at) for at, value in enumerate(rows[column]))

    def of(self, values: Iterable[str]) -> pd.DataFrame:
        """Those that have one of these values, in their order."""
        return self._rows.iloc[sorted(at for value in set(values) for at in self._places.get(value, ()))]


def _by(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Places by key."""
    found: dict[str, list[int]] = {}
    for key, at in pairs:
        found.setdefault(key, []).append(at)
    return found


@dataclass(frozen=True)
class Known:
    """What is known of a cell: what limits it, and the limits that nothing was measured of.

    `cells`, `models`: the columns `cell` and `model` of its rows.
    """

    name: str
    cells: frozenset[str]
    models: frozenset[str]
    limits: tuple[Limit, ...]
    unmeasured: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """The end of a training: the milestones' metric at the last against that at about half of its images.

    `gain`, `before`: by how much the last doubling made it better, and the one before (None without a milestone).
    """

    title: str
    half: int
    last: int
    change: Comparison
    gain: float
    before: float | None

    @property
    def is_gaining(self) -> bool:
        """Whether the last doubling made it better by more than its interval."""
        return self.change.verdict == BETTER

    @property
    def is_losing(self) -> bool:
        """Whether the last doubling made it worse by more than its interval."""
        return self.change.verdict == WORSE

    @property
    def enough(self) -> int | None:
        """Images at which the last doubling would gain less than its interval, if gains went on shrinking alike.

        None where they do not shrink, or it is too far to say.
        """
        if not self.is_gaining or self.before is None or not 0 < self.gain < self.before:
            return None
        assert self.change.low is not None
        assert self.change.high is not None
        interval = (self.change.high - self.change.low) / 2
        doublings = math.floor(math.log(interval / self.gain) / math.log(self.gain / self.before)) + 1
        return self.last * 2**doublings if doublings <= MOST_DOUBLINGS else None


def first_stage(candidate: Candidate) -> str | None:
    """Whether samples are not told apart from decoded real images, and whether diffusion has nothing left to gain."""
    if candidate.rows["regulariser"].iloc[0] == "identity":
        return ""
    found = above_decoded(candidate.floors, candidate.place, candidate.cell, candidate.factor)
    if found is None or found.verdict is None:
        return None
    if found.verdict == WORSE:
        return ""
    above, of = text.difference(found.difference, found.low, found.high), _short(candidate.metric.title)
    assert found.high is not None  # there is a verdict
    if found.high <= NOTHING_LEFT * candidate.cell.mean:
        return f"The {of} less that of decoded images is {above}: nothing left for diffusion to gain."
    most = f"at most {text.measured(found.high)} above"
    return f"The {of} less that of decoded images is {above}: not told apart from decoded images ({most})."


def training(candidate: Candidate) -> str | None:
    """Whether the last doubling of the images seen still moved the milestones' distance by more than its interval."""
    found = curve(candidate)
    if found is None or found.change.verdict is None:
        return None
    if found.change.verdict not in (BETTER, WORSE):
        return ""
    by = text.difference(found.change.difference, found.change.low, found.change.high)
    way = "still getting better" if found.is_gaining else "getting worse"
    return f"From {found.half:,} to {found.last:,} images seen the {_short(found.title)} changed by {by}: {way}."


def curve(candidate: Candidate) -> Curve | None:
    """The end of the cell's training; None where it has no two milestones that are measured alike."""
    trained = (frozenset(candidate.rows["model"]), str(candidate.rows["extractor"].iloc[0]))
    if trained not in candidate.kept.curves:
        candidate.kept.curves[trained] = _curve(candidate.kept, *trained)
    return candidate.kept.curves[trained]


def _curve(kept: Kept, models: frozenset[str], extractor: str) -> Curve | None:
    metric, rows = kept.milestones, kept.progress.of(models)
    rows = rows[rows["extractor"] == extractor]
    if metric is None or rows.empty or rows["protocol"].nunique() > 1:
        return None
    ends = sorted({int(seen) for seen in rows["images_seen"].dropna()})
    cells = {seen: one_cell(rows[rows["images_seen"] == seen]) for seen in ends}
    last = max(cells)
    half = _nearest(cells, last, last / 2)
    if half is None:
        return None
    quarter, sign = _nearest(cells, half, half / 2), _sign(metric)
    [change] = compare([cells[last]], cells[half], seed_factor(list(cells.values())), sign)
    gains = [
        None if first is None else sign * (cells[first].mean - cells[then].mean) / math.log2(then / first)
        for first, then in ((half, last), (quarter, half))
    ]
    assert gains[0] is not None
    return Curve(metric.title, half, last, change, gains[0], gains[1])


def sampler(candidate: Candidate) -> str | None:
    """Whether twice the steps move the distance by more than its interval: by other cells, or the stage's check."""
    cells, of = set(candidate.rows["cell"]), _short(candidate.metric.title)
    kept, study = candidate.kept, candidate.study
    pairs = [doubled(study)[at] for at in sorted({at for cell in cells for at in kept.doubled.get(cell, ())})]
    told = [
        (pair.is_limited, 2 * pair.steps, (pair.comparison.difference, pair.comparison.low, pair.comparison.high))
        for pair in pairs
    ]
    for at in sorted({at for cell in cells for at in kept.checks.get(cell, ())}):
        record = study.finished[at].record
        facts, rows = record.facts, record.rows
        told += [(facts["limited"], facts["twice"], (row.value, row.ci_low, row.ci_high)) for row in rows]
    known = [item for item in told if item[0] is not None]
    found = [f"With {steps} steps the {of} changes by {text.difference(*by)}." for is_so, steps, by in known if is_so]
    return " ".join(found) if known else None


def memorisation(candidate: Candidate) -> str | None:
    """Whether samples lie nearer to training images than held-out images do, in any space that was looked at."""
    rows = candidate.kept.nearer.of(candidate.rows["samples"])
    found = []
    for space, own in rows.groupby("network", sort=False):
        cell = one_cell(own)
        mean = mean_over_seeds(cell, seed_factor([cell]))
        if mean.low is not None and mean.low > 0.5:
            share = text.difference(mean.value, mean.low, mean.high)
            found.append(f"Nearer to a training image than a held-out image is, with probability {share} ({space}).")
    return None if rows.empty else " ".join(found)


def at_chance(candidate: Candidate) -> str | None:
    """Whether a task score is no better than that of the same samples with conditions of others."""
    rows = candidate.kept.scores.of(candidate.rows["identity"])
    scores, floors = rows[rows["variant"] == ""], rows[rows["variant"] == SHUFFLED]
    found, is_known = [], False
    for metric, own in scores.groupby("metric", sort=False):
        chance = floors[floors["base"] == metric]
        if chance.empty:
            continue
        score, floor = one_cell(own), one_cell(chance)
        factor = seed_factor([score, floor])
        # Records of schema 1 do not say which end is better: higher, of all scores that have this floor.
        [item] = compare([score], floor, factor, 1.0 if direction(own) is False else -1.0)
        is_known |= item.verdict is not None
        if item.verdict not in (BETTER, None):
            values = [mean_over_seeds(one, factor) for one in (score, floor)]
            here, there = (text.difference(one.value, one.low, one.high) for one in values)
            scale = text.number(own["guidance_scale"].iloc[0])
            at = "" if scale in ("–", "1") else f" at guidance scale {scale}"
            found.append(f"{title_of(own, str(metric))}{at}: {here}, with conditions of other samples {there}.")
    return " ".join(found) if is_known else None


def gaussian(candidate: Candidate) -> str | None:
    """Whether the cell is no better than a Gaussian of its latents, though decoded images are."""
    return _against_gaussian(candidate, NO_BETTER, "")


def suffices(candidate: Candidate) -> str | None:
    """Whether neither the cell nor decoded images are better than a Gaussian of its latents."""
    found = _against_gaussian(candidate, SUFFICES, ", and decoded images are no better")
    return found or ""  # that nothing was measured is said of the next


def _against_gaussian(candidate: Candidate, verdict: str, beside: str) -> str | None:
    place, factor = candidate.place, candidate.factor
    found = against_gaussian(candidate.floors, place, candidate.cell, factor, candidate.sign)
    if found is None or found.verdict is None:
        return None
    by = text.difference(found.difference, found.low, found.high)
    less = f"The {_short(candidate.metric.title)} less that of the Gaussian is {by}{beside}."
    return less if found.verdict == verdict else ""


def out_of_scale(candidate: Candidate) -> str | None:
    """Whether latents of samples have another spread than those of training, or pixels are saturated."""
    made = candidate.finished("samples", candidate.rows["samples"])
    std, saturated = (_mean_fact(made, name) for name in ("latent_std", "saturated"))
    compared = candidate.finished("reference", (one.cell.stages.get("reference", "") for one in made))
    real = _mean_fact(compared, "saturated")
    found = []
    if std is not None and not LATENT_STD[0] <= std <= LATENT_STD[1]:
        found.append(f"Latents of samples have a standard deviation of {text.number(std)}, of 1 in training.")
    if saturated is not None and saturated > (real or 0.0) + MOST_SATURATED:
        beside = "" if real is None else f", of real images {100 * real:.0f} %"
        found.append(f"{100 * saturated:.0f} % of the pixel values are 0 or 255{beside}.")
    return None if std is None and saturated is None else " ".join(found)


def too_few_images(candidate: Candidate) -> str | None:
    """Whether there are too few images of either side."""
    protocol = candidate.study.protocols.get(candidate.rows["protocol"].iloc[0], {})
    reference = protocol.get("n_reference")
    if min(candidate.cell.n, LEAST_IMAGES if reference is None else reference) >= LEAST_IMAGES:
        return ""
    against = "" if reference is None else f" against {reference:,} reference images"
    return f"{candidate.cell.n:,} samples{against}, where at least {LEAST_IMAGES} a side are needed."


@dataclass(frozen=True)
class Kind:
    """What finds a limit; `takes_verdict`: a cell with it is called neither best nor better nor worse."""

    find: Callable[[Candidate], str | None]
    takes_verdict: bool = False


LIMITS: Mapping[str, Kind] = {
    "first stage": Kind(first_stage),
    "training": Kind(training),
    "sampler": Kind(sampler),
    "memorisation": Kind(memorisation),
    "at chance": Kind(at_chance, takes_verdict=True),
    SUFFICES: Kind(suffices),
    NO_BETTER: Kind(gaussian, takes_verdict=True),
    "out of scale": Kind(out_of_scale, takes_verdict=True),
    "too few images": Kind(too_few_images, takes_verdict=True),
}


@lru_cache(maxsize=2)
def candidates(study: Study) -> tuple[Candidate, ...]:
    """The cells of a study that its headline metric was measured of."""
    metric = headline(study.frame)
    if metric is None:
        return ()
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == metric.metric)]
    kept, floors, found = Kept(study), Floors(study.frame, metric.metric), list[Candidate]()
    for _, own in rows.groupby("protocol", sort=False):
        cells = measured(own, study.axes)
        factor = seed_factor(cells)
        narrow = own[list(OF_CANDIDATE)]
        read = (narrow.iloc[at] for at in alike(own, study.axes.settings))
        for cell, its, place in zip(cells, read, places(own, study.axes), strict=True):
            found.append(Candidate(study, metric, its, cell, factor, place, floors, kept))
    return tuple(found)


@lru_cache(maxsize=2)
def known(study: Study) -> tuple[Known, ...]:
    """What limits each cell; kept, since table and figures all ask."""
    return tuple(_known(candidate) for candidate in candidates(study))


def _known(candidate: Candidate) -> Known:
    told = {name: kind.find(candidate) for name, kind in LIMITS.items()}
    limits = tuple(Limit(name, said, LIMITS[name].takes_verdict) for name, said in told.items() if said)
    cells, models = (frozenset(candidate.rows[column]) for column in ("cell", "model"))
    unmeasured = tuple(name for name, said in told.items() if said is None)
    return Known(candidate.cell.name, cells, models, limits, unmeasured)


def by_cell_id(found: Iterable[Known]) -> dict[str, tuple[Limit, ...]]:
    """The limits by the column `cell`, as `analysis.compare.tables` takes them."""
    return {cell: one.limits for one in found for cell in one.cells}


@lru_cache(maxsize=4)
def compared(study: Study, against: str | None) -> tuple[Table, ...]:
    """The tables of all metrics with what limits each cell (`analysis.compare.tables`); kept, as `known` is.

    Raises: UserError as that does.
    """
    return tuple(tables(study.frame, study.axes, against, by_cell_id(known(study))))


def is_limited(rows: pd.DataFrame, found: Sequence[Known]) -> "pd.Series[bool]":
    """Which rows are of a limited cell, or of a model all of whose cells are."""
    cells = {cell for one in found if one.limits for cell in one.cells}
    free = {model for one in found if not one.limits for model in one.models}
    models = {model for one in found for model in one.models} - free
    return rows["cell"].isin(cells) | ((rows["cell"] == "") & rows["model"].isin(models))


def section(found: Sequence[Known]) -> str:
    """One line a cell: what limits it, what its records say of that, and what nothing was measured of."""
    lines = [
        [
            one.name,
            names_of(one.limits) or "nothing found",
            " ".join(limit.sentence for limit in one.limits) or "–",
            ", ".join(one.unmeasured) or "–",
        ]
        for one in found
    ]
    if not lines:
        return ""
    taken = ", ".join(name for name, kind in LIMITS.items() if kind.takes_verdict)
    return text.table(["cell", "limited by", "what its records say", "not measured"], lines) + (
        f"\n\nDifferences with 95 % intervals. A cell with one of these gets no verdict: {taken}. Hollow marks in "
        "figures are of limited cells."
    )


@lru_cache(maxsize=2)
def ends_by_model(study: Study) -> dict[frozenset[str], tuple[str, Curve]]:
    """By column `model` the name of a cell and the end of its training, where it tells whether it still gains."""
    models = {frozenset(one.rows["model"]): one for one in candidates(study)}
    found = {model: (one.cell.name, its) for model, one in models.items() if (its := curve(one)) is not None}
    return {model: (name, its) for model, (name, its) in found.items() if its.change.verdict is not None}


def ends(study: Study) -> dict[str, Curve]:
    """By name of a cell the end of its training, each training once, where it tells whether it still gains."""
    return dict(ends_by_model(study).values())


def no_gain(study: Study) -> str:
    """What to say where no curve over training gains at its end, with how many become worse."""
    found = ends(study).values()
    worse = sum(end.is_losing for end in found)
    said = "By the curves over training longer training would not help."
    if not worse:
        return said
    of = f"{worse} of the {len(found)} trainings" if worse < len(found) else f"each of the {worse} trainings"
    of = "the only training" if len(found) == 1 else of
    return f"{said} The last doubling of the images seen made {of} worse: train shorter, or give more images."


def overrides(study: Study) -> list[tuple[str, ...]]:
    """Of all cells of which something is finished."""
    return [one.cell.overrides for one in study.finished]


def budget(study: Study) -> str:
    """What training the curves over the images seen suggest: an extrapolation, which is said."""
    named = ends(study)
    gaining = {name: found for name, found in named.items() if found.is_gaining}
    told = {name: enough for name, found in gaining.items() if (enough := found.enough) is not None}
    if named and not gaining:
        return no_gain(study)
    said = []
    if told:
        times = max(enough // gaining[name].last for name, enough in told.items())
        said.append(
            "Extrapolated, as if the gain of each further doubling shrank as between the last two, a doubling gains "
            f"less than its interval from so many images seen on: "
            f"{'; '.join(f'{name}: {enough:,}' for name, enough in told.items())}. That is up to {times} times the "
            f"training ({lengths.in_words(overrides(study), times)})."
        )
    if len(told) < len(gaining) or not named:
        others = "For other cells nothing" if told else "Nothing"
        twice = lengths.in_words(overrides(study), 2)
        said.append(f"{others} can be extrapolated: train twice as long ({twice}).")
    return " ".join(said)


def _short(title: str) -> str:
    """A metric's title without the network that sees the images."""
    return title.partition(",")[0]


def _sign(metric: Headline) -> float:
    return -1.0 if metric.higher_is_better else 1.0


def _nearest(cells: Mapping[int, Any], below: int, wanted: float) -> int | None:
    """Of the milestones below one that nearest to a number of images; None where there is none."""
    return min((seen for seen in cells if seen < below), key=lambda seen: abs(seen - wanted), default=None)


def _mean_fact(finished: Sequence[Finished], name: str) -> float | None:
    values = [float(one.record.facts[name]) for one in finished if name in one.record.facts]
    return sum(values) / len(values) if values else None
