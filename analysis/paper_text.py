"""What the cells of papers' tables say, as numbers and names."""

import re
from collections.abc import Iterator, Mapping


def regulariser_of(f: int) -> str:
    """That of Figures 6 and 7, whose first stages have codebooks (Tables 13 and 14)."""
    return "identity" if f == 1 else "vq"


def factor(model: str) -> int:
    """The f of a model, e.g. 4 of LDM-4."""
    return int(model.removeprefix("LDM-"))


def remarks_of(method: str) -> tuple[str | None, list[str]]:
    """An LDM's name and what stands of it in brackets, but for whose it is; None for other models."""
    found = re.fullmatch(r"(LDM-\d+) \(ours, (.*)\)", method)
    return (found[1], found[2].split(", ")) if found else (None, [])


def leading(text: str) -> float:
    """The number before a plus-minus sign, or alone."""
    return float(text.partition("±")[0])


def plain(method: str) -> str:
    """The name alone of a latent diffusion model, without footnote marks and remarks."""
    found = re.match(r"LDM(-KL)?-\d+(-G)?", method)
    assert found is not None, method
    return found[0]


def number(text: str) -> float | None:
    """The number that a text begins with, None where it begins with none."""
    found = re.match(r"\s*[\d.]+", text)
    return float(found[0]) if found else None


def whole(text: str) -> int | None:
    """As `number`, without its fraction."""
    found = number(text)
    return None if found is None else int(found)


def count(text: str) -> float:
    """2.9M and 178K as numbers."""
    return float(text[:-1]) * {"M": 1e6, "K": 1e3}[text[-1]]


def fid_and_is(row: Mapping[str, str]) -> Iterator[tuple[str, float, float | None]]:
    """Metric, value, and the spread that some tables print behind a plus-minus sign."""
    for metric, column in (("fid", "FID"), ("is", "IS")):
        value, _, spread = row[column].partition("±")
        yield metric, float(value), number(spread)
