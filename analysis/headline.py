"""The metric that stands for quality in figures and table, and what rows say of their metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ldm.records import DECODED, GENERATION, GROUPS, REAL, WINDOWS

OF_SAMPLES = ("", WINDOWS)
"""Variants that are measured of a model's own samples; the others are floors and ceilings, or not of samples at all."""


@dataclass(frozen=True)
class Headline:
    """The metric that stands for quality in figures and table, as its rows declare it.

    `is_unbiased`: whether it has no bias that depends on n, so that its floors may be of any n.
    """

    metric: str
    n: int
    title: str = ""
    higher_is_better: bool | None = None
    is_unbiased: bool = False

    @property
    def label(self) -> str:
        """As it is written on an axis: title, and which end is better."""
        return f"{self.title}\n({better})" if (better := self.better) else self.title

    @property
    def better(self) -> str:
        """Which end is better, in words."""
        return better_end(self.higher_is_better)


def headline(frame: pd.DataFrame, stage: str = "evaluation") -> Headline | None:
    """Of the distances to real images that may stand for quality at this n the one that needs most images.

    That is the kernel distance below 5000 samples, else the Frechet distance, of the cells' own extractor with most
    rows; of windows where there are none of whole samples. Where there are no distances, a metric of a group that this
    program does not know, if an end of it is better.
    """
    rows = frame[frame["stage"] == stage]
    distances = rows[rows["headline_from"].notna() & (rows["group"] == GENERATION) & rows["variant"].isin(OF_SAMPLES)]
    if (distances["variant"] == "").any():
        distances = distances[distances["variant"] == ""]
    if distances.empty:
        distances = rows[(rows["higher_is_better"] != "") & (rows["variant"] == "") & ~rows["group"].isin(GROUPS)]
    if distances.empty:
        return None
    if (is_own := distances["network"] == distances["extractor"]).any():  # not of those that judge beside it
        distances = distances[is_own]
    counts = distances["network"].value_counts()
    chosen = counts.sort_index(kind="stable").sort_values(ascending=False, kind="stable").index[0]
    own = distances[distances["network"] == chosen]
    n, least = int(own["n"].min()), own["headline_from"].fillna(0)
    wanted = own[least == (least[least <= n].max() if (least <= n).any() else least.min())]
    first = wanted.iloc[0]
    is_unbiased = bool(pd.notna(first["headline_from"]) and first["headline_from"] == 0)
    return Headline(str(first["metric"]), n, heading(own, first["metric"]), direction(wanted), is_unbiased)


def chosen(frame: pd.DataFrame, metric: str, stage: str) -> tuple[Headline | None, str]:
    """The metric of that name in place of the headline, and the stage of its rows.

    Where figures ask for the evaluation of cells, that is the stage behind the samples that measured it.
    """
    rows = frame[(frame["metric"] == metric) & frame["variant"].isin(OF_SAMPLES)]
    rows = rows[is_of_samples(rows) if stage == "evaluation" else rows["stage"] == stage]
    if rows.empty:
        return None, stage
    first = rows.iloc[0]
    is_unbiased = bool(pd.notna(first["headline_from"]) and first["headline_from"] == 0)
    found = Headline(metric, int(rows["n"].min()), heading(rows, metric), direction(rows), is_unbiased)
    return found, str(first["stage"])


def is_of_samples(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of the samples of a cell, or of what hangs on them."""
    return (rows["cell"] != "") & rows["steps"].notna() & rows["variant"].isin(OF_SAMPLES)


def drawable(frame: pd.DataFrame) -> list[str]:
    """The metrics of samples that figures can be drawn of."""
    return list(dict.fromkeys(frame["metric"][is_of_samples(frame)]))


def direction(rows: pd.DataFrame) -> bool | None:
    """Whether more is better of the metric of these rows; None where no end is, or none says so."""
    told = [bool(value) for value in rows["higher_is_better"] if value != ""]
    return told[0] if told else None


def better_end(higher_is_better: bool | None) -> str:
    """Which end is better, in words; empty where none is."""
    return "" if higher_is_better is None else "higher is better" if higher_is_better else "lower is better"


def title_of(rows: pd.DataFrame, metric: str) -> str:
    """The metric in words, e.g. "kernel distance, EfficientNet-Lite2"; its name where no row tells."""
    return next((str(title) for title in rows["title"][rows["metric"] == metric] if title), metric)


def heading(rows: pd.DataFrame, metric: str) -> str:
    """Title and unit, e.g. "PSNR, dB"."""
    unit = next((str(unit) for unit in rows["unit"][rows["metric"] == metric] if unit), "")
    return ", ".join(filter(None, (title_of(rows, metric), unit)))


def base_title(row: Mapping[Any, Any]) -> str:
    """The title of the metric that a row has a variant of."""
    return str(row["title"]).removesuffix(f", {row['variant']}")


def floors_of(frame: pd.DataFrame, metric: str, *variants: str) -> pd.DataFrame:
    """The rows of these variants of a metric, e.g. of real images."""
    return frame[(frame["base"] == metric) & frame["variant"].isin(variants or (REAL, DECODED))]


def compared_images(protocol: Mapping[str, Any]) -> tuple[str, str]:
    """Which real images were measured, and which they were compared with, e.g. "training images", "held-out images"."""
    splits = {"train": "training images", "heldout": "held-out images"}
    measured = str(protocol.get("class_balance", "real images")).removeprefix("as in the ")
    return measured, splits.get(protocol.get("reference", ""), "images that no record names")
