"""Text by lines, as everyone counts them, and as YAML, of which nothing is run."""

import re
from typing import Any

import yaml


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, ended by \n, \r\n or \r alone, so that U+2028 and the like stay inside of captions."""
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if lines[-1] == "" else lines


def parsed_yaml(text: str) -> Any:
    """The plain values in a YAML text. Raises: ValueError where it is none, or nested too deeply to be read."""
    try:
        return yaml.safe_load(text)
    # Dates and numbers that are none, keys that are no keys: the reader passes on what Python says of them.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not YAML ({' '.join(str(error).split())})") from error
