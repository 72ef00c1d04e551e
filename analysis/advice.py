"""The answer in sentences: which cell to take, how sure that is, what would settle it, and what to run next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis import commands, lengths, limits, text
from analysis.answer import Answer, Open, Option, answers
from analysis.budgets import Budget
from analysis.collect import Study
from analysis.compare import DISAGREE, NO_BETTER, SUFFICES
from analysis.crossings import REACH, ROUNDING, Crossing, Curve, Race, band, chances_at, crossings, race
from analysis.headline import headline
from analysis.store import Stores, as_stores
from ldm.records import Cell

NONE_OF_TINY = (
    "No recommendation: `scale=tiny` trains for seconds on few images, and its numbers mean nothing. "
    "Run the same command with `scale=cpu` or `scale=gpu`."
)
NOTHING_MEASURED = "No recommendation: no metric of samples of which an end is better was measured."

MOST_NAMED = 4
"""Cells that a sentence names."""

SURE = 0.95
"""Share of draws from which on a crossing is stated."""

TIMES = 4
"""Times the training for which it is said what the curves expect."""

SAMPLES = 5000
"""Samples that the next steps draw."""

MOST_LINES = 12
"""Cells of the front that are listed."""

FOR_THESE = ", for these trainings: another seed may change it"
"""What ends a sentence about cells that were trained once."""

LIKELY = 0.05
"""Probability of being the best, from which on a cell is named."""

REMEDIES: Mapping[str, str] = {
    "training": "train longer: {times} times as long as now ({longer})",
    "sampler": "take twice the sampler's steps (`sampler.steps={steps}`)",
    "at chance": "train longer, and sample under more guidance (`guidance.scale`)",
    SUFFICES: "take a smaller f: no model of these latents can be told from a baseline without a network",
    NO_BETTER: "train longer, until the diffusion model beats a baseline without a network",
    "first stage": "take a first stage that loses less: a smaller f, more channels or a longer training of its own; "
    "where the sentence leaves something to gain, more samples (`metrics.n_samples`) may tell it from decoded images",
    "memorisation": "take more training images, or train shorter",
    "out of scale": "look at the samples, and train longer",
    "too few images": "measure more samples (`metrics.n_samples=1000`), or hold out more images "
    "(`data.heldout_fraction`) or give more",
}
"""What to do about each limit; one that is not here is named alone."""

OVERTRAINED = "train shorter, or give more images"
"""What to do where training is a limit since its last doubling made the cell worse."""

MORE_SAMPLES = "measure more samples (`metrics.n_samples=1000`)"
MORE_HELD_OUT = "hold out more images (`data.heldout_fraction`), or give more"
MORE_REFERENCES = "give more images"
"""What to do about the side that has too few images: samples, held-out images or other reference images."""

SEEDS = "`ae.seed=0,1,2 'seed=${ae.seed}'`"
"""The sweep of three trainings of first stage and denoiser; `seed=0,1,2` beside it would be nine."""


def section(study: Study) -> str:
    """The answer for the top of the table: two sentences, of each way of measuring."""
    found = answers(study)
    if not found:
        return ""
    told = [said for one in found for said in (*_protocol(one, found), *sentences(study, one))]
    return "\n\n".join([*told, "`python analysis/ask.py` answers for a budget, and says what to run next."])


def _protocol(answer: Answer, among: Sequence[Answer]) -> list[str]:
    """How an answer's metric was measured, where there are several ways."""
    return [f"Of what was measured by protocol `{answer.protocol}`:"] if len(among) > 1 else []


def sentences(study: Study, answer: Answer) -> list[str]:
    """What to take, and what more training would change."""
    if answer.is_tiny:
        return [NONE_OF_TINY]
    told = [_take(answer) if answer.best is not None else _nothing(study, answer)]
    found = _race(study, answer)
    return [*told, *([_outlook(study, found)] if found is not None else [])]


def _take(answer: Answer) -> str:
    best = answer.best
    assert best is not None
    of = f"of the {_count(len(answer.fitting), 'cell')}{_that_fit(answer)}"
    value = f"{_short(answer)} {_interval(best)}"
    running = [option for option in answer.fitting if not option.barred]
    among = of if len(running) == len(answer.fitting) else f"{of}, {len(running)} of which may be taken,"
    if len(running) == 1:
        said = f"Take **{best.name}** ({value}): {of} it is the only one that can be recommended"
    elif answer.alike:
        others = _names([one.option for one in answer.alike], with_chance=True)
        said = (
            f"Take **{best.name}** ({value}) or one of those that cannot be told apart from it: {others}; {among} it "
            f"is the best {_with(best.chance)}"
        )
    else:
        said = f"Take **{best.name}**: {among} its {value} is the best {_with(best.chance)}"
    said += f" (limited by {best.mean.limits})" if best.mean.limits else ""
    said += f"{FOR_THESE}." if answer.trained_once else "."
    return " ".join([said, *_disputed(answer)])


def _disputed(answer: Answer) -> list[str]:
    """The cells on which extractors contradict each other, in the words of the table."""
    by_sentence: dict[str, list[Option]] = {}
    for one in answer.alike:
        if one.comparison.verdict == DISAGREE:
            by_sentence.setdefault(one.comparison.sentence, []).append(one.option)
    return [f"Against {_names(own)}: {sentence}." for sentence, own in by_sentence.items()]


def _nothing(study: Study, answer: Answer) -> str:
    if not answer.fitting:
        nearest = min(answer.options, key=lambda option: max(budget.excess(option.spent) for budget in answer.budgets))
        missed = ", ".join(budget.cost_in_words(nearest.spent) for budget in nearest.misses)
        return f"No cell fits {_bounds(answer.budgets)}; the nearest is {nearest.name} with {missed}."
    return (
        f"No recommendation yet: something other than its latent space holds back {_all(answer.fitting)} "
        f"({_held_back(answer.fitting)}). {_needed_training(study)}"
    )


def _needed_training(study: Study) -> str:
    """What training the ends of the curves suggest, in short; `limits.budget` has the numbers."""
    ends = limits.ends(study).values()
    if ends and not any(end.is_gaining for end in ends):
        return limits.no_gain(study)
    cells = limits.overrides(study)
    if (times := _times_needed(study)) is None:
        return (
            f"How much more training is needed cannot be extrapolated: train twice as long "
            f"({lengths.in_words(cells, 2)})."
        )
    return f"By the curves over training about {times} times the training is needed ({lengths.in_words(cells, times)})."


def _times_needed(study: Study) -> int | None:
    """Times its training that the cell that needs most still gains; None where nothing can be extrapolated."""
    told = [end.enough // end.last for end in limits.ends(study).values() if end.enough is not None]
    return max(told, default=None)


def _all(options: Sequence[Option]) -> str:
    return "the only cell" if len(options) == 1 else f"each of the {len(options)} cells"


def _held_back(options: Sequence[Option]) -> str:
    """The limits of cells, each with how many it is of."""
    counts: dict[str, int] = {}
    for option in options:
        own = [*option.mean.limits.split(", "), *option.barred.split(", ")]
        for name in dict.fromkeys(filter(None, own)):
            counts[name] = counts.get(name, 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])
    return "; ".join(f"{name}: {'all' if count == len(options) else count}" for name, count in most)


def _race(study: Study, answer: Answer) -> Race | None:
    """The curves of the answer's metric; for the headline those of the figure, whose metric fewer images allow."""
    return race(study, None if answer.metric == headline(study.frame) else answer.metric.metric)


def _outlook(study: Study, found: Race) -> str:
    """Which cell is the best as trained and with more training, by the fitted curves, and which overtakes where."""
    title = found.metric.title.partition(",")[0]
    ends = {curve.name: float(curve.spent[-1]) * ROUNDING for curve in found.curves}
    beyond = [name for name, end in ends.items() if TIMES * found.spent > end]
    how = ", extrapolated," if len(beyond) == len(ends) else f" (extrapolated for {_listed(beyond)})" if beyond else ""
    late = f" (not known that early: {_listed(found.late)})" if found.late else ""
    told = [
        f"Probability of the smallest {title} by the curves over training (figure `crossings`): at the "
        f"{found.spent:.2g} FLOPs of diffusion training that every cell had{late} {_chances(found, found.spent)}; at "
        f"{TIMES} times that{how} {_chances(found, TIMES * found.spent)}; "
        f"{_next_lead(found)}{FOR_THESE if found.unknown else ''}."
    ]
    if rising := _rising(study, found):
        told.append(
            f"The curve of {_listed(rising)} rises at its end, as no fitted curve can: more training may make it worse."
            if len(rising) == 1
            else f"The curves of {_listed(rising)} rise at their ends, as no fitted curve can: more training may make "
            "them worse."
        )
    return " ".join(told)


def _next_lead(found: Race) -> str:
    """Where the lead changes hands beyond the budget that every cell had, by the fits."""
    ahead = [one for one in crossings(found) if one.at > found.spent]
    if ahead:
        return _overtakes(ahead[0], found)
    if len(set(found.leaders[found.place(found.spent) :])) > 1:
        return f"the lead changes within {REACH:g} times that only where a cell begins to be known"
    return f"the lead does not change by the fits within {REACH:g} times that"


def _rising(study: Study, found: Race) -> list[str]:
    """The curves whose last doubling made the metric worse, by more than its interval."""
    ends = limits.ends_by_model(study)
    losing = {model for models, (_, end) in ends.items() if end.is_losing for model in models}
    is_alike = any(end.title == found.metric.title for _, end in ends.values())
    return [curve.name for curve in found.curves if curve.models & losing] if is_alike else []


def _overtakes(one: Crossing, found: Race) -> str:
    way = "overtakes" if one.share > SURE else "may overtake"
    at, low, high = (text.number(budget / found.spent, digits=2) for budget in (one.at, one.low, one.high))
    return (
        f"{one.then} {way} {one.first} at about {at} times that (95 % interval {low} to {high} times, in "
        f"{100 * one.share:.0f} % of the draws)"
    )


def _chances(found: Race, budget: float) -> str:
    index = found.place(budget)
    return _listed_chances({curve.name: float(found.chances[at, index]) for at, curve in enumerate(found.curves)})


def _listed_chances(chances: Mapping[str, float]) -> str:
    likely = sorted(((value, name) for name, value in chances.items() if value >= LIKELY), reverse=True)
    if not likely:
        return f"none above {LIKELY:g}"
    return ", ".join(f"{name}: {_probability(value)}" for value, name in likely[:MOST_NAMED])


def spoken(study: Study, answer: Answer, stores: Stores) -> list[str]:
    """The answer for a terminal: paragraphs, and commands behind them, in the first store that holds the cell."""
    told = [_question(answer), *(sentence.replace("**", "") for sentence in sentences(study, answer))]
    if answer.is_tiny:
        return told
    best = answer.best
    if best is not None:
        told.append(f"{best.name}: {best.spent.words}.")
        told += _cheaper(answer)
        told += _settling(answer)
    else:
        told += _remedies(study, answer)
    told += _untimed(answer)
    told += _unspent(study, answer)
    told += _front(answer)
    if best is not None and best.cell is not None:
        told += _next(study, answer, best, best.cell, _store_of(study, best, as_stores(stores)))
    return told


def _question(answer: Answer) -> str:
    bounds = f", with {_bounds(answer.budgets)}" if answer.budgets else ""
    n = min(option.mean.n for option in answer.options)
    how = f"{answer.metric.better}; n = {n:,}, protocol {answer.protocol}"
    return f"Asked: the best {answer.metric.title} ({how}){bounds}."


def _cheaper(answer: Answer) -> list[str]:
    best, within = answer.best, f"{100 * answer.within:g} %"
    assert best is not None
    found = {"cheapest to train": answer.cheapest, "fastest to sample": answer.fastest}
    told = [
        f"{what.capitalize()} of the cells estimated within {within} of it: {option.name} ({option.spent.words}; "
        f"within {within} {_with(option.near)})."
        for what, option in found.items()
        if option is not None
    ]
    return told or [f"No cell that costs less is estimated within {within} of it."]


def _settling(answer: Answer) -> list[str]:
    """What would tell the best cell from those that are not distinguishable from it."""
    if not answer.alike:
        return []
    told = [
        f"To tell it from them (p-values are corrected for {answer.alike[0].comparison.pairs} pairs, intervals not):"
    ]
    if any(one.is_trained_once and one.comparison.verdict != DISAGREE for one in answer.alike):
        told.append(
            f"- First train them with other seeds ({SEEDS}): one training says nothing of how far another would move "
            "it."
        )
    return told + [f"- {_needed(one)}" for one in answer.alike[:MOST_NAMED]]


def _needed(one: Open) -> str:
    item = one.comparison
    if item.verdict == DISAGREE:
        return f"{item.cell}: {item.sentence}; look at the samples, since more of them settle nothing."
    gap = text.difference(item.difference, item.low, item.high)
    needed = []
    if one.seeds is not None:
        needed.append(f"about {one.seeds} seeds of each")
    if one.samples is not None:
        needed.append(f"about {one.samples:,} samples and reference images (`metrics.n_samples={one.samples}`)")
    what = " and ".join(needed) or "more than this program would advise: take the cheaper"
    return f"{item.cell}: the difference is {gap}; to see one of that size takes {what}."


def _remedies(study: Study, answer: Answer) -> list[str]:
    """What to do about what holds cells back, each limit once."""
    names = dict.fromkeys(name for option in answer.fitting for name in option.mean.limits.split(", ") if name)
    told = []
    for name in names:
        own = [option for option in answer.fitting if name in option.mean.limits.split(", ")]
        by_remedy: dict[str, list[Option]] = {}
        for option in own:
            by_remedy.setdefault(_remedy(study, answer, name, option), []).append(option)
        for remedy, those in by_remedy.items():
            if remedy:
                whose = (
                    "all cells" if len(those) == len(answer.fitting) else _listed(short_names(those, answer.options))
                )
                told.append(f"- {name} ({whose}): {_filled(study, remedy, those)}.")
    return ["What holds cells back, and what to do about it:", *told] if told else []


def _remedy(study: Study, answer: Answer, name: str, option: Option) -> str:
    """What to do about a limit of a cell, "" where nothing is known to help."""
    if name == "training":
        ends = (end for models, (_, end) in limits.ends_by_model(study).items() if models & option.models)
        if any(end.is_losing for end in ends):
            return OVERTRAINED
    if name == "too few images":
        protocol = study.protocols.get(answer.protocol, {})
        side = MORE_HELD_OUT if protocol.get("reference") == "heldout" else MORE_REFERENCES
        short = [MORE_SAMPLES] if option.mean.n < limits.LEAST_IMAGES else []
        short += [side] if protocol.get("n_reference", limits.LEAST_IMAGES) < limits.LEAST_IMAGES else []
        if short:
            return "; ".join(short)
    return REMEDIES.get(name, "")


def _filled(study: Study, remedy: str, cells: Sequence[Option]) -> str:
    """A remedy with the settings that it takes for these cells."""
    own = [option.cell for option in cells if option.cell is not None]
    steps, times = max((int(cell.axes.get("steps") or 0) for cell in own), default=0), _times_needed(study) or 2
    longer = lengths.in_words([cell.overrides for cell in own], times)
    return remedy.format(times=times, longer=longer, steps=2 * steps)


def _untimed(answer: Answer) -> list[str]:
    """How many cells have no speed since others were timed alone."""
    if not answer.untimed:
        return []
    were = "cell was" if answer.untimed == 1 else "cells were"
    return [
        f"{answer.untimed} {were} not timed and so of unknown speed here, on no front and within no budget of "
        "sampling: `python -m experiments.timing` times what is left."
    ]


def _unspent(study: Study, answer: Answer) -> list[str]:
    """Who would be best if a budget of training were all spent on one cell, by the fitted curves."""
    found = _race(study, answer)
    bounds = [budget for budget in answer.budgets if budget.kind.is_most]
    bounds = [budget for budget in bounds if budget.kind.cost in ("flops", "seconds")]
    if found is None or not bounds:
        return []
    others = [budget for budget in answer.budgets if budget not in bounds]
    models = {
        model
        for option in answer.options
        if all(budget.fits(option.spent) for budget in others)
        for model in option.models
    }
    part = [curve for curve in found.curves if curve.models & models]
    spent = {curve.name: min(_affordable(curve, budget) for budget in bounds) for curve in part}
    far = [curve.name for curve in part if spent[curve.name] > curve.known[1]]
    if far:
        return [
            f"That budget is more than {REACH:g} times what some cells were trained for ({', '.join(far)}): too "
            "far to extrapolate."
        ]
    early = [curve.name for curve in part if not spent[curve.name] >= curve.known[0]]
    known = [curve for curve in part if curve.name not in early]
    left_out = f" (not known that early: {_listed(early)})" if early else ""
    if not part:
        return []
    if len(known) < 2:
        of = f"only {known[0].name} is known" if known else "no cell is known"
        return [
            f"Were {_bounds(bounds)} all spent on one cell, first stage included, {of} by the fitted curves{left_out}: "
            "no probability can be given."
        ]
    likely = _listed_chances({name: chance for name, chance in chances_at(found, spent).items() if name not in early})
    beyond = any(spent[curve.name] > ROUNDING * curve.spent[-1] for curve in known)
    return [
        f"Were {_bounds(bounds)} all spent on one cell, first stage included, the probability of being the best "
        f"by the fitted curves would be{', extrapolated,' if beyond else ''} {likely}{left_out}"
        f"{FOR_THESE if found.unknown else ''}."
    ]


def _affordable(curve: Curve, budget: Budget) -> float:
    """FLOPs of diffusion training that a budget leaves a cell."""
    if budget.kind.cost == "flops":
        return budget.bound - curve.share
    return (budget.bound - curve.share_seconds) / curve.seconds


def _front(answer: Answer) -> list[str]:
    """The cells that no other beats at no more cost, in lines; without an order but that of cost."""
    front = sorted((one for one in answer.front if not one.misses), key=lambda one: one.spent.images_per_second)
    if len(front) < 2:
        return []
    lines = [
        f"  {_interval(one):<26}{one.spent.flops:>9.2g} FLOPs{text.number(one.spent.images_per_second):>7} images/s  "
        f"{one.name}"
        for one in front[:MOST_LINES]
    ]
    more = [f"  and {len(front) - MOST_LINES} more"] if len(front) > MOST_LINES else []
    return [
        f"Front of quality and cost ({_short(answer)}, training, sampling): none of these is beaten, beyond the "
        "interval, by a cell that costs no more:",
        *lines,
        *more,
    ]


def _next(study: Study, answer: Answer, best: Option, cell: Cell, store: Path) -> list[str]:
    """Commands for the chosen cell, each behind what it does; an experiment's own length is not known here."""
    given = [item for item in cell.overrides if item.partition("=")[0].lstrip("+") != "store"]
    own = [*given, f"store={store}"]
    is_set = lengths.length_of(given) is None
    return [
        "Next:",
        f"  repeat it         {commands.run(own)}",
        f"  train it longer   {commands.run(_longer(given, TIMES) + own[-1:])}",
        *_expected(study, answer, best),
        *(
            [f"                    # where the experiment or trainer.budget=paper sets a length, {TIMES} times that"]
            if is_set
            else []
        ),
        f"  sample and keep   {commands.run([*own, f'metrics.n_samples={SAMPLES}', 'samples.keep=images'])}",
        f"  export            python -m ldm.interop.export OUT --cell {cell.cell} {shlex.quote(f'store={store}')}",
    ]


def _longer(given: Sequence[str], times: int) -> list[str]:
    """The overrides with so many times the training images."""
    found = lengths.length_of(given)
    if found is None:
        return [*given, f"trainer.length={times}"]
    setting, longer = found[0], lengths.times_as_long(*found, times)
    told = [index for index, item in enumerate(given) if lengths.setting_of(item) == setting]
    return [*given[: told[-1]], longer, *given[told[-1] + 1 :]] if told else [*given, longer]


def _store_of(study: Study, option: Option, stores: Sequence[Path]) -> Path:
    """The first of the stores that holds a cell's result."""
    folders = {one.folder for one in study.finished if one.record.identity in option.results}
    held = (store for store in stores if any(folder.is_relative_to(store) for folder in folders))
    return next(held, stores[0])


def _expected(study: Study, answer: Answer, best: Option) -> list[str]:
    """What the cell's curve expects of that, as a comment below the command."""
    found = _race(study, answer)
    for curve in found.curves if found is not None else ():
        if curve.models & best.models:
            drawn = curve.at(np.array([curve.spent[-1], TIMES * curve.spent[-1]]))
            low, high = band(drawn)
            then = text.difference(float(drawn[0, 1]), float(low[1]), float(high[1]))
            return [f"                    # its milestones: {text.number(drawn[0, 0])} now, {then} extrapolated"]
    return []


def _that_fit(answer: Answer) -> str:
    return f" with {_bounds(answer.budgets)}" if answer.budgets else ""


def _bounds(budgets: Sequence[Budget]) -> str:
    return " and ".join(budget.words for budget in budgets)


def _names(options: Sequence[Option], with_chance: bool = False) -> str:
    more = f" and {len(options) - MOST_NAMED} more" if len(options) > MOST_NAMED else ""
    told = [
        option.name + (f" ({_probability(option.chance)})" if with_chance and option.chance is not None else "")
        for option in options[:MOST_NAMED]
    ]
    return "; ".join(told) + more


def _listed(names: Sequence[str]) -> str:
    return ("; " if any(", " in name for name in names) else ", ").join(names)


class Named(Protocol):
    """What has a name of parts with commas between them, as cells have."""

    @property
    def name(self) -> str:
        """As in the table."""


def short_names(options: Sequence[Named], among: Sequence[Named]) -> list[str]:
    """Names without the parts that do not tell the cells apart, and without channels where these follow from f."""
    parts = {option.name: option.name.split(", ") for option in among}
    shorter = {name: [part for part in own if not part.endswith(" channels")] for name, own in parts.items()}
    if len({tuple(own) for own in shorter.values()}) == len(parts):
        parts = shorter
    heads = {own[0] for own in parts.values()}
    shared = set.intersection(*map(set, parts.values()))
    if len(heads) == len(parts):
        return [parts[option.name][0] for option in options]
    return [", ".join(part for part in parts[option.name] if part not in shared) for option in options]


def _interval(option: Option) -> str:
    return text.difference(option.mean.value, option.mean.low, option.mean.high)


def _short(answer: Answer) -> str:
    return answer.metric.title.partition(",")[0]


def _with(chance: float | None) -> str:
    """A probability, as far as draws tell it."""
    if chance is None:
        return "by its mean alone, since nothing tells how far values may be off"
    return f"with probability {_probability(chance)}"


def _probability(chance: float) -> str:
    return "above 0.99" if chance > 0.99 else "below 0.01" if chance < 0.01 else f"{chance:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
