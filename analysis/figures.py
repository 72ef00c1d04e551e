"""The trade-off figures; each takes a study and returns a figure, with a note in place of what has no data."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import overlays, protocols, settings, speeds, style
from analysis.collect import (
    ALL_AXES,
    FIRST_STAGE_AXES,
    REFERENCE_AXES,
    TUNED,
    Codec,
    CodedLatents,
    Study,
    codec_curves,
    family_name,
)
from analysis.compare import SeedFactor, by_cell, mean_over_seeds, one_cell, seed_factor
from analysis.labels import codec_marks, codec_note, is_given, named_value, told_apart
from analysis.papers import Published
from analysis.progressive import progressive_coding
from analysis.style import PointLabel
from ldm.errors import UserError

MANY_SAMPLES = 5000
"""From here on the Frechet distance is the headline; below, its bias at small n exceeds most differences."""

KERNEL = ("kd_", "kid")
"""How the names of kernel distances begin; these have no bias that depends on n."""

WINDOW = "window_"
"""Before the name of a metric that was measured on windows of samples larger than the training images."""

DISTANCE = r"(fd_(?!infinity)|kd_|fid$|kid$)"
"""Names of what may be the headline."""

METRIC_NAMES = {
    "fd_infinity": "Fréchet distance at infinite n",
    "fd": "Fréchet distance",
    "sfd": "spatial Fréchet distance",
    "kd": "kernel distance",
    "cmmd": "CMMD",
    "is": "inception-score formula",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "clipped_density": "clipped density",
    "clipped_coverage": "clipped coverage",
}
STANDARD_NAMES = {"fid_infinity": "FID at infinite n", "fid": "FID", "sfid": "sFID", "kid": "KID", "is": "IS"}
EXTRACTOR_NAMES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "inception": "Inception-v3",
    "dinov2": "DINOv2",
    "clip": "CLIP",
}
RATE_OF = {
    "kl": ("rate_kl_fitted", "rate_kl_prior", "rmse255_sample", "psnr_sample"),
    "vq": ("rate_index_crossentropy", "rate_index_log2", "rmse255", "psnr"),
    "identity": ("rate_lossless", "rate_raw", "rmse255", "psnr"),
    "none": ("", "", "rmse255", "psnr"),
}
"""By regulariser: the rate that is drawn, the cruder one, and the distortion of what that rate codes (KL: a sample).

Latents that are neither drawn nor quantised have no rate.
"""


def rate_metrics(regulariser: str) -> tuple[str, str, str, str]:
    """The entry of `RATE_OF`.

    Raises: UserError for a regulariser whose rate is not known.
    """
    if regulariser not in RATE_OF:
        raise UserError(
            f"No rate is known of regulariser '{regulariser}': add it to RATE_OF in analysis/figures.py "
            f"(known: {', '.join(RATE_OF)})."
        )
    return RATE_OF[regulariser]


RATE_NOTES = {
    "kl": "KL = rate_kl_fitted (KL to a Gaussian fitted per channel) with the distortion of a posterior sample, "
    "hollow rate_kl_prior (KL to N(0, I))",
    "vq": "VQ = rate_index_crossentropy, hollow rate_index_log2 (log2 of the codebook size)",
    "identity": "pixels = rate_lossless, hollow rate_raw (24 bits per pixel)",
}
OF_FIRST_STAGE = [axis for axis in (*REFERENCE_AXES, *FIRST_STAGE_AXES) if axis not in ("extractor", "ae_seed")]
"""Axes that make a first stage and its images another one, and not the same one trained or judged again."""

OF_COMPRESSION = ("channels", "ae_weights", settings.OF_FIRST_STAGE)
"""Axes of first stages that pixels have no choice of."""

RATE_SHORT = {"kl": "KL fitted", "vq": "VQ cross-entropy"}
SEEDS = {"seed": "training seeds", "ae_seed": "first-stage seeds", "sampler_seed": "sampler seeds"}
SMALL_PANELS = 4
TITLE_WIDTH = 52
"""Characters of a panel's title on a line."""


@dataclass(frozen=True)
class Headline:
    """The metric that stands for quality in figures and table; `floor` metrics are the same of real images."""

    metric: str
    n: int

    @property
    def title(self) -> str:
        """As it is written on an axis."""
        return metric_title(self.metric)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel distance, else a Frechet distance."""
        return _is_kernel(self.metric)

    @property
    def real(self) -> str:
        """Its floor: real images of the split that is not the reference."""
        return f"real_{self.metric}"

    @property
    def decoded(self) -> str:
        """Its floor: the same images encoded and decoded."""
        return f"decoded_{self.metric}"


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: a regulariser (and the identity, which belongs to both), one choice of all other axes."""

    family: str
    variant: str
    rows: pd.DataFrame


def headline(frame: pd.DataFrame, stage: str = "evaluation") -> Headline | None:
    """The kernel distance below 5000 samples, else the Frechet distance, of the cells' own extractor with most rows.

    Distances of windows count where there are none of whole samples.
    """
    rows = frame[frame["stage"] == stage]
    distances = rows[rows["metric"].str.match(DISTANCE)]
    if distances.empty:
        distances = rows[rows["metric"].str.match(WINDOW + DISTANCE)]
    if distances.empty:
        return None
    extractors = distances["metric"].map(_extractor)
    if (is_own := extractors == distances["extractor"]).any():  # not of those that judge beside it
        distances, extractors = distances[is_own], extractors[is_own]
    chosen = extractors.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable").index[0]
    own = distances[extractors == chosen]
    n = int(own["n"].min())
    kernel = own["metric"].map(_is_kernel)
    wanted = own[kernel if n < MANY_SAMPLES else ~kernel]
    metric = (wanted if not wanted.empty else own)["metric"].iloc[0]
    return Headline(str(metric), n)


def _is_kernel(metric: str) -> bool:
    return metric.removeprefix(WINDOW).startswith(KERNEL)


def _extractor(metric: str) -> str:
    """The network of a distance; the names without one stand for the standard Inception weights."""
    return metric.removeprefix(WINDOW).partition("_")[2] or "inception"


def metric_title(metric: str) -> str:
    """A metric's name in words, e.g. "kernel distance, EfficientNet-Lite2"."""
    if metric.startswith(WINDOW):
        return f"{metric_title(metric.removeprefix(WINDOW))}, windows of larger samples"
    if metric in STANDARD_NAMES:
        return STANDARD_NAMES[metric]
    kind = next((name for name in METRIC_NAMES if metric.startswith(f"{name}_")), None)
    if kind is None:
        return metric
    extractor = metric.removeprefix(f"{kind}_")
    return f"{METRIC_NAMES[kind]}, {EXTRACTOR_NAMES.get(extractor, extractor)}"


def compared_images(protocol: Mapping[str, Any]) -> tuple[str, str]:
    """Which real images were measured, and which they were compared with, e.g. "training images", "held-out images"."""
    splits = {"train": "training images", "heldout": "held-out images"}
    measured = str(protocol.get("class_balance", "real images")).removeprefix("as in the ")
    return measured, splits.get(protocol.get("reference", ""), "images that no record names")


def rate_distortion(study: Study) -> Figure:
    """First stages in the plane of bits per pixel against distortion, with codecs on the same images."""
    rows = study.frame[study.frame["stage"] == "reconstruction"]
    curves = codec_curves(study.codecs)
    figure, grid = style.new_figure(1, 2, 10.2, 4.5, sharex=True)
    points = _rate_points(rows)
    distortions = rows[rows["metric"].isin([name for names in RATE_OF.values() for name in names[2:]])]
    mixed = protocols.mixed(distortions)
    letters = {name: mark for name, mark in protocols.letters(study.frame).items() if name in mixed}
    present = [name for name in RATE_OF if not points.empty and name in set(points["regulariser"])]
    named = [RATE_SHORT[name] for name in present if name in RATE_SHORT]
    keys = style.family_keys(present)
    if not points.empty:
        keys.append(style.key("cruder bound", marker="o", color=style.MUTED, markerfacecolor="white"))
    keys += [
        style.key(style.CODEC_NAME[name], color=style.CODEC_COLOUR[name], linestyle=":", linewidth=1.8)
        for name in style.CODEC_COLOUR
        if name in {codec for codec, _ in curves}
    ]
    if study.coded_latents:
        keys.append(style.key("KL latents in steps, coded", marker=".", color=style.MUTED, linestyle=":"))
    pending: list[tuple[Axes, list[PointLabel]]] = []
    for axes, column, label in (
        (grid[0][0], "rmse", "distortion: RMSE on 0–255 (lower is better)"),
        (grid[0][1], "psnr", "PSNR in dB (higher is better)"),
    ):
        axes.set_ylabel(label)
        axes.set_xlabel(f"rate in bits per pixel\n({_listed([*named, 'codecs without headers'])})")
        if points.empty and not curves:
            style.empty(axes, "no first stage with a rate is finished")
            continue
        axes.set_xscale("log")
        pending.append((axes, _draw_rate_panel(axes, column, points, curves, letters)))
        pending[-1][1].extend(_draw_coded_latents(axes, column, study.coded_latents))
        if column == "psnr":
            pending[-1][1].extend(overlays.draw_rates(axes, study.published))
        style.sparse_log_ticks(axes, "x")
    notes = _rate_note(present)
    if study.published:
        drawn = [number for number in study.published if number.metric == "psnr" and number.index_bits_per_pixel]
        notes.append(
            overlays.note(drawn, distortions[distortions["metric"] == "psnr"], study.protocols, "PSNR")
            + " Their rate is log2 of the codebook size; of KL models none is published."
        )
        keys.append(overlays.key())
    n = _counts(distortions["n"] if not distortions.empty else [point.n for point in study.codecs])
    style.finish(
        figure,
        "Rate against distortion of the first stages",
        [_facts(study, distortions, f"n = {n} held-out images")],
        [*notes, *codec_note(curves), *_notes(study, distortions, "reconstruction")],
        keys,
    )
    for axes, labels in pending:
        style.place_labels(axes, labels)
    return figure


def _draw_coded_latents(axes: Axes, column: str, coded: Sequence[CodedLatents]) -> list[PointLabel]:
    """KL latents in coarser and coarser steps, in the colour of their f; labels where several have the same f."""
    labels, factors = [], [latents.f for latents in coded]
    for latents in coded:
        rates, rmse, psnr = zip(*latents.points, strict=True)
        heights = rmse if column == "rmse" else [math.nan if value is None else value for value in psnr]
        tint = style.colour(latents.f)
        axes.plot(rates, heights, ":", color=tint, linewidth=1.1, marker=".", markersize=4, zorder=1)
        if factors.count(latents.f) > 1 and math.isfinite(heights[-1]):
            labels.append(PointLabel(rates[-1], heights[-1], latents.label, tint))
    return labels


def _rate_note(regularisers: Sequence[str]) -> list[str]:
    """Which rate and which distortion stand in the figure."""
    return [f"Rates: {'; '.join(RATE_NOTES[name] for name in regularisers)}."] if regularisers else []


def _rate_points(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a first stage, its seeds averaged: axes, and value and interval of rate, cruder rate, RMSE and PSNR."""
    names = ("rate", "crude", "rmse", "psnr")
    rows = rows[rows["metric"].isin([metric for metrics in RATE_OF.values() for metric in metrics])]
    if rows.empty:
        return pd.DataFrame()
    # Rate and distortion of one record may follow different protocols; what must not be averaged are different sets.
    measured = rows.groupby("identity")["protocol"].transform(lambda ids: " ".join(sorted(set(ids))))
    factors = _seed_factors(rows)
    keys = [*OF_FIRST_STAGE, "measured"]
    found = []
    for _, own in rows.assign(measured=measured).groupby(keys, dropna=False):
        point: dict[Any, Any] = own.iloc[0][keys].to_dict()
        for name, metric in zip(names, rate_metrics(point["regulariser"]), strict=True):
            values = own[own["metric"] == metric]
            mean = _mean(values, factors[metric]) if len(values) else (math.nan,) * 3
            point |= dict(zip((name, f"{name}_low", f"{name}_high"), mean, strict=True))
        if math.isfinite(point["rate"]):
            found.append(point)
    return pd.DataFrame(found)


def _seed_factors(rows: pd.DataFrame) -> dict[str, SeedFactor]:
    """Of each metric how much its values vary over seeds, pooled over first stages."""
    keys = [*OF_FIRST_STAGE, "protocol"]
    return {
        str(metric): seed_factor([one_cell(cell) for _, cell in own.groupby(keys, dropna=False)])
        for metric, own in rows.groupby("metric")
    }


def _draw_rate_panel(
    axes: Axes,
    column: str,
    points: pd.DataFrame,
    curves: Mapping[tuple[str, str], Sequence[Codec]],
    letters: Mapping[str, str],
) -> list[PointLabel]:
    labels: list[PointLabel] = []
    apart = told_apart(points, OF_FIRST_STAGE) if not points.empty else []
    marks = codec_marks(curves)
    for (name, images), curve in curves.items():
        if name not in style.CODEC_COLOUR:
            continue
        heights = [point.rmse255 if column == "rmse" else point.psnr or math.nan for point in curve]
        rates, tint = [point.bits_per_pixel for point in curve], style.CODEC_COLOUR[name]
        axes.plot(rates, heights, ":", color=tint, linewidth=1.8, marker=".", markersize=3.5, zorder=1)
        if marks[images]:
            labels.append(PointLabel(rates[-1], heights[-1], style.CODEC_NAME[name] + marks[images], tint))
    for regulariser, own in points.groupby("regulariser", sort=False) if not points.empty else ():
        drawn = own[own[column].map(math.isfinite)].sort_values("f")
        look = style.family(str(regulariser))
        for _, line in drawn.groupby([*apart, "measured"], sort=False, dropna=False):
            axes.plot(line["rate"], line[column], color=style.FAINT, linestyle=look.line, linewidth=1.3, zorder=1)
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
            labels.append(PointLabel(*at, f"f = {point['f']}" + _suffix(point, apart, letters), tint))
    lossless = {
        style.CODEC_NAME[name] + marks[images]: items[0]
        for (name, images), items in curves.items()
        if items[0].psnr is None
    }
    pixels = points[points["regulariser"] == "identity"] if not points.empty else points
    if column == "rmse":
        axes.set_ylim(bottom=0)
        for name, item in lossless.items():
            axes.plot(item.bits_per_pixel, 0, "|", color=style.MUTED, markersize=13, markeredgewidth=1.6, clip_on=False)
            labels.append(PointLabel(item.bits_per_pixel, 0, name, style.MUTED))
    elif len(pixels) or lossless:
        names = [f"{name} {item.bits_per_pixel:.1f}" for name, item in lossless.items()]
        text = "lossless (infinite PSNR), bits per pixel:\n" + textwrap.fill(", ".join(names), TITLE_WIDTH)
        axes.text(0.03, 0.97, text, transform=axes.transAxes, ha="left", va="top", fontsize=8.4, color=style.MUTED)
    return labels


def _suffix(point: Mapping[Any, Any], apart: Sequence[str], letters: Mapping[str, str]) -> str:
    """What tells first stages of the same f apart, and where they are mixed the protocol."""
    named = [named_value(axis, point[axis]) for axis in apart if is_given(point[axis])]
    marks = sorted({letters[name] for name in point["measured"].split() if name in letters})
    return ", ".join(["", *named]) + (f" ({', '.join(marks)})" if marks else "")


def quality_vs_f(study: Study) -> Figure:
    """The headline metric of the samples against the compression factor, one line a step count."""

    def draw(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        counts = sorted(int(s) for s in panel.rows["steps"].dropna().unique())
        look = style.family(panel.family)
        ends = []
        for position, steps in enumerate(counts):
            line = panel.rows[panel.rows["steps"] == steps].sort_values("f")
            shade = _shade(position, len(counts))
            axes.plot(line["f"], line["value"], color=shade, linestyle=look.line, zorder=2)
            _markers(axes, line, "f")
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["f"]), float(last["value"]), f"{steps} steps", shade))
        decoded = _decoded(study, metric, panel)
        if not decoded.empty:
            axes.plot(decoded["f"], decoded["value"], color=style.FLOOR, linestyle=(0, (5, 2)), linewidth=1.3, zorder=1)
            end = decoded.iloc[-1]
            ends.append(PointLabel(float(end["f"]), float(end["value"]), "decoded", style.FLOOR))
        style.factor_axis(axes, sorted({int(f) for f in study.frame["f"].dropna()}))
        return ends

    return _quality_figure(
        study, "Sample quality against compression", draw, "evaluation", ends=True, floors=False, overlay=("f", "steps")
    )


def quality_vs_throughput(study: Study) -> Figure:
    """The headline metric against images a second of the sampler, one line a compression factor."""

    def draw(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        labels = []
        timed = panel.rows[panel.rows["sample_images_per_second"] > 0]
        counts = sorted(int(s) for s in timed["steps"].dropna().unique())
        for f, own in timed.groupby("f"):
            line = own.sort_values("steps")
            look = style.family(str(line["regulariser"].iloc[0]))
            axes.plot(
                line["sample_images_per_second"], line["value"], color=style.colour(f), linestyle=look.line, zorder=2
            )
            sizes = [4.0 + 5.0 * counts.index(int(s)) / max(1, len(counts) - 1) for s in line["steps"]]
            _markers(axes, line, "sample_images_per_second", sizes if len(counts) > 1 else None)
            best = line.iloc[-1]
            labels.append(_f_label(best, "sample_images_per_second"))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("sampling throughput in images per second")
        return labels

    speeds_note, study = speeds.note(study), speeds.timed(study)
    counts = sorted(int(s) for s in study.frame["steps"].dropna().unique())
    note = f"Marker size grows with the step count: {', '.join(map(str, counts))}." if len(counts) > 1 else ""
    return _quality_figure(
        study,
        "Sample quality against sampling speed",
        draw,
        "evaluation",
        note=f"{note or f'Steps: {_listed(counts)}.'} {speeds_note}",
        overlay=("sample_images_per_second", "f"),
        apart=(speeds.MACHINE,),
    )


def quality_vs_training(study: Study) -> Figure:
    """The headline metric of one short sampler over the images seen in diffusion training."""

    def draw(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        ends = []
        for f, own in panel.rows.groupby("f"):
            line = own.sort_values("images_seen")
            look = style.family(str(line["regulariser"].iloc[0]))
            axes.plot(line["images_seen"], line["value"], color=style.colour(f), linestyle=look.line, zorder=2)
            _markers(axes, line, "images_seen")
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["images_seen"]), float(last["value"]), f"f = {f}", style.colour(f)))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("images seen in diffusion training")
        return ends

    used = study.frame[study.frame["stage"] == "progress"]["protocol"].unique()
    samplers = dict.fromkeys(str(study.protocols[name].get("sampler", "")) for name in used if name in study.protocols)
    note = f"Milestones are sampled with {' or '.join(name for name in samplers if name)}." if any(samplers) else ""
    return _quality_figure(
        study, "Sample quality over training", draw, "progress", note=note, ends=True, overlay=("images_seen", "f")
    )


def quality_vs_compute(study: Study) -> Figure:
    """The headline metric against training FLOPs, with (filled) and without (hollow) the first stage's share."""
    steps = _common_steps(study)

    def draw(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        rows = panel.rows[(panel.rows["steps"] == steps) & (panel.rows["diffusion_flops"] > 0)].sort_values("f")
        rows = rows.assign(
            total=rows["diffusion_flops"] + rows["first_stage_flops"].fillna(0) + rows["latents_flops"].fillna(0)
        )
        for point in rows.to_dict("records"):
            tint, marker = style.colour(point["f"]), style.family(point["regulariser"])
            ends = [point["diffusion_flops"], point["total"]]
            axes.plot(ends, [point["value"]] * 2, color=tint, linewidth=1.0, alpha=0.6, zorder=1)
            axes.plot(
                ends[0],
                point["value"],
                marker.marker,
                color=tint,
                markerfacecolor="white",
                markersize=marker.size,
                zorder=3,
            )
        _markers(axes, rows, "total")
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("training compute in FLOPs (one multiply-add = 2)")
        return [_f_label(row, "total") for _, row in rows.iterrows()]

    keys = [
        style.key("with the first stage's share", marker="o", color=style.MUTED),
        style.key("diffusion training alone", marker="o", color=style.MUTED, markerfacecolor="white"),
    ]
    note = f"All points at {steps} sampler steps; the share includes encoding the training set once." if steps else ""
    return _quality_figure(
        study,
        "Sample quality against training compute",
        draw,
        "evaluation",
        note=note,
        keys=keys,
    )


def quality_vs_nfe(study: Study) -> Figure:
    """The headline metric against network calls an image, one line a sampler, one panel a compression factor."""

    def draw(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        ends = []
        for name, own in panel.rows.groupby("line", sort=False):
            line, look = own.sort_values("nfe"), style.family(panel.family)
            _, tint = style.sampler(str(line["sampler"].iloc[0]))
            axes.plot(line["nfe"], line["value"], color=tint, linestyle=look.line, zorder=2)
            for point in line.to_dict("records"):
                style.interval(axes, point["nfe"], point["value"], point["ci_low"], point["ci_high"], tint)
                axes.plot(point["nfe"], point["value"], look.marker, color=tint, markersize=look.size - 1.5, zorder=4)
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["nfe"]), float(last["value"]), str(name), tint))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("network calls an image (NFE)")
        return ends

    return _quality_figure(
        study,
        "Sample quality against network calls",
        draw,
        "evaluation",
        note="Guidance costs a second call.",
        ends=True,
        lines=("sampler", "eta", "variance"),
    )


FIGURES: Mapping[str, Callable[[Study], Figure]] = {
    "rate_distortion": rate_distortion,
    "quality_vs_f": quality_vs_f,
    "quality_vs_throughput": quality_vs_throughput,
    "quality_vs_training": quality_vs_training,
    "quality_vs_compute": quality_vs_compute,
}


def figures_of(study: Study) -> Mapping[str, Callable[[Study], Figure]]:
    """The figures of every study, and those that only some have data for: network calls of samplers, coding."""
    some: dict[str, Callable[[Study], Figure]] = {}
    if study.frame["sampler"].replace("", None).nunique() > 1:
        some["quality_vs_nfe"] = quality_vs_nfe
    if study.coding:
        some["progressive_coding"] = progressive_coding
    return {**FIGURES, **some}


def _quality_figure(
    study: Study,
    title: str,
    draw: Callable[[Axes, Panel, Headline], list[PointLabel]],
    stage: str,
    *,
    note: str = "",
    keys: Sequence[Line2D] = (),
    ends: bool = False,
    floors: bool = True,
    lines: Sequence[str] = (),
    overlay: tuple[str, str] | None = None,
    apart: Sequence[str] = (),
) -> Figure:
    """The frame that all quality figures share: panels, floors, scales, legend, facts and notes.

    `lines`: axes that tell lines apart, so that panels are split by f instead of them. `overlay`: the axis along which
    published numbers are drawn, and the one that tells their lines apart. `apart`: columns whose values never share
    a panel.
    """
    metric = headline(study.frame, stage)
    rows = study.frame[(study.frame["stage"] == stage) & (study.frame["metric"] == (metric.metric if metric else ""))]
    if metric is None or rows.empty:
        figure, grid = style.new_figure(1, 1, 6.4, 3.6)
        style.empty(grid[0][0], f"no finished {stage} rows of a distance between samples and real images")
        style.finish(figure, title, [_facts(study, rows, "")], _notes(study, rows, stage), [])
        return figure
    panels, dropped = _panels(rows, lines, apart)
    columns = list(dict.fromkeys(panel.family for panel in panels))
    variants = list(dict.fromkeys(panel.variant for panel in panels))
    figure, grid = style.new_figure(
        len(variants), len(columns), 1.2 + 4.6 * len(columns), 3.9 * len(variants), sharex=True, sharey=True
    )
    for axes in (axes for line in grid for axes in line):
        axes.set_visible(False)
    pending: list[tuple[Axes, list[PointLabel]]] = []
    shown: list[Published] = []
    real = _floor(study, metric.real, metric)
    for panel in panels:
        axes = grid[variants.index(panel.variant)][columns.index(panel.family)]
        axes.set_visible(True)
        labels = draw(axes, panel, metric)
        if overlay is not None:
            numbers = overlays.behind(study, metric.metric, stage, overlay[0], (panel.family, "identity"))
            labels += overlays.draw(axes, numbers, *overlay)
            shown += numbers
        if not real.empty:
            axes.axhline(float(real["value"].mean()), color=style.INK, linestyle="--", linewidth=1.1, zorder=1)
        if floors:
            _decoded_ticks(axes, _decoded(study, metric, panel))
        heading = ", ".join(part for part in (family_name(panel.family), panel.variant) if part)
        wrapped = textwrap.fill(heading, TITLE_WIDTH, break_long_words=False)
        axes.set_title(wrapped if len(panels) > 1 else "", loc="left", color=style.INK)
        leftmost = next(p for p in panels if p.variant == panel.variant) is panel
        axes.tick_params(labelbottom=True, labelleft=leftmost)
        if leftmost:
            axes.set_ylabel(f"{metric.title}\n(lower is better)")
        pending.append((axes, labels))
    # The floor has no say: it lies decades below, and would press the models into a corner of a logarithmic axis.
    values = rows["value"].tolist() + [number.value for number in shown]
    style.value_scale(grid[0][0], values, rows["ci_low"].dropna().tolist())
    legend = style.family_keys(rows["regulariser"]) + list(keys) + ([overlays.key()] if shown else [])
    if not real.empty:
        name = " against ".join(compared_images(study.protocols.get(real["protocol"].iloc[0], {})))
        legend.append(style.key(f"floor: {name}", color=style.INK, linestyle="--", linewidth=1.1))
    decoded = _floor(study, metric.decoded, metric)
    if not decoded.empty:
        name = compared_images(study.protocols.get(decoded["protocol"].iloc[0], {}))[0]
        look = {"marker": ">", "markersize": 6} if floors else {"linestyle": (0, (5, 2)), "linewidth": 1.3}
        shade = style.MUTED if floors else style.FLOOR
        legend.append(style.key(f"floor: decoded {name}", color=shade, **look))
    notes = [text for text in (note, _floor_note(study, metric)) if text]
    if overlay is not None and study.published:
        told = [axis.replace("_", " ") for axis in overlay]
        notes.append(overlays.note(shown, rows, study.protocols, metric.title, told))
        if shown and overlay[0] == "sample_images_per_second":
            notes.append("Their speeds are of one A100 at a batch that is not stated.")
    if dropped:
        notes.append(f"Not drawn, see table.md: {'; '.join(dropped)}.")
    facts = f"{metric.title}, n = {_counts(rows['n'])} samples"
    least = 1.0 if lines else 0.75 if ends else 0.25
    margin = style.label_margin([item for _, labels in pending for item in labels], least) if ends else least
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + (margin - least) * len(columns), height)
    style.finish(
        figure,
        title,
        [_facts(study, rows, facts)],
        notes + _notes(study, rows, stage),
        legend,
        margin=margin,
    )
    for axes, labels in pending:
        if ends:
            style.end_labels(axes, labels)
        else:
            style.place_labels(axes, labels)
    return figure


def _panels(rows: pd.DataFrame, lines: Sequence[str] = (), apart: Sequence[str] = ()) -> tuple[list[Panel], list[str]]:
    """One panel a regulariser and choice of the other swept axes, seeds averaged; and the choices left out for room.

    Pixels, which have no first stage, stand beside first stages of every setting.
    """
    tagged = rows.assign(
        variant=_variants(rows, lines, apart),
        others=_variants(rows, lines, apart, without=OF_COMPRESSION),
        line=_line_names(rows) if lines else "",
    )
    families = [r for r in dict.fromkeys(tagged["regulariser"]) if r != "identity"] or ["identity"]
    families.sort(key=lambda name: (list(style.FAMILIES).index(name) if name in style.FAMILIES else 9, name))
    is_pixels = tagged["regulariser"] == "identity"
    compressed = tagged[~is_pixels]
    unlike = tagged[is_pixels & ~tagged["others"].isin(compressed["others"])]
    lowest = pd.concat([compressed, unlike]).groupby("variant")["f"].min()
    names = sorted(lowest.index, key=lambda name: (lowest[name] if lines else 0, name))
    # Over all cells of a way of measuring, as the table pools it.
    factors = {
        str(protocol): seed_factor(
            [one_cell(cell) for _, part in own.groupby("images_seen", dropna=False) for cell in by_cell(part)]
        )
        for protocol, own in tagged.groupby("protocol")
    }
    panels = []
    for variant in names[:SMALL_PANELS]:
        alone = unlike[unlike["variant"] == variant]
        for regulariser in families:
            own = compressed[(compressed["variant"] == variant) & (compressed["regulariser"] == regulariser)]
            beside = tagged[is_pixels & tagged["others"].isin(own["others"])]
            if len(shown := pd.concat([beside, alone, own])):
                panels.append(Panel(regulariser, variant, _over_seeds(shown, factors)))
    return panels, names[SMALL_PANELS:]


def _variants(
    rows: pd.DataFrame, lines: Sequence[str] = (), apart: Sequence[str] = (), without: Sequence[str] = ()
) -> pd.Series:
    """For each row the values of swept axes other than f, regulariser, steps and seeds; where mixed the protocol too.

    So with the columns `apart`, and but for the axes `without`. With `lines` f is named instead of these.
    """
    unnamed = {"f", "regulariser", "steps", "seed", "ae_seed", "sampler_seed", *lines, *without}
    # Cells that found their own guidance are one choice, whatever they found.
    scales = rows["guidance_scale"].astype(object).mask(rows["guidance_rule"] == TUNED, TUNED)
    rows = rows.assign(guidance_scale=scales, guidance_rule="")
    if (rows["height"].eq(rows["resolution"]) & rows["width"].eq(rows["resolution"])).all():
        unnamed |= {"height", "width"}  # which the resolution says already
    swept = told_apart(rows, [axis for axis in ALL_AXES if axis not in unnamed])
    swept += [column for column in ("protocol", *apart) if rows[column].replace("", None).nunique() > 1]

    def describe(row: pd.Series) -> str:
        shown = [axis for axis in swept if not (axis == "channels" and row["regulariser"] == "identity")]
        named = [named_value(axis, row[axis]) for axis in shown if is_given(row[axis])]
        return ", ".join([f"f = {row['f']}", *named] if lines else named)

    return rows.apply(describe, axis=1).astype(str)


def _line_names(rows: pd.DataFrame) -> pd.Series:
    """The sampler of each row, with those of its own options that are swept."""
    swept = {
        str(name): [axis for axis in ("eta", "variance") if own[axis].nunique() > 1]
        for name, own in rows.groupby("sampler")
    }

    def describe(row: pd.Series) -> str:
        options = [named_value(axis, row[axis]) for axis in swept[row["sampler"]]]
        return ", ".join([style.sampler(row["sampler"])[0], *options])

    return rows.apply(describe, axis=1).astype(str)


def _over_seeds(rows: pd.DataFrame, factors: Mapping[str, SeedFactor]) -> pd.DataFrame:
    """One row a point: the mean over seeds with its interval; the plain row where there is one seed."""
    keys = ["regulariser", "f", "line", "steps", "images_seen"]
    found = []
    for _, own in rows.groupby(keys, dropna=False):
        point = own.iloc[0].copy()
        point["value"], point["ci_low"], point["ci_high"] = _mean(own, factors[point["protocol"]])
        point["sample_images_per_second"] = own["sample_images_per_second"].mean()
        found.append(point)
    return pd.DataFrame(found).astype(rows.dtypes.to_dict()).reset_index(drop=True)


def _mean(rows: pd.DataFrame, factor: SeedFactor) -> tuple[float, float, float]:
    """Value and interval of a cell's rows of one metric: over seeds its mean's, else as they were measured."""
    if len(rows) == 1:
        row = rows.iloc[0]
        return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])
    mean = mean_over_seeds(one_cell(rows), factor)
    low, high = (math.nan if bound is None else bound for bound in (mean.low, mean.high))
    return mean.value, low, high


def _floor(study: Study, metric: str, like: Headline) -> pd.DataFrame:
    """The floor's rows; the Frechet distance is biased by n, so its floor counts only at the same n.

    None where its own rows follow several protocols, of which a mean would say nothing.
    """
    rows = study.frame[study.frame["metric"] == metric]
    if protocols.mixed(rows):
        rows = rows.iloc[:0]
    same = rows[rows["n"] == like.n]
    if like.is_kernel and same.empty:
        same = rows
    return same


def _decoded(study: Study, metric: Headline, panel: Panel) -> pd.DataFrame:
    """The floor of the panel's own first stages by f: the mean over their seeds."""
    shown = panel.rows[OF_FIRST_STAGE].drop_duplicates()
    rows = _floor(study, metric.decoded, metric).merge(shown, on=OF_FIRST_STAGE)
    return rows.groupby("f", as_index=False)[["value"]].mean()


def _floor_note(study: Study, metric: Headline) -> str:
    """What to know of floors that were measured with another number of images than the samples."""
    floors = study.frame[study.frame["metric"].isin([metric.real, metric.decoded])]
    if protocols.mixed(floors):
        return "Floors are not drawn: they follow several protocols (table.md has them)."
    counts = sorted(set(floors["n"]))
    if not counts or counts == [metric.n]:
        return ""
    if metric.is_kernel:
        return "" if metric.n in counts else f"Floors are measured at n = {_listed(counts)}."
    return f"Only floors of the same n are drawn (measured: {_listed(counts)}): the Fréchet distance depends on n."


def _decoded_ticks(axes: Axes, decoded: pd.DataFrame) -> None:
    for point in decoded.to_dict("records"):
        axes.plot(
            0.0,
            point["value"],
            marker=">",
            color=style.colour(point["f"]),
            markersize=6,
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            linestyle="",
            zorder=5,
        )


def _markers(axes: Axes, rows: pd.DataFrame, x: str, sizes: Sequence[float] | None = None) -> None:
    """The points of a line with their intervals, in the colour of their f and the marker of their regulariser."""
    for index, point in enumerate(rows.to_dict("records")):
        look, tint = style.family(point["regulariser"]), style.colour(point["f"])
        style.interval(axes, point[x], point["value"], point["ci_low"], point["ci_high"], tint)
        size = sizes[index] if sizes else look.size
        axes.plot(point[x], point["value"], look.marker, color=tint, markersize=size, zorder=4, linestyle="")


def _f_label(row: pd.Series, x: str) -> PointLabel:
    return PointLabel(float(row[x]), float(row["value"]), f"f = {row['f']}", style.colour(row["f"]))


def _shade(position: int, count: int) -> str:
    """Grey for few steps to black for many."""
    level = 0.62 - 0.56 * (position / (count - 1) if count > 1 else 1.0)
    return f"{level:.3f}"


def _common_steps(study: Study) -> int | None:
    """The largest step count that most candidates have, so that points are compared at equal steps."""
    rows = study.frame[study.frame["stage"] == "evaluation"].dropna(subset=["steps"])
    if rows.empty:
        return None
    candidates = rows.groupby("steps")["first_stage"].nunique()
    return int(candidates[candidates == candidates.max()].index.max())


def _facts(study: Study, rows: pd.DataFrame, first: str) -> str:
    """What must stand with every number: metric and n, data, judge, protocol, budget rule."""
    parts = [first] if first else []
    data = [f"{d} {r} px" for d, r in dict.fromkeys(zip(rows["data"], rows["resolution"], strict=True))]
    parts += [f"data {_listed(data)}"] if data else []
    parts += [f"scale {_listed(_values(rows, 'scale'))}"] if _values(rows, "scale") else []
    budgets = _values(rows, "budget")
    parts += (
        [f"equal budget in {_listed(budgets)}" if budgets != ["paper"] else "budgets of the paper"] if budgets else []
    )
    used = _values(rows, "protocol")
    parts += [f"protocol {_listed(used)}"] if used else []
    return "; ".join(parts) or f"sweep {study.sweep}"


def _notes(study: Study, rows: pd.DataFrame, goal: str) -> list[str]:
    """Bars, seeds, mixed protocols and missing results, as far as they apply."""
    notes = []
    bars = "Bars: 95 % intervals over images; one seed, so how far another training would move a point is not known."
    bars = bars if rows["ci_low"].notna().any() else ""
    if seeds := [f"{rows[axis].nunique()} {name}" for axis, name in SEEDS.items() if rows[axis].nunique() > 1]:
        bars = (
            f"Points: means over trainings (swept: {', '.join(seeds)}); bars: their 95 % intervals, with the scatter "
            "of trainings."
        )
    notes += [bars] if bars else []
    if len(tuned := sorted(set(rows["guidance_scale"][rows["guidance_rule"] == TUNED].dropna()))):
        taken = f"{tuned[0]:g} to {tuned[-1]:g}" if len(tuned) > 1 else f"{tuned[0]:g}"
        notes.append(f"Guidance was found for each cell: {taken}; any but 1 costs a second network call a step.")
    notes += protocols.note(study, protocols.mixed(rows))
    gaps = [gap for gap in study.missing if gap.goal == goal]
    if gaps:
        shown = "; ".join(f"{gap.label} ({'failed' if gap.failed else 'not finished'})" for gap in gaps[:4])
        more = f" and {len(gaps) - 4} more" if len(gaps) > 4 else ""
        notes.append(f"Missing: {shown}{more}; reasons in table.md.")
    return notes


def _counts(values: Iterable[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted({int(n) for n in values})) or "0"


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(rows[column]) if value != ""]


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
