"""The check list: what a paper printed beside what the study measured, with all in which the two were not alike."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import text
from analysis.collect import Study
from analysis.literature import BAND, NAMES, Published, protocol_differences, setting_differences


@dataclass(frozen=True)
class Entry:
    """A published number and the row of the study that comes nearest to it."""

    number: Published
    row: Mapping[Any, Any]
    protocol: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether the same metric was measured in the same way, whatever model it was measured of."""
        return not self.protocol

    @property
    def difference(self) -> float:
        """Ours less theirs; to be asked for only where both were measured alike."""
        return float(self.row["value"]) - self.number.value


def entries(study: Study, published: Sequence[Published]) -> list[Entry]:
    """For each published number of an f and regulariser that the study has: its nearest row.

    Nearest = with the fewest differences, of protocol before those of setting; the same metric if it was measured.
    """
    found, by_model = [], study.frame.groupby(["stage", "f", "regulariser"])
    rows_of = {model: rows.to_dict("records") for model, rows in by_model}
    for number in _latest(published):
        of_model = rows_of.get((number.stage, number.f, number.regulariser), [])
        rows = [row for row in of_model if number.measured.is_task_of(row["conditioning"])]
        same = [row for row in rows if row["metric"] == number.metric]
        candidates = [_entry(study, number, row) for row in same or _alike(rows, number)]
        if candidates:
            found.append(min(candidates, key=_distance))
    return found


def markdown(study: Study, published: Sequence[Published]) -> str:
    """The check list as a page."""
    listed = entries(study, published)
    head = f"# Check list of sweep {study.sweep}\n\nPublished numbers beside the nearest row of this sweep. "
    if not listed:
        return head + "The sweep has no model of an f and regulariser that the papers report.\n"
    comparable = sum(entry.is_comparable for entry in listed)
    head += (
        f"{comparable} of {len(listed)} were measured in the same way; of the others no difference is given, and the "
        "column says in what they were not (theirs; ours). A difference of setting is one of the models, not of "
        "how they were measured."
    )
    header = [
        "published in",
        "model",
        "metric",
        "published",
        "here",
        "here less published",
        "measured otherwise",
        "other settings",
    ]
    return head + "\n\n" + text.table(header, [_line(entry) for entry in listed]) + "\n"


def _distance(entry: Entry) -> tuple[int, int, float]:
    """How far ours is from theirs: in protocol, in settings, in steps and images seen where these are not the same."""
    number, row = entry.number, entry.row
    pairs = ((number.steps, row["steps"]), (number.images_seen, row["images_seen"]))
    ratios = [abs(math.log(float(ours) / theirs)) for theirs, ours in pairs if theirs and pd.notna(ours)]
    return len(entry.protocol), len(entry.settings), math.fsum(ratios)


def _latest(published: Sequence[Published]) -> list[Published]:
    """Without the earlier points of curves over training."""
    last: dict[tuple[str, str, str], int] = {}
    for number in published:
        key = (number.where, number.model, number.metric)
        last[key] = max(last.get(key, 0), number.images_seen or 0)
    return [n for n in published if n.stage != "progress" or n.images_seen == last[n.where, n.model, n.metric]]


def _entry(study: Study, number: Published, row: Mapping[Any, Any]) -> Entry:
    how = study.protocols.get(row["protocol"], {})
    row = {**row, **_prescribed(how)}
    protocol = protocol_differences(number, row, how)
    return Entry(number, row, tuple(protocol), tuple(setting_differences(number, row)))


def _prescribed(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What a protocol says of the sampler, where all models are sampled alike whatever their cells are."""
    found = re.match(r"(\w+), (\d+) steps, eta ([\d.]+)", str(protocol.get("sampler", "")))
    if found is None:
        return {}
    name, steps, eta = found.groups()
    return {"sampler": name, "steps": int(steps), "eta": float(eta), "guidance_scale": 1.0}


def _alike(rows: Sequence[Mapping[Any, Any]], number: Published) -> list[Mapping[Any, Any]]:
    """The rows of metrics of the same kind by another network, where the published one was not measured."""
    kinds = {
        "fid": ("fd", "kd"),
        "rfid": ("rfd",),
        "is": ("is",),
        "inpaint_fid": ("inpaint_fd",),
        "inpaint_lpips": ("inpaint_lpips",),
        # Our bands of masked shares are wider than Table 7's.
        f"inpaint_fid{BAND}": ("inpaint_fd_mask40_60",),
        f"inpaint_lpips{BAND}": ("inpaint_lpips_mask40_60",),
    }
    return [row for row in rows if row["kind"] in kinds.get(number.metric, ()) and row["variant"] == ""]


def _line(entry: Entry) -> list[str]:
    number = entry.number
    spread = f" ± {number.spread:.3g}" if number.spread else ""
    same = entry.row["metric"] == number.metric
    return [
        number.where,
        number.model,
        NAMES[number.metric],
        f"{number.value:.4g}{spread}",
        text.interval(entry.row) if same else "not measured",
        f"{entry.difference:+.3g}" if entry.is_comparable else "–",
        "; ".join(entry.protocol) or "no",
        "; ".join(entry.settings) or "none",
    ]
