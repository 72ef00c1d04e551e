"""The report that a run ends with, which analysis writes in a process of its own: it needs no torch, and may fail."""

import shlex
import subprocess
import sys
from pathlib import Path

from experiments.console import say

SCRIPT = Path(__file__).resolve().parents[1] / "analysis" / "report.py"

MOST_SECONDS = 600
"""After which the run ends without it."""


def write_report(store: Path, sweep: str) -> None:
    """Writes the report of a sweep into its store and says where; where that fails, why, and what writes it."""
    command = [sys.executable, str(SCRIPT), "--store", str(store), "--sweep", sweep]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
        told = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()
        failure = "" if ended.returncode == 0 else told[-1] if told else f"exit status {ended.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        told, failure = [], str(error)
    if not failure and told:
        say(f"  report {told[-1]}")
        return
    say(f"  the report was not written: {failure or 'it says nothing'}", style="yellow")
    say(f"  python analysis/report.py --store {shlex.quote(str(store))} --sweep {shlex.quote(sweep)}")
