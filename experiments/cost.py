"""What a stage costs: seconds by part, and the peak of its memory."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ldm.records import Cost


class Meter:
    """Measures one stage. `seconds` can start above zero where a resumed stage goes on."""

    def __init__(self, device: str, seconds_before: float = 0.0) -> None:
        self.device = device
        self.before = seconds_before
        self.parts: dict[str, float] = defaultdict(float)
        self.started = time.monotonic()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self.started

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to part `name`; waits for the GPU, so that its work counts where it belongs."""
        started = time.monotonic()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.parts[name] += time.monotonic() - started

    def cost(self, images: int, flops: float = 0.0, seconds: float | None = None) -> Cost:
        """The cost of handling `images`; `seconds` where they are not all of the stage's."""
        taken = self.seconds if seconds is None else seconds
        return Cost(taken, images, flops, self.peak_bytes(), dict(self.parts))

    def peak_bytes(self) -> int:
        """Peak memory: of the GPU where one works, else resident memory of the process since the stage began."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status")
        if status.exists():
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            return int(found.group(1)) * 1024 if found else 0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_peak() -> None:
    """Linux forgets the peak of resident memory on this word; elsewhere the peak of the whole process stands."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
