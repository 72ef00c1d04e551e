"""Text by lines, as everyone counts them."""

import re


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, ended by \n, \r\n or \r alone, so that U+2028 and the like stay inside of captions."""
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if lines[-1] == "" else lines
