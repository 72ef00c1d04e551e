"""The library: first stages, denoisers, diffusion, samplers, data, metrics and training. Imports nothing heavy."""

__version__ = "0.1.0"
