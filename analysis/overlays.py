"""Published numbers behind our own: drawn in grey where the metric is the same, with what else differs in the notes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.literature import NAMES, PAPER, UNKNOWN, Measured, Published, named, protocol_differences, unlike_settings
from analysis.placing import PointLabel

SHADE = "#9a9a9a"
PIXELS = "identity"


def beside(number: Published, frame: pd.DataFrame) -> int | None:
    """Which f of ours a published number stands beside: at its resolution its own, else that of the latent's side."""
    own = {(int(r), int(f)) for r, f in frame[["resolution", "f"]].dropna().drop_duplicates().to_numpy()}
    if number.measured.resolution in {resolution for resolution, _ in own}:
        return number.f if (number.measured.resolution, number.f) in own else None
    side = number.measured.resolution / number.f
    return next((f for resolution, f in sorted(own) if resolution / f == side), None)


def behind(study: Study, metric: str, stage: str, x: str, regularisers: Sequence[str]) -> list[Published]:
    """The published numbers of a metric that have a value on the axis `x`, beside an f of ours, of these regularisers.

    Those of the study's data where there are any, else of all data.
    """
    data, told = (set(study.frame[axis].dropna()) for axis in ("data", "conditioning"))
    found = [
        number
        for number in study.published
        if (number.stage, number.metric) == (stage, metric)
        and getattr(number, x) is not None
        and beside(number, study.frame) is not None
        and number.regulariser in regularisers
        and any(number.measured.is_task_of(conditioning) for conditioning in told)
    ]
    return [number for number in found if number.measured.data in data] or found


def draw(axes: Axes, found: Sequence[Published], x: str, line_of: str, frame: pd.DataFrame) -> list[PointLabel]:
    """Grey lines through the numbers of one table that were measured and made alike, and a label for each line's end.

    `frame`: ours, beside whose f they stand.
    """
    lines: dict[tuple[tuple[str, ...], tuple[str, ...], Measured], list[Published]] = {}
    families = list(dict.fromkeys(number.regulariser for number in found if number.regulariser != PIXELS)) or [PIXELS]
    for family in families:
        for number in found:
            if number.regulariser in (family, PIXELS):
                made = (looks.FAMILIES[family].name, *_made(number, x))
                lines.setdefault((_named(number, line_of, frame), made, number.measured), []).append(number)
    lines = {key: own for key, own in lines.items() if _is_of(key[1][0], own, families)}
    labels = []
    for (name, made, _), own in lines.items():
        points = sorted((_place(number, x, frame), number.value) for number in own)
        axes.plot(*zip(*points, strict=True), "-", color=SHADE, linewidth=0.9, zorder=0.8)
        for at, value in points:
            axes.plot(at, value, "x", color=SHADE, markersize=4, zorder=0.9)
        drawn = pd.DataFrame(points, columns=["x", "value"])
        numbers.keep(
            axes, f"published: {', '.join(name)}", drawn, "x", SHADE, "-", "x", is_beside=True, group="published"
        )
        namesakes = zip(*(other for same, other, _ in lines if same == name), strict=True)
        told = [part for part, parts in zip(made, namesakes, strict=True) if len(set(parts)) > 1]
        labels.append(PointLabel(*points[-1], ", ".join([*name, *told]), SHADE))
    return labels


def _is_of(family: str, own: Sequence[Published], families: Sequence[str]) -> bool:
    """Whether a line is drawn as one of this regulariser: pixels alone are no line of each."""
    return family == looks.FAMILIES[families[0]].name or any(number.regulariser != PIXELS for number in own)


def _place(number: Published, x: str, frame: pd.DataFrame) -> float:
    place: Any = beside(number, frame) if x == "f" else getattr(number, x)
    return float(place)


def _named(number: Published, line_of: str, frame: pd.DataFrame) -> tuple[str, ...]:
    """What every line says of its numbers: its place among the lines, data, and table or figure."""
    steps = "steps not stated" if number.steps is None else f"{number.steps} steps"
    as_here = "" if (here := beside(number, frame)) == number.f else f" (as f = {here} here)"
    place = {"f": f"f = {number.f}{as_here}", "steps": steps}[line_of]
    return place, number.measured.data, number.where.removeprefix(f"{PAPER}, ")


def _made(number: Published, x: str) -> tuple[str, ...]:
    """What else numbers of one line agree in, which it says where others of its name do not."""
    seen = "" if x == "images_seen" or number.images_seen is None else f"{number.images_seen / 1e6:.3g}M images seen"
    return (
        f"{number.measured.resolution} px",
        "n not stated" if number.measured.n is None else f"n = {number.measured.n:,}",
        "" if number.guidance_scale is None else f"guidance {number.guidance_scale:g}",
        "eta not stated" if number.eta is None else f"eta {number.eta:g}",
        seen,
    )


def draw_rates(axes: Axes, published: Sequence[Published]) -> list[PointLabel]:
    """Published PSNR over the rate of the indices, which of KL models is not known."""
    labels = []
    for number in published:
        rate = number.index_bits_per_pixel
        if number.metric == "psnr" and rate is not None:
            axes.plot(rate, number.value, "x", color=SHADE, markersize=4.5, zorder=0.9)
            labels.append(PointLabel(rate, number.value, f"f = {number.f}", SHADE))
            drawn = pd.DataFrame({"x": [rate], "value": [number.value], "f": [number.f]})
            numbers.keep(
                axes, f"published: f = {number.f}", drawn, "x", SHADE, "", "x", is_beside=True, group="published"
            )
    return labels


def key() -> Line2D:
    """The legend entry of all published numbers."""
    return style.key("published, NOT COMPARABLE: captions.md", marker="x", color=SHADE, linestyle="-", linewidth=0.9)


def note(
    drawn: Sequence[Published],
    rows: pd.DataFrame,
    protocols: Mapping[str, Mapping[str, Any]],
    asked: str,
    shown: Sequence[str] = (),
) -> str:
    """What the grey numbers are and in what they were measured and made otherwise, or why there are none.

    `asked`: the metric of the figure; `rows`: ours; `shown`: settings that the figure tells of each number.
    """
    if not drawn:
        return f"No published numbers are drawn: none of {asked} has its place in this figure."
    differing: dict[str, None] = {}
    unlike = rows.drop_duplicates(["data", "resolution", "conditioning", "n", "protocol"]).to_dict("records")
    for number in drawn:
        for row in unlike:
            differing.update(dict.fromkeys(protocol_differences(number, row, protocols.get(row["protocol"], {}))))
    errors = sorted(
        {f"{number.spread / number.value:.1%}" for number in drawn if "Figure" in number.where and number.spread}
    )
    read_off = f", read off to {errors[0]}" if len(errors) == 1 else ", read off by hand" if errors else ""
    what = f"Grey crosses: {NAMES[drawn[0].metric]} of {named(drawn)}{read_off}."
    what += _matched(drawn, rows)
    settings = _settings(drawn, rows, shown)
    if settings:
        what += f" Their models were made or sampled otherwise, (published; here): {'; '.join(settings)}."
    if not differing:
        return what + " Measured under this study's protocol."
    return f"{what} NOT COMPARABLE with this study, (published; here): {'; '.join(differing)}."


def _matched(drawn: Sequence[Published], rows: pd.DataFrame) -> str:
    """Which f of theirs stand beside which of ours, where these are others for the images' resolution."""
    pairs = {(number.measured.resolution // number.f, number.f, beside(number, rows)) for number in drawn}
    others = [f"{f} beside {here} here ({side} x {side})" for side, f, here in sorted(pairs) if here not in (f, None)]
    return f" Matched by the side of the latent, not by f: published f = {', '.join(others)}." if others else ""


def _settings(drawn: Sequence[Published], rows: pd.DataFrame, shown: Sequence[str]) -> list[str]:
    """In what the numbers' models differ from ours beside them, each setting once, where ours is known."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    ours = rows.drop_duplicates(["f", "channels", "steps", "eta", "guidance_scale", "images_seen"])
    by_factor: dict[Any, list[dict[Any, Any]]] = {f: own.to_dict("records") for f, own in ours.groupby("f")}
    for number in drawn:
        for row in by_factor.get(beside(number, rows), []):
            for setting, there, here in unlike_settings(number, row):
                if setting not in shown and here != UNKNOWN:
                    theirs, known = found.setdefault(setting, ({}, {}))
                    theirs[there], known[here] = None, None
    return [f"{name} ({' or '.join(theirs)}; {' or '.join(known)})" for name, (theirs, known) in found.items()]
