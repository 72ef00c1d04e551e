"""The one exception that is meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: one sentence that says what is wrong, where, and what to do (exit code 2)."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint ", did you mean 'x'?" for the closest of `names`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""
