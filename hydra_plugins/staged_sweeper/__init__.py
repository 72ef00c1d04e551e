"""A Hydra sweeper that computes every stage of a grid once."""
