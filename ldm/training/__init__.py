"""Training: first stages, denoising models, and what both share: checkpoints, EMA, precision, FLOP counts."""
