"""Translation of parameter names by a table of templates, both ways."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


def expand(places: Mapping[str, str], parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """All pairs (ours, theirs) of a place and a part of it; each part has a weight and a bias."""
    return tuple(
        (f"{ours}.{our_part}.{tensor}", f"{theirs}.{their_part}.{tensor}")
        for ours, theirs in places.items()
        for our_part, their_part in parts.items()
        for tensor in ("weight", "bias")
    )


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _translate(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    table = [(_pattern(source), target) for source, target in pairs]
    found = []
    for name in names:
        for pattern, target in table:
            if match := pattern.fullmatch(name):
                found.append((name, target, {key: int(value) for key, value in match.groupdict().items()}))
                break
    last = max((indices["r"] for _, _, indices in found if "r" in indices), default=0)
    return {
        name: target.format(**{key: last - value if key == "r" else value for key, value in indices.items()})
        for name, target, indices in found
    }


@dataclass(frozen=True)
class Substitutions:
    """Pairs (pattern, replacement) of regular expressions, applied one after another to a parameter's name."""

    pairs: tuple[tuple[str, str], ...]

    def __call__(self, name: str) -> str:
        """The name with all that fits replaced."""
        for pattern, replacement in self.pairs:
            name = re.sub(pattern, replacement, name)
        return name


@dataclass(frozen=True)
class Renaming:
    """Pairs (ours, theirs) of templates such as "levels.{i}.blocks.{j}.norm1.weight".

    A place {r} counts in the opposite direction on the other side.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_ours(self, names: Iterable[str]) -> dict[str, str]:
        """{their name: our name} for the names in the table."""
        return _translate(names, ((theirs, ours) for ours, theirs in self.pairs))

    def to_theirs(self, names: Iterable[str]) -> dict[str, str]:
        """{our name: their name} for the names in the table."""
        return _translate(names, self.pairs)
