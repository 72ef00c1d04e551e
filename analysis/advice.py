"""The answer in sentences: which cell to take, how sure that is, what would settle it, and what to run next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis import commands, limits, text
from analysis.answer import Answer, Open, Option, answers
from analysis.budgets import Budget
from analysis.collect import Study
from analysis.compare import DISAGREE, NO_BETTER, SUFFICES
from analysis.crossings import REACH, Crossing, Curve, Race, band, chances_at, crossings, race
from analysis.headline import headline
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

LENGTHS = ("trainer.length", "trainer.images")
"""Settings that say how long a diffusion model is trained."""

SAMPLES = 5000
"""Samples that the next steps draw."""

MOST_LINES = 12
"""Cells of the front that are listed."""

LIKELY = 0.05
"""Probability of being the best, from which on a cell is named."""

REMEDIES: Mapping[str, str] = {
    "training": "train longer (`trainer.length={times}`)",
    "sampler": "take twice the sampler's steps (`sampler.steps={steps}`)",
    "at chance": "train longer, and sample under more guidance (`guidance.scale`)",
    SUFFICES: "take a smaller f: no model of these latents can be told from a baseline without a network",
    NO_BETTER: "train longer, until the diffusion model beats a baseline without a network",
    "first stage": "take a first stage that loses less: a smaller f, more channels or a longer training of its own",
    "memorisation": "take more training images, or train shorter",
    "out of scale": "look at the samples, and train longer",
    "too few images": "measure more samples (`metrics.n_samples=1000`)",
}
"""What to do about each limit; one that is not here is named alone."""


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
    return [*told, *([_outlook(found)] if found is not None else [])]


def _take(answer: Answer) -> str:
    best = answer.best
    assert best is not None
    of = f"of the {_count(len(answer.fitting), 'cell')}{_that_fit(answer)}"
    value = f"{_short(answer)} {_interval(best)}"
    running = [option for option in answer.fitting if not option.barred]
    if len(running) == 1:
        said = f"Take **{best.name}** ({value}): {of} it is the only one that can be recommended"
    elif answer.alike:
        others = _names([one.option for one in answer.alike], with_chance=True)
        said = (
            f"Take **{best.name}** ({value}) or one of those that cannot be told apart from it: {others}; {of} it is "
            f"the best {_with(best.chance)}"
        )
    else:
        said = f"Take **{best.name}**: {of} its {value} is the best {_with(best.chance)}"
    said += f" (limited by {best.mean.limits})" if best.mean.limits else ""
    said += ", for these trainings: another seed may change it." if answer.trained_once else "."
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
        return "By the curves over training more images would not help."
    if (times := _times_needed(study)) is None:
        return "How much more training is needed cannot be extrapolated: train twice as long (`trainer.length=2`)."
    return (
        f"By the curves over training about {times} times the training is needed (`trainer.length={times}`, where it "
        "was 1)."
    )


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


def _outlook(found: Race) -> str:
    """Which cell is the best as trained and with more training, by the fitted curves, and which overtakes where."""
    title = found.metric.title.partition(",")[0]
    ahead = [_overtakes(one, found) for one in crossings(found) if one.is_extrapolated and one.share >= LIKELY]
    return (
        f"Probability of the smallest {title} by the curves over training (figure `crossings`): at the "
        f"{found.spent:.2g} FLOPs of diffusion training that every cell had {_chances(found, found.spent)}; at {TIMES} "
        f"times that, extrapolated, {_chances(found, TIMES * found.spent)}; "
        f"{ahead[0] if ahead else f'no cell overtakes another within {REACH:g} times that'}."
    )


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
    return ", ".join(f"{name}: {_probability(value)}" for value, name in likely[:MOST_NAMED])


def spoken(study: Study, answer: Answer, store: Path) -> list[str]:
    """The answer for a terminal: paragraphs, and commands behind them."""
    told = [_question(answer), *(sentence.replace("**", "") for sentence in sentences(study, answer))]
    if answer.is_tiny:
        return told
    best = answer.best
    if best is not None:
        told.append(f"{best.name}: {best.spent.words}.")
        told += _cheaper(answer)
        told += _settling(answer)
    else:
        told += _remedies(answer, _times_needed(study) or 2)
    told += _unspent(study, answer)
    told += _front(answer)
    if best is not None and best.cell is not None:
        told += _next(study, answer, best, best.cell, store)
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
            "- First train them with other seeds (`seed=0,1,2 ae.seed=0,1,2`): one training says nothing of how far "
            "another would move it."
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


def _remedies(answer: Answer, times: int) -> list[str]:
    """What to do about what holds cells back, each limit once; `times`: how much more training is advised."""
    names = dict.fromkeys(name for option in answer.fitting for name in option.mean.limits.split(", ") if name)
    told = ["What holds cells back, and what to do about it:"]
    for name in names:
        own = [option for option in answer.fitting if name in option.mean.limits.split(", ")]
        if name in REMEDIES:
            steps = max((int(o.cell.axes.get("steps") or 0) for o in own if o.cell is not None), default=0)
            whose = "all cells" if len(own) == len(answer.fitting) else _listed(short_names(own, answer.options))
            told.append(f"- {name} ({whose}): {REMEDIES[name].format(times=times, steps=2 * steps)}.")
    return told


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
    spent = {c.name: min(_affordable(c, budget) for budget in bounds) for c in found.curves if c.models & models}
    chances = chances_at(found, spent)
    is_beyond = [c.name for c in found.curves if spent.get(c.name, 0.0) > REACH * c.spent[-1]]
    if is_beyond:
        return [
            f"That budget is more than {REACH:g} times what some cells were trained for ({', '.join(is_beyond)}): too "
            "far to extrapolate."
        ]
    if not (likely := _listed_chances(chances)):
        return []
    beyond = any(spent.get(c.name, 0.0) > 1.01 * c.spent[-1] for c in found.curves)
    return [
        f"Were {_bounds(bounds)} all spent on one cell, first stage included, the probability of being the best "
        f"by the fitted curves would be{', extrapolated,' if beyond else ''} {likely}."
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
    keys = {item.partition("=")[0].lstrip("+") for item in given}
    is_set = "experiment" in keys and not keys & set(LENGTHS)
    return [
        "Next:",
        f"  repeat it         {commands.run(own)}",
        f"  train it longer   {commands.run(_longer(given, TIMES) + own[-1:])}",
        *_expected(study, answer, best),
        *(["                    # where the experiment sets trainer.length, multiply that"] if is_set else []),
        f"  sample and keep   {commands.run([*own, f'metrics.n_samples={SAMPLES}', 'samples.keep=images'])}",
        f"  export            python -m ldm.interop.export OUT --cell {cell.cell} {shlex.quote(f'store={store}')}",
    ]


def _longer(given: Sequence[str], times: int) -> list[str]:
    """The overrides with so many times the training images."""
    for index, item in enumerate(given):
        key, _, value = item.partition("=")
        if key.lstrip("+") in LENGTHS:
            longer = f"{float(value) * times:g}" if key.endswith("length") else str(int(float(value) * times))
            return [*given[:index], f"{key}={longer}", *given[index + 1 :]]
    return [*given, f"trainer.length={times}"]


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
