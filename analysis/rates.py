"""The rate of a first stage, and the distortion that goes with it, as its rows declare them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis import older_metrics
from analysis.axes import Axes
from ldm.records import POSTERIOR_SAMPLE, RATE

DISTORTIONS = ("rmse255", "psnr")
"""Kinds of metrics that rates are drawn against."""

SHORT = {"rate_kl_fitted": "fitted", "rate_index_crossentropy": "cross-entropy", "rate_lossless": ""}
"""Rates that axes name in fewer words than their title has; lossless ones are named at their points."""


def rate(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the rate that is drawn."""
    return rows[(rows["group"] == RATE) & rows["headline_from"].notna()]


def cruder_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the rate that is a cruder bound."""
    return rows[(rows["group"] == RATE) & rows["headline_from"].isna()]


def distortion(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of first stages' distortion of what their rate codes: of posterior samples where these are drawn."""
    is_drawn = rows["variant"] == POSTERIOR_SAMPLE
    wanted = is_drawn == rows["identity"].isin(rows["identity"][is_drawn])
    return rows[(rows["kind"] == kind) & wanted]


def rates_and_distortions(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all rates, and of distortions whether or not of what a rate codes."""
    return rows[(rows["group"] == RATE) | is_distortion(rows)]


def is_distortion(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of distortions of reconstructions, or of posterior samples."""
    return rows["kind"].isin(DISTORTIONS) & rows["variant"].isin(("", POSTERIOR_SAMPLE))


def short(regularisers: Sequence[str], axes: Axes, rows: pd.DataFrame) -> list[str]:
    """The drawn rates in few words for an axis, e.g. "VQ/FSQ cross-entropy"; without those that need no words."""
    words = {}
    for name in regularisers:
        drawn = rate(rows[rows["regulariser"] == name]).to_dict("records")
        words[name] = SHORT.get(drawn[0]["metric"], drawn[0]["title"]) if drawn else ""
    return [f"{'/'.join(titles)} {said}" for said, titles in _titles_by(words, axes).items()]


def sentence(axes: Axes, rows: pd.DataFrame) -> str:
    """Which rate and PSNR stand for each regulariser of the rows, as a sentence before another one."""
    words = {}
    for regulariser, own in rows.groupby("regulariser", sort=False):
        names = " or ".join(f"`{metric}`" for metric in dict.fromkeys(rate(own)["metric"]))
        sampled = " with the PSNR of a posterior sample" if (own["variant"] == POSTERIOR_SAMPLE).any() else ""
        words[str(regulariser)] = f"{names}{sampled}" if names else ""
    found = [f"{said} ({', '.join(titles)})" for said, titles in _titles_by(words, axes).items()]
    return f"The rate is {', '.join(found)}. " if found else ""


def notes(regularisers: Sequence[str], axes: Axes, rows: pd.DataFrame) -> list[str]:
    """Which rates of these regularisers are drawn, in a sentence; nothing where there are none.

    E.g. "pixels = rate_lossless, hollow rate_raw (24 bits per pixel)".
    """
    words = {}
    for name in regularisers:
        own = rows[rows["regulariser"] == name]
        drawn, cruder = (_named(found) for found in (rate(own), cruder_rate(own)))
        sampled = " with the distortion of a posterior sample" if (own["variant"] == POSTERIOR_SAMPLE).any() else ""
        words[name] = f"{drawn}{sampled}" + (f", hollow {cruder}" if cruder else "")
    named = [f"{', '.join(titles)} = {said}" for said, titles in _titles_by(words, axes).items()]
    return [f"Rates: {'; '.join(named)}."] if named else []


def _titles_by(words: Mapping[str, str], axes: Axes) -> dict[str, list[str]]:
    """The titles of the regularisers of which the same is said, by that; without those of which nothing is."""
    found: dict[str, list[str]] = {}
    for name, said in words.items():
        if said:
            found.setdefault(said, []).append(axes.title("regulariser", name))
    return found


def _named(rows: pd.DataFrame) -> str:
    """The rates' names, their titles behind."""
    found = []
    for metric, title in dict(zip(rows["metric"], rows["title"], strict=True)).items():
        words = title if title != metric else older_metrics.RATE_WORDS.get(metric, "")
        found.append(f"{metric} ({words})" if words else str(metric))
    return " or ".join(found)
