"""Writes the report of a sweep, one self-contained page: `python analysis/report.py [--store DIR] [--out DIR]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in {None, ""}:
    # Run as a script, Python looks beside this file; the packages lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from analysis import commands, plot_tradeoffs
from analysis.page import charts, gallery, spending, training
from analysis.page.document import document
from analysis.store import Stores
from ldm.errors import UserError
from ldm.printed import printed

DESCRIPTION = """Writes what plot_tradeoffs.py writes, with figures as SVG, and report.html: the recommendation,
interactive figures with their numbers, tables that sort and filter, pictures, costs, protocols, missing results and the
check list against published numbers, in one page that needs no other file and no network."""

TEXTS = ("table.md", "checklist.md", "predictors.md", "shortlist.md")
"""The files that the page is written of, the first one's head above all."""

ANSWERED_BY = ("front", "crossings")
"""The figures that stand with the recommendation."""


def write(
    stores: Stores,
    out: Path | None,
    sweep: str | None,
    allow_mixed: bool,
    overlay: bool,
    against: str | None,
    metric: str | None = None,
) -> Path:
    """The page's path, after everything that it is made of was written beside it.

    Raises: UserError as `plot_tradeoffs.draw` does.
    """
    written = plot_tradeoffs.write(
        stores, out, sweep, allow_mixed, overlay, checklist=True, against=against, metric=metric, kinds=("svg",)
    )
    study, folder, told = written.study, written.folder, commands.by_identity(written.study)
    made = [
        charts.chart(name, figure.words, figure.planes, told, folder / f"{name}.svg")
        for name, figure in written.figures.items()
    ]
    made += [chart for chart in (training.chart(study, told), spending.chart(study)) if chart is not None]
    texts = [path.read_text(encoding="utf-8") for path in written.paths if path.name in TEXTS]
    page = document(f"Report: {folder.name}", texts, ANSWERED_BY, made, gallery.sections(study))
    return plot_tradeoffs.write_atomic(folder / "report.html", page.encode())


def _written(options: argparse.Namespace) -> Path:
    """The page of a command line."""
    with plot_tradeoffs.places_of(options) as (stores, out):
        allow_mixed = options.allow_mixed_protocols
        return write(stores, out, options.sweep, allow_mixed, options.overlay, options.against, options.metric)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0, or 2 with one sentence where the user can mend it."""
    command = plot_tradeoffs.parser()
    command.prog, command.description = "report.py", DESCRIPTION
    options = command.parse_args(arguments)
    try:
        path = _written(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return printed(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
