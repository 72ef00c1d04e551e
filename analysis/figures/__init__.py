"""The trade-off figures, one a file: each takes a study and returns a figure, with a note where it has no data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.collect import Study
from analysis.figures import (
    autoencoders,
    crossings,
    error_by_level,
    front,
    progressive_coding,
    quality_at_budgets,
    quality_vs_compute,
    quality_vs_f,
    quality_vs_nfe,
    quality_vs_throughput,
    quality_vs_training,
    rate_distortion,
)


def always(study: Study) -> bool:
    """Of figures that every study has, with a note where it has no data for them."""
    return True


@dataclass(frozen=True)
class Drawing:
    """How a figure is drawn, and of which studies."""

    draw: Callable[[Study], Figure]
    is_of: Callable[[Study], bool] = always


FIGURES: Mapping[str, Drawing] = {
    "rate_distortion": Drawing(rate_distortion.draw),
    "quality_vs_f": Drawing(quality_vs_f.draw),
    "quality_vs_throughput": Drawing(quality_vs_throughput.draw),
    "quality_vs_training": Drawing(quality_vs_training.draw),
    "quality_vs_compute": Drawing(quality_vs_compute.draw),
    "quality_at_budgets": Drawing(quality_at_budgets.draw, quality_at_budgets.has_data),
    "front": Drawing(front.draw, front.has_data),
    "crossings": Drawing(crossings.draw, crossings.has_data),
    "quality_vs_nfe": Drawing(quality_vs_nfe.draw, quality_vs_nfe.has_data),
    "error_by_level": Drawing(error_by_level.draw, error_by_level.has_data),
    "autoencoders": Drawing(autoencoders.draw, autoencoders.has_data),
    "progressive_coding": Drawing(progressive_coding.draw, progressive_coding.has_data),
}
"""All figures by the names of their files, in the order in which they are drawn."""


def figures_of(study: Study) -> dict[str, Callable[[Study], Figure]]:
    """How the figures of a study are drawn: those of every study, and those that only some have data for."""
    return {name: figure.draw for name, figure in FIGURES.items() if figure.is_of(study)}
