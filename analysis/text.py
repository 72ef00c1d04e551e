"""Numbers, intervals and tables as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

ROUNDING = 1e-9
"""Metrics are sums of float64 numbers of about 1 to 1,000: what is smaller than this is left of 0 by rounding."""


def number(value: Any, digits: int = 3) -> str:
    """A value for a table cell: a dash where there is none, no needless digits."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if float(value) == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{float(value):.0f}" if 100 <= abs(value) < 1e6 else f"{float(value):.{digits}g}"


def measured(value: Any) -> str:
    """As `number`, of a metric or its spread: what only rounding leaves is 0."""
    return "0" if pd.notna(value) and abs(value) < ROUNDING else number(value)


def interval(row: Mapping[Any, Any], marks: Mapping[str, str] = {}) -> str:
    """A row's value, its interval where one is known, and the mark of its protocol where that has one."""
    text = measured(row["value"])
    if pd.notna(row["ci_low"]) and pd.notna(row["ci_high"]):
        text += f" [{measured(row['ci_low'])}, {measured(row['ci_high'])}]"
    return text + (f" ({marks[row['protocol']]})" if row["protocol"] in marks else "")


def difference(value: float, low: float | None, high: float | None) -> str:
    """A difference with its interval where one is known."""
    return interval({"value": value, "ci_low": low, "ci_high": high, "protocol": ""})


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    body = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in body)


def span(counts: Iterable[int]) -> str:
    """How many images numbers were measured on: the least and the most."""
    found = sorted({int(n) for n in counts})
    return "n = " + (" to ".join(str(n) for n in dict.fromkeys((found[0], found[-1]))) if found else "–")
