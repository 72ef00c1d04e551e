"""Weights of other programs: reading them, sampling from them, and the names and options they use."""

from ldm.interop.contract import Loaded, RawConditioning
from ldm.interop.loading import files_of, load, load_first_stage
from ldm.interop.sampling import sample

__all__ = ["Loaded", "RawConditioning", "files_of", "load", "load_first_stage", "sample"]
