"""What first stages cost in quality that were cut from one training, beside ones trained apart, as a section."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.collect import Study
from analysis.compare import Comparison, compare, one_cell, seed_factor
from analysis.headline import direction, heading, headline
from analysis.labels import row_label

AXIS = "nested"
PSNR = "psnr"


@dataclass(frozen=True)
class ShortCut:
    """A cell with first channels of nested ones beside that of a first stage trained with so many channels.

    `flops`: of the training of either's first stage, nested first; None where unknown.
    """

    label: str
    comparison: Comparison
    nested: float
    apart: float
    flops: tuple[float | None, float | None]


def section(study: Study, marks: Mapping[str, str]) -> str:
    """A table for each metric, of samples and of reconstructions; nothing where there are no such pairs."""
    if AXIS not in study.frame or not (study.frame[AXIS] != "").any():
        return ""
    found = headline(study.frame)
    metrics = [("reconstruction", PSNR), *([("evaluation", found.metric)] if found else [])]
    return "\n\n".join(filter(None, (_table(study, marks, *metric) for metric in metrics)))


def short_cuts(study: Study, rows: pd.DataFrame) -> list[ShortCut]:
    """The pairs among rows of one stage, metric and protocol, each a comparison of its own."""
    pairs = list(_pairs(study, rows))
    cells = [one_cell(own, row_label(rows, own.iloc[0].to_dict(), study.axes)) for pair in pairs for own in pair]
    factor, sign = seed_factor(cells), -1.0 if direction(rows) else 1.0
    found = []
    for (nested, apart), mine, other in zip(pairs, cells[::2], cells[1::2], strict=True):
        [comparison] = compare([mine], other, factor, sign, pairs=len(pairs))
        found.append(ShortCut(mine.name, comparison, mine.mean, other.mean, (_flops(nested), _flops(apart))))
    return found


def _pairs(study: Study, rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The rows of cells that differ in nothing but whether channels were nested."""
    others = [axis for axis in study.axes.settings if axis != AXIS]
    for _key, alike in rows.groupby([rows[axis].map(str) for axis in others], sort=False):
        apart = alike[alike[AXIS] == ""]
        for _, nested in alike[alike[AXIS] != ""].groupby(AXIS, sort=False):
            if not apart.empty:
                yield nested, apart


def _flops(rows: pd.DataFrame) -> float | None:
    flops = rows["first_stage_flops"].mean()
    return None if pd.isna(flops) else float(flops)


def _table(study: Study, marks: Mapping[str, str], stage: str, metric: str) -> str:
    rows = study.frame[(study.frame["stage"] == stage) & (study.frame["metric"] == metric)]
    rows = rows[rows["variant"] == ""]
    return "\n\n".join(_of_protocol(study, marks, own) for _, own in rows.groupby("protocol", sort=False))


def _of_protocol(study: Study, marks: Mapping[str, str], rows: pd.DataFrame) -> str:
    found = short_cuts(study, rows)
    if not found:
        return ""
    lines = [
        [
            one.label,
            text.measured(one.nested),
            text.measured(one.apart),
            text.difference(one.comparison.difference, one.comparison.low, one.comparison.high),
            one.comparison.sentence,
            *(text.number(flops) for flops in one.flops),
            str(one.comparison.seeds),
            text.number(one.comparison.n),
        ]
        for one in found
    ]
    mark = marks.get(str(rows["protocol"].iloc[0]), "")
    header = [f"{heading(rows, str(rows['metric'].iloc[0]))}{f' ({mark})' if mark else ''}", "nested", "trained apart"]
    header += ["difference", "nested is", "FLOPs of the nested training", "FLOPs of the other", "seeds", "n"]
    return text.table(header, lines) + (
        "\n\nFirst channels of one nested training beside first stages trained with so many channels, all else "
        "equal; 95 % intervals in brackets, verdicts by Holm over these pairs. One nested training serves all its "
        "numbers of channels: its FLOPs are spent once."
    )
