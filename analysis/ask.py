"""Answers which cell to take: `python analysis/ask.py [--budget "5 images/s"] [--metric NAME] [--store DIR]`."""

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

if __package__ in {None, ""}:
    # Run as a script, Python looks beside this file; the packages lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from analysis.advice import NOTHING_MEASURED, spoken
from analysis.answer import Answer, answers
from analysis.budgets import read
from analysis.collect import Study, read_study
from analysis.store import Stores
from ldm.errors import UserError
from ldm.printed import printed

DESCRIPTION = """Says which cell of a sweep to take: the best within a budget, with the probability that it is, those
that cannot be told apart from it, the cheapest that is nearly as good, what would settle it, and the commands that come
next. It reads records alone. docs/choosing.md says how to read the answer."""

WIDTH = 110


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="ask.py", description=DESCRIPTION)
    command.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="AMOUNT",
        help='"5 images/s" of sampling, "2 h training", "1e15 FLOPs" of training, "8 GiB memory"; several may be given',
    )
    command.add_argument(
        "--metric",
        metavar="NAME",
        help="as results.csv names it, or short: kd, kid, fd, fid, precision (default: headline)",
    )
    command.add_argument(
        "--store",
        dest="stores",
        action="append",
        type=Path,
        metavar="DIR",
        help="folder that run.py wrote (default: store); given several times, the stores are read as one, in which the "
        "first one's results count",
    )
    command.add_argument("--sweep", metavar="ID|all", help="sweep to ask, or all of them (default: the latest)")
    command.add_argument(
        "--within",
        default="5%",
        metavar="SHARE",
        help="how far off the best the cheapest cell may be, in per cent (default: 5%%)",
    )
    return command


def share(written: str) -> float:
    """A share such as "5%" or "5". Raises: UserError where it is none."""
    try:
        found = float(written.strip().removesuffix("%")) / 100
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise UserError(f"--within '{written}' is none: give per cent from 0 to 100, such as 5%.")
    return found


def ask(stores: Stores, sweep: str | None, metric: str | None, budgets: Sequence[str], within: str) -> str:
    """The answer as it is printed. Raises: UserError where a store, the metric or a budget cannot be read."""
    bounds, reach = read(budgets), share(within)
    study = read_study(stores, sweep)
    return said(study, answers(study, metric, bounds, reach), stores)


def said(study: Study, found: Sequence[Answer], stores: Stores) -> str:
    """Answers as they are printed."""
    told = [paragraph for one in found for paragraph in spoken(study, one, stores)] or [NOTHING_MEASURED]
    return "\n".join(map(_wrapped, told)).lstrip("\n")


def _wrapped(paragraph: str) -> str:
    """A paragraph in lines, with an empty one before; commands stay whole."""
    if paragraph.startswith("  "):
        return paragraph
    if paragraph.startswith("- "):
        return textwrap.fill(paragraph, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n" + textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0, or 2 with one sentence where the user can mend it."""
    options = parser().parse_args(arguments)
    try:
        stores = options.stores or [Path("store")]
        return printed(str(ask(stores, options.sweep, options.metric, options.budget, options.within)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
