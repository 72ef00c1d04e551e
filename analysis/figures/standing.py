"""Which of the cells that a figure draws are the best, as far as comparisons tell: for its marks and its title."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.advice import short_names
from analysis.answer import UNTOLD, Answer, answers
from analysis.budgets import Spent, spent_on
from analysis.collect import Study
from analysis.compare import TINY, against_best, by_cell, compared_rows, measured, not_known
from analysis.headline import Headline

IS_TINY = "scale=tiny: no numbers to go by"
IS_LIMITED = "something limits every cell"


@dataclass(frozen=True)
class Contender:
    """A cell that is compared: its name among the others, one of its rows, its costs, and its values' records."""

    name: str
    row: Mapping[Any, Any]
    spent: Spent
    results: frozenset[str]


@dataclass(frozen=True)
class Standing:
    """What comparisons say of the cells of a figure.

    `compared`: those that get a verdict. `best`: the one of the best mean and all that are not distinguishable from it;
    none where fewer than two are compared. `unknown`: what the comparisons do not know, in a line; `why_none`: why
    there are none, where that is to be said.
    """

    compared: tuple[Contender, ...] = ()
    best: tuple[Contender, ...] = ()
    unknown: str = ""
    why_none: str = ""

    @property
    def is_tie(self) -> bool:
        """Whether several cells are not told apart from the best mean."""
        return len(self.best) > 1

    @property
    def is_all_alike(self) -> bool:
        """Whether no cell is told apart from the best mean."""
        return self.is_tie and len(self.best) == len(self.compared)

    @property
    def note(self) -> str:
        """What to know of an order that is provisional; empty where there is none, or it is not."""
        return f"The order is provisional: {self.unknown}." if self.best and self.unknown else ""

    def has_best(self, rows: pd.DataFrame) -> "pd.Series[bool]":
        """Which rows are of the best cells, at the number of images seen that was compared."""
        seen = {(name, _seen(one.row)) for one in self.best for name in one.results}
        found = [
            (row, _seen({"images_seen": images})) in seen
            for row, images in zip(rows["identity"], rows["images_seen"], strict=True)
        ]
        return pd.Series(found, index=rows.index, dtype=bool)


def of_samples(study: Study, metric: Headline) -> Standing:
    """Of the samples' metric, as `analysis.answer` has it; nothing where it was measured in several ways."""
    found = _answers(study, metric)
    return of_answer(study, found[0]) if len(found) == 1 else Standing()


def of_answer(study: Study, answer: Answer) -> Standing:
    """Of the cells of an answer that nothing bars."""
    able = [option for option in answer.options if option.may_be_taken]
    if answer.best is None:
        return Standing(why_none=IS_TINY if answer.is_tiny else IS_LIMITED)
    rows = study.frame[study.frame["metric"] == answer.metric.metric]
    firsts = {str(row["identity"]): row for row in rows.drop_duplicates("identity").to_dict("records")}
    told = [
        Contender(name, firsts[min(option.results)], option.spent, option.results)
        for name, option in zip(short_names(able, answer.options), able, strict=True)
    ]
    alike = {answer.best.name, *(one.option.name for one in answer.alike)}
    best = [one for one, option in zip(told, able, strict=True) if option.name in alike]
    return Standing(tuple(told), tuple(best) if len(told) > 1 else (), answer.unknown)


def of_milestones(study: Study, metric: Headline, rows: pd.DataFrame) -> Standing:
    """Of these milestones, one of each training, among the models of the cells that `of_samples` compares."""
    if metric.higher_is_better is None or rows["protocol"].nunique() != 1:
        return Standing()
    if (rows["scale"] == TINY).any():
        return Standing(why_none=IS_TINY)
    found = answers(study)
    if any(answer.best is None for answer in found):
        return Standing(why_none=IS_LIMITED)
    models = {model for answer in found for option in answer.options if option.may_be_taken for model in option.models}
    rows = rows[rows["model"].isin(models)]
    cells = measured(rows, study.axes)
    verdicts = against_best(cells, metric.higher_is_better)
    if not verdicts:
        return Standing()
    alike = {verdicts[0].other, *(item.cell for item in verdicts if item.verdict in UNTOLD)}
    told = [
        Contender(name, own.iloc[0].to_dict(), spent_on(own), frozenset(own["identity"]))
        for name, own in zip(short_names(cells, cells), by_cell(rows, study.axes), strict=True)
    ]
    best = [one for one, cell in zip(told, cells, strict=True) if cell.name in alike]
    return Standing(tuple(told), tuple(best), not_known(verdicts))


def last_milestones(rows: pd.DataFrame) -> pd.DataFrame:
    """The last milestone of each training."""
    return rows[rows["images_seen"] == rows.groupby("model")["images_seen"].transform("max")]


def _answers(study: Study, metric: Headline) -> tuple[Answer, ...]:
    if metric.higher_is_better is None or metric.metric not in set(compared_rows(study.frame)["metric"]):
        return ()
    return answers(study) if study.metric is None else answers(study, study.metric)


def _seen(row: Mapping[Any, Any]) -> float:
    """Images seen, -1 where the row is of no training."""
    images = row["images_seen"]
    return -1.0 if pd.isna(images) else float(images)
