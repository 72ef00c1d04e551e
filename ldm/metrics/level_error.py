"""What the error of a denoising model at one noise level is reported as; `ldm.diffusion.levels` computes it."""

from ldm.metrics.values import Metric
from ldm.records import DETAIL


def of_level(bin: tuple[int, int]) -> Metric:
    """The squared error of v within a bin of log-SNR."""
    low, high = bin
    return Metric(f"level_error_{low:+d}_{high:+d}", f"error of v at log-SNR {low} to {high}", False, DETAIL)
