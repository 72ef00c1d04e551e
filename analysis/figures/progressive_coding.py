"""Progressive coding: bits received against the error of the guess, beside codecs and the published curve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import looks, numbers, papers, placing, protocols, style
from analysis.axes import REPEATED
from analysis.codecs import codec_curves, codec_marks, codec_note, codecs
from analysis.collect import Finished, Study
from analysis.labels import CellLabels
from analysis.looks import Family, Named
from analysis.placing import PointLabel

COLOUR_CHANNELS = 3
BAND = 0.18
FEWEST_BITS = 1e-4
"""Rates below are not drawn: nothing has arrived yet."""


@dataclass(frozen=True)
class CodingCurve:
    """Progressive coding with one diffusion model: what has arrived, and the error of what is guessed from it.

    Units: bits a dimension of the image, `rmse255` in grey levels; both mean over n held-out images, noisiest first.
    `bounds`: the error's intervals over images; none in records from before they were kept.
    """

    label: str
    f: int
    regulariser: str
    bits_per_dim: tuple[float, ...]
    rmse255: tuple[float, ...]
    n: int
    protocol: str = ""
    bounds: tuple[tuple[float, float], ...] = ()


def coding_curves(study: Study) -> list[CodingCurve]:
    """The curves of the models whose likelihood was measured, named by what these differ in but their seeds."""
    found = [one for one in study.finished if "progressive" in one.record.facts]
    labels = CellLabels([one.cell for one in found], study.axes, study.stages, without=REPEATED)
    return [_curve(one, labels.label(one.cell, one.record.stage)) for one in found]


def _curve(one: Finished, label: str) -> CodingCurve:
    curve, [protocol] = one.record.facts["progressive"], {row.protocol for row in one.record.rows}
    ends = (curve.get(f"rmse255_{end}", ()) for end in ("low", "high"))
    bounds = [(low, high) for low, high in zip(*ends, strict=True) if low is not None]
    return CodingCurve(
        label,
        int(one.cell.axes["f"]),
        str(one.cell.axes["regulariser"]),
        tuple(curve["bits_per_dim"]),
        tuple(curve["rmse255"]),
        int(curve["n"]),
        protocol,
        tuple(bounds),
    )


def draw(study: Study) -> Figure:
    """Bits a dimension of the image received up to x_t against the RMSE of the guess of x_0, one line a model."""
    figure, [[axes]] = style.new_figure(1, 1, style.COLUMN + 0.8, 4.2)
    axes.set_xscale("log")
    drawn, look_of = coding_curves(study), looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    ends = [_draw(axes, curve, look_of[curve.regulariser]) for curve in drawn]
    used = sorted({curve.protocol for curve in drawn if curve.protocol})
    curves = {key: points for key, points in codec_curves(codecs(study)).items() if points[0].psnr is not None}
    codec_of = looks.codecs(name for name, _ in curves)
    marks = codec_marks(curves)
    keys = [
        style.key(look_of[name].name, marker="", color=style.MUTED, linestyle=look_of[name].line)
        for name in dict.fromkeys(curve.regulariser for curve in drawn)
    ]
    for (name, images), points in curves.items():
        rates = [point.bits_per_pixel / COLOUR_CHANNELS for point in points]
        axes.plot(rates, [point.rmse255 for point in points], zorder=1, **_codec_look(codec_of[name]))
        drawn_codec = pd.DataFrame({"x": rates, "value": [point.rmse255 for point in points]})
        text = codec_of[name].name + marks[images]
        numbers.keep(axes, text, drawn_codec, "x", codec_of[name].colour, ":", is_beside=True)
        if marks[images]:
            ends.append(PointLabel(rates[-1], points[-1].rmse255, text, codec_of[name].colour))
    for name in dict.fromkeys(name for name, _ in curves):
        keys.append(style.key(f"{codec_of[name].name}, without headers", **_codec_look(codec_of[name])))
    notes = [
        "Latent models guess through their decoder, so their lines end at its error. A rate is what an ideal coder "
        "of the model's own noise levels sends; first stage and networks are not counted."
    ]
    if any(curve.bounds for curve in drawn):
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
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + placing.width_for([ends]), max(height, placing.height_for([placing.one_each(ends)])))
    style.finish(
        figure,
        "Progressive coding: how well an image is determined after so many bits",
        [
            f"n = {_listed({curve.n for curve in drawn})} held-out images; "
            f"protocol {', '.join(used)}; sweep {study.sweep}"
        ],
        notes,
        keys,
    )
    placing.end_labels([(axes, placing.one_each(ends))])
    return figure


def _codec_look(codec: Named) -> dict[str, Any]:
    return {"color": codec.colour, "linestyle": ":", "linewidth": 1.8}


def _listed(counts: Iterable[int]) -> str:
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _draw(axes: Axes, curve: CodingCurve, look: Family) -> PointLabel:
    rate, error = np.array(curve.bits_per_dim), np.array(curve.rmse255)
    arrived = rate > FEWEST_BITS
    tint = style.colour(curve.f)
    axes.plot(rate[arrived], error[arrived], color=tint, linestyle=look.line, zorder=2)
    drawn = pd.DataFrame({"x": rate[arrived], "value": error[arrived], "f": curve.f, "n": curve.n})
    numbers.keep(axes, curve.label, drawn, "x", tint, look.line)
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
    return bool(coding_curves(study))
