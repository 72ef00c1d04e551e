"""The headline metric of milestones against the compression factor at three budgets: does the order depend on them?"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.panels import Panel, draw_line, end_label
from analysis.figures.quality import drawn_rows, quality_figure
from analysis.figures.standing import Standing, of_milestones
from analysis.headline import Headline
from analysis.milestones import sampled_with, with_flops
from analysis.placing import PointLabel

ALIKE = 0.1
"""A milestone stands for a budget that it misses by no more than this share."""


def has_data(study: Study) -> bool:
    """Whether trainings at several factors have several milestones each."""
    rows = study.frame[study.frame["stage"] == "progress"]
    return rows["f"].nunique() > 1 and bool((rows.groupby("model")["images_seen"].nunique() > 1).all())


def draw(study: Study) -> Figure:
    """The headline metric of milestones against the compression factor, one line a budget."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    is_of_flops = set(study.frame["budget"][study.frame["stage"] == "progress"]) == {"flops"}
    x = "spent" if is_of_flops else "images_seen"
    between: dict[str, None] = {}

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        rows = with_flops(study, panel.rows) if is_of_flops else panel.rows
        each = {(family, f): own.sort_values(x) for family, f, own in replace(panel, rows=rows).lines_of("f")}
        ends, budgets = [], three_budgets([list(own[x].astype(float)) for own in each.values()])
        for position, budget in enumerate(budgets):
            found = {key: at_budget(own, x, budget) for key, own in each.items()}
            name, shade = named(budget), f"{0.62 * (1 - position / max(1, len(budgets) - 1)):.3f}"
            if fs := [
                panel.named(key[0], f"f = {key[1]}", look_of) for key, (_, is_between) in found.items() if is_between
            ]:
                between[f"{' and '.join(fs)} at {name}"] = None
            reached = pd.DataFrame([row for row, _ in found.values() if row is not None])
            for family, line in replace(panel, rows=reached).by_family():
                if not line.empty:
                    told, line = panel.named(family, name, look_of), line.sort_values("f")
                    draw_line(axes, line, "f", told, shade, look_of, look_of[family].line)
                    ends.append(end_label(line, "f", told, shade))
        style.factor_axis(axes, sorted({int(f) for f in study.frame["f"].dropna()}))
        return ends

    def named(budget: float) -> str:
        return f"{budget:.2g} FLOPs" if is_of_flops else f"{budget:,.0f} images"

    def note() -> str:
        counted = "FLOPs of diffusion training alone" if is_of_flops else "images seen"
        said = [f"Budgets count {counted}; a milestone within {ALIKE:.0%} of a budget stands for it."]
        said += [f"Interpolated in the logarithm of the budget: {'; '.join(between)}."] if between else []
        return " ".join([*said, sampled_with(study)]).strip()

    def finding(standing: Standing, neutral: str) -> str:
        metric, _, rows = drawn_rows(study, "progress")
        rows = with_flops(study, rows)
        budgets = three_budgets([sorted(set(own[x].astype(float))) for _, own in rows.groupby("model")])
        if metric is None or not standing.best:
            return findings.of_factors(standing, neutral)
        at = {named(budget): _milestones_at(rows, x, budget) for budget in budgets}
        if any(own["model"].nunique() < rows["model"].nunique() for own in at.values()):
            return neutral  # what is interpolated has no interval to compare it by
        return findings.over_budgets({name: of_milestones(study, metric, own) for name, own in at.items()}, neutral)

    return quality_figure(
        study,
        "Sample quality against compression at three budgets",
        draw_panel,
        "progress",
        finding=finding,
        note=note,
        ends=True,
    )


def _milestones_at(rows: pd.DataFrame, x: str, budget: float) -> pd.DataFrame:
    """Of each training the milestone that stands for a budget, where it has one."""
    off = (rows[x].astype(float) / budget).map(math.log).abs()
    return rows[(off <= math.log(1 + ALIKE)) & (off == off.groupby(rows["model"]).transform("min"))]


def three_budgets(milestones: Sequence[Sequence[float]]) -> list[float]:
    """The smallest, the middle (in logarithm) and the largest budget that every training reaches, where it has one.

    Taken from the milestones of the training that has the fewest; empty where no budget is common.
    """
    if not milestones:
        return []
    low, high = max(map(min, milestones)) / (1 + ALIKE), min(map(max, milestones)) * (1 + ALIKE)
    common = sorted(each for each in min(milestones, key=len) if low <= each <= high)
    if not common:
        return []
    centre = math.sqrt(common[0] * common[-1])
    middle = min(common, key=lambda each: abs(math.log(each / centre)))
    return sorted({common[0], middle, common[-1]})


def at_budget(milestones: pd.DataFrame, x: str, budget: float) -> tuple[pd.Series | None, bool]:
    """The milestone at a budget, and whether it lies between two and is interpolated; None beyond the first and last.

    Such a one has no interval, and no number of images seen: it is no milestone.
    """
    rows = milestones.assign(distance=(milestones[x].astype(float) / budget).map(math.log))
    nearest = rows.iloc[int(rows["distance"].abs().to_numpy().argmin())]
    if abs(nearest["distance"]) <= math.log(1 + ALIKE):
        return nearest, False
    before, after = rows[rows["distance"] < 0], rows[rows["distance"] > 0]
    if before.empty or after.empty:
        return None, False
    low, high = before.iloc[-1], after.iloc[0]
    part = -low["distance"] / (high["distance"] - low["distance"])
    row = low.astype(object)
    row["value"] = low["value"] + part * (high["value"] - low["value"])
    row["ci_low"] = row["ci_high"] = row["images_seen"] = math.nan
    row[numbers.MADE] = ", ".join(filter(None, (row.get(numbers.MADE, ""), "interpolated")))
    return row, True
