"""The summary page: a line a cell with its headline numbers, how they were measured, and what is missing."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import advice, budgets, fairness, limited, limits, memorisation, nested, protocols, rates, text
from analysis.axes import REPEATED, TUNED, Axes, choices
from analysis.collect import Study
from analysis.columns import COST_COLUMNS, RATE_COST_COLUMNS
from analysis.compare import (
    LEVEL,
    NO_BETTER,
    Comparison,
    Table,
    alike,
    cell_at,
    columns_of,
    names_of,
    with_limits,
)
from analysis.headline import OF_SAMPLES, base_title, compared_images, floors_of, heading, headline
from analysis.labels import RowLabels, follows_f, named_value, varying
from ldm.records import (
    DECODED,
    DETAIL,
    GAUSSIAN,
    GAUSSIAN_BY_CLASS,
    GROUPS,
    NEIGHBOURHOODS,
    REAL,
    RECONSTRUCTION,
    TASK,
    LeftOut,
)

KNOWN_STAGES = (
    *("reconstruction", "gaussian", "coding", "predictors", "progress", "likelihood", "sampler_check", "evaluation"),
    "memorisation",
)
"""Stages whose results stand in sections of their own, or in figures alone."""

MOST_PLACES = 4
"""Of a metric that was left out, named where there are more."""


FIRST_OF_LIMITED = "first of limited cells"
"""What the cell of the best mean is called where something limits every cell."""

NO_VERDICTS_OF_TINY = "No verdicts: `scale=tiny` trains for seconds on few images, and its numbers mean nothing."


def markdown(study: Study, against: str | None = None) -> str:
    """The whole page as Markdown: cells, first stages, floors, missing results, protocols and metrics left out.

    `against` begins the name of the cell that others are compared with, the best where None.
    """
    marks, known = _marks(study), limits.known(study)
    sections = {
        "Recommendation": advice.section(study),
        "Cells": _cells(study, marks),
        "What limits each cell": limits.section(known),
        "Which cells are better": _comparison(study, marks, against),
        "Fidelity and diversity": _neighbourhoods(study, marks),
        "First stages, on held-out images": _first_stages(study, marks),
        "What nested channels cost": nested.section(study, marks),
        "Coded latents, on held-out images": _coding(study, marks),
        "Likelihood, on held-out images": _likelihood(study, marks),
        **_further(study, marks),
        "Task scores: whether samples are what they were asked to be": _task_scores(study, marks),
        "Guidance that was tuned": fairness.tuned_guidance(fairness.tunings(study)),
        "Learning rates that were found": fairness.tuned_rates(fairness.found_rates(study)),
        "Learning-rate check": fairness.learning_rate_check(study),
        "Whether the sampler limits": limited.section(study, marks),
        "Memorisation: distances to the nearest training image": memorisation.section(study, marks),
        "Floors: the same distances for real images": _floors(study, marks),
        "Results that differ between stores": "\n".join(f"- {sentence}." for sentence in study.differing),
        "Missing": _missing(study),
        "Protocols": _protocols(study, marks),
        "Metrics left out": _left_out(study),
    }
    head = [f"# Sweep {study.sweep}", *(f"    {command}" for command in study.commands)]
    if len(study.stores) > 1:
        head.append(f"Read from the stores {', '.join(f'`{store}`' for store in study.stores)}, as if they were one.")
    return "\n\n".join(head + [f"## {title}\n\n{body}" for title, body in sections.items() if body]) + "\n"


def _cells(study: Study, marks: Mapping[str, str]) -> str:
    """One line a finished cell: its axes, its metrics, its first stage's quality and rate, and what it cost.

    Over seeds that were swept it gives means and standard deviations.
    """
    rows = study.frame[study.frame["stage"] == "evaluation"]
    if rows.empty:
        return ""
    # Groups that have a section of their own stand there; what nobody knows stands here.
    is_here = rows["variant"].isin(OF_SAMPLES) & ~rows["group"].isin((NEIGHBOURHOODS, TASK, DETAIL))
    metrics = _headline_first(study, list(dict.fromkeys(rows["metric"][is_here])))
    axes = ["steps", *(["nfe"] if (rows["nfe"] != rows["steps"]).any() else [])]
    axes += [axis for axis in _optional(study.axes) if choices(rows[axis]) > 1 and axis not in REPEATED]
    has_found_rates = (rows["learning_rate_rule"] == TUNED).any()
    first_stages = study.frame[study.frame["stage"] == "reconstruction"]
    is_quality = (first_stages["group"] == RECONSTRUCTION) & first_stages["headline_from"].notna()
    is_quality &= ~rates.is_distortion(first_stages)  # which stand beside the rate
    quality = list(dict.fromkeys(first_stages["metric"][is_quality]))
    header = ["f", "regulariser", "channels", *(axis.replace("_", " ") for axis in axes)]
    header += ["learning rate"] if has_found_rates else []
    header += [f"{heading(rows, metric)} ({_counted(rows, [metric])})" for metric in metrics]
    header += [f"{heading(first_stages, metric)} ({_counted(first_stages, [metric])})" for metric in quality]
    shown = first_stages[first_stages["regulariser"].isin(rows["regulariser"])]
    header += [
        f"PSNR, dB ({text.span(rates.distortion(shown, 'psnr')['n'])})",
        f"rate, bits/px ({text.span(rates.rate(shown)['n'])})",
        "parameters: denoiser",
        "first stage",
        "training: PFLOP",
        "of it first stage",
        *(["of it trials of rates"] if has_found_rates else []),
        "training: s",
        "of it first stage",
        *(["of it trials of rates"] if has_found_rates else []),
        "images/s",
        "peak memory, MiB",
    ]
    lines = []
    cells = alike(rows, study.axes.settings)
    told, behind = Told(rows, cells, marks), dict[tuple[Any, ...], list[str]]()
    runs = rows[list(dict.fromkeys(["identity", "first_stage", "learning_rate", *SHOWN_OF_CELLS, *axes]))]
    for place, at in enumerate(cells):
        own = runs.iloc[at]
        cell = _averaged(own)
        # Pixels are one first stage for all data sets.
        key = (frozenset(own["first_stage"]), cell["data"], cell["resolution"], cell["regulariser"])
        if key not in behind:
            stage = first_stages[first_stages["first_stage"].isin(key[0])]
            stage = stage[(stage["data"] == cell["data"]) & (stage["resolution"] == cell["resolution"])]
            behind[key] = [_values(stage[stage["metric"] == metric], marks) for metric in quality]
            behind[key] += [_psnr(stage, cell["regulariser"], marks), _values(rates.rate(stage), marks)]
        line = [
            text.number(cell["f"]),
            study.axes.title("regulariser", cell["regulariser"]),
            text.number(cell["channels"]),
        ]
        line += [text.number(cell[axis]) for axis in axes]
        line += [_rates(own)] if has_found_rates else []
        line += [told.of(place, metric) for metric in metrics]
        line += behind[key]
        share = {unit: _sum(cell, f"first_stage_{unit}", f"latents_{unit}") for unit in ("flops", "seconds")}
        line += [
            _count(cell["parameters_denoiser"]),
            _count(_sum(cell, "parameters_encoder", "parameters_decoder")),
            text.number(_add(cell["diffusion_flops"], cell["learning_rate_flops"], share["flops"]) / 1e15),
            text.number(share["flops"] / 1e15),
            *([text.number(cell["learning_rate_flops"] / 1e15)] if has_found_rates else []),
            text.number(_add(cell["diffusion_seconds"], cell["learning_rate_seconds"], share["seconds"])),
            text.number(share["seconds"]),
            *([text.number(cell["learning_rate_seconds"])] if has_found_rates else []),
            text.number(cell["sample_images_per_second"]),
            text.number(float(cell["peak_bytes"]) / 2**20 if pd.notna(cell["peak_bytes"]) else math.nan, digits=4),
        ]
        lines.append(line)
    return text.table(header, lines) + (
        "\n\nIntervals in brackets; after ± the standard deviation over trainings, or over repeated sampling of one. "
        f"{rates.sentence(study.axes, shown)}A FLOP count takes one multiply-add as 2; the first "
        "stage's share includes encoding the training set once. Images/s are those of making the samples, without "
        "a warm-up; `timings.csv` has what `experiments.timing` measured, where it did."
    )


def _comparison(study: Study, marks: Mapping[str, str], against: str | None) -> str:
    """Every cell against the best, or the one named, by the headline metric and those of no known group."""
    rows, chosen = study.frame, headline(study.frame)
    shown = {chosen.metric} if chosen is not None else set[str]()
    shown |= set(rows["metric"][~rows["group"].isin(GROUPS)])  # of which no other section says which cell is better
    found = [table for table in limits.compared(study, against) if table.metric in shown]
    if found and all(len(table.tiny) == len(table.means) for table in found):
        return NO_VERDICTS_OF_TINY
    found = [table for table in found if table.comparisons or table.gaussian or any(table.limits.values())]
    told = [_verdicts(table, heading(rows, table.metric), marks, against) for table in found]
    if any(table.is_all_limited for table in found):
        told.append(f"No cell is best, since something limits each of them. {limits.budget(study)}")
    return "\n\n".join(told)


def _verdicts(found: Table, metric: str, marks: Mapping[str, str], against: str | None) -> str:
    verdicts = {item.cell: item for item in found.comparisons}
    baselines = {"above the decoded floor": found.decoded, "above the Gaussian": found.gaussian}
    baselines = {title: known for title, known in baselines.items() if known}
    best = FIRST_OF_LIMITED if found.is_all_limited else "best mean"
    leading = best if against is None else "the others are compared with this"
    lines, limited_by = [], ["limited by"] if any(found.limits.values()) else []
    for mean in found.means:
        row = {"value": mean.value, "ci_low": mean.low, "ci_high": mean.high, "protocol": found.protocol}
        line = [mean.name, text.interval(row, marks), text.measured(mean.std), str(mean.training_seeds)]
        line += [_difference(known.get(mean.name)) for known in baselines.values()]
        item = verdicts.get(mean.name)
        told = item.sentence if item is not None else _without_verdict(found, mean.name, leading)
        line += [_difference(item), "–" if item is None else text.number(item.p)]
        lines.append([*line, *([mean.limits or "–"] if limited_by else []), told])
    title = f"{metric} ({text.span(mean.n for mean in found.means)})"
    header = ["cell", title, "std over seeds", "training seeds", *baselines, "difference", "p", *limited_by, "verdict"]
    return f"{text.table(header, lines)}\n\n{_compared(found, against)}"


def _without_verdict(found: Table, cell: str, leading: str) -> str:
    """What is said of a cell that is compared with no other: that others are, or why; and what limits it."""
    is_leading = any(item.other == cell for item in found.comparisons)
    baseline = found.gaussian.get(cell)
    told = [leading] if is_leading else []
    own, reasons = found.limits.get(cell, ()), ["scale=tiny"] if cell in found.tiny else []
    said = {NO_BETTER} if cell in found.unbeaten else set()
    reasons += [limit.name for limit in own if limit.takes_verdict and limit.name not in said]
    if baseline is not None and (cell in found.unbeaten or not (is_leading or reasons)):
        told.append(baseline.sentence)
    told += [f"no verdict: {', '.join(reasons)}"] if reasons else []
    return with_limits("; ".join(told) or "–", names_of(limit for limit in own if not limit.takes_verdict))


def _difference(item: Comparison | None) -> str:
    if item is None:
        return "–"
    return text.difference(item.difference, item.low, item.high)


def _compared(found: Table, against: str | None) -> str:
    """How the cells of a table were compared, and what its verdicts say."""
    known, said = found.factor.freedom, list[str]()
    if found.comparisons:
        pairs, chosen = found.comparisons[0].pairs, "the best was chosen from" if against is None else "were compared"
        said.append(
            f"Compared on the same reference images, training by training where both have the same seeds, at level "
            f"{LEVEL:g}, p-values corrected by Holm for the {pairs} pair{'s' * (pairs != 1)} that {chosen}; intervals "
            "are not."
        )
    if found.comparisons and found.others:
        said.append(
            f"No verdict on two cells that another extractor ({', '.join(found.others)}) tells apart the other way "
            "round by its kernel distance, at the same level and corrected for as many pairs."
        )
    if found.gaussian:
        said.append(
            "The Gaussian has the mean and covariance of the training latents and needs no network; of cells that are "
            "told the class it is the better of that and one of each class. A cell gets no verdict unless the interval "
            "of its difference to the Gaussian lies wholly on the better side."
        )
    said.append(
        f"Trainings of one cell scatter with {text.number(found.factor.factor)} times the variance that other images "
        f"would cause (pooled over cells, {known} degrees of freedom)."
        if known
        else "One seed a cell: the order is provisional. Verdicts hold for these trained models; how far another "
        "training would move them is not known (sweep `seed=0,1,2`)."
    )
    return " ".join(said)


def _neighbourhoods(study: Study, marks: Mapping[str, str]) -> str:
    """One line a finished cell: shares of samples near real images, and of real images near samples."""
    rows = study.frame[study.frame["stage"] == "evaluation"]
    rows = rows[(rows["group"] == NEIGHBOURHOODS) & rows["variant"].isin(OF_SAMPLES)]
    if rows.empty:
        return ""
    metrics = list(dict.fromkeys(rows["metric"]))
    axes = [axis for axis in varying(rows, _optional(study.axes)) if axis not in REPEATED]
    axes = ["channels", "steps", *axes]
    lines = []
    cells = alike(rows, study.axes.settings)
    told, firsts = Told(rows, cells, marks), _firsts(rows, cells, axes)
    for place, cell in enumerate(firsts):
        line = [
            text.number(cell["f"]),
            study.axes.title("regulariser", cell["regulariser"]),
            *(text.number(cell[axis]) for axis in axes),
        ]
        lines.append(line + [told.of(place, metric) for metric in metrics])
    names = [f"{heading(rows, metric)} ({_counted(rows, [metric])})" for metric in metrics]
    return text.table(["f", "regulariser", *(axis.replace("_", " ") for axis in axes), *names], lines)


def _first_stages(study: Study, marks: Mapping[str, str]) -> str:
    """One line a first stage: distortions and rates; its decoded images are among the floors."""
    rows = study.frame
    rows = rows[(rows["group"] != DETAIL) & (rows["variant"] != DECODED)]
    return _by_record(dataclasses.replace(study, frame=rows), marks, "reconstruction")


def _by_record(study: Study, marks: Mapping[str, str], stage: str) -> str:
    """One line a record of the stage, seeds apart: its axes and its metrics."""
    rows = study.frame[study.frame["stage"] == stage]
    if rows.empty:
        return ""
    shown = list(dict.fromkeys(rows["metric"]))
    axes = ["channels", *(axis for axis in _optional(study.axes) if choices(rows[axis]) > 1)]
    lines = []
    records = alike(rows, ["identity"])
    told, firsts = Told(rows, records, marks), _firsts(rows, records, axes)
    for place, first in enumerate(firsts):
        line = [
            text.number(first["f"]),
            study.axes.title("regulariser", first["regulariser"]),
            *(text.number(first[a]) for a in axes),
        ]
        lines.append(line + [told.of(place, metric) for metric in shown])
    names = [f"{heading(rows, metric)} ({_counted(rows, [metric])})" for metric in shown]
    return text.table(["f", "regulariser", *(axis.replace("_", " ") for axis in axes), *names], lines)


def _coding(study: Study, marks: Mapping[str, str]) -> str:
    """What an entropy coder makes of the latents, beside the rates above, which are ideal code lengths."""
    found = _by_record(study, marks, "coding")
    return found and (
        f"{found}\n\nBits per pixel that an entropy coder writes, all images in one stream or each by itself "
        "(`_alone`); KL latents in steps that blur them as their posteriors would, with what is left of the image."
    )


def _likelihood(study: Study, marks: Mapping[str, str]) -> str:
    """Progressive coding's end, and the bound: bits in pixel space, a density in latent space."""
    found = _by_record(study, marks, "likelihood")
    return found and (
        f"{found}\n\nThe bound on the likelihood of images is in bits per dimension and exists at f = 1. The density "
        "of latents is of each latent space's own units: it is not comparable across first stages."
    )


def _further(study: Study, marks: Mapping[str, str]) -> dict[str, str]:
    """A section for each stage with results of which no other section or figure speaks."""
    new = [name for name, shape in study.stages.items() if shape.is_result and name not in KNOWN_STAGES]
    return {name.replace("_", " ").capitalize(): _by_record(study, marks, name) for name in new}


def _task_scores(study: Study, marks: Mapping[str, str]) -> str:
    """One line a cell and score, beside it what real images reach and what chance or no model reaches."""
    samples = study.frame[study.frame["stage"] == "evaluation"]
    scores = samples[(samples["group"] == TASK) & (samples["variant"] == "")]
    real = study.frame[study.frame["stage"].isin(["probe", "evaluation"])]
    several = [axis for axis in _optional(study.axes) if scores[axis].nunique(dropna=False) > 1]
    axes = ["steps", *(axis for axis in several if not follows_f(scores, axis))]
    beside: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for found in samples[samples["base"].isin(scores["metric"]) & (samples["variant"] != REAL)].to_dict("records"):
        beside.setdefault((found["identity"], found["base"]), []).append(found)
    ceilings = real[real["base"].isin(scores["metric"]) & (real["variant"] == REAL)]
    # A sweep may hold several data sets, each with probes of its own.
    of_probes, of_samples = ceilings[ceilings["stage"] == "probe"], ceilings[ceilings["stage"] != "probe"]
    with_own = set(of_samples["identity"])
    reached_by: dict[tuple[Any, ...], str] = {}
    lines = []
    for row in scores.to_dict("records"):
        own = row["identity"] if row["identity"] in with_own else ""
        key = (row["metric"], row["data"], row["resolution"], own)
        if key not in reached_by:
            reached = pd.concat([of_probes, of_samples[of_samples["identity"] == own]]).sort_index()
            reached = reached[(reached["data"] == row["data"]) & (reached["resolution"] == row["resolution"])]
            reached = floors_of(reached, row["metric"], REAL)
            counted = f" ({text.span(reached['n'])})" if len(reached) else ""
            reached_by[key] = _values(reached, marks) + counted
        floors = [
            f"{text.interval(found, marks)} ({found['variant']})"
            for found in beside.get((row["identity"], row["metric"]), ())
        ]
        line = [
            text.number(row["f"]),
            study.axes.title("regulariser", row["regulariser"]),
            *(text.number(row[axis]) for axis in axes),
        ]
        line += [f"`{row['metric']}`", text.interval(row, marks), text.number(row["n"])]
        line += [reached_by[key]]
        line += ["; ".join(floors) or "–"]
        lines.append(line)
    header = ["f", "regulariser", *(axis.replace("_", " ") for axis in axes), "score", "samples", "n"]
    return text.table([*header, "held-out images", "floor"], lines) if lines else ""


def _floors(study: Study, marks: Mapping[str, str]) -> str:
    """Real images, decoded images, and what decoded draws of a Gaussian, which needs no network, score."""
    frame, drawn = study.frame, {GAUSSIAN: "Gaussian of the latents", GAUSSIAN_BY_CLASS: "Gaussian of each class"}
    is_here = frame["stage"].isin(["reference", "other_references", "reconstruction", "gaussian"])
    rows = frame[is_here & frame["variant"].isin((REAL, DECODED, *drawn))]
    labels = RowLabels(rows[rows["variant"] != REAL], study.axes, ("extractor",))
    axes = [axis for axis in ("data", "resolution", "scale") if choices(rows[axis]) > 1]
    lines = []
    for row in rows.to_dict("records"):
        images, against = compared_images(study.protocols.get(row["protocol"], {}))
        images = drawn.get(row["variant"], images)
        if row["variant"] == REAL:
            images = ", ".join([images, *(named_value(axis, row[axis]) for axis in axes)])
        else:
            images += f" through {labels.of(row)}"
        lines.append([images, against, base_title(row), text.interval(row, marks), text.number(row["n"])])
    return text.table(["images", "against", "metric", "value", "n"], lines) if lines else ""


def _missing(study: Study) -> str:
    """Every result that the sweep asks for and the store does not hold, with its reason."""
    return _bullets(f"{gap.label}, {gap.goal}: {gap.reason} (`{gap.stage}/{gap.identity}`)" for gap in study.missing)


def _left_out(study: Study) -> str:
    """The metrics that could not be computed, each reason once with all that it concerns."""
    places: dict[LeftOut, list[str]] = {}
    for place, item in study.left_out:
        places.setdefault(item, []).append(place)
    return _bullets(f"`{item.metric}`: {item.reason} ({_some(found)})" for item, found in places.items())


def _protocols(study: Study, marks: Mapping[str, str]) -> str:
    used = [name for name in dict.fromkeys(study.frame["protocol"]) if name]
    lines = []
    for name in used:
        fields = study.protocols.get(name, {})
        spelled = ", ".join(
            f"{field.replace('_', ' ')}: {_field(value)}" for field, value in fields.items() if value != ()
        )
        mark = f" ({marks[name]})" if name in marks else ""
        metrics = ", ".join(f"`{m}`" for m in dict.fromkeys(study.frame[study.frame["protocol"] == name]["metric"]))
        lines.append(f"`{name}`{mark}: {spelled or 'not spelled out in any record'}. Rows: {metrics}")
    return _bullets(lines)


def _marks(study: Study) -> dict[str, str]:
    """A letter for each protocol that shares a metric with another one, in which case its values carry that letter."""
    return {name: f"protocol {letter}" for name, letter in protocols.letters(study.frame).items()}


def _optional(axes: Axes) -> list[str]:
    """The axes that have a column where they vary, seeds last; the others have one anyway."""
    others = (axis for axis in axes.all if axis not in ("f", "regulariser", "channels", "steps"))
    return sorted(others, key=lambda axis: axis in REPEATED)


def _headline_first(study: Study, metrics: Sequence[str]) -> list[str]:
    chosen = headline(study.frame)
    return sorted(metrics, key=lambda metric: chosen is None or metric != chosen.metric)


def _psnr(rows: pd.DataFrame, regulariser: str, marks: Mapping[str, str]) -> str:
    return "∞" if regulariser == "identity" else _values(rates.distortion(rows, "psnr"), marks)


class Told:
    """What groups of rows say of their metrics: over seeds means, a value for each protocol where they are mixed."""

    def __init__(self, rows: pd.DataFrame, groups: Iterable[Sequence[int]], marks: Mapping[str, str]) -> None:
        self._columns, self._marks = columns_of(rows, ("metric", "protocol")), marks
        self._places: dict[tuple[int, str], dict[str, list[int]]] = {}
        for place, own in enumerate(groups):
            for at in own:
                by_protocol = self._places.setdefault((place, self._columns["metric"][at]), {})
                by_protocol.setdefault(self._columns["protocol"][at], []).append(at)

    def of(self, place: int, metric: str) -> str:
        """The value of a metric among the rows of the group at this place."""
        return "; ".join(map(self._over_seeds, self._places.get((place, metric), {}).values())) or "–"

    def _over_seeds(self, own: Sequence[int]) -> str:
        if len(own) == 1:
            return text.interval({name: values[own[0]] for name, values in self._columns.items()}, self._marks)
        mark = self._marks.get(self._columns["protocol"][own[0]])
        cell = cell_at(self._columns, own)
        of = f"{len(cell.trainings)} trainings" if len(cell.trainings) > 1 else f"{len(own)} sampler seeds"
        spread = f"{text.measured(cell.mean)} ± {text.measured(cell.std)} ({of})"
        return f"{spread} ({mark})" if mark else spread


def _values(rows: pd.DataFrame, marks: Mapping[str, str]) -> str:
    """What the rows of one metric and cell give, a value for each protocol."""
    if rows.empty:
        return "–"
    return Told(rows.assign(metric=""), [range(len(rows))], marks).of(0, "")


def _firsts(rows: pd.DataFrame, groups: Iterable[Sequence[int]], axes: Sequence[str]) -> list[dict[Any, Any]]:
    """The axes of the first row of each group."""
    return rows.iloc[[own[0] for own in groups]][list(dict.fromkeys(["f", "regulariser", *axes]))].to_dict("records")


SHOWN_OF_CELLS = (
    *("f", "regulariser", "channels", "data", "resolution", "nfe", "parameters_denoiser", "parameters_encoder"),
    *("parameters_decoder", *COST_COLUMNS, *RATE_COST_COLUMNS),
)
"""Columns that a line of the cells is made of, beside its metrics."""


def _averaged(rows: pd.DataFrame) -> "pd.Series[Any]":
    """One row for a cell: what its rows agree on, and the means of what they measured."""
    first = rows.iloc[0].copy()
    runs = budgets.firsts(rows["identity"].tolist())
    if len(runs) > 1:
        for column in (*COST_COLUMNS, *RATE_COST_COLUMNS, "nfe"):
            values = rows[column].tolist()
            first[column] = budgets.mean(values[at] for at in runs)
    return first


def _rates(rows: pd.DataFrame) -> str:
    """The learning rates that the models of a cell were trained with, several where seeds found different ones."""
    return ", ".join(f"{rate:g}" for rate in sorted(set(rows["learning_rate"].dropna()))) or "–"


def _sum(row: "pd.Series[Any]", *columns: str) -> float:
    return _add(*(row[column] for column in columns))


def _add(*values: Any) -> float:
    """The sum of what is known; NaN where nothing is."""
    known = [float(value) for value in values if pd.notna(value)]
    return sum(known) if known else math.nan


def _count(value: Any) -> str:
    """A parameter count in millions."""
    return text.number(value) if pd.isna(value) or value == 0 else f"{float(value) / 1e6:.3g} M"


def _counted(rows: pd.DataFrame, metrics: Collection[str]) -> str:
    """Of how many images these metrics of the rows are."""
    return text.span(rows[rows["metric"].isin(metrics)]["n"])


def _field(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _some(places: Sequence[str]) -> str:
    """The first places and how many more."""
    more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
    return "; ".join(places[:MOST_PLACES]) + more


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
