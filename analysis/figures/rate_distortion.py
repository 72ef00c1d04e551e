"""First stages in the plane of bits per pixel against distortion, with codecs on the same images."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, overlays, placing, protocols, rates, style
from analysis.axes import is_given
from analysis.codecs import Codec, codec_curves, codec_marks, codec_note, codecs
from analysis.collect import Study
from analysis.compare import SeedFactor, one_cell, seed_factor
from analysis.figures.notes import counted, facts_of, listed, notes_of
from analysis.figures.panels import mean_of
from analysis.labels import named_value, told_apart
from analysis.looks import Family, Named
from analysis.placing import PointLabel
from analysis.rate_curves import RateCurve, rate_curves


@dataclass(frozen=True)
class CodedLatents:
    """KL latents quantised and coded: (bits per pixel, RMSE on 0-255, PSNR or None) of each step, finest first."""

    label: str
    f: int
    points: tuple[tuple[float, float, float | None], ...]


@dataclass(frozen=True)
class RateAxes:
    """What both panels share: first stages and how they are told apart and drawn, and the codecs' curves."""

    points: pd.DataFrame
    axes: Sequence[str]
    letters: Mapping[str, str]
    look_of: Mapping[str, Family]
    curves: Mapping[tuple[str, str], Sequence[Codec]]
    codec_of: Mapping[str, Named]


def draw(study: Study) -> Figure:
    """First stages in the plane of bits per pixel against distortion, with codecs on the same images."""
    rows = study.frame[study.frame["stage"] == "reconstruction"]
    measured, coded, widened = codecs(study), coded_latents(study), rate_curves(study)
    curves = codec_curves(measured)
    look_of, codec_of = (
        looks.families(study.frame["regulariser"], study.axes.titles("regulariser")),
        looks.codecs(name for name, _ in curves),
    )
    figure, grid = style.new_figure(2, 1, style.COLUMN, 2 * 3.5, sharex=True)
    points = _rate_points(rows, study.axes.first_stage)
    distortions = rows[rates.is_distortion(rows)]
    mixed = protocols.mixed(distortions)
    letters = {name: mark for name, mark in protocols.letters(study.frame).items() if name in mixed}
    present = [name for name in look_of if not points.empty and name in set(points["regulariser"])]
    named = rates.short(present, study.axes, rows)
    keys = looks.family_keys(look_of, present)
    if not points.empty:
        keys.append(style.key("cruder bound", marker="o", **style.HOLLOW))
    keys += [
        style.key(look.name, color=look.colour, linestyle=":", linewidth=1.8)
        for name, look in codec_of.items()
        if name in {codec for (codec, _), curve in curves.items() if not _is_lossless(curve)}
    ]
    if coded:
        keys.append(style.key("KL latents in steps, coded", marker=".", color=style.MUTED, linestyle=":"))
    if widened:
        keys.append(style.key("posteriors of other widths (dots: coded)", marker=".", color=style.MUTED, linestyle="-"))
    shared = RateAxes(points, study.axes.first_stage, letters, look_of, curves, codec_of)
    pending: list[tuple[Axes, list[PointLabel]]] = []
    for axes, column, label in (
        (grid[0][0], "rmse", "distortion: RMSE on 0–255 (lower is better)"),
        (grid[1][0], "psnr", "PSNR in dB (higher is better)"),
    ):
        axes.set_ylabel(label)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("rate in bits per pixel")
        if points.empty and not curves:
            style.empty(axes, "no first stage with a rate is finished")
            continue
        axes.set_xscale("log")
        pending.append((axes, _draw_rate_panel(axes, column, shared)))
        _draw_rate_curves(axes, column, widened)
        pending[-1][1].extend(_draw_coded_latents(axes, column, coded))
        if column == "psnr":
            pending[-1][1].extend(overlays.draw_rates(axes, study.published))
        style.sparse_log_ticks(axes, "x")
    notes = rates.notes(present, study.axes, rows)
    if study.published:
        drawn = [number for number in study.published if number.metric == "psnr" and number.index_bits_per_pixel]
        notes.append(
            overlays.note(drawn, distortions[distortions["metric"] == "psnr"], study.protocols, "PSNR")
            + " Their rate is log2 of the codebook size; of KL models none is published."
        )
        keys.append(overlays.key())
    n = counted(distortions["n"] if not distortions.empty else [point.n for point in measured])
    style.finish(
        figure,
        "Rate against distortion of the first stages",
        [facts_of(study, distortions, f"n = {n} held-out images")],
        [
            *notes_of(study, distortions, "reconstruction"),
            f"Rates: {listed([*named, 'codecs without headers'])}.",
            *codec_note(curves),
            *notes,
            *_rate_curve_note(widened),
        ],
        keys,
    )
    for axes, labels in pending:
        placing.place_labels(axes, labels)
    return figure


def coded_latents(study: Study) -> list[CodedLatents]:
    """The latents that the coding stage quantised in several steps."""
    found = []
    for one in study.finished:
        steps = [point for point in one.record.facts.get("quantised", ()) if point["step"] is not None]
        points = tuple((point["bits_per_pixel"], point["rmse255"], point["psnr"]) for point in steps)
        if points:
            found.append(CodedLatents(one.label, int(one.cell.axes["f"]), points))
    return found


def _draw_coded_latents(axes: Axes, column: str, coded: Sequence[CodedLatents]) -> list[PointLabel]:
    """KL latents in coarser and coarser steps, in the colour of their f; labels where several have the same f."""
    labels, factors = [], [latents.f for latents in coded]
    for latents in coded:
        at, rmse, psnr = zip(*latents.points, strict=True)
        heights = rmse if column == "rmse" else [math.nan if value is None else value for value in psnr]
        tint = style.colour(latents.f)
        axes.plot(at, heights, ":", color=tint, linewidth=1.1, marker=".", markersize=4, zorder=1)
        drawn = pd.DataFrame({"x": at, "value": heights, "f": latents.f})
        numbers.keep(axes, f"{latents.label}, latents in steps, coded", drawn, "x", tint, ":", ".")
        if factors.count(latents.f) > 1 and math.isfinite(heights[-1]):
            labels.append(PointLabel(at[-1], heights[-1], latents.label, tint))
    return labels


def _draw_rate_curves(axes: Axes, column: str, curves: Sequence[RateCurve]) -> None:
    """Each first stage over the widths of its posteriors, through its point as it was trained, which names it."""
    error = "rmse255" if column == "rmse" else column
    for curve in curves:
        tint = style.colour(curve.f)
        at, heights = curve.along(error)
        axes.plot(at, heights, "-", color=tint, linewidth=1.3, zorder=2)
        drawn = pd.DataFrame({"x": at, "value": heights, "f": curve.f})
        numbers.keep(axes, f"{curve.label}, posteriors of other widths", drawn, "x", tint, "-")
        axes.plot(*curve.along(error, "coded_"), ".", color=tint, markersize=4.5, zorder=2)


def _rate_curve_note(curves: Sequence[RateCurve]) -> list[str]:
    """What was swept; nothing where there are no curves."""
    n = counted(point["n"] for curve in curves for point in curve.points)
    return [
        "Lines through KL points: posteriors of one width a channel, that of training, times a factor, up to twice the "
        f"error (n = {n}); dots: their means, rounded to steps of that variance, as an entropy coder sends them."
    ][: len(curves)]


def _rate_points(rows: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row a first stage, its seeds averaged: axes, and value and interval of rate, cruder rate, RMSE and PSNR."""
    rows = rates.rates_and_distortions(rows)
    if rows.empty:
        return pd.DataFrame()
    # Rate and distortion of one record may follow different protocols; what must not be averaged are different sets.
    measured = rows.groupby("identity")["protocol"].transform(lambda ids: " ".join(sorted(set(ids))))
    factors = _seed_factors(rows, axes)
    keys = [*axes, "measured"]
    found = []
    for _, own in rows.assign(measured=measured).groupby(keys, dropna=False):
        point: dict[Any, Any] = own.iloc[0][[*keys, "first_stage", "identity"]].to_dict()
        point[numbers.MADE] = numbers.mean_of_trainings(own["identity"].nunique())
        for name, values in {
            "rate": rates.rate(own),
            "crude": rates.cruder_rate(own),
            "rmse": rates.distortion(own, "rmse255"),
            "psnr": rates.distortion(own, "psnr"),
        }.items():
            mean = mean_of(values, factors[values["metric"].iloc[0]]) if len(values) else (math.nan,) * 3
            point |= dict(zip((name, f"{name}_low", f"{name}_high"), mean, strict=True))
        if math.isfinite(point["rate"]):
            found.append(point)
    return pd.DataFrame(found)


def _seed_factors(rows: pd.DataFrame, axes: Sequence[str]) -> dict[str, SeedFactor]:
    """Of each metric how much its values vary over seeds, pooled over first stages."""
    keys = [*axes, "protocol"]
    return {
        str(metric): seed_factor([one_cell(cell) for _, cell in own.groupby(keys, dropna=False)])
        for metric, own in rows.groupby("metric")
    }


def _draw_rate_panel(axes: Axes, column: str, shared: RateAxes) -> list[PointLabel]:
    return [
        *_draw_codecs(axes, column, shared),
        *_draw_first_stages(axes, column, shared),
        *_draw_lossless(axes, column, shared),
    ]


def _is_lossless(curve: Sequence[Codec]) -> bool:
    return curve[0].psnr is None


def _draw_codecs(axes: Axes, column: str, shared: RateAxes) -> list[PointLabel]:
    labels, marks = [], codec_marks(shared.curves)
    for (name, images), curve in shared.curves.items():
        if _is_lossless(curve):
            continue
        heights = [point.rmse255 if column == "rmse" else point.psnr or math.nan for point in curve]
        sizes, look = [point.bits_per_pixel for point in curve], shared.codec_of[name]
        axes.plot(sizes, heights, ":", color=look.colour, linewidth=1.8, marker=".", markersize=3.5, zorder=1)
        drawn = pd.DataFrame({"x": sizes, "value": heights})
        numbers.keep(axes, look.name + marks[images], drawn, "x", look.colour, ":", ".", is_beside=True)
        if marks[images]:
            labels.append(PointLabel(sizes[-1], heights[-1], look.name + marks[images], look.colour))
    return labels


def _draw_first_stages(axes: Axes, column: str, shared: RateAxes) -> list[PointLabel]:
    """A line a regulariser, each point with its intervals and the cruder bound of its rate."""
    labels: list[PointLabel] = []
    if shared.points.empty:
        return labels
    apart = told_apart(shared.points, shared.axes)
    for regulariser, own in shared.points.groupby("regulariser", sort=False):
        drawn = own[own[column].map(math.isfinite)].sort_values("f")
        look = shared.look_of[str(regulariser)]
        renamed = {f"{column}_{end}": f"ci_{end}" for end in ("low", "high")}
        renamed |= {f"rate_{end}": f"x_{end}" for end in ("low", "high")}
        for _, line in drawn.groupby([*apart, "measured"], sort=False, dropna=False):
            axes.plot(line["rate"], line[column], color=style.FAINT, linestyle=look.line, linewidth=1.3, zorder=1)
            name = look.name + _suffix(line.iloc[0].to_dict(), apart, shared.letters)
            tints = [style.colour(f) for f in line["f"]]
            shown = line.rename(columns=renamed)
            numbers.keep(axes, name, shown, "rate", style.MUTED, look.line, look.marker, column, tints, group=look.name)
        for point in drawn.to_dict("records"):
            tint, at = style.colour(point["f"]), (point["rate"], point[column])
            if math.isfinite(point["crude"]):
                axes.plot([point["rate"], point["crude"]], [at[1]] * 2, color=tint, linewidth=0.7, alpha=0.55, zorder=1)
                axes.plot(
                    point["crude"],
                    at[1],
                    look.marker,
                    color=tint,
                    markersize=4,
                    markerfacecolor="white",
                    zorder=3,
                    clip_on=False,
                )
            style.interval(axes, at[0], at[1], point[f"{column}_low"], point[f"{column}_high"], tint)
            style.interval(axes, at[0], at[1], point["rate_low"], point["rate_high"], tint, horizontal=True)
            axes.plot(*at, look.marker, color=tint, markersize=look.size, zorder=4, clip_on=False)
            labels.append(PointLabel(*at, f"f = {point['f']}" + _suffix(point, apart, shared.letters), tint))
    return labels


def _draw_lossless(axes: Axes, column: str, shared: RateAxes) -> list[PointLabel]:
    """Where no error is: ticks at RMSE 0, and since PSNR is infinite there, a text."""
    labels, marks, points = [], codec_marks(shared.curves), shared.points
    lossless = {
        shared.codec_of[name].name + marks[images]: items[0]
        for (name, images), items in shared.curves.items()
        if _is_lossless(items)
    }
    pixels = points[points["regulariser"] == "identity"] if not points.empty else points
    if column == "rmse":
        axes.set_ylim(bottom=0)
        for name, item in lossless.items():
            axes.plot(item.bits_per_pixel, 0, "|", color=style.MUTED, markersize=13, markeredgewidth=1.6, clip_on=False)
            labels.append(PointLabel(item.bits_per_pixel, 0, name, style.MUTED))
    elif len(pixels) or lossless:
        names = [f"{name} {item.bits_per_pixel:.1f}" for name, item in lossless.items()]
        text = "lossless (infinite PSNR), bits per pixel:\n" + textwrap.fill(", ".join(names), style.TITLE_WIDTH)
        axes.text(0.03, 0.97, text, transform=axes.transAxes, ha="left", va="top", fontsize=8.4, color=style.MUTED)
    return labels


def _suffix(point: Mapping[Any, Any], apart: Sequence[str], letters: Mapping[str, str]) -> str:
    """What tells first stages of the same f apart, and where they are mixed the protocol."""
    named = [named_value(axis, point[axis]) for axis in apart if is_given(point[axis])]
    marks = sorted({letters[name] for name in point["measured"].split() if name in letters})
    return ", ".join(["", *named]) + (f" ({', '.join(marks)})" if marks else "")
