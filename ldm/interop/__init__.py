"""Weights of other programs: reading them, sampling from them, and the names and options they use."""

from ldm.interop.contract import Loaded, RawConditioning
from ldm.interop.loading import load
from ldm.interop.sampling import sample

__all__ = ["Loaded", "RawConditioning", "load", "sample"]
