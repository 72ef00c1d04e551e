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
from experiments.console import reporting, say
from experiments.scoring import FEATURE_BATCH, chosen, features_of
from ldm.data.contract import ImageSource, UnusableImage
from ldm.data.sources import open_splits
from ldm.errors import UserError
from ldm.metrics.damage import STRENGTHS
from ldm.metrics.extractors import EXTRACTORS
from ldm.metrics.features import EXTRACTOR_TITLES, Extractor
from ldm.metrics.intervals import Interval
from ldm.metrics.ladder import ORDER_CHECKS, Ladder, Row, Rung, climb, damages, halves
from ldm.parts import look_up
from ldm.records import write_json

EMBEDDED = "emoji"
RESOLUTION = 32
N = 500
LEAST = 20
"""Images of each half below which no interval says anything."""

EXAMPLES = """
SET is a folder or a zip archive of images, read as data=folder does: its held-out images, or all of them where those
are too few. Without it, the held-out embedded scenes (data=emoji) are used.

examples:
  python -m experiments.ladder
  python -m experiments.ladder ~/photos --resolution 64 --extractor efficientnet_lite2 dinov2=~/dinov2-large
  python -m experiments.ladder --json ladder.json && python analysis/plot_ladder.py ladder.json
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
        default=[DEFAULT_EXTRACTOR],
        metavar="NAME[=WEIGHTS]",
        help=f"of {', '.join(EXTRACTORS)}; several are compared (default: {DEFAULT_EXTRACTOR})",
    )
    command.add_argument("--resolution", type=int, default=RESOLUTION, metavar="PX", help="side (default: %(default)s)")
    command.add_argument("--n", type=int, default=N, help="images of each half, or as many as there are (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the halves and the damage (default: %(default)s)")
    command.add_argument("--device", default="auto", help="auto | cpu | cuda")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")
    return command


@dataclasses.dataclass(frozen=True)
class _Halves:
    """The images of a ladder, uint8 (n, 3, side, side) each; labels of those to be damaged, None for none."""

    title: str
    fingerprint: str
    reference: Tensor
    images: Tensor
    labels: Tensor | None


def _ladder(options: argparse.Namespace) -> int:
    device = build.resolve_device(options.device)
    build.prepare_device(device)
    extractors = [_extractor(text, device) for text in options.extractor]
    images = _images(options.set, options.resolution, options.n, options.seed)
    ladders = {one.name: _climbed(one, images, options.seed) for one in extractors}
    for table in (*(_rows(name, ladder) for name, ladder in ladders.items()), _checks(ladders), _scores(ladders)):
        print_table(table)
        print()
    if images.labels is None:
        say("left out: classes missing. The images have no classes.")
    say("distance ± half of its 95 % interval; a dot: not told apart from the strength before, or the floor")
    n, side = len(images.images), images.images.shape[-1]
    say(f"{n:,} images a half of {side} px ({images.title}, content {images.fingerprint[:8]}), seed {options.seed}")
    if options.json:
        shared = {"set": images.title, "set_hash": images.fingerprint, "n": n, "side": side, "seed": options.seed}
        write_json(options.json, [{**shared, **_as_json(one, ladders[one.name])} for one in extractors])
        say(f"{options.json}: all numbers")
    return 0


def _extractor(text: str, device: str) -> Extractor:
    name, _, weights = text.partition("=")
    look_up(EXTRACTORS, name, "--extractor")
    return build.extractor({"name": name, "weights": weights or None, "precision": "fp32"}, device)


def _images(path: Path | None, side: int, n: int, seed: int) -> _Halves:
    if n < LEAST:
        raise UserError(f"--n {n}: a ladder needs at least {LEAST} images of each half")
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
    floor = _text(ladder.floor.distance)
    table = Table(
        box=None, pad_edge=False, title=f"{_title(name)}: kernel distance, floor {floor}", title_justify="left"
    )
    for heading in ("damage", *map(str, STRENGTHS), "tau", "apart"):
        table.add_column(heading, no_wrap=True)
    for row in ladder.rows:
        first, *_, last = row.rungs
        cells = [
            _text(rung.distance) + ("" if apart else " ·") for rung, apart in zip(row.rungs, row.apart, strict=True)
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


def _text(interval: Interval) -> str:
    return f"{interval.value:.3g} ±{(interval.high - interval.low) / 2:.1g}"


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
