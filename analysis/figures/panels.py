"""How the rows of a quality figure are split into panels, and the points of a panel."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes as Plot

from analysis import looks, numbers, style
from analysis.axes import REPEATED, TUNED, Axes, is_given
from analysis.compare import (
    Measured,
    SeedFactor,
    alike,
    cell_at,
    columns_of,
    mean_over_seeds,
    one_cell,
    seed_factor,
)
from analysis.labels import named_value, told_apart
from analysis.looks import Family
from analysis.placing import PointLabel

SMALL_PANELS = 4

MOST_LINES = 12
"""In a panel of all regularisers; where there would be more, each has a panel of its own."""


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: regularisers, with pixels, which belong to each, under one choice of all other axes."""

    families: tuple[str, ...]
    variant: str
    rows: pd.DataFrame

    def by_family(self) -> list[tuple[str, pd.DataFrame]]:
        """The rows of each regulariser with those of pixels."""
        is_pixels = self.rows["regulariser"] == PIXELS
        return [(name, self.rows[is_pixels | (self.rows["regulariser"] == name)]) for name in self.families]

    def lines_of(self, column: str) -> list[tuple[str, Any, pd.DataFrame]]:
        """The rows of each regulariser, pixels one of them, and value of the column; with both, of a line each."""
        return [
            (str(name), value, own) for (name, value), own in self.rows.groupby(["regulariser", column], sort=False)
        ]

    def named(self, family: str, text: str, look_of: Mapping[str, Family]) -> str:
        """What a line of a regulariser is called: by that too where the panel has several."""
        return f"{look_of[family].name}, {text}" if len(self.families) > 1 and family != PIXELS else text


PIXELS = "identity"


def panels_of(
    rows: pd.DataFrame, axes: Axes, lines: Sequence[str] = (), apart: Sequence[str] = (), each: str = "f"
) -> tuple[list[Panel], list[str]]:
    """One panel a choice of the other swept axes, seeds averaged; and the choices left out for room.

    Where a panel would hold more than `MOST_LINES`, one of each value of the column `each` and regulariser, it is one
    panel a regulariser. Pixels, which have no first stage, stand beside first stages of every setting.
    """
    tagged = rows.assign(
        variant=_variants(rows, axes.all, lines, apart),
        others=_variants(rows, [axis for axis in axes.all if axis not in axes.compression], lines, apart),
        line=_line_names(rows, axes) if lines else "",
    )
    families = [name for name in looks.families(rows["regulariser"]) if name != PIXELS] or [PIXELS]
    held = tagged.groupby("variant").apply(lambda own: len(own[["regulariser", each]].drop_duplicates()))
    groups = [tuple(families)] if held.max() <= MOST_LINES else [(name,) for name in families]
    is_pixels = tagged["regulariser"] == PIXELS
    compressed = tagged[~is_pixels]
    unlike = tagged[is_pixels & ~tagged["others"].isin(compressed["others"])]
    lowest = pd.concat([compressed, unlike]).groupby("variant")["f"].min()
    names = sorted(lowest.index, key=lambda name: (lowest[name] if lines else 0, name))
    # Over all cells of a way of measuring, as the table pools it.
    factors = {
        str(protocol): seed_factor(
            [cell for _, part in own.groupby("images_seen", dropna=False) for cell in _cells(part, axes)]
        )
        for protocol, own in tagged.groupby("protocol")
    }
    panels = []
    for variant in names[:SMALL_PANELS]:
        alone = unlike[unlike["variant"] == variant]
        for group in groups:
            own = compressed[(compressed["variant"] == variant) & compressed["regulariser"].isin(group)]
            present = tuple(name for name in group if name in set(own["regulariser"])) or group[:1]
            beside = tagged[is_pixels & tagged["others"].isin(own["others"])]
            if len(shown := pd.concat([beside, alone, own])):
                panels.append(Panel(present, variant, _over_seeds(shown, factors)))
    return panels, names[SMALL_PANELS:]


def _variants(
    rows: pd.DataFrame, axes: Sequence[str], lines: Sequence[str] = (), apart: Sequence[str] = ()
) -> pd.Series:
    """For each row the values of swept axes but f, regulariser, steps and seeds; where mixed the protocol too.

    So with the columns `apart`. With `lines` f is named instead of these.
    """
    unnamed = {"f", "regulariser", "steps", *REPEATED, *lines}
    # Cells that found their own guidance are one choice, whatever they found.
    scales = rows["guidance_scale"].astype(object).mask(rows["guidance_rule"] == TUNED, TUNED)
    rows = rows.assign(guidance_scale=scales, guidance_rule="")
    if (rows["height"].eq(rows["resolution"]) & rows["width"].eq(rows["resolution"])).all():
        unnamed |= {"height", "width"}  # which the resolution says already
    swept = told_apart(rows, [axis for axis in axes if axis not in unnamed])
    swept += [column for column in ("protocol", *apart) if rows[column].replace("", None).nunique() > 1]

    def describe(row: Mapping[Any, Any]) -> str:
        shown = [axis for axis in swept if not (axis == "channels" and row["regulariser"] == PIXELS)]
        named = [named_value(axis, row[axis]) for axis in shown if is_given(row[axis])]
        return ", ".join([f"f = {row['f']}", *named] if lines else named)

    return _described(rows, ("f", "regulariser", *swept), describe)


def _line_names(rows: pd.DataFrame, axes: Axes) -> pd.Series:
    """The sampler of each row, with those of its own options that are swept."""
    swept = {
        str(name): [axis for axis in axes.own("sampler", name) if own[axis].nunique() > 1]
        for name, own in rows.groupby("sampler")
    }
    written = looks.samplers(swept, axes.titles("sampler"))

    def describe(row: Mapping[Any, Any]) -> str:
        options = [named_value(axis, row[axis]) for axis in swept[row["sampler"]]]
        return ", ".join([written[row["sampler"]].name, *options])

    return _described(rows, ("sampler", *(axis for own in swept.values() for axis in own)), describe)


def _described(rows: pd.DataFrame, columns: Iterable[str], describe: Callable[[Mapping[Any, Any]], str]) -> pd.Series:
    """Each row in words, which are made of these columns."""
    told = rows[list(dict.fromkeys(columns))].to_dict("records")
    return pd.Series([describe(row) for row in told], index=rows.index, dtype=object).astype(str)


def _cells(rows: pd.DataFrame, axes: Axes) -> list[Measured]:
    """The cells among rows of one number of images seen, without names."""
    columns = columns_of(rows)
    return [cell_at(columns, own) for own in alike(rows, axes.settings)]


def _over_seeds(rows: pd.DataFrame, factors: Mapping[str, SeedFactor]) -> pd.DataFrame:
    """One row a point: the mean over seeds with its interval; the plain row where there is one seed."""
    keys = ["regulariser", "f", "line", "steps", "images_seen"]
    found = []
    for _, own in rows.groupby(keys, dropna=False):
        point = own.iloc[0].copy()
        point["value"], point["ci_low"], point["ci_high"] = mean_of(own, factors[point["protocol"]])
        repeated = "" if len(own) == 1 else f"mean of {len(own)} samplings"  # of one training
        point[numbers.MADE] = numbers.mean_of_trainings(own["model"].nunique()) or repeated
        point["sample_images_per_second"] = own["sample_images_per_second"].mean()
        found.append(point)
    return pd.DataFrame(found).astype(rows.dtypes.to_dict()).reset_index(drop=True)


def mean_of(rows: pd.DataFrame, factor: SeedFactor) -> tuple[float, float, float]:
    """Value and interval of a cell's rows of one metric: over seeds its mean's, else as they were measured."""
    if len(rows) == 1:
        row = rows.iloc[0]
        return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])
    mean = mean_over_seeds(one_cell(rows), factor)
    low, high = (math.nan if bound is None else bound for bound in (mean.low, mean.high))
    return mean.value, low, high


def draw_line(
    axes: Plot,
    rows: pd.DataFrame,
    x: str,
    name: str,
    tint: str,
    look_of: Mapping[str, Family],
    line: Any = None,
    sizes: Sequence[float] | None = None,
) -> None:
    """A line of a figure of quality through rows in their order, with its points; `line`: its style, where not the
    regulariser's.
    """
    look = look_of[rows["regulariser"].iloc[-1]]
    line = look.line if line is None else line
    axes.plot(rows[x], rows["value"], color=tint, linestyle=line, zorder=2)
    draw_points(axes, rows, x, look_of, sizes)
    numbers.keep(
        axes, name, rows, x, tint, line, look.marker, tints=[style.colour(f) for f in rows["f"]], hollow=hollow(rows)
    )


def hollow(rows: pd.DataFrame) -> list[str]:
    """Of each point why its mark is hollow, "" where it is filled."""
    return ["limited" if is_limited else "" for is_limited in rows["limited"]]


def draw_points(
    axes: Plot,
    rows: pd.DataFrame,
    x: str,
    look_of: Mapping[str, Family],
    sizes: Sequence[float] | None = None,
    tint: str | None = None,
) -> None:
    """The points of a line with their intervals, in the colour of their f and the marker of their regulariser.

    Those of limited cells are hollow; those of the best ones have a ring. `tint`: their colour where it is no f's.
    """
    for index, point in enumerate(rows.to_dict("records")):
        look, shade = look_of[point["regulariser"]], tint or style.colour(point["f"])
        style.interval(axes, point[x], point["value"], point["ci_low"], point["ci_high"], shade)
        size = sizes[index] if sizes else look.size
        draw_mark(axes, point, x, look.marker, shade, size)
    draw_rings(axes, rows[rows["is_best"]], x)


def draw_rings(axes: Plot, rows: pd.DataFrame, x: str, value: str = "value") -> None:
    """A ring around each of these points, which are of the best cells."""
    if len(rows):
        axes.plot(rows[x], rows[value], linestyle="", zorder=5, **style.RING)
        numbers.keep(axes, RINGED, rows, x, style.INK, "", "ring", value)


RINGED = "best, or not told apart from it"
"""What rings mean, in charts, where the legend of the figure does not say whether it is one or several."""


def draw_mark(axes: Plot, point: Mapping[Any, Any], x: str, marker: str, tint: str, size: float) -> None:
    """The mark of a point, hollow where its cell is limited."""
    face = "white" if point["limited"] else tint
    axes.plot(
        point[x], point["value"], marker, color=tint, markerfacecolor=face, markersize=size, zorder=4, linestyle=""
    )


def end_label(line: pd.DataFrame, x: str, text: str, tint: str) -> PointLabel:
    """The label of a line, which belongs to its last point."""
    last = line.iloc[-1]
    return PointLabel(float(last[x]), float(last["value"]), text, tint)
