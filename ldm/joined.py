"""Several stores as one: whether two records of one identity agree, and what sweeps of one name are called."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ldm.records import ResultRow, StageRecord, Sweep, content_hash

AGREEMENT = 1e-5
"""How far apart, relatively, numbers of one identity may lie: so much devices and threads change in float32."""

TIMING = "timing"
"""The stage whose records hold nothing but costs, which two measurements never share."""

OF_THE_MACHINE = ("made_on", "batch", "micro_batch", "recomputes", "compiled")
"""Facts that say where, or how many at a time, and change no result; a batch that does is a setting."""

YOUNGER = ("learning_rate",)
"""Facts that records of the same identity had no place for before, and that repeat their settings."""

PICTURE = ".png"
"""How files end that people look at, whose bytes depend on the library that packs them."""


def differences(one: StageRecord, other: StageRecord) -> list[str]:
    """In what the results of two artifacts of one identity differ; costs, dates and machines are none of them."""
    if one.stage == TIMING:
        return []
    rows = {_key(row): row for row in one.rows}, {_key(row): row for row in other.rows}
    found = [*_moved(*rows), *_only_in_one(*rows)]
    if sorted(left.metric for left in one.left_out) != sorted(left.metric for left in other.left_out):
        found.append("the metrics left out")
    facts = [name for name in sorted({*one.facts, *other.facts}) if name not in (*OF_THE_MACHINE, *YOUNGER)]
    if changed := [name for name in facts if not _agree(one.facts.get(name), other.facts.get(name))]:
        found.append(f"facts {', '.join(changed)}")
    if one.files is not None and other.files is not None:
        names = [name for name in sorted({*one.files, *other.files}) if not name.endswith(PICTURE)]
        if changed := [name for name in names if one.files.get(name) != other.files.get(name)]:
            found.append(f"files {', '.join(changed)}")
    return found


def disagreement(one: StageRecord, other: StageRecord, places: tuple[object, object]) -> str:
    """What sets two artifacts of one identity apart, with where and when each was made, "" where they agree.

    `places`: the stores that they lie in.
    """
    found = differences(one, other)
    if not found:
        return ""
    made = [f"{place} ({made_where(each)})" for place, each in zip(places, (one, other), strict=True)]
    return f"{one.stage} {one.identity} differs between {' and '.join(made)} in {'; '.join(found)}"


def made_where(record: StageRecord) -> str:
    """Where and when an artifact was made: its host, as far as its record names it, its processor, and the minute."""
    known = record.environment
    names = [str(known[key]) for key in ("host", "processor") if known.get(key)]
    when = f"{record.created[:16].replace('T', ' ')} UTC" if record.created else "an unknown time"
    return f"{', '.join(names) or 'an unknown host'}, {when}"


def name_apart(sweep: Sweep) -> str:
    """What a sweep is called where another one has its name, the same wherever it is put beside that one."""
    return f"{sweep.sweep}-{content_hash(sweep.to_json(), 8)}"


Key = tuple[str, int | None, int | None]


def _key(row: ResultRow) -> Key:
    return (row.metric, row.images_seen, row.seed)


def _moved(one: Mapping[Key, ResultRow], other: Mapping[Key, ResultRow]) -> Iterator[str]:
    """The value that moved most, and how many others did."""
    both = [key for key in one if key in other]
    moved = {key: apart for key in both if (apart := _apart(one[key], other[key])) > AGREEMENT}
    if moved:
        key = max(moved, key=lambda each: moved[each])
        rest = len(moved) - 1
        more = f" and {rest} more value{'s' * (rest > 1)}" if rest else ""
        yield f"{key[0]} {one[key].value:.6g} and {other[key].value:.6g}{more}"
    changed = [k[0] for k in both if (one[k].n, one[k].protocol) != (other[k].n, other[k].protocol)]
    if changed:
        yield f"how they measured {', '.join(dict.fromkeys(changed))}"


def _only_in_one(one: Mapping[Key, ResultRow], other: Mapping[Key, ResultRow]) -> Iterator[str]:
    if alone := [key[0] for key in (*one, *other) if (key in one) != (key in other)]:
        yield f"{', '.join(dict.fromkeys(alone))}, which one of them lacks"


def _apart(one: ResultRow, other: ResultRow) -> float:
    """The largest difference of value and ends of the interval, by the largest of them all."""
    pairs = [(one.value, other.value), (one.ci_low, other.ci_low), (one.ci_high, other.ci_high)]
    if any((a is None) != (b is None) for a, b in pairs):
        return math.inf
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not all(math.isfinite(number) for pair in known for number in pair):
        return 0.0 if all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in known) else math.inf
    size = max(abs(number) for pair in known for number in pair)
    return max(abs(a - b) for a, b in known) / size if size else 0.0


def _agree(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same up to the rounding of their numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_agree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_agree, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and float in (type(one), type(other)):
        return math.isclose(one, other, rel_tol=AGREEMENT, abs_tol=1e-12)
    return bool(one == other)
