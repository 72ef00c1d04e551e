"""python -m benchmarks.operators [--precision fp32|bf16]: what a training step spends its time on, by operator."""

import argparse
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import our_step
from benchmarks.timing import Call
from benchmarks.workloads import WORKLOADS, diffusers_unet, our_unet
from ldm.training.precision import resolve_precision

WARM_UP, STEPS = 3, 10

KINDS: Final[Mapping[str, str]] = {
    "optimiser and averages": r"_foreach|lerp|addcdiv|addcmul|fused_adam|linalg|Optimizer",
    "convolutions": r"[Cc]onv",
    "matrix products": r"mm\b|mm_|[Ll]inear|matmul|Addmm|Mm",
    "attention": r"attention",
    "normalisation": r"[Nn]orm(?!al)",
    "activations": r"silu|Silu|sigmoid|gelu",
    "copies, casts, layouts": r"copy|contiguous|cat|to_|clone|pad|upsample|index|gather|select|slice",
    "element by element": r"\badd|\bmul|sub|div|neg|sum|mean|square|pow|exp|sqrt|fill|zero|clamp|where|rand|normal",
}
"""What the name of an operator has in it, the first kind that fits."""

OTHERS, BETWEEN = "other operators", "between operators (Python, dispatch)"


def kind_of(operator: str) -> str:
    """The kind that an operator of the profile is counted as."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, operator)), OTHERS)


def shares(call: Call) -> tuple[float, dict[str, float]]:
    """Seconds of a call without the profiler, and which share of its time each kind of operator takes in it itself.

    Of what the profiler costs, that between operators is left out.
    """
    for _ in range(WARM_UP):
        call()
    started = time.perf_counter()
    for _ in range(STEPS):
        call()
    seconds = (time.perf_counter() - started) / STEPS
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            call()
    spent = defaultdict[str, float](float)
    for event in profiled.key_averages():
        spent[kind_of(str(event.key))] += event.self_cpu_time_total / 1e6 / STEPS
    spent[BETWEEN] = max(0.0, seconds - sum(spent.values()))
    whole = sum(spent.values())
    return seconds, {kind: part / whole for kind, part in spent.items()}


def main(argv: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description="Where a step's time goes.")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    precision = resolve_precision(parser.parse_args(argv).precision, "cpu")
    found = {work.size: shares(our_step(our_unet(diffusers_unet(work)), work, precision)) for work in WORKLOADS}
    table = Table(f"share of a training step, {precision}", *found)
    for kind in (*KINDS, OTHERS, BETWEEN):
        table.add_row(kind, *(f"{part.get(kind, 0):.1%}" for _, part in found.values()))
    table.add_row("a step, ms", *(f"{1000 * seconds:.0f}" for seconds, _ in found.values()))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
