"""The cells as a table for a paper, in LaTeX, Markdown and CSV: the best, and what is not told from it, in bold."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.answer import Answer, Option, answers
from analysis.collect import Study

HEADER = ("cell", "value", "probability of being best", "training, PFLOP", "images/s", "limited by")


@dataclass(frozen=True)
class Line:
    """A cell's entries, and whether it is the best or not told apart from it."""

    entries: tuple[str, ...]
    is_bold: bool


def files(study: Study) -> dict[str, str]:
    """By file name the table of the headline metric; none where it was not measured. Of several protocols the first."""
    found = answers(study)
    if not found:
        return {}
    answer = found[0]
    others = f"; {len(found) - 1} more in table.md" if len(found) > 1 else ""
    how = f"{text.span(option.mean.n for option in answer.options)}, protocol {answer.protocol}{others}"
    header = [HEADER[0], f"{answer.metric.title}, {how} ({answer.metric.better})", *HEADER[2:]]
    lines = [_line(option, answer) for option in answer.options]
    return {"cells.tex": latex(header, lines), "cells.md": _markdown(header, lines), "cells.csv": _csv(header, lines)}


def _line(option: Option, answer: Answer) -> Line:
    chance = "–" if option.chance is None else f"{option.chance:.2f}"
    spent = (option.spent.flops / 1e15, option.spent.images_per_second)
    value = text.difference(option.mean.value, option.mean.low, option.mean.high)
    limits = option.barred or option.mean.limits or "–"
    best = {answer.best.name} if answer.best is not None else set[str]()
    is_bold = option.name in best | {one.option.name for one in answer.alike}
    return Line((option.name, value, chance, *map(text.number, spent), limits), is_bold)


def _markdown(header: Sequence[str], lines: Sequence[Line]) -> str:
    return text.table(header, [_bold(line, "**{}**".format) for line in lines]) + "\n"


def _csv(header: Sequence[str], lines: Sequence[Line]) -> str:
    rows = [[*line.entries, line.is_bold] for line in lines]
    return pd.DataFrame(rows, columns=[*header, "best or not distinguishable"]).to_csv(index=False)


SPECIAL: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "∞": r"$\infty$",
    "±": r"$\pm$",
}


def latex(header: Sequence[str], lines: Sequence[Line]) -> str:
    """A table of LaTeX's package booktabs."""
    body = [_bold(Line(tuple(map(_escaped, line.entries)), line.is_bold), r"\textbf{{{}}}".format) for line in lines]
    rows = [" & ".join(row) + r" \\" for row in body]
    head = " & ".join(map(_escaped, header)) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 2)}l}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def _bold(line: Line, marked: Callable[[str], str]) -> list[str]:
    """The entries, of which the name and the value are marked where the line is."""
    return [marked(entry) if line.is_bold and index < 2 else entry for index, entry in enumerate(line.entries)]


def _escaped(entry: str) -> str:
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda found: SPECIAL[found[0]], entry)
