"""Draws what extractors see of known damage: `python analysis/plot_ladder.py FILE.json [...] [--out FILE]`."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    # Run as a script, Python looks beside this file; the packages lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis import style
from analysis.plot_tradeoffs import write_atomic
from ldm.errors import UserError

DESCRIPTION = """Reads what `python -m experiments.ladder --json` wrote, of one or more extractors, and draws a panel a
damage and a line an extractor. Distances of extractors have no common scale, so each is divided by the extractor's own
distance of a blur of 1 pixel (at a side of 32): what lies above 1 is worse than that blur to its eyes."""

COLOURS = ("#5b02a3", "#e97158", "#0d0887", "#cb4678", "#f0a02c", "#3a7d44")
COLUMNS = 5
UNIT = ("blur", 3)
"""The damage and the strength whose distance is the unit."""

Entry = Mapping[str, Any]


def read(paths: Sequence[Path]) -> list[Entry]:
    """The ladders in the files, in their order.

    Raises: UserError where a file holds none, or they are of other images.
    """
    found: list[Entry] = []
    for path in paths:
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            found += [entry for entry in entries if entry["rows"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} holds no ladder of `python -m experiments.ladder --json` ({error})") from error
    if len({(entry["set_hash"], entry["n"], entry["side"], entry["seed"]) for entry in found}) != 1:
        raise UserError("the files hold ladders of other images, numbers or seeds, which make no common figure")
    return found


def unit_of(entry: Entry) -> float:
    """The distance that counts as 1."""
    name, strength = UNIT
    [row] = [row for row in entry["rows"] if row["damage"] == name]
    unit = float(row["rungs"][strength - 1]["kd"])
    if unit <= 0:
        raise UserError(f"{entry['title']} does not see a blur of 1 pixel, which is the unit of the figure")
    return unit


def figure_of(entries: Sequence[Entry]) -> Figure:
    """The figure of ladders on the same images."""
    names = [row["damage"] for row in entries[0]["rows"]]
    rows = math.ceil(len(names) / COLUMNS)
    figure, grid = style.new_figure(rows, COLUMNS, 11.5, 2.6 * rows, sharey=True)
    panels = [axes for line in grid for axes in line]
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for name, axes in zip(names, panels, strict=False):
        for entry, tint in zip(entries, COLOURS, strict=False):
            [row] = [row for row in entry["rows"] if row["damage"] == name]
            _line(axes, row, entry["floor"], unit_of(entry), tint)
    for line in grid:
        line[0].set_ylabel("distance / that of blur 1 px")
    keys = [
        style.key(entry["title"], color=tint, linestyle="-", marker="o", markersize=4)
        for entry, tint in zip(entries, COLOURS, strict=False)
    ]
    first = entries[0]
    style.finish(
        figure,
        "What extractors see of known damage",
        [f"{first['set']}, {first['side']} px, {first['n']} images a half, seed {first['seed']}"],
        ["Kernel distances with 95 % intervals. Bands: the undamaged half. A good extractor rises in every panel."],
        keys,
    )
    return figure


def _line(axes: Axes, row: Entry, floor: Entry, unit: float, tint: str) -> None:
    axes.axhspan(floor["low"] / unit, floor["high"] / unit, color=tint, alpha=0.12, linewidth=0)
    places = [rung["strength"] for rung in row["rungs"]]
    axes.plot(places, [rung["kd"] / unit for rung in row["rungs"]], color=tint, marker="o", markersize=3.5)
    for rung in row["rungs"]:
        style.interval(axes, rung["strength"], rung["kd"] / unit, rung["low"] / unit, rung["high"] / unit, tint)
    axes.set_title(row["title"], fontsize=9.5)
    axes.set_xlabel(row["unit"], fontsize=8.5)
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.set_xticks(places, [f"{rung['amount']:g}" for rung in row["rungs"]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0, or 2 with one sentence where the user can mend it."""
    command = argparse.ArgumentParser(prog="plot_ladder.py", description=DESCRIPTION)
    command.add_argument("files", type=Path, nargs="+", metavar="FILE.json", help="what the ladder wrote")
    command.add_argument("--out", type=Path, default=Path("ladder.png"), help="PNG or SVG file (default: ladder.png)")
    options = command.parse_args(arguments)
    try:
        kind = options.out.suffix.removeprefix(".")
        if kind not in ("png", "svg"):
            raise UserError(f"--out {options.out} ends in neither .png nor .svg")
        style.apply()
        print(write_atomic(options.out, style.rendered(figure_of(read(options.files)))[kind]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
