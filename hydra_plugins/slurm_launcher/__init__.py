"""A Hydra launcher that submits a sweep's jobs to Slurm and waits for them."""
