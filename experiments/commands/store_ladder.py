"""The rows of a store on the ladder: what its finished sweeps made, against one half of its held-out images."""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from experiments.axes import OF_REFERENCE
from experiments.commands.ledger import chosen_sweeps, existing_store
from experiments.commands.timing import finished_job, this_machine
from experiments.console import reporting
from experiments.made_images import MADE_BY, Artifact, MadeSet, sets_of
from experiments.scoring import saturated
from experiments.store import Store
from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.metrics.features import Extractor
from ldm.metrics.intervals import Interval
from ldm.metrics.ladder import HELD, OPEN, REVERSED, Array, distance
from ldm.metrics.model_ladder import CHECKS, DECODED, KINDS, MILESTONE, Checked, Made, series, tau_of
from ldm.records import Cell, Sweep

LEAST = 20
"""Images of a set below which no interval says anything."""

NO_MILESTONES = "left out: milestones, whose samples are not kept; --make makes them anew from the weights that are"


@dataclass(frozen=True)
class Stored:
    """Sweeps of a store: their held-out images, the artifacts that made images, the extractors that measured these.

    `notes`: sentences on what is left out.
    """

    root: Path
    sweeps: Sequence[Sweep]
    heldout: ImageCache
    artifacts: Sequence[Artifact]
    extractors: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    @property
    def title(self) -> str:
        """The images in words."""
        return f"held-out images of {self.root}"


def stored(root: Path, which: str | None, device: str) -> Stored:
    """What the latest sweep of a store made, or the one of that id, or all.

    Raises: UserError where nothing is finished, or sweeps are of other images.
    """
    store, machine = existing_store(root, is_read_only=not os.access(root, os.W_OK)), this_machine(device)
    sweeps = chosen_sweeps(store, which)
    artifacts, missing, larger = dict[str, Artifact](), set[str](), set[str]()
    heldout, extractors = dict[str, ImageCache](), list[Mapping[str, Any]]()
    for cell in (cell for sweep in sweeps for cell in sweep.cells):
        reference = store.record("reference", cell.stages["reference"])
        if reference is None:
            continue
        job = finished_job(store, cell, reference, machine)
        if (key := f"{job.settings['heldout']} {job.resolution}") not in heldout:
            heldout[key] = job.images("heldout")
        seen_by, settings = _extractors(store, cell)
        extractors += [one for one in settings if one not in extractors]
        for stage, identity in ((stage, cell.stages[stage]) for stage in MADE_BY if stage in cell.stages):
            record = store.record(stage, identity)
            if record is None:
                missing.add(identity)
            elif stage == "samples" and record.config.get("height") is not None:
                larger.add(identity)
            elif identity not in artifacts:
                job, file = finished_job(store, cell, record, machine), functools.partial(store.file, record)
                artifacts[identity] = Artifact(
                    job, record, file, {**cell.axes, **cell.settings}, tuple(cell.settings), seen_by
                )
    if not artifacts:
        raise UserError(f"no stage of these sweeps of {root} that makes images is finished: run them first")
    if len(heldout) > 1:
        raise UserError(f"the sweeps of {root} are of {len(heldout)} image sets: choose one by --sweep ID")
    notes = [f"left out: {len(missing)} not finished of the stages that make images"] if missing else []
    notes += [f"left out: {_sets(len(larger))} of samples larger than the training images"] if larger else []
    [images] = heldout.values()
    return Stored(root, sweeps, images, list(artifacts.values()), extractors, notes)


def _extractors(store: Store, cell: Cell) -> tuple[dict[str | None, Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The facts of the extractors of a cell by name, its own under None, and their settings."""
    facts, settings = dict[str | None, Mapping[str, Any]](), list[Mapping[str, Any]]()
    if own := store.record("reference", cell.stages["reference"]):
        facts[None], settings = own.facts["extractor"], [own.config["extractor"]]
    if "other_references" in cell.stages and (
        also := store.record("other_references", cell.stages["other_references"])
    ):
        facts |= {name: judged["extractor"] for name, judged in also.facts["judges"].items()}
        settings += also.config["extractors"].values()
    return facts, settings


def measured(
    found: Stored,
    extractors: Sequence[Extractor],
    reference: Mapping[str, Array],
    indices: Sequence[int],
    make: bool,
) -> tuple[dict[str, list[Made]], list[str]]:
    """What each extractor, by name, says of each set of images, and sentences on what is left out.

    `reference`: the features of the reference images by extractor; `indices`: the held-out images that are decoded, as
    many as there are of other sets at most.
    """
    made: dict[str, list[Made]] = {one.name: [] for one in extractors}
    titles, n, excerpts, few = _series(found.artifacts), len(indices), Counter[str](), 0
    with reporting(f"ladder         {found.root}", len(found.artifacts)) as reporter:
        for done, artifact in enumerate(found.artifacts, 1):
            for one in _wanted(artifact, indices, make):
                share = functools.cache(functools.partial(_saturated, one))
                for extractor in extractors:
                    features = one.seen(extractor, n).features
                    if len(features) < LEAST:
                        few += extractor is extractors[0]
                        continue
                    excerpts[extractor.name] += one.is_excerpt and not one.was_seen_by(extractor)
                    measured_as = (len(features), distance(features, reference[extractor.name]), share())
                    about = (one.kind, titles[one.identity], one.axes["f"], one.first_stage)
                    made[extractor.name].append(Made(*about, *measured_as, one.images_seen))
            reporter.advance_to(done)
    notes = [
        f"{name} did not see {_sets(count)} of samples when they were made, and sees now what their pictures hold: run "
        "with samples.keep=images, which saves all, or give --make, which makes them anew"
        for name, count in excerpts.items()
        if count
    ]
    notes += [f"left out: {_sets(few)} of fewer than {LEAST} images"] if few else []
    has_milestones = any(artifact.record.stage == "progress" for artifact in found.artifacts)
    notes += [NO_MILESTONES] if has_milestones and not make else []
    return made, [*found.notes, *notes]


def _wanted(artifact: Artifact, indices: Sequence[int], make: bool) -> Iterator[MadeSet]:
    """The sets of an artifact; pixels, which decode to themselves, are the undamaged images."""
    for one in sets_of(artifact, indices, len(indices), make):
        if one.kind != DECODED or artifact.axes["regulariser"] != "identity":
            yield one


def _sets(n: int) -> str:
    return "1 set" if n == 1 else f"{n} sets"


def _saturated(one: MadeSet) -> float:
    return saturated_share(one.images()) if one.saturated is None else one.saturated


def saturated_share(images: Tensor) -> float:
    """The share of values of uint8 images that are 0 or 255."""
    return saturated(images) / images.numel()


def _series(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """By identity what tells an artifact from others of its stage, but for f and for what hangs on it."""
    titles = {}
    for stage in MADE_BY:
        own = [artifact for artifact in artifacts if artifact.record.stage == stage]
        told = dict.fromkeys(axis for artifact in own for axis in _told(artifact) if _is_choice(axis, own))
        for artifact in own:
            values = [(axis, artifact.axes.get(axis)) for axis in told]
            said = [f"{axis} {value}" for axis, value in values if value not in (None, "")]
            titles[artifact.record.identity] = ", ".join([str(artifact.axes["regulariser"]), *said])
    return titles


def _told(artifact: Artifact) -> list[str]:
    """The axes that its stage depends on, and settings that no axis shows."""
    known = {*OF_REFERENCE, "f", "regulariser"}
    return [axis for axis in (*artifact.job.stage.axes, *artifact.settings) if axis not in known]


def _is_choice(axis: str, artifacts: Sequence[Artifact]) -> bool:
    """Whether artifacts of one f and regulariser differ in it."""
    values: dict[tuple[Any, Any], set[str]] = {}
    for artifact in artifacts:
        place = (artifact.axes["f"], artifact.axes["regulariser"])
        values.setdefault(place, set()).add(str(artifact.axes.get(axis)))
    return any(len(found) > 1 for found in values.values())


def interval_text(interval: Interval) -> str:
    """A distance with half of its 95 % interval."""
    return f"{interval.value:.3g} ±{(interval.high - interval.low) / 2:.1g}"


def rows_table(title: str, made: Sequence[Made], floor: str) -> Table:
    """Kernel distances by series and f."""
    factors = sorted({one.f for one in made})
    table = _table(f"{title}: what models made, floor {floor}")
    for heading in ("images", *(f"f = {f}" for f in factors), "tau", "n", "saturated"):
        table.add_column(heading, no_wrap=True)
    for kind in (kind for kind in KINDS if kind != MILESTONE):
        for row in series(made, kind):
            at = {one.f: interval_text(one.distance) for one in row}
            tau = tau_of(row) if kind == DECODED else None
            cells = [at.get(f, "") for f in factors]
            table.add_row(f"{kind}, {row[0].series}", *cells, "" if tau is None else f"{tau:+.2f}", *_counted(row))
    return table


def milestones_table(title: str, made: Sequence[Made]) -> Table | None:
    """Kernel distances over trainings, whose milestones are their own; None without any."""
    rows = series(made, MILESTONE)
    if not rows:
        return None
    table = _table(f"{title}: over training, images seen: distance")
    for heading in ("training", *("" for _ in range(max(map(len, rows)))), "tau", "n", "saturated"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        cells = [f"{one.images_seen:,}: {interval_text(one.distance)}" for one in row]
        cells += [""] * (max(map(len, rows)) - len(cells))
        tau = tau_of(row)
        table.add_row(f"{row[0].series}, f = {row[0].f}", *cells, "" if tau is None else f"{tau:+.2f}", *_counted(row))
    return table


def _counted(row: Sequence[Made]) -> tuple[str, str]:
    """The numbers of images of a series, and its shares of values at an end."""
    counts = sorted({one.n for one in row})
    shares = sorted(one.saturated for one in row if one.saturated is not None)
    ends = sorted({f"{share:.2g}" for share in (shares[0], shares[-1])}, key=float) if shares else []
    return " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))), " to ".join(ends)


def checks_table(found: Mapping[str, Sequence[Checked]]) -> Table:
    """How many pairs of sets lie as they must, by the titles of extractors."""
    table = _table("order of what models made")
    for heading in ("what must lie above what, pairs", *found):
        table.add_column(heading, no_wrap=True)
    for check in CHECKS:
        own = [Counter(one.found for one in checks if one.check == check) for checks in found.values()]
        if any(own):
            table.add_row(check, *(_words(counts) for counts in own))
    return table


def _words(counts: Counter[str]) -> str:
    said = [f"{counts[state]} {state}" for state in (HELD, OPEN, REVERSED) if counts[state]]
    return ", ".join(said) or "none"


def reversed_pairs(found: Mapping[str, Sequence[Checked]]) -> list[str]:
    """A sentence on each pair that lies the wrong way round."""
    return [
        f"{title} has it reversed: {one.worse.title} must lie above {one.better.title}"
        for title, checks in found.items()
        for one in checks
        if one.found == REVERSED
    ]


def _table(title: str) -> Table:
    return Table(box=None, pad_edge=False, title=title, title_justify="left")


def as_json(found: Stored, made: Sequence[Made], checks: Sequence[Checked]) -> dict[str, Any]:
    """The rows of one extractor and their checks as plain values."""
    return {
        "store": str(found.root),
        "sweeps": [sweep.sweep for sweep in found.sweeps],
        "rows": [_row_json(one) for one in made],
        "tau": {row[0].series: tau_of(row) for row in series(made, DECODED)},
        "checks": [
            {"check": one.check, "worse": one.worse.title, "better": one.better.title, "found": one.found}
            for one in checks
        ],
    }


def _row_json(one: Made) -> dict[str, Any]:
    about = {name: getattr(one, name) for name in ("kind", "series", "f", "first_stage", "images_seen", "n")}
    return {
        **about,
        "kd": one.distance.value,
        "low": one.distance.low,
        "high": one.distance.high,
        "saturated": one.saturated,
    }
