"""python -m benchmarks.neighbourhoods: minutes and peak memory of precision, recall and their kin at full size."""

import argparse
import resource
import sys
import time

import numpy as np

from ldm.metrics.neighbours import neighbourhoods


def main(argv: list[str]) -> int:
    """Measures two sets of normal features, one shifted a little, in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbourhoods", description=__doc__)
    parser.add_argument("--items", type=int, default=50_000, help="of each of the two sets (%(default)s)")
    parser.add_argument("--dimensions", type=int, default=2048, help="of the features (%(default)s)")
    options = parser.parse_args(argv)
    random, shape = np.random.default_rng(0), (options.items, options.dimensions)
    reference, generated = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
    generated += np.float32(0.01)
    started = time.perf_counter()
    print(neighbourhoods(generated, reference))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
    print(f"{(time.perf_counter() - started) / 60:.1f} min, peak memory of the process {peak / 2**30:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
