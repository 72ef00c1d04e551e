"""How all figures look: colours by f, axis scales, titles, legends and notes."""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from analysis.numbers import NumberedFigure, Words

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#b5b5b5"
FLOOR = "#3a7d44"
TITLE_WIDTH = 52
"""Characters of a panel's title on a line."""

COLUMN = 5.0
"""Inches of a figure of one panel: in a column of 3.3 inches its letters are two thirds as large."""

EDGE = 0.1
"""Inches kept free at the right of a panel."""

TITLE_SIZE, FACTS_SIZE, BOLD = 12.5, 8.8, 1.08
"""Points of letters; by how much bold ones are wider."""

UPRIGHT = 38
"""Letters of a y axis's label that a panel has room for."""

LONG_WORD = 14
"""Letters."""

RING: Mapping[str, Any] = {
    "marker": "o",
    "markersize": 12,
    "markerfacecolor": "none",
    "markeredgewidth": 0.9,
    "color": INK,
}
"""The mark around a cell that is the best, or not told apart from it."""

# Plasma without its pale end: ordered in lightness, told apart under the common colour blindnesses.
COLOUR_OF_F = {1: "#0d0887", 2: "#5b02a3", 4: "#9a179b", 8: "#cb4678", 16: "#e97158", 32: "#f0a02c", 64: "#c9b500"}

HOLLOW = {"color": MUTED, "markerfacecolor": "white"}
"""How a key shows a hollow mark."""

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "ldm-tradeoffs",
    "figure.facecolor": "white",
}


def apply() -> None:
    """Sets the look of every figure drawn after it."""
    matplotlib.rcParams.update(RC)  # type: ignore[arg-type]


def colour(f: Any) -> str:
    """The fixed colour of a compression factor, the same in every figure."""
    return COLOUR_OF_F.get(int(f), MUTED)


def key(label: str, **properties: Any) -> Line2D:
    """A legend entry."""
    return Line2D([], [], **{"color": INK, "linestyle": "", "markersize": 6.5, "label": label, **properties})


def new_figure(
    rows: int, columns: int, width: float, height: float, **subplots: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure without pyplot's global state, and its grid of axes."""
    figure = NumberedFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots).tolist()


NOTE_SIZE = 8.4
FOOTNOTES = 2
"""Lines of notes below a figure; the captions have all of them."""

ELSEWHERE = "More: captions.md."


def finish(figure: Figure, title: str, subtitle: Sequence[str], notes: Sequence[str], keys: Sequence[Line2D]) -> None:
    """Adds title, facts and notes, lays the figure out, and freezes the layout so that labels can be placed.

    `notes`: the most important ones first, as far as there is room for them.
    """
    notes = [note for note in notes if note]
    if isinstance(figure, NumberedFigure):
        figure.words = Words(title, tuple(subtitle), tuple(notes))
    width, height = figure.get_size_inches()
    head = textwrap.wrap(title, _letters(width, BOLD * TITLE_SIZE))
    facts = [line for text in subtitle for line in _wrap(text, width, FACTS_SIZE)]
    footer = footnotes(notes, width)
    title_end = 0.09 + 0.205 * len(head)
    top = title_end + 0.165 * len(facts) + 0.12
    below = 0.155 * len(footer) + (0.12 if footer else 0.04)
    columns = _legend_columns([str(item.get_label()) for item in keys], width)
    bottom = below + (0.195 * math.ceil(len(keys) / columns) + 0.12 if keys else 0.0)
    height += top + bottom
    figure.set_size_inches(width, height)
    at = 0.09 / width
    figure.text(at, 1 - 0.09 / height, "\n".join(head), fontsize=TITLE_SIZE, fontweight="bold", va="top", ha="left")
    down = 1 - (title_end + 0.04) / height
    figure.text(at, down, "\n".join(facts), fontsize=FACTS_SIZE, color=MUTED, va="top", ha="left")
    figure.text(at, 0.06 / height, "\n".join(footer), fontsize=NOTE_SIZE, color=MUTED, va="bottom", ha="left")
    if keys:
        legend = figure.legend(
            handles=list(keys),
            loc="lower left",
            bbox_to_anchor=(0.05 / width, below / height),
            borderaxespad=0.0,
            borderpad=0.2,
            ncols=columns,
            columnspacing=1.6,
        )
        legend.set_in_layout(False)
    engine = figure.get_layout_engine()
    if engine is not None:
        grid = figure.axes[0].get_gridspec()
        engine.set(  # type: ignore[call-arg]
            rect=(0.0, bottom / height, 1 - EDGE / width, 1 - (top + bottom) / height),
            wspace=(EDGE + 0.1) * (grid.ncols if grid is not None else 1) / width,
        )
        engine.execute(figure)
    figure.set_layout_engine("none")


def upright(label: str) -> str:
    """The label of a y axis in lines that are no longer than a panel is high."""
    return "\n".join(part for line in label.splitlines() for part in textwrap.wrap(line, UPRIGHT))


def footnotes(notes: Sequence[str], width: float) -> list[str]:
    """Lines of notes for a figure of this width: as many notes as fit, the first ones first, and where the others are.

    A first note that does not fit alone is cut.
    """
    lines = [line for note in notes for line in _wrap(note, width, NOTE_SIZE)]
    if len(lines) <= FOOTNOTES:
        return lines
    shown: list[str] = []
    for note in notes:
        if len(_wrap(" ".join([*shown, note, ELSEWHERE]), width, NOTE_SIZE)) <= FOOTNOTES:
            shown.append(note)
    if not shown:
        # Breaking lines at words costs up to a word a line.
        room = FOOTNOTES * (_letters(width, NOTE_SIZE) - LONG_WORD) - len(ELSEWHERE)
        shown = [textwrap.shorten(notes[0], room, placeholder=" ...")]
    return _wrap(" ".join([*shown, ELSEWHERE]), width, NOTE_SIZE)


KINDS = ("png", "svg", "pdf")
"""The kinds of files of figures, by the ends of their names; PNG has 150 dots per inch."""


def rendered(figure: Figure, kinds: Sequence[str] = KINDS) -> dict[str, bytes]:
    """A finished figure as files of these kinds.

    The canvases are asked themselves: `savefig` would draw each twice, for a layout that stands already.
    """
    figure.set_dpi(150)
    found = {}
    for kind in kinds:
        file = io.BytesIO()
        if kind == "png":
            FigureCanvasAgg(figure).print_png(file)
        elif kind == "svg":
            FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
        else:
            FigureCanvasPdf(figure).print_pdf(file, metadata={"CreationDate": None})
        found[kind] = file.getvalue()
    return found


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as fit, each as wide as its widest entry: about 0.062 inch a letter and 0.8 inch beside them."""
    for columns in range(len(labels), 1, -1):
        lines = math.ceil(len(labels) / columns)
        # As Matplotlib fills them: the first ones have an entry more where they are not all alike.
        full = len(labels) - columns * (lines - 1)
        ends = [min(column, full) * lines + max(column - full, 0) * (lines - 1) for column in range(columns + 1)]
        if sum(0.8 + 0.062 * max(map(len, labels[i:j])) for i, j in pairwise(ends)) <= width - 0.1:
            return columns
    return 1


def _wrap(text: str, width: float, size: float) -> list[str]:
    return textwrap.wrap(text, _letters(width, size)) or [""]


def _letters(width: float, size: float) -> int:
    """How many letters of this size a line across the figure has room for."""
    return max(30, int((width - 0.2) * 72 / (size * 0.53)))


def empty(axes: Axes, reason: str) -> None:
    """Says in the place of a panel why nothing is drawn in it."""
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=MUTED, wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def plain(value: float) -> str:
    """A tick or table number without needless digits: 0.02, 5, 1,200, 2.4e+06."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _tick(value: float, _: int | None = None) -> str:
    """A tick label; from 100,000 on as a power of ten."""
    if abs(value) < 1e5:
        return plain(value)
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10**exponent
    power = f"10^{{{exponent}}}"
    return f"${power}$" if abs(mantissa - 1) < 1e-6 else f"${mantissa:.3g}\\times {power}$"


def value_scale(axes: Axes, values: Sequence[float], lows: Sequence[float]) -> None:
    """Makes y logarithmic where all is positive over a decade, else symmetric-logarithmic where wide.

    `value_ticks` comes when all is drawn. Floors are drawn after this, so that those without a place are left out.
    """
    finite = [v for v in values if math.isfinite(v)]
    bounds = [v for v in lows if math.isfinite(v)] + finite
    positive = [v for v in finite if v > 0]
    if not positive:
        return
    widest = max(abs(v) for v in bounds)
    if min(bounds) > 0:
        if widest / min(bounds) > 10:
            axes.set_yscale("log")
        return
    typical = sorted(abs(v) for v in finite)[len(finite) // 2]
    if widest / typical > 30:
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(typical)), linscale=0.6)
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def value_ticks(axes: Axes) -> None:
    """Ticks of y, whose limits stand now."""
    if axes.get_yscale() == "log":
        sparse_log_ticks(axes, "y")


def sparse_log_ticks(axes: Axes, which: str) -> None:
    """Log ticks written as plain numbers: decades, where these are few 1, 2 and 5 of each, or what else gives some."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high < NARROW * low:  # no two ticks read alike then, and a small difference does not fill the axis
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(NARROW), middle * math.sqrt(NARROW)
        (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    of_each = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))
    by_decade: list[Locator] = [LogLocator(subs=subs) for subs in of_each]
    # Counted here, since the locator gives many others where it has fewer than two.
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    counts = [sum(low <= part * 10.0**decade <= high for decade in decades for part in subs) for subs in of_each]
    enough = [each for each, count in zip(by_decade, counts, strict=True) if count > FEW_TICKS]
    axis.set_major_locator((enough or [by_decade[-1] if counts[-1] == FEW_TICKS else MaxNLocator(4)])[0])
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


NARROW = 1.25
"""The least ratio of an axis's ends."""

FEW_TICKS = 2
"""An axis has more ticks with numbers where decades, or parts of them, give more, and never fewer."""


MOST_GAPS = 5
"""Between ticks of a column's width that have numbers of six digits."""


def milestone_ticks(axes: Axes, places: Iterable[float]) -> None:
    """Ticks of a logarithmic x axis at milestones, as far as their numbers have room, the last ones first."""
    told: list[float] = []
    known = sorted(set(places), reverse=True)
    # Milestones double from one to the next only about.
    least = max(1.9, 0.9 * (known[0] / known[-1]) ** (1 / MOST_GAPS)) if known else 1.9
    for place in known:
        if not told or told[-1] / place >= least:
            told.append(float(place))
    if len(told) < 2:
        sparse_log_ticks(axes, "x")
        return
    axes.xaxis.set_major_locator(FixedLocator(sorted(told)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
    axes.xaxis.set_minor_locator(NullLocator())


def short_count(count: float) -> str:
    """A number of images in at most six letters: 9,088, 36,352, 242k, 1.25M."""
    if round(count) < 100_000:
        return f"{count:,.0f}"
    unit, letter = next((unit, letter) for unit, letter in COUNT_UNITS if count >= 0.9995 * unit)
    return f"{count / unit:.3g}{letter}"


COUNT_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def factor_axis(axes: Axes, factors: Sequence[int]) -> None:
    """A base-2 axis of compression factors, a tick at each that occurs."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([float(f) for f in factors]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlim(min(factors) / 1.45, max(factors) * 1.45)
    axes.set_xlabel("compression factor f (image side / latent side)")


def interval(axes: Axes, x: float, y: float, low: float, high: float, tint: str, horizontal: bool = False) -> None:
    """A thin bar from `low` to `high`; nothing where no interval is known."""
    if math.isfinite(low) and math.isfinite(high):
        ends = ([low, high], [y, y]) if horizontal else ([x, x], [low, high])
        axes.plot(*ends, color=tint, linewidth=1.1, alpha=0.75, solid_capstyle="butt", zorder=2)
