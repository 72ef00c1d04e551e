"""Progressive coding: bits received against the error of the guess, beside codecs and the published curve."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import papers, protocols, style
from analysis.collect import CodingCurve, Study, codec_curves
from analysis.labels import codec_marks, codec_note
from analysis.style import PointLabel

COLOUR_CHANNELS = 3
BAND = 0.18
FEWEST_BITS = 1e-4
"""Rates below are not drawn: nothing has arrived yet."""


def draw(study: Study) -> Figure:
    """Bits a dimension of the image received up to x_t against the RMSE of the guess of x_0, one line a model."""
    figure, [[axes]] = style.new_figure(1, 1, 7.4, 4.6)
    axes.set_xscale("log")
    ends = [_draw(axes, curve) for curve in study.coding]
    used = sorted({curve.protocol for curve in study.coding if curve.protocol})
    curves = {key: points for key, points in codec_curves(study.codecs).items() if key[0] in style.CODEC_COLOUR}
    marks = codec_marks(curves)
    keys = [
        style.key(style.family(name).name, marker="", color=style.MUTED, linestyle=style.family(name).line)
        for name in dict.fromkeys(curve.regulariser for curve in study.coding)
    ]
    for (name, images), points in curves.items():
        rates = [point.bits_per_pixel / COLOUR_CHANNELS for point in points]
        axes.plot(rates, [point.rmse255 for point in points], zorder=1, **_codec_look(name))
        if marks[images]:
            text = style.CODEC_NAME[name] + marks[images]
            ends.append(PointLabel(rates[-1], points[-1].rmse255, text, style.CODEC_COLOUR[name]))
    for name in dict.fromkeys(name for name, _ in curves):
        keys.append(style.key(f"{style.CODEC_NAME[name]}, without headers", **_codec_look(name)))
    notes = [
        "Latent models guess through their decoder, so their lines end at its error. A rate is what an ideal coder "
        "of the model's own noise levels sends; first stage and networks are not counted."
    ]
    if any(curve.bounds for curve in study.coding):
        notes.append("Bands: 95 % intervals of the error over images; one training each.")
    notes += codec_note(curves)
    notes += protocols.note(study, used if len(used) > 1 else [])
    if study.published:
        keys.append(_draw_published(axes))
        notes.append(
            "NOT COMPARABLE in height: DDPM's points are of CIFAR-10 and a model of 35.7 M parameters (Ho et al. 2020, "
            "Table 4 and Appendix B)."
        )
    axes.set_ylim(bottom=0)
    style.sparse_log_ticks(axes, "x")
    axes.set_xlabel("rate in bits per dimension of the image (three a pixel)")
    axes.set_ylabel("RMSE on 0–255 of the guess (lower is better)")
    style.finish(
        figure,
        "Progressive coding: what the diffusion model knows after so many bits",
        [
            f"n = {_listed({curve.n for curve in study.coding})} held-out images; "
            f"protocol {', '.join(used)}; sweep {study.sweep}"
        ],
        notes,
        keys,
        margin=style.label_margin(ends),
    )
    style.end_labels(axes, ends)
    return figure


def _codec_look(name: str) -> dict[str, Any]:
    return {"color": style.CODEC_COLOUR[name], "linestyle": ":", "linewidth": 1.8}


def _listed(counts: Iterable[int]) -> str:
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _draw(axes: Axes, curve: CodingCurve) -> PointLabel:
    rate, error = np.array(curve.bits_per_dim), np.array(curve.rmse255)
    arrived = rate > FEWEST_BITS
    tint = style.colour(curve.f)
    axes.plot(rate[arrived], error[arrived], color=tint, linestyle=style.family(curve.regulariser).line, zorder=2)
    if curve.bounds:
        low, high = np.array(curve.bounds)[arrived].T
        axes.fill_between(rate[arrived], low, high, color=tint, alpha=BAND, linewidth=0, zorder=1)
    return PointLabel(float(rate[-1]), float(error[-1]), curve.label, tint)


def _draw_published(axes: Axes) -> Line2D:
    """DDPM's points at which something has arrived, and their legend entry."""
    points = papers.ddpm_rate_distortion()
    points = points[points["bits_per_dim"] > FEWEST_BITS]
    axes.plot(points["bits_per_dim"], points["rmse255"], "x", color=style.INK, markersize=5)
    return style.key("published: DDPM on CIFAR-10", marker="x")


def has_data(study: Study) -> bool:
    """Whether progressive coding was measured."""
    return bool(study.coding)
