"""Whether samples repeat training images, as a section of the table."""

from collections.abc import Mapping

from analysis import text
from analysis.collect import Study
from analysis.labels import row_label

KINDS = {
    "nearest_train_": "mean distance to the nearest training image",
    "real_nearest_train_": "the same of held-out images",
    "nearer_train_": "P(nearer than a held-out image); 0.5 = as near as unseen images",
    "close_train_": "share within the distance of the nearest 5 % of held-out images",
}


def section(study: Study, marks: Mapping[str, str]) -> str:
    """One line a cell and space; nothing where memorisation was not asked for."""
    rows = study.frame[study.frame["stage"] == "memorisation"]
    unseen = study.frame[study.frame["stage"] == "training_set"]
    lines = []
    for _, own in rows.groupby("identity", sort=False):
        for metric in own["metric"][own["metric"].str.startswith("nearest_train_")]:
            space = metric.removeprefix("nearest_train_")
            line = [row_label(rows, own.iloc[0].to_dict(), study.axes), space]
            same = unseen[(unseen["data"] == own.iloc[0]["data"]) & (unseen["resolution"] == own.iloc[0]["resolution"])]
            for kind in KINDS:
                found = same if kind.startswith("real_") else own
                found = found[found["metric"] == kind + space]
                line.append("; ".join(text.interval(row, marks) for row in found.to_dict("records")) or "–")
            n = int(own[own["metric"] == metric]["n"].iloc[0])
            lines.append([*line, str(n)])
    if not lines:
        return ""
    return text.table(["cell", "space", *KINDS.values(), "n"], lines) + (
        "\n\nPictures: `memorisation/<identity>/nearest.png` in the store (samples, nearest by features, nearest by "
        "pixels). Distances by features are Euclidean, by pixels RMSE on 0 to 255 of images at 32 px."
    )
