"""A Hydra launcher with lasting worker processes on this machine."""
