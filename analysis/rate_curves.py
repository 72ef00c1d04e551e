"""First stages used with posteriors of other widths than the trained one, as the stage rate_curve measured them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.collect import Finished, Study
from analysis.labels import CellLabels

FACT = "rate_curve"

WORST = 2.0
"""Points are drawn up to this many times the RMSE of the finest: 6 dB below it."""


@dataclass(frozen=True)
class RateCurve:
    """The points of one first stage, finest first: width, rate, errors with their bounds, and those of coded latents.

    Units: bits per pixel, RMSE on 0-255, PSNR in dB; None where there is none.
    """

    label: str
    f: int
    points: tuple[Mapping[str, Any], ...]

    def along(self, error: str, of: str = "") -> tuple[list[float], list[float]]:
        """Rates and errors ("rmse255" or "psnr") of the points that are drawn; `of` is "coded_" for coded latents."""
        most = WORST * self.points[0]["rmse255"]
        drawn = [p for p in self.points if p[of + error] is not None and p[f"{of}rmse255"] <= most]
        return [point[f"{of}bits_per_pixel"] for point in drawn], [point[of + error] for point in drawn]


def rate_curves(study: Study) -> list[RateCurve]:
    """The curves of all first stages that have one, named by what these differ in."""
    found = _measured(study)
    labels = CellLabels([one.cell for one in found], study.axes, study.stages)
    return [
        RateCurve(labels.label(one.cell, one.record.stage), int(one.cell.axes["f"]), tuple(one.record.facts[FACT]))
        for one in found
    ]


def rate_curves_frame(study: Study) -> pd.DataFrame:
    """A line a point, behind the axes of its first stage and the identity of its record."""
    return pd.DataFrame(
        {axis: one.cell.axes.get(axis) for axis in study.stages[one.record.stage].axes}
        | {"identity": one.record.identity, **point}
        for one in _measured(study)
        for point in one.record.facts[FACT]
    )


def _measured(study: Study) -> list[Finished]:
    return [one for one in study.finished if FACT in one.record.facts]
