"""Whether samples repeat training images, as a section of the table."""

from collections.abc import Mapping

import pandas as pd

from analysis import text
from analysis.collect import Study
from analysis.labels import RowLabels
from ldm.records import REAL

NEAREST = "nearest_train"
COLUMNS = {
    (NEAREST, ""): "mean distance to the nearest training image",
    (NEAREST, REAL): "the same of held-out images",
    ("nearer_train", ""): "P(nearer than a held-out image); 0.5 = as near as unseen images",
    ("close_train", ""): "share within the distance of the nearest 5 % of held-out images",
}
"""By kind of metric and what it was measured of; other kinds have their titles."""


def section(study: Study, marks: Mapping[str, str]) -> str:
    """One line a cell and space; nothing where memorisation was not asked for."""
    rows = study.frame[study.frame["stage"] == "memorisation"]
    unseen = study.frame[study.frame["stage"] == "training_set"]
    columns, lines = {**_titles(rows), **COLUMNS}, []
    labels = RowLabels(rows, study.axes)
    columns = {key: columns[key] for key in dict.fromkeys((*COLUMNS, *columns))}
    for _, own in rows.groupby("identity", sort=False):
        nearest = own[(own["kind"] == NEAREST) & (own["variant"] == "")]
        for space, n in zip(nearest["network"], nearest["n"], strict=True):
            line = [labels.of(own.iloc[0].to_dict()), space]
            same = unseen[(unseen["data"] == own.iloc[0]["data"]) & (unseen["resolution"] == own.iloc[0]["resolution"])]
            for kind, variant in columns:
                found = same if variant == REAL else own
                is_meant = (found["kind"] == kind) & (found["variant"] == variant) & (found["network"] == space)
                found = found[is_meant]
                line.append("; ".join(text.interval(row, marks) for row in found.to_dict("records")) or "–")
            lines.append([*line, str(n)])
    if not lines:
        return ""
    return text.table(["cell", "space", *columns.values(), "n"], lines) + (
        "\n\nPictures: `memorisation/<identity>/nearest.png` in the store (samples, nearest by features, nearest by "
        "pixels). Distances by features are Euclidean, by pixels RMSE on 0 to 255 of images at 32 px."
    )


def _titles(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By kind and variant the titles of rows."""
    return {(row["kind"], row["variant"]): row["title"] for row in rows.to_dict("records")}
