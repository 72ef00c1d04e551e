"""What each model cost, split by the stages that are trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.collect import Study
from analysis.costs import TRAINED
from analysis.numbers import Words
from analysis.page.charts import Chart, Panel, as_said

TITLES: Mapping[str, tuple[str, str]] = {
    "first_stage": ("first stage", "#0072b2"),
    "latents": ("encoding the training set", "#56b4e9"),
    "learning_rate": ("trials of learning rates", "#e69f00"),
    "diffusion": ("diffusion", "#d55e00"),
}
"""The stages as the legend calls them, in Okabe and Ito's colours."""

UNITS: Mapping[str, str] = {"seconds": "seconds of training", "flops": "FLOPs of training (one multiply-add = 2)"}

MOST_BARS = 60
WORDS = Words(
    "What training cost, by stage",
    ("A first stage is trained once and shared by all models behind it: its share stands in each of their bars.",),
)


def chart(study: Study) -> Chart | None:
    """A bar a diffusion model in seconds and in FLOPs; None where no record tells."""
    costs = frame(study)
    if costs.empty:
        return None
    panels = [_panel(costs.head(MOST_BARS), unit) for unit in UNITS]
    left = len(costs) - MOST_BARS
    more = (f"{left} more of {len(costs)} models: in the numbers (CSV).",) if left > 0 else ()
    words = replace(WORDS, facts=(*WORDS.facts, *more))
    return Chart("cost_split", words, panels, costs.to_csv(index=False))


def frame(study: Study) -> pd.DataFrame:
    """A row a diffusion model whose cost is known: its name, and seconds and FLOPs of each stage."""
    labels = {one.record.identity: one.label for one in study.finished if one.record.stage == "diffusion"}
    rows = study.frame[study.frame["model"].isin(labels)].drop_duplicates("model")
    columns = [f"{stage}_{unit}" for stage in TRAINED for unit in UNITS]
    rows = rows[rows["diffusion_seconds"].notna()]
    return rows[["model", *columns]].assign(name=rows["model"].map(labels))[["name", "model", *columns]]


def _panel(costs: pd.DataFrame, unit: str) -> Panel:
    traces: list[dict[str, Any]] = []
    for stage in TRAINED:
        values = costs[f"{stage}_{unit}"].fillna(0.0)
        title, tint = TITLES[stage]
        if (values > 0).any():
            names, numbers = list(costs["name"]), [float(f"{value:.6g}") for value in values]
            told = [
                f"<b>{as_said(name)}</b><br>{title}: {value:.3g} {unit}"
                for name, value in zip(names, numbers, strict=True)
            ]
            traces.append(
                {"type": "bar", "orientation": "h", "name": title, "legendgroup": title, "y": names, "x": numbers}
            )
            traces[-1] |= {"marker": {"color": tint}, "hovertext": told, "hoverinfo": "text"}
    layout = {
        "legend": {"traceorder": "normal"},
        "barmode": "stack",
        "height": 150 + 24 * len(costs),
        "xaxis": {"title": {"text": UNITS[unit]}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return Panel("", "", traces, layout)
