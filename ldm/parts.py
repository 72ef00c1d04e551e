"""Parts that are chosen by name from a table, and their options: the fields of a dataclass that say what they may be.

A part declares an option as `eta: float = option(0.0, low=0, high=1, help="...")`; all else (checks, messages, help and
columns of tables) is read from that field.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ldm.errors import UserError, nearest

Value = TypeVar("Value")
Part = TypeVar("Part")

LARGEST = 2**63 - 1
"""Of whole numbers; a setting that has no range of its own ends here."""

WORDS: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", "values true or false"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    Path: ("path", "paths"),
}
"""The types that an option may have, and what one value and several are called."""


@dataclass(frozen=True)
class Option:
    """One option of a part. `default` is `dataclasses.MISSING` where a value must be given.

    `low` and `high` are in the range, `above` and `below` just outside of it. A `is_list` holds for each of its values.
    """

    name: str
    kind: type
    is_list: bool
    is_optional: bool
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    choices: Collection[Any] | None
    unit: str
    words: Collection[str] = ()

    @property
    def allowed(self) -> str:
        """What may be given, in words, such as "number from 0 to 1" or "list of whole numbers above 0"."""
        single, several = WORDS[self.kind]
        if self.choices is not None:
            names = ", ".join(map(str, self.choices))
            return f"list of {several} out of {names}" if self.is_list else f"{single} out of {names}"
        what = f"list of {several}" if self.is_list else single
        said = " ".join(filter(None, (what, f"of {self.unit}" if self.unit else "", self._range)))
        return " or ".join([said, *self.words])

    def _refusal(self, value: Any) -> str:
        if isinstance(value, int) and abs(value) > LARGEST:
            return f"beyond the largest number that there may be, {LARGEST}"
        if self.choices is not None and not self.is_list:
            return f"none of {', '.join(map(str, self.choices))}"
        return "neither true nor false" if self.kind is bool and not self.is_list else f"no {self.allowed}"

    @property
    def _range(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        ends = (("from {} on", self.low), ("above {}", self.above), ("up to {}", self.high), ("below {}", self.below))
        return " and ".join(phrase.format(end) for phrase, end in ends if end is not None)

    def checked(self, value: Any, key: str) -> Any:
        """The value as the part's field holds it. Raises: UserError where it is not allowed, in the words of `key`."""
        if (value is None and self.is_optional) or (isinstance(value, str) and value in self.words):
            return value
        if self.is_list:
            if isinstance(value, list | tuple) and all(map(self._fits, value)):
                return tuple(map(self._held, value))
        elif self._fits(value):
            return self._held(value)
        hint = nearest(str(value), map(str, self.choices)) if self.choices is not None else ""
        shown = "null" if value is None else value
        raise UserError(f"{key}={shown} is {self._refusal(value)}{' (or null)' if self.is_optional else ''}{hint}")

    def _fits(self, value: Any) -> bool:
        if self.kind is bool or isinstance(value, bool):  # of which Python thinks that they are numbers
            return self.kind is bool and isinstance(value, bool)
        if self.choices is not None:
            return value in [*self.choices]
        if self.kind in (str, Path):
            return isinstance(value, (str, self.kind))
        if not isinstance(value, int if self.kind is int else int | float) or not math.isfinite(value):
            return False
        if self.kind is int and abs(value) > LARGEST:
            return False
        is_in = self.low is None or value >= self.low, self.high is None or value <= self.high
        return all(is_in) and (self.above is None or value > self.above) and (self.below is None or value < self.below)

    def _held(self, value: Any) -> Any:
        if self.kind is Path:
            return Path(value).expanduser()
        return float(value) if self.kind is float else value


def option(
    default: Any = MISSING,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Collection[Any] | None = None,
    unit: str = "",
    words: Collection[str] = (),
) -> Any:
    """A dataclass field that is an option of a part; its annotation is one of `WORDS`, a tuple of one, or None too.

    Without a default it must be given. The range is from `low` to `high`, ends included, or within `above` and `below`,
    ends excluded. `choices` may be a table, whose names they then are; `words` may stand in place of a value.
    """
    ends = {"low": low, "high": high, "above": above, "below": below}
    return field(default=default, metadata={"help": help, **ends, "choices": choices, "unit": unit, "words": words})


@cache
def options_of(part: type, plain: bool = False) -> Mapping[str, Option]:
    """The options that a class declares, by name and in the order of its fields; none where it is no dataclass.

    With `plain` every field of a type that options can have is one, whether `option` declared it or not.
    Raises: UserError for a declared option of a type that options cannot have.
    """
    if not is_dataclass(part):
        return {}
    asked = [each for each in fields(part) if "help" in each.metadata or (plain and each.init)]
    hints = get_type_hints(part) if asked else {}
    return {
        each.name: Option(each.name, *_kind(hints[each.name], part, each.name), each.default, **_PLAIN | each.metadata)
        for each in asked
        if "help" in each.metadata or _can_be_option(hints[each.name])
    }


_PLAIN: Mapping[str, Any] = {
    "help": "",
    "low": None,
    "high": None,
    "above": None,
    "below": None,
    "choices": None,
    "unit": "",
    "words": (),
}
"""What a plain field says of itself as an option."""


def _can_be_option(hint: Any) -> bool:
    arms = [arm for arm in _arms(hint) if arm is not NoneType]
    return len(arms) == 1 and (get_args(arms[0])[0] if get_origin(arms[0]) is tuple else arms[0]) in WORDS


def _arms(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kind(hint: Any, part: type, name: str) -> tuple[type, bool, bool]:
    """The type of an option's values, whether there is a list of them, and whether there may be none."""
    arms = _arms(hint)
    inner = next(arm for arm in arms if arm is not NoneType)
    is_list = get_origin(inner) is tuple
    kind = get_args(inner)[0] if is_list else inner
    if kind not in WORDS or len(arms) - (NoneType in arms) > 1:
        raise UserError(
            f"the option {part.__name__}.{name} is declared as {hint}, but an option is a "
            f"{', '.join(each.__name__ for each in WORDS)}, a tuple[..., ...] of one, or one of these or None"
        )
    return kind, is_list, NoneType in arms


def title_of(part: type) -> str:
    """What a part is called in sentences, tables and figures: its `title`, or the name of its class."""
    return str(getattr(part, "title", part.__name__))


def defaults_of(part: type) -> dict[str, Any]:
    """The options that need not be given, with their defaults."""
    return {name: each.default for name, each in options_of(part).items() if each.default is not MISSING}


def checked_options(part: type, given: Mapping[str, Any], where: str, plain: bool = False) -> dict[str, Any]:
    """The given options of a part, each checked.

    `where` is the group in which they stand, such as "sampler"; `plain` as in `options_of`. Raises: UserError for a key
    that is no option, a value that is not allowed, or an option that is lacking.
    """
    options = options_of(part, plain)
    for name, value in given.items():
        if name not in options:
            there = f"there are {', '.join(options)}" if options else "it has none"
            raise UserError(
                f"{where}.{name}={value} is no option of {title_of(part)}{nearest(name, options)} ({there})"
            )
    for name, each in options.items():
        if name not in given and each.default is MISSING:
            what = f" ({each.help})" if each.help else ""
            raise UserError(f"{title_of(part)} needs {where}.{name}{what}: a {each.allowed}")
    return {name: options[name].checked(value, f"{where}.{name}") for name, value in given.items()}


def checked(part: type[Part], given: Mapping[str, Any], where: str, **others: Any) -> Part:
    """A part with these options, checked as by `checked_options`; `others` are its fields that are no options."""
    return part(**others, **checked_options(part, given, where))


def look_up(table: Mapping[str, Value], name: str, where: str) -> Value:
    """What stands in a table under a name. Raises: UserError that lists the names there are and says the nearest."""
    if not isinstance(name, str) or name not in table:
        raise UserError(f"{where}={name} is none of {', '.join(table)}{nearest(str(name), table)}")
    return table[name]
