"""The frame that all figures of sample quality share: panels, floors, scales, legend, facts and notes."""

import textwrap
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import limits, looks, numbers, overlays, placing, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.floors import LOOKS, draw_marks, floor, floor_by_f, floor_key, floor_note, has_place
from analysis.figures.notes import counted, facts_of, listed, mark_keys, notes_of
from analysis.figures.panels import PIXELS, Panel, panels_of
from analysis.figures.standing import Standing, last_milestones, of_milestones, of_samples
from analysis.headline import Headline, chosen, compared_images, floors_of, headline
from analysis.literature import Published
from analysis.placing import PointLabel
from ldm.records import DECODED, GAUSSIAN, REAL

WIDE, HIGH = 4.4, 3.3
"""Inches of a panel."""

NO_PLACE = "Floors that are not above 0 have no place on a logarithmic axis."

OVER_ALL = 2
"""Choices of other axes that stand above one another; more stand side by side, too."""


def quality_figure(
    study: Study,
    title: str,
    draw: Callable[[Axes, Panel, Headline], list[PointLabel]],
    stage: str,
    *,
    finding: Callable[[Standing, str], str] = findings.of_cells,
    note: str | Callable[[], str] = "",
    keys: Sequence[Line2D] = (),
    ends: bool = False,
    floors: bool = True,
    lines: Sequence[str] = (),
    overlay: tuple[str, str] | None = None,
    apart: Sequence[str] = (),
    each: str = "f",
    judged: Study | None = None,
) -> Figure:
    """The frame that all quality figures share: panels, floors, scales, the best cells' rings, legend, facts and notes.

    `title`: where there is nothing to say of how the cells stand, else `finding` says it. `note`: where it is a
    function, called when the panels are drawn. `lines`: axes that tell lines apart, so that panels are split by f
    instead of them. `overlay`: the axis along which published numbers are drawn, and the one that tells their lines
    apart. `apart`: columns whose values never share a panel. `each`: the column of which each value has a line.
    `judged`: the study that says how cells stand and what limits them, where what is drawn repeats rows of it.
    """
    metric, stage, rows = drawn_rows(study, stage)
    if metric is None or rows.empty:
        figure, grid = style.new_figure(1, 1, style.COLUMN, HIGH)
        style.empty(
            grid[0][0], f"no finished {stage} rows of {study.metric or 'a distance between samples and real images'}"
        )
        style.finish(figure, title, [facts_of(study, rows, "")], notes_of(study, rows, stage), [])
        return figure
    judged = study if judged is None else judged
    is_of_milestones = stage == "progress"
    standing = of_milestones(judged, metric, last_milestones(rows)) if is_of_milestones else of_samples(judged, metric)
    rows = rows.assign(limited=limits.is_limited(rows, limits.known(judged)), is_best=standing.has_best(rows))
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    panels, dropped = panels_of(rows, study.axes, lines, apart, each)
    places, is_joint = _places(panels), any(len(panel.families) > 1 for panel in panels)
    high, wide = (max(place[way] for place in places) + 1 for way in (0, 1))
    size = (style.COLUMN + WIDE * (wide - 1), HIGH * high)
    figure, grid = style.new_figure(high, wide, *size, sharex=True, sharey=True)
    for line, column in {(line, column) for line in range(high) for column in range(wide)} - set(places):
        grid[line][column].remove()
    pending: list[tuple[Axes, list[PointLabel]]] = []
    behind: list[list[Published]] = [
        overlays.behind(study, metric.metric, stage, overlay[0], (*panel.families, PIXELS)) if overlay else []
        for panel in panels
    ]
    shown = [number for published in behind for number in published]
    # The floor has no say: it lies decades below, and would press the models into a corner of a logarithmic axis.
    gaussian = floor(study, GAUSSIAN, metric)
    gaussian = gaussian[gaussian["first_stage"].isin(rows["first_stage"])]
    values = [*rows["value"], *gaussian["value"], *(number.value for number in shown)]
    style.value_scale(grid[0][0], values, rows["ci_low"].dropna().tolist())
    real = floor(study, REAL, metric)
    for panel, published, (line, column) in zip(panels, behind, places, strict=True):
        axes = grid[line][column]
        labels = draw(axes, panel, metric)
        if overlay is not None:
            labels += overlays.draw(axes, published, *overlay, study.frame)
        if has_place(axes, real["value"].mean()):
            axes.axhline(float(real["value"].mean()), color=style.INK, linestyle="--", linewidth=1.1, zorder=1)
            numbers.keep_level(axes, f"real images (floor): {float(real['value'].mean()):.3g}", real, style.INK)
        for family, own in panel.by_family() if floors else []:
            name = look_of[family].name if is_joint else ""
            for variant in LOOKS:
                draw_marks(axes, variant, floor_by_f(study, variant, metric, own), name)
        heading = "" if is_joint else look_of[panel.families[0]].name
        wrapped = textwrap.fill(
            ", ".join(filter(None, (heading, panel.variant))), style.TITLE_WIDTH, break_long_words=False
        )
        axes.set_title(wrapped if len(panels) > 1 else "", loc="left", color=style.INK)
        is_first = column == min(place[1] for place in places if place[0] == line)
        axes.tick_params(labelbottom=True, labelleft=is_first)
        if is_first:
            axes.set_ylabel(style.upright(metric.label))
        pending.append((axes, labels))
    style.value_ticks(grid[0][0])
    drawn = pd.concat([panel.rows for panel in panels])
    legend = [*looks.family_keys(look_of, rows["regulariser"]), *keys, *mark_keys(drawn, standing)]
    legend += [*([overlays.key()] if shown else [])]
    if has_place(grid[0][0], real["value"].mean()):
        name = " against ".join(compared_images(study.protocols.get(real["protocol"].iloc[0], {})))
        legend.append(style.key(f"floor: {name}", color=style.INK, linestyle="--", linewidth=1.1))
    decoded = floor(study, DECODED, metric)
    if not decoded.empty:
        name = compared_images(study.protocols.get(decoded["protocol"].iloc[0], {}))[0]
        legend.append(floor_key(DECODED, f"floor: decoded {name}", floors))
    if not gaussian.empty:
        legend.append(floor_key(GAUSSIAN, "Gaussian, no network", floors))
    said = note if isinstance(note, str) else note()
    placeless = grid[0][0].get_yscale() == "log" and bool((floors_of(study.frame, metric.metric)["value"] <= 0).any())
    notes = [said, floor_note(study, metric), NO_PLACE if placeless else ""]
    if overlay is not None and study.published:
        told = [axis.replace("_", " ") for axis in overlay]
        notes.append(overlays.note(shown, rows, study.protocols, metric.title, told))
        if shown and overlay[0] == "sample_images_per_second":
            notes.append("Their speeds are of one A100 at a batch that is not stated.")
    if dropped:
        notes.append(f"Not drawn, see table.md: {'; '.join(dropped)}.")
    reference = {study.protocols[key]["n_reference"] for key in rows["protocol"] if key in study.protocols}
    against = f" against {listed(sorted(reference))} reference images" if reference else ""
    facts = f"{metric.title}, n = {counted(rows['n'])} samples{against}"
    if ends:
        written = [labels for _, labels in pending]
        broad = size[0] + wide * placing.width_for(written)
        figure.set_size_inches(broad, high * max(HIGH, placing.height_for(written)))
    style.finish(
        figure,
        finding(standing, title),
        [facts_of(study, rows, facts)],
        [standing.note, *notes_of(study, rows, stage), *notes],
        legend,
    )
    if ends:
        placing.end_labels(pending)
    else:
        for axes, labels in pending:
            placing.place_labels(axes, labels)
    return figure


def drawn_rows(study: Study, stage: str) -> tuple[Headline | None, str, pd.DataFrame]:
    """The metric that a figure of this stage draws, the stage that it is measured in, and its rows."""
    metric = headline(study.frame, stage)
    if study.metric is not None:
        metric, stage = chosen(study.frame, study.metric, stage)
    name = metric.metric if metric else ""
    return metric, stage, study.frame[(study.frame["stage"] == stage) & (study.frame["metric"] == name)]


def _places(panels: Sequence[Panel]) -> list[tuple[int, int]]:
    """Line and column of each panel: a line a choice and a column a regulariser, or where all share panels in lines."""
    families = list(dict.fromkeys(panel.families for panel in panels))
    variants = list(dict.fromkeys(panel.variant for panel in panels))
    if len(panels) > len(variants):
        return [(variants.index(panel.variant), families.index(panel.families)) for panel in panels]
    return [divmod(index, 1 if len(panels) <= OVER_ALL else 2) for index in range(len(panels))]
