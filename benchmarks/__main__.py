"""python -m benchmarks [NAME ...] [--quick] [--json FILE]."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons import COMPARISONS
from benchmarks.contest import Comparison, Row, row_of
from ldm.errors import nearest

QUICK, FULL = 3, 15
"""Rounds."""


def main(argv: Sequence[str], known: Mapping[str, Comparison] = COMPARISONS) -> int:
    """Runs the comparisons named, all where none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Timings beside other programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; all where none is given")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds instead of {FULL}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    options = parser.parse_args(argv)
    console = Console()
    for name in options.names:
        if name not in known:
            console.print(f"error: there is no benchmark '{name}'{nearest(name, known)}", style="bold red")
            return 2
    device, rounds = "cuda" if torch.cuda.is_available() else "cpu", QUICK if options.quick else FULL
    rows = list[Row]()
    for name in options.names or known:
        if known[name].needs_gpu and device == "cpu":
            console.print(f"{name}: left out, since it needs a GPU and torch finds none here")
            continue
        try:
            for contest in known[name].contests(device):
                row = row_of(name, contest, rounds, device if known[name].needs_gpu else "cpu")
                rows.append(row)
                console.print(f"{row.name}  {row.size}  {row.ratio:.2f} times {row.peer_version}", highlight=False)
        except ModuleNotFoundError as error:
            said = f"error: {name} needs {error.name}: pip install -e '.[dev]'"
            console.print(said, style="bold red", markup=False)
            return 2
    console.print(table_of(rows))
    if options.json:
        plain = [dataclasses.asdict(row) for row in rows]
        options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return 0


def table_of(rows: Sequence[Row]) -> Table:
    """What a person reads of them."""
    table = Table("name", "size", "ours", "peer", "unit", "ratio", "quartiles", "n", "others' cores", "peer's version")
    for row in rows:
        low, high = row.spread
        others = "?" if row.others is None else f"{row.others:.1f}"
        numbers = f"{row.ours:,.4g}", f"{row.peer:,.4g}", row.unit, f"{row.ratio:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(row.name, row.size, *numbers, str(row.n), others, row.peer_version)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
