"""The answer as a figure: what each cell costs, how good it is, and which cells are on the front."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import advice, looks, numbers, placing, style
from analysis.answer import Answer, Option, answers
from analysis.budgets import Spent
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.notes import counted, facts_of, notes_of, ring_key
from analysis.figures.panels import draw_rings
from analysis.figures.standing import of_answer
from analysis.placing import PointLabel

COSTS: Sequence[tuple[str, bool, Callable[[Spent], float]]] = (
    ("training compute in FLOPs, first stage included", True, lambda spent: spent.flops),
    ("sampling throughput in images per second", False, lambda spent: spent.images_per_second),
)
"""Label of the axis, whether less is better, and the cost itself."""

RECOMMENDED: Mapping[str, Any] = {**style.RING, "markersize": 16.0, "markeredgewidth": 2.0}
HOLLOW = "beaten at no more cost, or barred"
MOST_LABELS = 6
MOST_COVERED = 1.0
"""Marks that a label may cover."""


ELSEWHERE = "Cells that were measured by another protocol are not drawn: table.md has them."


def has_data(study: Study) -> bool:
    """Whether the costs of several cells are known, of the headline metric."""
    return study.metric is None and any(len(_known(answer)) > 1 for answer in answers(study)[:1])


def draw(study: Study) -> Figure:
    """A panel a cost: all cells with their intervals, a line along the front, rings around the best cells."""
    answer = answers(study)[0]
    options = _known(answer)
    figure, grid = style.new_figure(2, 1, style.COLUMN, 2 * 3.3)
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    labelled = _labelled(answer, options)
    standing = of_answer(study, answer)
    alike = {name for one in standing.best for name in one.results}
    sign = -1.0 if answer.metric.higher_is_better else 1.0
    pending: list[tuple[Axes, list[PointLabel]]] = []
    for [axes], (label, is_less_better, cost) in zip(grid, COSTS, strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(label)
        shown = [option for option in options if cost(option.spent) > 0]
        rows = _rows(study, shown, cost)
        front = rows[_on_front(rows["x"] * (1 if is_less_better else -1), sign * rows["value"])].sort_values("x")
        side: Literal["pre", "post"] = "post" if is_less_better else "pre"
        shape = "hv" if is_less_better else "vh"
        axes.step(front["x"], front["value"], where=side, color=style.FAINT, linewidth=1.4, zorder=1)
        numbers.keep(axes, "front of the means", front, "x", style.FAINT, "-", is_beside=True, shape=shape)
        for family, own in rows.groupby("regulariser", sort=False):
            look, tints = look_of[str(family)], [style.colour(f) for f in own["f"]]
            for point, tint in zip(own.to_dict("records"), tints, strict=True):
                style.interval(axes, point["x"], point["value"], point["ci_low"], point["ci_high"], tint)
                face = tint if point["is_on_front"] else "white"
                at = (point["x"], point["value"])
                axes.plot(*at, look.marker, color=tint, markerfacecolor=face, markersize=look.size, zorder=4)
            hollow = ["" if is_on_front else HOLLOW for is_on_front in own["is_on_front"]]
            numbers.keep(axes, look.name, own, "x", style.MUTED, "", look.marker, tints=tints, hollow=hollow)
        draw_rings(axes, rows[rows["identity"].isin(alike)], "x")
        if answer.best is not None and cost(answer.best.spent) > 0:
            at = (cost(answer.best.spent), answer.best.mean.value)
            axes.plot(*at, zorder=5, **RECOMMENDED)
            ring = rows[rows["cell"] == answer.best.name]
            numbers.keep(axes, "recommended", ring, "x", style.INK, "", "wide ring")
        style.sparse_log_ticks(axes, "x")
        spots = [(option, cost(option.spent)) for option in labelled if cost(option.spent) > 0]
        names = dict(zip((o.name for o in labelled), advice.short_names(labelled, answer.options), strict=True))
        pending.append((axes, [PointLabel(x, o.mean.value, names[o.name], _tint(o)) for o, x in spots]))
    values = [option.mean.value for option in options]
    for [axes] in grid:
        style.value_scale(axes, values, [o.mean.low for o in options if o.mean.low is not None])
        style.value_ticks(axes)
        axes.set_ylabel(style.upright(answer.metric.label))
    keys = looks.family_keys(look_of, [_family(option) for option in options])
    is_unknown = any(not (one.spent.flops > 0 and one.spent.images_per_second > 0) for one in options)
    keys.append(style.key(HOLLOW + (", or cost unknown" if is_unknown else ""), marker="o", **style.HOLLOW))
    keys.append(style.key("front of the means", color=style.FAINT, linestyle="-", linewidth=1.4))
    keys += [ring_key(is_tie=True)] if standing.is_tie else []
    if answer.best is not None:
        keys.append(style.key("recommended", **{**RECOMMENDED, "markersize": 11}))
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == answer.metric.metric)]
    others = rows["protocol"].nunique() > 1
    rows = rows[rows["protocol"] == answer.protocol]
    facts = f"{answer.metric.title}, n = {counted(rows['n'])} samples"
    notes = [ELSEWHERE if others else "", standing.note, *notes_of(study, rows, "evaluation")]
    style.finish(figure, findings.of_answer(answer, standing), [facts_of(study, rows, facts)], notes, keys)
    for axes, labels in pending:
        placing.place_labels(axes, labels, most_covered=MOST_COVERED)
    return figure


def _known(answer: Answer) -> list[Option]:
    return [option for option in answer.options if option.spent.flops > 0 or option.spent.images_per_second > 0]


def _labelled(answer: Answer, options: Sequence[Option]) -> list[Option]:
    """The cells that are named: the recommended one, the cheapest near it, and those on the front, the best first."""
    first = [option.name for option in (answer.best, answer.cheapest, answer.fastest) if option is not None]
    known = {option.name: option for option in options}
    names = dict.fromkeys([*first, *(option.name for option in options if option.is_on_front)])
    return [known[name] for name in names if name in known][:MOST_LABELS]


def _family(option: Option) -> str:
    return "" if option.cell is None else str(option.cell.axes.get("regulariser", ""))


def _tint(option: Option) -> str:
    return style.INK if option.cell is None else style.colour(option.cell.axes["f"])


def _rows(study: Study, options: Sequence[Option], cost: Callable[[Spent], float]) -> pd.DataFrame:
    """A row a cell: cost, mean with its interval, and what tells which cell it is."""
    found = [
        {
            "x": cost(option.spent),
            "value": option.mean.value,
            "ci_low": math.nan if option.mean.low is None else option.mean.low,
            "ci_high": math.nan if option.mean.high is None else option.mean.high,
            "n": option.mean.n,
            "f": 0 if option.cell is None else option.cell.axes["f"],
            "regulariser": _family(option),
            "steps": None if option.cell is None else option.cell.axes.get("steps"),
            "cell": option.name,
            "model": min(option.models),
            "identity": min(option.results),
            numbers.MADE: numbers.mean_of_trainings(len(option.models)),
            "is_on_front": option.is_on_front,
        }
        for option in options
    ]
    return pd.DataFrame(found)


def _on_front(cost: "pd.Series[float]", loss: "pd.Series[float]") -> "np.ndarray":
    """Which points no other one beats in both; of equals the first."""
    order = np.lexsort((loss, cost))
    best = np.minimum.accumulate(np.asarray(loss, float)[order])
    is_first = np.concatenate([[True], best[1:] < best[:-1]])
    found = np.zeros(len(order), bool)
    found[order] = is_first
    return found
