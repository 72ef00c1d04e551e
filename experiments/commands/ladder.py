"""What an extractor sees: how its kernel distance rises with known damage to real images, in five strengths each.

Half of the images are the reference, the other half is damaged. A good extractor rises with strength in every row (tau
near 1), tells each strength from the one below, and puts wrong colours and textures behind soft but right shapes.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from experiments import build
from experiments.cli import exit_code
from experiments.commands.measure import DEFAULT_EXTRACTOR, print_table
from experiments.commands.store_ladder import (
    LEAST,
    Stored,
    as_json,
    checks_table,
    interval_text,
    measured,
    milestones_table,
    reversed_pairs,
    rows_table,
    saturated_share,
    stored,
)
from experiments.console import reporting, say
from experiments.scoring import FEATURE_BATCH, chosen, features_of
from ldm.data.contract import ImageCache, ImageSource, UnusableImage
from ldm.data.sources import open_splits
from ldm.errors import UserError
from ldm.metrics.damage import STRENGTHS
from ldm.metrics.extractors import EXTRACTORS
from ldm.metrics.features import EXTRACTOR_TITLES, Extractor
from ldm.metrics.ladder import ORDER_CHECKS, Ladder, Row, Rung, climb, damages, halves
from ldm.metrics.model_ladder import checked
from ldm.parts import look_up
from ldm.records import write_json

EMBEDDED = "emoji"
RESOLUTION = 32
N = 500

EXAMPLES = """
SET is a folder or a zip archive of images, read as data=folder does: its held-out images, or all of them where those
are too few. Without it, the held-out embedded scenes (data=emoji) are used. With --store it is the held-out images of a
store, and what its finished sweeps made is measured beside them: decoded images (of the half that is damaged), draws of
Gaussians, samples, and with --make milestones.

examples:
  python -m experiments.ladder
  python -m experiments.ladder ~/photos --resolution 64 --extractor efficientnet_lite2 dinov2=~/dinov2-large
  python -m experiments.ladder --json ladder.json && python analysis/plot_ladder.py ladder.json
  python -m experiments.ladder --store store --extractor efficientnet_lite2_colour efficientnet_lite2
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one sentence where the user can mend it."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _ladder(options))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m experiments.ladder",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("set", type=Path, nargs="?", metavar="SET", help="real images (default: the embedded scenes)")
    command.add_argument(
        "--extractor",
        nargs="+",
        metavar="NAME[=WEIGHTS]",
        help=f"of {', '.join(EXTRACTORS)}; several are compared (default: the store's, else {DEFAULT_EXTRACTOR})",
    )
    command.add_argument("--store", type=Path, metavar="DIR", help="also measure what the sweeps of a store made")
    command.add_argument("--sweep", metavar="ID|all", help="sweep of the store, or all of them (default: the latest)")
    command.add_argument(
        "--make",
        action="store_true",
        help="make anew samples of the store that are not saved as images, and those of milestones",
    )
    command.add_argument(
        "--resolution", type=int, metavar="PX", help=f"side (default: that of the store, else {RESOLUTION})"
    )
    command.add_argument("--n", type=int, default=N, help="images of each half, or as many as there are (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the halves and the damage (default: %(default)s)")
    command.add_argument("--device", default="auto", help="auto | cpu | cuda")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")
    return command


@dataclasses.dataclass(frozen=True)
class _Halves:
    """The images of a ladder, uint8 (n, 3, side, side) each; labels of those to be damaged, None for none.

    `places`: which held-out images of a store those to be damaged are.
    """

    title: str
    fingerprint: str
    reference: Tensor
    images: Tensor
    labels: Tensor | None
    places: Sequence[int] = ()


def _ladder(options: argparse.Namespace) -> int:
    device = build.resolve_device(options.device)
    build.prepare_device(device)
    _check_options(options)
    found = None if options.store is None else stored(options.store.expanduser(), options.sweep, device)
    extractors = _extractors(options.extractor, found, device)
    if found is None:
        images = _images(options.set, options.resolution or RESOLUTION, options.n, options.seed)
    else:
        images = _halves_of(found.title, found.heldout, options.n, options.seed)
    ladders = {one.name: _climbed(one, images, options.seed) for one in extractors}
    for table in (*(_rows(name, ladder) for name, ladder in ladders.items()), _checks(ladders), _scores(ladders)):
        print_table(table)
        print()
    rows = {one.name: dict[str, Any]() for one in extractors}
    if found is not None:
        rows = _of_store(found, extractors, images, ladders, options.make)
    if images.labels is None:
        say("left out: classes missing. The images have no classes.")
    say("distance ± half of its 95 % interval; a dot: not told apart from the strength before, or the floor")
    n, side = len(images.images), images.images.shape[-1]
    say(f"{n:,} images a half of {side} px ({images.title}, content {images.fingerprint[:8]}), seed {options.seed}")
    if options.json:
        shared = {"set": images.title, "set_hash": images.fingerprint, "n": n, "side": side, "seed": options.seed}
        all_rows = [{**shared, **_as_json(one, ladders[one.name]), **rows[one.name]} for one in extractors]
        write_json(options.json, all_rows)
        say(f"{options.json}: all numbers")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    if options.n < LEAST:
        raise UserError(f"--n {options.n}: a ladder needs at least {LEAST} images of each half")
    if options.store is None and (options.sweep or options.make):
        raise UserError("--sweep and --make are about a store: give it with --store DIR")
    if options.store is not None and (options.set or options.resolution):
        raise UserError("--store has images and a resolution of its own: leave out SET and --resolution, or --store")


def _extractors(asked: Sequence[str] | None, found: Stored | None, device: str) -> list[Extractor]:
    """Those that were asked for, else those of the store, else the default."""
    if not asked and found is not None:
        return [build.extractor(settings, device) for settings in found.extractors]
    return [_extractor(text, device) for text in asked or [DEFAULT_EXTRACTOR]]


def _extractor(text: str, device: str) -> Extractor:
    name, _, weights = text.partition("=")
    look_up(EXTRACTORS, name, "--extractor")
    return build.extractor({"name": name, "weights": weights or None, "precision": "fp32"}, device)


def _halves_of(title: str, images: ImageCache, n: int, seed: int) -> _Halves:
    """Two halves of held-out images of a store."""
    places = chosen(len(images), 2 * n, seed, "ladder")
    if len(places) < 2 * LEAST:
        raise UserError(f"the store has {len(places)} held-out images: a ladder needs at least {2 * LEAST}")
    reference, damaged = ([places[i] for i in half] for half in halves(len(places), seed))
    labels = torch.from_numpy(images.labels[damaged])
    return _Halves(
        title,
        images.fingerprint,
        images.uint8(reference),
        images.uint8(damaged),
        labels if len(labels.unique()) > 1 else None,
        damaged,
    )


def _of_store(
    found: Stored, extractors: Sequence[Extractor], images: _Halves, ladders: Mapping[str, Ladder], make: bool
) -> dict[str, dict[str, Any]]:
    """Prints what models made on the ladder; the same as plain values by extractor."""
    batches = images.reference.split(FEATURE_BATCH)
    reference = {one.name: features_of(batches, one).features for one in extractors}
    made, notes = measured(found, extractors, reference, images.places, make)
    checks = {name: checked(own) for name, own in made.items()}
    by_title = {_title(name): own for name, own in checks.items()}
    for name, own in made.items():
        print_table(rows_table(_title(name), own, interval_text(ladders[name].floor.distance)))
        print()
        if (over_training := milestones_table(_title(name), own)) is not None:
            print_table(over_training)
            print()
    print_table(checks_table(by_title))
    print()
    for sentence in reversed_pairs(by_title):
        say(sentence)
    for note in notes:
        say(note)
    say(f"{saturated_share(images.reference):.2g} of the values of the reference images are 0 or 255")
    return {name: {"store": as_json(found, own, checks[name])} for name, own in made.items()}


def _images(path: Path | None, side: int, n: int, seed: int) -> _Halves:
    if path is None:
        sources = [open_splits(EMBEDDED, side, n_train=1, n_heldout=2 * n, seed=seed)["heldout"]]
    else:
        splits = open_splits("folder", side, path=path.expanduser())
        heldout = splits["heldout"]
        sources = [heldout] if len(heldout) >= 2 * n else [heldout, splits["train"]]
    images, labels = _read(sources, 2 * n, seed)
    reference, damaged = halves(len(images), seed)
    return _Halves(
        str(path or f"data={EMBEDDED}"),
        "".join(source.fingerprint for source in sources),
        images[reference],
        images[damaged],
        labels[damaged] if len(labels.unique()) > 1 else None,
    )


def _read(sources: Sequence[ImageSource], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n random images of all sources, uint8 (n, 3, side, side), and their labels, -1 for none."""
    places = [(source, index) for source in sources for index in range(len(source))]
    images, labels, unusable = [], [], 0
    with reporting("images         of the ladder", min(n, len(places))) as reporter:
        for place in chosen(len(places), n, seed, "ladder"):
            source, index = places[place]
            try:
                item = source.item(index)
            except UnusableImage:
                unusable += 1
                continue
            images.append(torch.from_numpy(np.ascontiguousarray(item.image.transpose(2, 0, 1))))
            labels.append(-1 if item.label is None else item.label)
            reporter.advance_to(len(images))
    if len(images) < 2 * LEAST:
        raise UserError(f"the set has {len(images)} images that can be used: a ladder needs at least {2 * LEAST}")
    if unusable:
        say(f"{unusable} images cannot be used and are left out", style="yellow")
    return torch.stack(images), torch.tensor(labels)


def _climbed(extractor: Extractor, images: _Halves, seed: int) -> Ladder:
    total = len(damages(images.labels is not None))
    with reporting(f"ladder         {extractor.name}", total) as reporter:
        return climb(
            lambda batch: features_of(batch.split(FEATURE_BATCH), extractor).features,
            images.reference,
            images.images,
            images.labels,
            seed,
            reporter.advance_to,
        )


def _title(name: str) -> str:
    return EXTRACTOR_TITLES.get(name, name)


def _rows(name: str, ladder: Ladder) -> Table:
    """Kernel distances by damage and strength, with half of their 95 % interval; a dot where not told apart."""
    floor = interval_text(ladder.floor.distance)
    table = Table(
        box=None, pad_edge=False, title=f"{_title(name)}: kernel distance, floor {floor}", title_justify="left"
    )
    for heading in ("damage", *map(str, STRENGTHS), "tau", "apart"):
        table.add_column(heading, no_wrap=True)
    for row in ladder.rows:
        first, *_, last = row.rungs
        cells = [
            interval_text(rung.distance) + ("" if apart else " ·")
            for rung, apart in zip(row.rungs, row.apart, strict=True)
        ]
        table.add_row(
            f"{row.damage.title} {first.amount:g} to {last.amount:g} {row.damage.unit}",
            *cells,
            f"{row.tau:+.2f}",
            f"{sum(row.apart)} of {len(row.apart)}",
        )
    return table


def _checks(ladders: Mapping[str, Ladder]) -> Table:
    table = Table(box=None, pad_edge=False, title="order", title_justify="left")
    for heading in ("what must lie above what (px of 32)", *map(_title, ladders)):
        table.add_column(heading, no_wrap=True)
    for index, check in enumerate(ORDER_CHECKS):
        table.add_row(check.title, *(ladder.checks[index] for ladder in ladders.values()))
    return table


def _scores(ladders: Mapping[str, Ladder]) -> Table:
    table = Table(box=None, pad_edge=False, title="score", title_justify="left")
    for heading in ("extractor", "mean tau", "steps told apart", "order checks held"):
        table.add_column(heading, no_wrap=True)
    for name, ladder in ladders.items():
        held = f"{ladder.held} of {len(ladder.checks)}"
        table.add_row(_title(name), f"{ladder.tau:.2f}", f"{ladder.apart:.0%}", held)
    return table


def _as_json(extractor: Extractor, ladder: Ladder) -> dict[str, Any]:
    return {
        "extractor": extractor.name,
        "title": _title(extractor.name),
        "extractor_size": extractor.size,
        "extractor_weights": extractor.weights_hash,
        "score": {"tau": ladder.tau, "apart": ladder.apart, "held": ladder.held, "checks": len(ladder.checks)},
        "floor": _rung_json(ladder.floor),
        "rows": [_row_json(row) for row in ladder.rows],
        "checks": {check.title: found for check, found in zip(ORDER_CHECKS, ladder.checks, strict=True)},
    }


def _row_json(row: Row) -> dict[str, Any]:
    about = {"damage": row.damage.name, "title": row.damage.title, "unit": row.damage.unit, "tau": row.tau}
    return {**about, "apart": row.apart, "rungs": [_rung_json(rung) for rung in row.rungs]}


def _rung_json(rung: Rung) -> dict[str, Any]:
    found = rung.distance
    place = {"strength": rung.strength, "amount": rung.amount, "n": rung.n}
    return {**place, "kd": found.value, "low": found.low, "high": found.high}
