"""What stands beside the panels of a figure: facts, keys, and notes on bars, seeds, protocols and missing results."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from analysis import protocols, style
from analysis.axes import TUNED
from analysis.collect import Study
from analysis.fairness import found_rates
from analysis.figures.standing import Standing

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
    """Mixed protocols, missing results, bars, seeds and what was found by trials, as far as they apply."""
    notes = protocols.note(study, protocols.mixed(rows))
    gaps = [gap for gap in study.missing if gap.goal == goal]
    if gaps:
        shown = "; ".join(f"{gap.label} ({'failed' if gap.failed else 'not finished'})" for gap in gaps[:4])
        more = f" and {len(gaps) - 4} more" if len(gaps) > 4 else ""
        notes.append(f"Missing: {shown}{more}; reasons in table.md.")
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
    return notes


def mark_keys(points: pd.DataFrame, standing: Standing) -> list[Line2D]:
    """The legend entries of what is drawn around and in the marks of these points: limited cells, and the best."""
    keys = []
    if points["limited"].any():
        keys.append(style.key("limited (see table.md)", marker="o", **style.HOLLOW))
    if points["is_best"].any():
        keys.append(ring_key(standing.is_tie))
    return keys


def ring_key(is_tie: bool) -> Line2D:
    """The legend entry of rings: around the best cell, or around all that are not told apart from it."""
    return style.key("not distinguishable from the best" if is_tie else "best", **{**style.RING, "markersize": 9})


def counted(values: Iterable[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted({int(n) for n in values})) or "0"


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(rows[column]) if value != ""]


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
