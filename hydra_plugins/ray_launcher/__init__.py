"""A launcher of Hydra."""
