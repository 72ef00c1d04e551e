"""The commands that make cells again."""

import shlex
from collections.abc import Iterable

from analysis.collect import Study


def run(overrides: Iterable[str]) -> str:
    """The command of a cell with these overrides."""
    return " ".join(["python run.py", *map(shlex.quote, overrides)])


def by_identity(study: Study) -> dict[str, str]:
    """By the identity of a finished artifact, the command of the first cell that it is of."""
    return {one.record.identity: run(one.cell.overrides) for one in study.finished}
