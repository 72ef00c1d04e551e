"""Text on standard output that nobody may read to its end."""

import os
import sys


def printed(text: str) -> int:
    """Prints a text and returns the exit code: 1 where nobody reads it, as behind `| head`, or it cannot be written."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again as it ends
        if not isinstance(error, BrokenPipeError):
            print(f"error: the text could not be written ({error})", file=sys.stderr)
        return 1
    return 0
