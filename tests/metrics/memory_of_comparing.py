"""What comparing two sets of features of noise takes at its peak, in bytes, and what is said of it.

As a script: python memory_of_comparing.py N M D.
"""

import re
import sys
from pathlib import Path

import numpy as np

from ldm.metrics.distribution import bytes_to_compare, generation_metrics
from ldm.metrics.features import Features

STATUS = Path("/proc/self/status")


def read(name: str) -> int:
    """Bytes that the process holds (VmRSS), or held at its peak (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def noise(n: int, d: int) -> Features:
    return Features(np.random.default_rng(n + d).normal(size=(n, d)).astype(np.float32), None)


if __name__ == "__main__":
    n, m, d = map(int, sys.argv[1:])
    generation_metrics(noise(300, 16), noise(300, 16), "any", 0)  # imports, and what libraries keep
    generated, reference = noise(n, d), noise(m, d)
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    generation_metrics(generated, reference, "any", 0)
    print(read("VmHWM") - before, bytes_to_compare(n, m, d))
