"""What stands beside the panels of a figure: its facts, and notes on bars, seeds, protocols and missing results."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis import protocols
from analysis.axes import TUNED
from analysis.collect import Study
from analysis.fairness import found_rates

MOST_RATES = 6
"""Learning rates that a note names."""

SEEDS = {"seed": "training seeds", "ae_seed": "first-stage seeds", "sampler_seed": "sampler seeds"}


def facts_of(study: Study, rows: pd.DataFrame, first: str) -> str:
    """What must stand with every number: metric and n, data, judge, protocol, budget rule."""
    parts = [first] if first else []
    data = [f"{d} {r} px" for d, r in dict.fromkeys(zip(rows["data"], rows["resolution"], strict=True))]
    parts += [f"data {listed(data)}"] if data else []
    parts += [f"scale {listed(_values(rows, 'scale'))}"] if _values(rows, "scale") else []
    budgets = _values(rows, "budget")
    parts += (
        [f"equal budget in {listed(budgets)}" if budgets != ["paper"] else "budgets of the paper"] if budgets else []
    )
    used = _values(rows, "protocol")
    parts += [f"protocol {listed(used)}"] if used else []
    return "; ".join(parts) or f"sweep {study.sweep}"


def notes_of(study: Study, rows: pd.DataFrame, goal: str) -> list[str]:
    """Bars, seeds, mixed protocols and missing results, as far as they apply."""
    notes = []
    bars = "Bars: 95 % intervals over images; one seed, so the variance of training is unknown."
    bars = bars if rows["ci_low"].notna().any() else ""
    if seeds := [f"{rows[axis].nunique()} {name}" for axis, name in SEEDS.items() if rows[axis].nunique() > 1]:
        bars = (
            f"Points: means over trainings (swept: {', '.join(seeds)}); bars: their 95 % intervals, with the scatter "
            "of trainings."
        )
    notes += [bars] if bars else []
    if len(tuned := sorted(set(rows["guidance_scale"][rows["guidance_rule"] == TUNED].dropna()))):
        taken = f"{tuned[0]:g} to {tuned[-1]:g}" if len(tuned) > 1 else f"{tuned[0]:g}"
        notes.append(f"Guidance was found for each cell: {taken}; any but 1 costs a second network call a step.")
    if (rows["learning_rate_rule"] == TUNED).any() and (found := found_rates(study)):
        more = f" and {len(found) - MOST_RATES} more, in table.md" if len(found) > MOST_RATES else ""
        notes.append(f"Learning rates were found: {'; '.join(rate.short for rate in found[:MOST_RATES])}{more}.")
    notes += protocols.note(study, protocols.mixed(rows))
    gaps = [gap for gap in study.missing if gap.goal == goal]
    if gaps:
        shown = "; ".join(f"{gap.label} ({'failed' if gap.failed else 'not finished'})" for gap in gaps[:4])
        more = f" and {len(gaps) - 4} more" if len(gaps) > 4 else ""
        notes.append(f"Missing: {shown}{more}; reasons in table.md.")
    return notes


def counted(values: Iterable[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted({int(n) for n in values})) or "0"


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(rows[column]) if value != ""]


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
