"""How all figures look: colours by f, markers by regulariser, label placement, axis scales, titles and notes."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#b5b5b5"
FLOOR = "#3a7d44"
TITLE_WIDTH = 52
"""Characters of a panel's title on a line."""

# Plasma without its pale end: ordered in lightness, told apart under the common colour blindnesses.
COLOUR_OF_F = {1: "#0d0887", 2: "#5b02a3", 4: "#9a179b", 8: "#cb4678", 16: "#e97158", 32: "#f0a02c", 64: "#c9b500"}
# Okabe and Ito's colours, which are told apart under the common colour blindnesses, but for euler, which is ddim.
SAMPLERS = {
    "ddim": ("DDIM", "#222222"),
    "ddpm": ("DDPM", "#d55e00"),
    "plms": ("PLMS", "#0072b2"),
    "dpmpp": ("DPM++ 2M", "#009e73"),
    "heun": ("Heun", "#cc79a7"),
    "euler": ("Euler", "#8c8c8c"),
    "unipc": ("UniPC", "#e69f00"),
}
CODEC_COLOUR = {"jpeg": "#7a6a58", "webp": "#5a7f8c", "avif": "#8a6a9c"}
CODEC_NAME = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "png": "PNG", "webp_lossless": "WebP lossless"}

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


@dataclass(frozen=True)
class Family:
    """How a regulariser is drawn."""

    name: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    size: float


FAMILIES = {
    "kl": Family("KL", "o", "-", 6.5),
    "vq": Family("VQ", "s", (0, (4.0, 2.0)), 6.0),
    "identity": Family("pixels (f = 1)", "D", "-", 6.0),
}


@dataclass(frozen=True)
class PointLabel:
    """A text that belongs to a point in data coordinates."""

    x: float
    y: float
    text: str
    colour: str = INK


def apply() -> None:
    """Sets the look of every figure drawn after it."""
    matplotlib.rcParams.update(RC)  # type: ignore[arg-type]


def colour(f: Any) -> str:
    """The fixed colour of a compression factor, the same in every figure."""
    return COLOUR_OF_F.get(int(f), MUTED)


def family(regulariser: str) -> Family:
    """How a regulariser is drawn; one without an entry of its own is drawn as a triangle."""
    return FAMILIES.get(regulariser, Family(regulariser, "^", ":", 6.5))


def sampler(name: str) -> tuple[str, str]:
    """How a sampler is written, and its fixed colour."""
    return SAMPLERS.get(name, (name, MUTED))


def key(label: str, **properties: Any) -> Line2D:
    """A legend entry."""
    return Line2D([], [], **{"color": INK, "linestyle": "", "markersize": 6.5, "label": label, **properties})


def family_keys(regularisers: Iterable[str], line: bool = True) -> list[Line2D]:
    """The legend entries of the regularisers, in their fixed order."""
    present = set(regularisers)
    ordered = [name for name in FAMILIES if name in present] + sorted(present - set(FAMILIES))
    return [
        key(
            family(name).name,
            marker=family(name).marker,
            color=MUTED,
            linestyle=family(name).line if line and name != "identity" else "",
            markersize=family(name).size,
        )
        for name in ordered
    ]


def new_figure(
    rows: int, columns: int, width: float, height: float, **subplots: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure without pyplot's global state, and its grid of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots).tolist()


def finish(
    figure: Figure,
    title: str,
    subtitle: Sequence[str],
    notes: Sequence[str],
    keys: Sequence[Line2D],
    margin: float = 0.1,
) -> None:
    """Adds title, facts and notes, lays the figure out, and freezes the layout so that labels can be placed.

    `margin`: inches kept free at the right of every panel.
    """
    width, height = figure.get_size_inches()
    wrapped = [line for text in subtitle for line in _wrap(text, width, 8.8)]
    footer = [line for text in notes for line in _wrap(text, width, 8.2)]
    top = 0.30 + 0.165 * len(wrapped) + 0.08
    below = 0.155 * len(footer) + (0.12 if footer else 0.04)
    columns = _legend_columns([str(item.get_label()) for item in keys], width)
    bottom = below + (0.195 * math.ceil(len(keys) / columns) + 0.12 if keys else 0.0)
    height += top + bottom
    figure.set_size_inches(width, height)
    figure.text(0.09 / width, 1 - 0.09 / height, title, fontsize=12.5, fontweight="bold", va="top", ha="left")
    figure.text(0.09 / width, 1 - 0.33 / height, "\n".join(wrapped), fontsize=8.8, color=MUTED, va="top", ha="left")
    figure.text(0.09 / width, 0.06 / height, "\n".join(footer), fontsize=8.2, color=MUTED, va="bottom", ha="left")
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
            rect=(0.0, bottom / height, 1 - margin / width, 1 - (top + bottom) / height),
            wspace=(margin + 0.1) * (grid.ncols if grid is not None else 1) / width,
        )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as fit at about 0.068 inch a character and 0.6 inch a handle."""
    widest = max((0.068 * len(text) + 0.62 for text in labels), default=1.0)
    return max(1, min(len(labels), int((width - 0.2) / widest)))


def _wrap(text: str, width: float, size: float) -> list[str]:
    return textwrap.wrap(text, max(30, int((width - 0.2) * 72 / (size * 0.565)))) or [""]


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
    """Makes y logarithmic where all is positive over a decade, else symmetric-logarithmic where wide."""
    finite = [v for v in values if math.isfinite(v)]
    bounds = [v for v in lows if math.isfinite(v)] + finite
    positive = [v for v in finite if v > 0]
    if not positive:
        return
    widest = max(abs(v) for v in bounds)
    if min(bounds) > 0:
        if widest / min(bounds) > 10:
            axes.set_yscale("log")
            sparse_log_ticks(axes, "y")
        return
    typical = sorted(abs(v) for v in finite)[len(finite) // 2]
    if widest / typical > 30:
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(typical)), linscale=0.6)
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def sparse_log_ticks(axes: Axes, which: str) -> None:
    """Log ticks written as plain numbers: 1, 2 and 5 of each decade where few decades are shown, else decades only."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = math.log10(max(high, 1e-300) / max(low, 1e-300))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


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


def place_labels(axes: Axes, labels: Sequence[PointLabel], size: float = 8.6) -> None:
    """Writes each label beside its point where it covers least: other labels, points, lines, the edge."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    obstacles = _obstacles(axes, spacing=4 * scale)
    taken: list[tuple[float, float, float, float]] = []
    for label in labels:
        best: tuple[float, tuple[float, float], tuple[float, float, float, float]] | None = None
        for reach in (7.0, 11.0, 17.0):
            for side in ((1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)):
                offset = (side[0] * reach, side[1] * reach)
                trial = _beside(axes, label, offset, size)
                box = trial.get_window_extent(renderer)
                trial.remove()
                edges = (box.x0 - scale, box.y0 - scale, box.x1 + scale, box.y1 + scale)
                cost = reach / 100 + sum(20 * _overlap(edges, other) for other in taken)
                cost += sum(weight * _inside(edges, point, margin * scale) for point, weight, margin in obstacles)
                cost += 3 * (edges[0] < frame.x0 or edges[1] < frame.y0) + (edges[2] > frame.x1 + 30 * scale)
                cost += 3 * (edges[3] > frame.y1 + 4 * scale)
                cost += 100 * (edges[0] < figure.bbox.x0 or edges[2] > figure.bbox.x1)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, offset, edges)
        if best is not None:
            _beside(axes, label, best[1], size)
            taken.append(best[2])


def _obstacles(axes: Axes, spacing: float) -> list[tuple[tuple[float, float], float, float]]:
    """What labels should not cover, in display coordinates, each with weight and margin in points."""
    found = []
    for line in axes.get_lines():
        if line.get_transform() != axes.transData:
            continue
        corners = [(float(x), float(y)) for x, y in axes.transData.transform(np.asarray(line.get_xydata()))]
        if line.get_marker() not in {"", "None", None}:
            found += [(corner, 1.0, 3.5) for corner in corners]
        if line.get_linestyle() != "None":
            for (x0, y0), (x1, y1) in pairwise(corners):
                parts = max(1, int(math.hypot(x1 - x0, y1 - y0) / spacing))
                found += [
                    ((x0 + (x1 - x0) * k / parts, y0 + (y1 - y0) * k / parts), 0.12, 0.5) for k in range(parts + 1)
                ]
    return found


def _beside(axes: Axes, label: PointLabel, offset: tuple[float, float], size: float) -> Annotation:
    dx, dy = offset
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=offset,
        textcoords="offset points",
        ha="left" if dx > 0 else "right" if dx < 0 else "center",
        va="bottom" if dy > 0 else "top" if dy < 0 else "center",
        fontsize=size,
        color=label.colour,
        annotation_clip=False,
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The shared area of two boxes as a fraction of the first."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return 0.0 if wide <= 0 or high <= 0 else wide * high / ((a[2] - a[0]) * (a[3] - a[1]))


def _inside(box: tuple[float, ...], point: tuple[float, ...], margin: float) -> bool:
    """Whether a point lies in a box widened by `margin`."""
    return box[0] - margin < point[0] < box[2] + margin and box[1] - margin < point[1] < box[3] + margin


def label_margin(labels: Sequence[PointLabel], least: float = 1.2) -> float:
    """Inches that `end_labels` needs at the right of a panel, `least` at least."""
    return max(least, 0.35 + 0.068 * max((len(label.text) for label in labels), default=0))


def end_labels(axes: Axes, labels: Sequence[PointLabel], size: float = 8.6) -> None:
    """Writes labels of lines in the right margin, spread so that none covers another, with leaders to the lines."""
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    gap = size * 1.25 * figure.dpi / 72
    ends = sorted(
        ((float(axes.transData.transform((item.x, item.y))[1]), item) for item in labels), key=lambda item: item[0]
    )
    heights = [at for at, _ in ends]
    # Pushing up and then down from the mean keeps groups centred on their lines.
    for _ in range(200):
        for i in range(1, len(heights)):
            excess = gap - (heights[i] - heights[i - 1])
            if excess > 0:
                heights[i] += excess / 2
                heights[i - 1] -= excess / 2
    frame = axes.get_window_extent()
    # Below a panel there is room, above it stands its title.
    ceiling = frame.y1
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for (_, label), height in zip(ends, heights, strict=True):
        y = (height - frame.y0) / frame.height
        note = axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(1.03, y),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=size,
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
        note.set_in_layout(False)
