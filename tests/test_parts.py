"""Options of parts: read off their fields, checked in one sentence; tables are asked by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from ldm.errors import UserError
from ldm.parts import checked, checked_options, defaults_of, look_up, option, options_of, title_of


@dataclass(frozen=True, kw_only=True)
class Oven:
    """A part with an option of every kind."""

    title: ClassVar[str] = "the oven"

    kitchen: object
    heat: float = option(above=0, below=300, unit="degrees", help="how hot it gets")
    minutes: int = option(20, low=1, high=90, help="how long")
    mode: str = option("fan", choices=("fan", "grill"), help="what it does")
    fans: int = option(2, choices=(2, 4), help="how many")
    is_clean: bool = option(True, help="whether it was cleaned")
    trays: tuple[int, ...] = option((), low=0, help="what stands where")
    recipe: Path | None = option(None, help="what is baked")
    name: str | None = option(None, help="what it is called")
    door: str = "left"


def test_options_are_the_fields_that_are_declared_so():
    options = options_of(Oven)
    assert list(options) == ["heat", "minutes", "mode", "fans", "is_clean", "trays", "recipe", "name"]
    heat, trays, recipe = options["heat"], options["trays"], options["recipe"]
    assert (heat.kind, heat.below, heat.unit, heat.help) == (float, 300, "degrees", "how hot it gets")
    assert (heat.is_list, trays.is_list, recipe.is_list) == (False, True, False)
    assert (heat.is_optional, recipe.is_optional) == (False, True)
    assert heat.allowed == "number of degrees above 0 and below 300"
    assert trays.allowed == "list of whole numbers from 0 on"
    assert "heat" not in defaults_of(Oven)
    assert defaults_of(Oven)["minutes"] == 20


def test_a_class_that_declares_none_has_none():
    assert options_of(int) == {}
    assert (title_of(int), title_of(Oven)) == ("int", "the oven")


def test_values_are_held_as_their_fields_say():
    oven = checked(Oven, {"heat": 180, "trays": [1, 3], "recipe": "~/bread", "name": None}, "oven", kitchen="ours")
    assert isinstance(oven.heat, float)
    assert (oven.heat, oven.trays, oven.recipe, oven.name) == (180.0, (1, 3), Path.home() / "bread", None)
    assert (oven.kitchen, oven.minutes, oven.mode) == ("ours", 20, "fan")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("heat", 0, "oven.heat=0 is no number of degrees above 0 and below 300"),
        ("heat", 300, "oven.heat=300 is no number"),
        ("heat", "hot", "oven.heat=hot is no number"),
        ("heat", float("nan"), "oven.heat=nan is no number"),
        ("heat", True, "oven.heat=True is no number"),
        ("heat", None, "oven.heat=null is no number"),
        ("minutes", 0, "oven.minutes=0 is no whole number from 1 to 90"),
        ("minutes", 91, "oven.minutes=91 is no whole number"),
        ("minutes", 1.5, "oven.minutes=1.5 is no whole number"),
        ("mode", "gril", "oven.mode=gril is none of fan, grill, did you mean 'grill'?"),
        ("fans", 3, "oven.fans=3 is none of 2, 4"),
        ("is_clean", "no", "oven.is_clean=no is neither true nor false"),
        ("is_clean", 1, "oven.is_clean=1 is neither true nor false"),
        ("trays", 1, "oven.trays=1 is no list of whole numbers from 0 on"),
        ("trays", [1, -1], "oven.trays=[1, -1] is no list of whole numbers"),
        ("recipe", 3, "oven.recipe=3 is no path (or null)"),
        ("name", 3, "oven.name=3 is no text (or null)"),
        ("minute", 3, "oven.minute=3 is no option of the oven, did you mean 'minutes'? (there are heat, minutes, "),
        ("kitchen", 3, "oven.kitchen=3 is no option of the oven"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_sentence(key, value, said):
    with pytest.raises(UserError) as refused:
        checked_options(Oven, {"heat": 180, key: value}, "oven")
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_an_option_without_a_default_must_be_given():
    with pytest.raises(UserError, match=r"the oven needs oven\.heat \(how hot it gets\): a number of degrees above 0"):
        checked_options(Oven, {"minutes": 3}, "oven")


def test_an_option_of_a_type_that_cannot_be_checked_is_refused():
    @dataclass
    class Odd:
        table: dict[str, int] = option(help="cannot be typed on a command line")

    with pytest.raises(UserError, match=r"Odd\.table is declared as dict"):
        options_of(Odd)


def test_an_unknown_name_is_refused_with_the_nearest_and_all():
    table = {"fan": 1, "grill": 2}
    assert look_up(table, "grill", "oven.mode") == 2
    with pytest.raises(UserError) as refused:
        look_up(table, "gril", "oven.mode")
    assert str(refused.value) == "oven.mode=gril is none of fan, grill, did you mean 'grill'?"
    with pytest.raises(UserError, match=r"oven.mode=\['fan'\] is none of fan, grill"):
        look_up(table, ["fan"], "oven.mode")


def test_plain_fields_are_options_where_they_are_asked_for() -> None:
    @dataclass(frozen=True)
    class Mixed:
        inner: list[int]
        width: int
        sides: tuple[int, ...] = (1, 2)
        share: float | None = option(None, low=0, help="a share")

    assert [*options_of(Mixed)] == ["share"]
    assert [*options_of(Mixed, plain=True)] == ["width", "sides", "share"]
    assert checked_options(Mixed, {"width": 3, "sides": [4]}, "part", plain=True) == {"width": 3, "sides": (4,)}
    with pytest.raises(UserError, match=r"part.width=3.5 is no whole number"):
        checked_options(Mixed, {"width": 3.5}, "part", plain=True)
    with pytest.raises(UserError, match=r"Mixed needs part.width: a whole number"):
        checked_options(Mixed, {}, "part", plain=True)
