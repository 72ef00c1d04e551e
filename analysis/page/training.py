"""Curves over training: of every metric that records have at several numbers of images seen."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from analysis import looks, style
from analysis.collect import Study
from analysis.headline import heading, headline
from analysis.numbers import TOLD, Plane, Scale, Series, Words, frame
from analysis.page import charts
from analysis.page.charts import Chart
from ldm.records import DETAIL

MOST_PANELS = 24
WORDS = Words("Further curves over training", ("All metrics that records have at several numbers of images seen.",))


def chart(study: Study, told: Mapping[str, str]) -> Chart | None:
    """The first of these panels, and the numbers of all; None where there is none. `told`: as `charts.chart` has it."""
    found = planes(study)
    if not found:
        return None
    left = len(found) - MOST_PANELS
    more = (f"{left} more of {len(found)} metrics: in the numbers (CSV).",) if left > 0 else ()
    words = replace(WORDS, facts=(*WORDS.facts, *more))
    shown = charts.chart("training_curves", words, found[:MOST_PANELS], told)
    return replace(shown, csv=frame(found).to_csv(index=False))


def planes(study: Study) -> list[Plane]:
    """A panel a metric, such as the held-out loss of one bin of noise levels, with a line a model.

    Without the milestones' headline metric, which has a figure of its own.
    """
    rows = study.frame[study.frame["images_seen"].notna() & (study.frame["model"] != "")]
    rows = rows[(rows["cell"] == "") & (rows["group"] != DETAIL)]
    shown = headline(study.frame, "progress")
    rows = rows[rows["metric"] != (shown.metric if shown is not None else "")]
    found = []
    for metric, own in rows.groupby("metric", sort=False):
        if own.groupby("model")["images_seen"].nunique().max() > 1:
            y = Scale(heading(own, str(metric)), is_log=bool((own["value"] > 0).all()))
            found.append(Plane(y.title, Scale("images seen in diffusion training", is_log=True), y, _lines(study, own)))
    return found


def _lines(study: Study, rows: pd.DataFrame) -> list[Series]:
    """A line a model, in the colour of its f and the style of its regulariser."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    labels = {one.record.identity: one.label for one in study.finished if one.record.stage == "diffusion"}
    found = []
    for model, own in rows.groupby("model", sort=False):
        line, first = own.sort_values("images_seen"), own.iloc[0]
        columns = ["value", "ci_low", "ci_high", *TOLD, "model", "identity"]
        numbers = line[columns].assign(x=line["images_seen"].astype(float))
        look, name = look_of[first["regulariser"]], labels.get(str(model), str(model))
        found.append(Series(name, numbers, style.colour(first["f"]), look.line, look.marker))
    return found
