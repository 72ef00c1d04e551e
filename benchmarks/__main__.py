"""python -m benchmarks [NAME ...] [--quick] [--json FILE]."""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons import COMPARISONS
from ldm.errors import nearest


def main(argv: list[str]) -> int:
    """Runs the comparisons named, all where none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Timings beside other programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(COMPARISONS)}; all where none is given")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of ten")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the timings there")
    options = parser.parse_args(argv)
    console, results = Console(), {}
    for name in options.names or COMPARISONS:
        if name not in COMPARISONS:
            console.print(f"error: there is no benchmark '{name}'{nearest(name, COMPARISONS)}", style="bold red")
            return 2
        results[name] = timings = COMPARISONS[name](2 if options.quick else 10)
        table = Table("who", "median ms", "fastest", "slowest", "images/s", title=COMPARISONS[name].__doc__)
        for timing in timings:
            rate = timing.images_per_second
            milliseconds = (f"{1000 * s:,.1f}" for s in (timing.median, timing.fastest, timing.slowest))
            table.add_row(timing.name, *milliseconds, f"{rate:,.0f}" if rate else "-")
        console.print(table)
    if options.json:
        machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        plain = {name: [dataclasses.asdict(timing) for timing in timings] for name, timings in results.items()}
        options.json.write_text(json.dumps({"machine": machine, "timings": plain}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
