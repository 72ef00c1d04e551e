"""Which rows may be compared: those of one metric and stage that were measured in one way."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.collect import Study
from ldm.errors import UserError
from ldm.records import DETAIL


def check(study: Study, allow_mixed: bool = False) -> None:
    """Refuses rows of one metric that were measured in different ways, unless `allow_mixed`.

    Raises: UserError that names the protocols and the fields in which they differ.
    """
    if allow_mixed:
        return
    for (stage, metric), rows in study.frame.groupby(["stage", "metric"], sort=False):
        found = mixed(rows)
        if found:
            raise UserError(
                f"The {stage} rows of '{metric}' follow different protocols "
                f"({' and '.join(map(repr, found))}, which differ in "
                f"{differing_fields(study.protocols, found)}): choose one sweep with --sweep, or draw them marked with "
                "--allow-mixed-protocols."
            )


def mixed(rows: pd.DataFrame) -> list[str]:
    """The protocols of which at least two measured the same metric of the same stage; none where all is comparable.

    A detail of a cell of which no end is better is held against no other cell's: the check of a sampler says how many
    steps it took, so that a sweep over steps has as many protocols of it.
    """
    is_compared = (rows["group"] != DETAIL) | (rows["higher_is_better"] != "")
    by_metric = (set(own["protocol"]) for _, own in rows[is_compared].groupby(["stage", "metric"]))
    return sorted(set[str]().union(*(found for found in by_metric if len(found) > 1)))


def letters(frame: pd.DataFrame) -> dict[str, str]:
    """A letter for each of the mixed protocols, which marks its values in the figures and the table."""
    return {name: _letter(number) for number, name in enumerate(mixed(frame), 1)}


def _letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    rest, last = divmod(number - 1, 26)
    return (_letter(rest) if rest else "") + chr(ord("a") + last)


def note(study: Study, found: Sequence[str]) -> list[str]:
    """What a figure says that shows values of these mixed protocols; nothing where there are none."""
    if not found:
        return []
    marks = letters(study.frame)
    named = ", ".join(f"{marks[name]} = {name}" for name in found)
    return [f"MIXED PROTOCOLS, not comparable: {named} differ in {differing_fields(study.protocols, found)}."]


def differing_fields(protocols: Mapping[str, Mapping[str, Any]], ids: Sequence[str]) -> str:
    """The fields in which protocols differ with their values, e.g. "n_samples (512, 2048)"."""
    known = [protocols[name] for name in ids if name in protocols]
    if len(known) < len(ids):
        return "a protocol that no record spells out"
    fields = [field for field in known[0] if len({str(protocol.get(field)) for protocol in known}) > 1]
    return ", ".join(f"{field} ({', '.join(str(protocol.get(field)) for protocol in known)})" for field in fields)
