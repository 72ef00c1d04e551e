"""What figures find, in a line, as their titles: never an order where a tie is, and plainly that there is a tie."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer import ALIKE_COST, Answer
from analysis.crossings import Race, crossings
from analysis.figures.standing import Contender, Standing

NO_CELL = "No cell can be told apart from the best"
SURE = 0.95
"""Probability of what is said of curves without a doubt."""

ROUNDING = 1e-9
"""Of probabilities: what they lack by less is not lacking."""

PIXELS = "identity"
MOST_NAMED = 2
"""Cells that a title names."""


@dataclass(frozen=True)
class Cost:
    """What a figure has on its x axis: the cost of a cell, the less the better; words for less and for the least."""

    of: Callable[[Contender], float]
    less: str
    least: str


SPEED = Cost(lambda one: -one.spent.images_per_second, "faster", "fastest")
CALLS = Cost(lambda one: float(one.row["nfe"]), "cheaper to sample", "cheapest to sample")
COMPUTE = Cost(lambda one: one.spent.flops, "cheaper to train", "cheapest to train")


def of_factors(standing: Standing, neutral: str) -> str:
    """At which compression factor, and under which regulariser, samples are best."""
    if not standing.best or standing.is_all_alike:
        return _without_order(standing, neutral)
    if len({one.row["f"] for one in standing.compared}) == 1:
        return of_cells(standing, neutral)
    return _provisional(f"Samples are best {_where(standing)}", standing)


def _where(standing: Standing) -> str:
    """The f of the best cells, and their regulariser where they have one of several."""
    best, family = _factors_of(standing.best), _family(standing)
    if best != _factors_of(standing.compared):
        return f"at {_in_full(standing)}{', tied' if len(best) > 1 else ''}"
    if family and all(one.row["regulariser"] != PIXELS for one in standing.best):
        return f"with {family}, at no f alone"
    return "at no f alone: all f are tied"


def _in_full(standing: Standing) -> str:
    """The f of the best cells, and their regulariser where they have one of several, a tie not told."""
    family = _family(standing)
    return _factors(standing) + (f" with {family}" if family else "")


def _factors(standing: Standing) -> str:
    *others, last = map(str, _factors_of(standing.best))
    return "f = " + (f"{', '.join(others)} or {last}" if others else last)


def _factors_of(own: Sequence[Contender]) -> list[int]:
    return sorted({int(one.row["f"]) for one in own})


def _family(standing: Standing) -> str:
    """The regulariser of the best cells, where they have one of several."""
    families, among = (_families(own) for own in (standing.best, standing.compared))
    return families[0] if len(families) == 1 and len(among) > 1 else ""


def _families(own: Sequence[Contender]) -> list[str]:
    """The first words of names of cells with a first stage, which are their regularisers."""
    return list(dict.fromkeys(one.name.partition(" f = ")[0] for one in own if one.row["regulariser"] != PIXELS))


def of_cells(standing: Standing, neutral: str) -> str:
    """Which cell is best."""
    if not standing.best or standing.is_all_alike:
        return _without_order(standing, neutral)
    if not standing.is_tie:
        return _provisional(f"{standing.best[0].name} is best", standing)
    named = _joined(standing.best) if len(standing.best) <= MOST_NAMED else f"{len(standing.best)} cells"
    return _provisional(f"{named} tie for best of {len(standing.compared)}", standing)


def of_cost(standing: Standing, neutral: str, cost: Cost) -> str:
    """What the best cells cost: which of those that are not told apart from the best costs least."""
    if not standing.best or any(math.isnan(cost.of(one)) for one in standing.compared):
        return of_cells(standing, neutral)
    least = _cheapest(standing.best, cost)
    if not standing.is_tie:
        is_least = standing.best[0] in _cheapest(standing.compared, cost)
        said = f"is best, and {cost.least}" if is_least else f"is best; what is {cost.less} is worse"
        return _provisional(f"{standing.best[0].name} {said}", standing)
    tie = NO_CELL if standing.is_all_alike else f"{len(standing.best)} cells tie for best"
    if len(least) == len(standing.best):
        return _provisional(f"{tie}, at equal cost", standing)
    named = _joined(least) if len(least) <= MOST_NAMED else f"{len(least)} of them alike"
    return _provisional(f"{tie}; {cost.least}: {named}", standing)


def of_answer(answer: Answer, standing: Standing) -> str:
    """Which cell is recommended, and how many are not told apart from it."""
    if answer.best is None or not standing.best:
        return _without_order(standing, "Quality and cost")
    if standing.is_all_alike:
        return f"{NO_CELL}: take the cheapest"
    name = next(one.name for one in standing.best if one.results == answer.best.results)
    if standing.is_tie:
        more = f"{len(standing.best) - 1} more cannot be told apart from it"
        return _provisional(f"{name} has the best mean; {more}", standing)
    return _provisional(f"{name} is the best, at these costs", standing)


def over_budgets(standings: Mapping[str, Standing], neutral: str) -> str:
    """Whether the best factor depends on the budget; `standings` by the budget's name, the smallest first."""
    if not standings or any(not one.best for one in standings.values()):
        return _without_order(next(iter(standings.values()), Standing()), neutral)
    if all(one.is_all_alike for one in standings.values()):
        return f"{NO_CELL} at any budget"
    factors, full = ({name: say(one) for name, one in standings.items()} for say in (_factors, _in_full))
    names, known = list(standings), standings.values()
    if len(set(full.values())) == 1:
        return _provisional(f"Samples are best {_where(standings[names[-1]])}, at all budgets", *known)
    if full[names[0]] != full[names[-1]]:
        names = [names[0], names[-1]]
    # Equal factors under unlike regularisers would read as no change.
    is_told = len({factors[name] for name in names}) == len({full[name] for name in names})
    told = factors if is_told else full
    return _provisional(f"Best {'; '.join(f'after {name}: {told[name]}' for name in names)}", *known)


def of_race(found: Race) -> str:
    """Which cell is best after the compute that all have spent, and whom it overtook where it surely did."""
    best = [found.curves[index].name for index in contenders(found)]
    unknown = ", ".join(found.late) if len(found.late) < MOST_NAMED else f"{len(found.late)} cells"
    late = f" ({unknown} not known yet)" if found.late else ""
    where = f"{_short(found.spent)} FLOPs{late}"
    if len(best) == len(found.curves):
        return f"{NO_CELL} at {where}"
    if len(best) > 1:
        named = " and ".join(best) if len(best) <= MOST_NAMED else f"{len(best)} cells"
        return _provisional(f"{named} tie for best at {where}", found)
    for item in reversed(crossings(found)):
        if item.then == best[0] and item.share >= SURE and item.high <= found.spent:
            said = f"{best[0]} overtakes {item.first} at {_short(item.at)} FLOPs, and is best at {_short(found.spent)}"
            return _provisional(f"{said}{late}", found)
    return _provisional(f"{best[0]} is best at {where}", found)


def contenders(found: Race) -> list[int]:
    """The curves of which one is surely the best after the compute that all have spent: as few as that takes.

    However many curves share the probability, there is one at least; those of equal chances are in or out together.
    """
    chances = found.chances[:, found.place(found.spent)]
    falling = np.sort(chances)[::-1]
    # Shares of draws add up to a little less than they should.
    taken = int(np.searchsorted(np.cumsum(falling), SURE - ROUNDING))
    return [index for index, chance in enumerate(chances) if chance >= falling[min(taken, len(falling) - 1)]]


def _short(flops: float) -> str:
    return f"{flops:.2g}".replace("e+", "e")


def _cheapest(own: Sequence[Contender], cost: Cost) -> list[Contender]:
    costs = [cost.of(one) for one in own]
    return [one for one, spent in zip(own, costs, strict=True) if spent - min(costs) <= ALIKE_COST * abs(min(costs))]


def _joined(own: Sequence[Contender]) -> str:
    return " and ".join(one.name for one in own)


def _without_order(standing: Standing, neutral: str) -> str:
    """The title of a figure in which no cell is better than others."""
    if standing.is_all_alike:
        return NO_CELL
    return f"{neutral} ({standing.why_none})" if standing.why_none else neutral


def _provisional(said: str, *known: Standing | Race) -> str:
    return f"{said} (provisional)" if any(one.unknown for one in known) else said
