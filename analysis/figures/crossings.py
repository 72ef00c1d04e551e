"""Fitted curves over training compute and what they become with more, and how probable it is that each is the best."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import limits, looks, numbers, placing, style
from analysis.collect import Study
from analysis.compare import TINY
from analysis.crossings import REACH, Array, Curve, Race, band, race
from analysis.figures import findings
from analysis.figures.notes import counted, facts_of, notes_of, ring_key
from analysis.figures.panels import draw_rings
from analysis.figures.standing import IS_TINY
from analysis.milestones import sampled_with
from analysis.placing import PointLabel

MOST_NAMED = 8
"""Curves that are labelled, those with the best chances first."""

CHANCE = 0.03
"""Probability of being the best from which on a curve of it is labelled, at its end or else where it is highest."""

SHADE = "#f1f1f1"
DASHED = (0, (4, 2))
WIDE = 4.0
"""From what ratio of the largest value to the least on the axis is logarithmic."""


EARLY = "too early for the fit"
NEUTRAL = "Which cell is best after how much training?"
LIMITED = "Something limits {} (table.md), so this is an order of distances and not yet of latent spaces."


def has_data(study: Study) -> bool:
    """Whether several cells have enough milestones that are measured alike."""
    return race(study, study.metric) is not None


def draw(study: Study) -> Figure:
    """Above the milestones with their fits, below the probability of being the best; beyond what was spent dashed."""
    found = race(study, study.metric)
    assert found is not None  # `has_data`
    figure, grid = style.new_figure(2, 1, style.COLUMN + 0.8, 6.4, sharex=True, height_ratios=(1.35, 1))
    (above,), (below,) = grid
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    named = set(np.argsort(-found.chances.max(axis=1), kind="stable")[:MOST_NAMED].tolist())
    best = findings.contenders(found)
    ends: tuple[list[PointLabel], list[PointLabel]] = ([], [])
    for index, curve in enumerate(found.curves):
        tint, marker = style.colour(curve.f), look_of[curve.regulariser].marker
        values = found.values[index]
        low, high = band(values)
        above.fill_between(found.budgets, low, high, color=tint, alpha=0.12, linewidth=0, zorder=1)
        for axes, line in (
            (above, np.where(np.isfinite(values[0]), values[0], np.nan)),
            (below, _chance(found, index)),
        ):
            end = int((found.budgets <= curve.spent[-1]).sum())
            axes.plot(found.budgets[:end], line[:end], color=tint, zorder=3)
            # From the last point on, so that the line has no gap.
            start = max(end - 1, 0)
            axes.plot(found.budgets[start:], line[start:], color=tint, linestyle=DASHED, alpha=0.8, zorder=3)
            drawn = pd.DataFrame({"x": found.budgets, "value": line, "f": curve.f})
            fit = f"{curve.name}, fit" if axes is above else curve.name
            numbers.keep(axes, fit, drawn[:end], "x", tint, group=curve.name)
            numbers.keep(axes, f"{fit}, extrapolated", drawn[start:], "x", tint, DASHED, group=curve.name)
        faint: dict[str, Any] = {"color": tint, "markersize": 5, "linestyle": "", "zorder": 4}
        reached = int((curve.spent <= found.budgets[-1]).sum())
        for at, (x, y) in enumerate(zip(curve.spent[:reached], curve.value[:reached], strict=True)):
            is_used = at >= len(curve.spent) - curve.fitted
            above.plot(x, y, marker, markerfacecolor=tint if is_used else "white", **faint)
            style.interval(above, float(x), float(y), float(curve.low[at]), float(curve.high[at]), tint)
        points = {"x": curve.spent, "value": curve.value, "ci_low": curve.low, "ci_high": curve.high, "f": curve.f}
        early = len(curve.spent) - curve.fitted
        hollow = [EARLY if at < early else "" for at in range(len(curve.spent))]
        numbers.keep(above, curve.name, pd.DataFrame(points), "x", tint, "", marker, hollow=hollow)
        if index in named:
            for labels, line, least in zip(ends, (values[0], _chance(found, index)), (-np.inf, CHANCE), strict=True):
                if np.isfinite(line[-1]) and line[-1] >= least:
                    labels.append(PointLabel(float(found.budgets[-1]), float(line[-1]), curve.name, tint))
        if index in best:
            ring = pd.DataFrame({"x": [found.spent], "value": [float(curve.at(np.array([found.spent]))[0, 0])]})
            draw_rings(above, ring.assign(f=curve.f), "x")
    _frame(found, above, below)
    shown = [value for curve in found.curves for value in curve.value]
    lows = [low for curve in found.curves for low in curve.low if np.isfinite(low)]
    if min([*shown, *lows]) > 0 and max(shown) > WIDE * min(shown):
        above.set_yscale("log")
    else:
        style.value_scale(above, shown, lows)
    style.value_ticks(above)
    above.set_ylabel(style.upright(found.metric.label))
    keys = [
        style.key("milestone, 95 % interval", marker="o"),
        *([style.key(EARLY, marker="o", **style.HOLLOW)] if _is_early(found) else []),
        style.key("fit", linestyle="-", linewidth=1.6),
        style.key(f"extrapolated, up to {REACH:g} times", linestyle=DASHED, linewidth=1.6),
        ring_key(is_tie=len(best) > 1),
        style.key("not measured of all", marker="s", color=SHADE, markersize=10),
    ]
    rows = study.frame[(study.frame["stage"] == "progress") & (study.frame["metric"] == found.metric.metric)]
    facts = f"{found.metric.title}, n = {counted(rows['n'])} samples at each milestone"
    limited = _limited(study, rows, [found.curves[index] for index in best])
    notes = [
        *([LIMITED.format(limited)] if limited else []),
        "Budgets count the FLOPs of diffusion training alone; first stages are trained before, once.",
        "Rings: after the compute that all have spent.",
        *notes_of(study, rows, "progress"),
        sampled_with(study),
        "Fit: a + b C^-c, C the FLOPs. Bands and probabilities: bootstrap over the milestones' intervals, with the "
        "noise and reference images that cells share; what a fit misses enlarges its errors. In the grey part not "
        "all cells were measured: curves may bend where the law does not.",
    ]
    title = NEUTRAL if limited else findings.of_race(found)
    if (rows["scale"] == TINY).any():
        title = f"{NEUTRAL} ({IS_TINY})"
    style.finish(figure, title, [facts_of(study, rows, facts)], notes, keys)
    placing.end_labels([(above, ends[0]), (below, ends[1])])
    placing.place_labels(below, _peaks(found, {label.text for label in ends[1]}))
    return figure


def _frame(found: Race, above: Axes, below: Axes) -> None:
    """Axes, and the part where not all cells were measured."""
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xlim(min(float(curve.spent[0]) for curve in found.curves) / 1.2, found.budgets[-1])
        axes.axvspan(found.spent, found.budgets[-1], color=SHADE, zorder=0, linewidth=0)
    style.sparse_log_ticks(below, "x")
    below.set_ylim(-0.02, 1.02)
    below.set_xlabel("compute of diffusion training in FLOPs (one multiply-add = 2)")
    below.set_ylabel("probability of being\nthe best")


def _limited(study: Study, rows: pd.DataFrame, best: Sequence[Curve]) -> str:
    """Which cells something limits, so that no order of latent spaces is told: every one, or some of the best ones."""
    known = limits.known(study)
    if known and all(one.limits for one in known):
        return "every cell"
    models = set(rows["model"][limits.is_limited(rows, known)])
    return " and ".join(curve.name for curve in best if curve.models & models)


def _chance(found: Race, index: int) -> Array:
    """A curve's probability of being the best, where it is known."""
    is_known = np.isfinite(found.values[index][0])
    return np.where(is_known, found.chances[index], np.nan)


def _peaks(found: Race, named: Collection[str]) -> list[PointLabel]:
    """Labels where curves that once had a chance have most of it, without those that are named."""
    labels = []
    for index, curve in enumerate(found.curves):
        chance = np.nan_to_num(_chance(found, index), nan=0.0)
        at = int(np.argmax(chance))
        if curve.name not in named and chance[at] >= CHANCE:
            labels.append(PointLabel(float(found.budgets[at]), float(chance[at]), curve.name, style.colour(curve.f)))
    return labels


def _is_early(found: Race) -> bool:
    return any(curve.fitted < len(curve.spent) for curve in found.curves)
