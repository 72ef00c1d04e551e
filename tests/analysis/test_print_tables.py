"""Tables for papers: the best and what is not told apart from it in bold, and nothing that LaTeX would trip over."""

import io

import pandas as pd
from synthetic_store import Recipe, build

from analysis.answer import answers
from analysis.collect import read_study
from analysis.print_tables import Line, files, latex


def test_the_best_and_its_ties_are_bold_in_every_format(tmp_path):
    build(tmp_path, Recipe(factors=(1, 4, 16), steps=(20,)))
    study = read_study(tmp_path)
    [answer] = answers(study)
    assert answer.best is not None
    bold = {answer.best.name, *(one.option.name for one in answer.alike)}
    assert 0 < len(bold) < len(answer.options)
    made = files(study)
    table = pd.read_csv(io.StringIO(made["cells.csv"]))
    assert set(table["cell"][table["best or not distinguishable"]]) == bold
    for option in answer.options:
        assert (f"**{option.name}**" in made["cells.md"]) == (option.name in bold)
        assert (rf"\textbf{{{option.name}}}" in made["cells.tex"]) == (option.name in bold)


def test_what_latex_reads_otherwise_is_escaped():
    made = latex(["a_b", "c"], [Line(("50 % & {x}", "∞ ± –"), True)])
    assert r"a\_b & c \\" in made
    assert r"\textbf{50 \% \& \{x\}} & \textbf{$\infty$ $\pm$ --} \\" in made
