"""The frame that all figures of sample quality share: panels, floors, scales, legend, facts and notes."""

import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import limits, looks, numbers, overlays, placing, style
from analysis.collect import Study
from analysis.figures.floors import LOOKS, draw_marks, floor, floor_by_f, floor_key, floor_note
from analysis.figures.notes import counted, facts_of, listed, notes_of
from analysis.figures.panels import Panel, panels_of
from analysis.headline import Headline, chosen, compared_images, headline
from analysis.literature import Published
from analysis.placing import PointLabel
from ldm.records import DECODED, GAUSSIAN, REAL


def quality_figure(
    study: Study,
    title: str,
    draw: Callable[[Axes, Panel, Headline], list[PointLabel]],
    stage: str,
    *,
    note: str | Callable[[], str] = "",
    keys: Sequence[Line2D] = (),
    ends: bool = False,
    floors: bool = True,
    lines: Sequence[str] = (),
    overlay: tuple[str, str] | None = None,
    apart: Sequence[str] = (),
) -> Figure:
    """The frame that all quality figures share: panels, floors, scales, legend, facts and notes.

    `note`: where it is a function, called when the panels are drawn. `lines`: axes that tell lines apart, so that
    panels are split by f instead of them. `overlay`: the axis along which published numbers are drawn, and the one that
    tells their lines apart. `apart`: columns whose values never share a panel.
    """
    if study.metric is None:
        metric = headline(study.frame, stage)
    else:
        metric, stage = chosen(study.frame, study.metric, stage)
    rows = study.frame[(study.frame["stage"] == stage) & (study.frame["metric"] == (metric.metric if metric else ""))]
    if metric is None or rows.empty:
        figure, grid = style.new_figure(1, 1, 6.4, 3.6)
        style.empty(
            grid[0][0], f"no finished {stage} rows of {study.metric or 'a distance between samples and real images'}"
        )
        style.finish(figure, title, [facts_of(study, rows, "")], notes_of(study, rows, stage), [])
        return figure
    rows = rows.assign(limited=limits.is_limited(rows, limits.known(study)))
    panels, dropped = panels_of(rows, study.axes, lines, apart)
    columns = list(dict.fromkeys(panel.family for panel in panels))
    variants = list(dict.fromkeys(panel.variant for panel in panels))
    figure, grid = style.new_figure(
        len(variants), len(columns), 1.2 + 4.6 * len(columns), 3.9 * len(variants), sharex=True, sharey=True
    )
    for axes in (axes for line in grid for axes in line):
        axes.set_visible(False)
    pending: list[tuple[Axes, list[PointLabel]]] = []
    shown: list[Published] = []
    real = floor(study, REAL, metric)
    for panel in panels:
        axes = grid[variants.index(panel.variant)][columns.index(panel.family)]
        axes.set_visible(True)
        labels = draw(axes, panel, metric)
        if overlay is not None:
            published = overlays.behind(study, metric.metric, stage, overlay[0], (panel.family, "identity"))
            labels += overlays.draw(axes, published, *overlay, study.frame)
            shown += published
        if not real.empty:
            axes.axhline(float(real["value"].mean()), color=style.INK, linestyle="--", linewidth=1.1, zorder=1)
            numbers.keep_level(axes, f"real images (floor): {float(real['value'].mean()):.3g}", real, style.INK)
        if floors:
            for variant in LOOKS:
                draw_marks(axes, variant, floor_by_f(study, variant, metric, panel))
        heading = ", ".join(part for part in (study.axes.title("regulariser", panel.family), panel.variant) if part)
        wrapped = textwrap.fill(heading, style.TITLE_WIDTH, break_long_words=False)
        axes.set_title(wrapped if len(panels) > 1 else "", loc="left", color=style.INK)
        leftmost = next(p for p in panels if p.variant == panel.variant) is panel
        axes.tick_params(labelbottom=True, labelleft=leftmost)
        if leftmost:
            axes.set_ylabel(metric.label)
        pending.append((axes, labels))
    # The floor has no say: it lies decades below, and would press the models into a corner of a logarithmic axis.
    gaussian = floor(study, GAUSSIAN, metric)
    gaussian = gaussian[gaussian["first_stage"].isin(rows["first_stage"])]
    values = [*rows["value"], *gaussian["value"], *(number.value for number in shown)]
    style.value_scale(grid[0][0], values, rows["ci_low"].dropna().tolist())
    legend = looks.family_keys(
        looks.families(study.frame["regulariser"], study.axes.titles("regulariser")), rows["regulariser"]
    )
    is_hollow = any(panel.rows["limited"].any() for panel in panels)
    legend += [*keys, *([style.key("limited (see table.md)", marker="o", **style.HOLLOW)] if is_hollow else [])]
    legend += [*([overlays.key()] if shown else [])]
    if not real.empty:
        name = " against ".join(compared_images(study.protocols.get(real["protocol"].iloc[0], {})))
        legend.append(style.key(f"floor: {name}", color=style.INK, linestyle="--", linewidth=1.1))
    decoded = floor(study, DECODED, metric)
    if not decoded.empty:
        name = compared_images(study.protocols.get(decoded["protocol"].iloc[0], {}))[0]
        legend.append(floor_key(DECODED, f"floor: decoded {name}", floors))
    if not gaussian.empty:
        legend.append(floor_key(GAUSSIAN, "Gaussian, no network", floors))
    said = note if isinstance(note, str) else note()
    notes = [text for text in (said, floor_note(study, metric)) if text]
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
    least = 1.0 if lines else 0.75 if ends else 0.25
    margin = placing.label_margin([item for _, labels in pending for item in labels], least) if ends else least
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + (margin - least) * len(columns), height)
    style.finish(
        figure,
        title,
        [facts_of(study, rows, facts)],
        notes + notes_of(study, rows, stage),
        legend,
        margin=margin,
    )
    for axes, labels in pending:
        if ends:
            placing.end_labels(axes, labels)
        else:
            placing.place_labels(axes, labels)
    return figure
