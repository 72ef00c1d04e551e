"""Draws what extractors see of known damage, and of what the models of a store made.

`python analysis/plot_ladder.py FILE.json [...] [--out FILE]`
"""

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
distance of a blur of 1 pixel (at a side of 32): what lies above 1 is worse than that blur to its eyes. Where the
numbers hold rows of a store (`--store`), a second file, its name ending in _store, has a panel an extractor of them, in
the extractor's own unit."""

COLOURS = ("#5b02a3", "#e97158", "#0d0887", "#cb4678", "#f0a02c", "#3a7d44")
COLUMNS = 5
UNIT = ("blur", 3)
"""The damage and the strength whose distance is the unit."""

Entry = Mapping[str, Any]

STYLES = {
    "decoded": {"color": style.FLOOR, "marker": "o", "linestyle": "-"},
    "Gaussian": {"color": style.MUTED, "marker": "s", "linestyle": ":"},
    "Gaussian by class": {"color": style.MUTED, "marker": "D", "linestyle": "--"},
}
"""Of what is drawn over f beside samples, whose series have colours of their own."""

MILESTONE = "milestone"
MOST_TOLD = 6
"""Series of samples that have colours of their own; more are all drawn in the last."""


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


def store_figure(entries: Sequence[Entry]) -> Figure:
    """The figure of what the models of a store made: over f, and where there are any, milestones over training."""
    entries = [entry for entry in entries if "store" in entry]
    rows = [row for entry in entries for row in entry["store"]["rows"]]
    has_milestones = any(row["kind"] == MILESTONE for row in rows)
    lines = 2 if has_milestones else 1
    figure, grid = style.new_figure(lines, len(entries), max(5.4 * len(entries), 7.5), 3.6 * lines)
    looks = _looks(rows)
    factors = sorted({row["f"] for row in rows})
    for entry, axes in zip(entries, grid[0], strict=True):
        own = [row for row in entry["store"]["rows"] if row["kind"] != MILESTONE]
        axes.axhspan(entry["floor"]["low"], entry["floor"]["high"], color=style.FAINT, alpha=0.3)
        _drawn(axes, own, "f", looks)
        style.factor_axis(axes, factors)
        axes.set_title(entry["title"])
    for entry, axes in zip(entries, grid[1] if has_milestones else [], strict=False):
        own = [row for row in entry["store"]["rows"] if row["kind"] == MILESTONE]
        _drawn(axes, own, "images_seen", looks)
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("images seen in training")
    for line in grid:
        line[0].set_ylabel("kernel distance")
    first = entries[0]
    style.finish(
        figure,
        "What extractors see of what models made",
        [f"{first['set']}, {first['side']} px, up to {first['n']} images a set, seed {first['seed']}"],
        [
            "95 % intervals. Band: the undamaged half. Two extractors have no common scale: compare orders. "
            "A good extractor puts decoded images lowest and lets them rise with f."
        ],
        [style.key(label, **look) for label, look in _keys(looks).items()],
    )
    return figure


def _name(row: Mapping[str, Any]) -> str:
    told = f"{row['kind']}, {row['series']}"
    return f"{told}, f = {row['f']}" if row["kind"] == MILESTONE else told


def _looks(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each series is drawn: samples in colours by their order, milestones in those of their f, behind the others.

    Of decoded images and Gaussians the first series has full marks, all others have hollow ones.
    """
    looks: dict[str, dict[str, Any]] = {}
    told = list(dict.fromkeys(_name(row) for row in rows if row["kind"] not in (*STYLES, MILESTONE)))
    trained = list(dict.fromkeys(row["series"] for row in rows if row["kind"] == MILESTONE))
    first: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["kind"] == MILESTONE):
        if row["kind"] in STYLES:
            is_first = first.setdefault(row["kind"], row["series"]) == row["series"]
            look = {**STYLES[row["kind"]], "fillstyle": "full" if is_first else "none"}
        elif row["kind"] == MILESTONE:
            dash = ("-", "--", ":", "-.")[trained.index(row["series"]) % 4]
            look = {"color": style.colour(row["f"]), "marker": ".", "linestyle": dash}
        else:
            look = {"color": COLOURS[min(told.index(_name(row)), MOST_TOLD - 1)], "marker": "^", "linestyle": "-"}
        looks[_name(row)] = look
    return looks


def _keys(looks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of the legend: series that look alike share the key of the first."""
    keys: dict[str, dict[str, Any]] = {}
    alike: dict[tuple[Any, ...], str] = {}
    for name, look in looks.items():
        shown = tuple(look.values())
        if shown in alike:
            keys[f"{alike[shown]}, ..."] = keys.pop(alike[shown], look)
        else:
            alike[shown], keys[name] = name, look
    return keys


def _drawn(axes: Axes, rows: Sequence[Mapping[str, Any]], place: str, looks: Mapping[str, dict[str, Any]]) -> None:
    """A line for each series, its values at `place`."""
    for name in dict.fromkeys(map(_name, rows)):
        own = sorted((row for row in rows if _name(row) == name), key=lambda row: float(row[place]))
        axes.plot([row[place] for row in own], [row["kd"] for row in own], markersize=5, label=name, **looks[name])
        for row in own:
            style.interval(axes, row[place], row["kd"], row["low"], row["high"], looks[name]["color"])


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
        entries = read(options.files)
        if any("store" in entry for entry in entries):
            beside = options.out.with_stem(f"{options.out.stem}_store")
            print(write_atomic(beside, style.rendered(store_figure(entries))[kind]))
        print(write_atomic(options.out, style.rendered(figure_of(entries))[kind]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
